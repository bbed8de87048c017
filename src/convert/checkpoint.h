// A checkpoint folder as Hugging Face lays it out: config.json, and the tensors in model.safetensors or in the shards
// that model.safetensors.index.json lists. open() reads every header and no data. Immutable afterwards; any thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "convert/safetensors.h"

namespace ds4 {

class Checkpoint {
 public:
  static Result<Checkpoint> open(const std::string& directory);

  struct Entry {
    const SafetensorsFile* file = nullptr;
    const SafeTensor* tensor = nullptr;
    explicit operator bool() const { return tensor != nullptr; }
    Error error(std::string_view what) const { return file->tensor_error(*tensor, what); }
  };

  /// An empty Entry when there is no such tensor.
  Entry find(std::string_view name) const;
  std::vector<std::string_view> names() const;
  const std::string& directory() const { return directory_; }
  std::size_t shard_count() const { return shards_.size(); }
  std::vector<std::string> shard_paths() const;

 private:
  Status add_shard(const std::string& file_name);
  Status open_shards(const std::string& index_path);

  std::string directory_;
  std::vector<std::unique_ptr<SafetensorsFile>> shards_;
  std::unordered_map<std::string_view, Entry> tensors_;
};

}  // namespace ds4
