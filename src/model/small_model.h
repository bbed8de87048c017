// Test support: a small GGUF of the family with every layer kind, random weights, any key changed or left out.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "gguf/file.h"
#include "quant/dtype.h"

namespace ds4::testing {

using KeyValue = std::variant<std::uint64_t, double, bool, std::string, std::vector<std::int32_t>, std::vector<float>>;

/// The keys a small model is written with; change or erase entries before writing.
std::map<std::string, KeyValue> small_model_keys();

struct SmallModelTensor {
  std::string name;
  std::vector<std::uint64_t> dims;
  DType type = DType::kF32;
};
/// The tensors of small_model_keys(), layers [0, 4, 128, 4], the first one hash-routed.
std::vector<SmallModelTensor> small_model_tensors();

/// Writes a model file; float tensors get seeded random values of a sane size, tables random experts. Without a seed
/// the data stay a hole of zeros (tests of the header).
void write_small_model(const std::string& path, const std::map<std::string, KeyValue>& keys,
                       const std::vector<SmallModelTensor>& tensors, std::optional<std::uint64_t> seed);

/// A file in a fresh temporary folder (in memory where the system has one), gone with the object.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& name);
  ~ScratchFile();
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string folder_;
  std::string path_;
};

}  // namespace ds4::testing
