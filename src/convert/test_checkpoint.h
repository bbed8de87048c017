// For tests: safetensors files put together by hand, and folders that disappear with the test.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/text.h"

namespace ds4 {

/// Tensors are laid out in the order they are added.
class SafetensorsBuilder {
 public:
  template <typename T>
  SafetensorsBuilder& add(const std::string& name, std::string_view dtype, const std::vector<std::uint64_t>& shape,
                          const std::vector<T>& values) {
    std::string dims;
    for (const std::uint64_t dim : shape) dims += cat(dims.empty() ? "" : ",", dim);
    const std::size_t begin = data_.size();
    const auto raw = std::as_bytes(std::span(values));
    data_.append(reinterpret_cast<const char*>(raw.data()), raw.size());
    entries_ += cat(entries_.empty() ? "" : ",", "\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":[", dims,
                    "],\"data_offsets\":[", begin, ",", data_.size(), "]}");
    return *this;
  }

  std::string bytes() const { return with_header(cat("{", entries_, "}"), data_); }

  static std::string with_header(const std::string& header, const std::string& data) {
    const std::uint64_t length = header.size();
    std::string out(8, '\0');
    std::memcpy(out.data(), &length, 8);
    return out + header + data;
  }

 private:
  std::string entries_;
  std::string data_;
};

class TestFolder {
 public:
  TestFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "ds4-test-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  std::string path() const { return path_.string(); }
  std::string path(const std::string& file) const { return (path_ / file).string(); }
  void write(const std::string& file, std::string_view bytes) const {
    std::ofstream(path_ / file, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  static std::string read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }

 private:
  std::filesystem::path path_;
};

inline std::string golden_folder(const std::string& model) { return cat(DS4_SOURCE_DIR, "/tests/golden/data/", model); }

}  // namespace ds4
