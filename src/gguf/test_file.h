// For tests: GGUF files in memory, byte by byte, with a list of where every field lies, so that a test can overwrite
// any one of them. A file on disk for other parts' tests is easier to make with Writer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/check.h"
#include "gguf/file.h"

namespace ds4::gguf {

class TestFile {
 public:
  struct Field {
    std::string name;
    std::size_t offset;
    std::size_t width;
  };

  /// Appends a number and remembers it under `name`.
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  TestFile& put(const std::string& name, T value) {
    fields_.push_back({name, bytes_.size(), sizeof value});
    const auto* raw = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), raw, raw + sizeof value);
    return *this;
  }
  TestFile& put_string(const std::string& name, std::string_view text) {
    put<std::uint64_t>(name + " length", text.size());
    const auto* raw = reinterpret_cast<const std::byte*>(text.data());
    bytes_.insert(bytes_.end(), raw, raw + text.size());
    return *this;
  }
  TestFile& header(std::uint64_t tensors, std::uint64_t keys) {
    put("magic", 0x46554747u);
    put("version", 3u);
    put("tensor count", tensors);
    return put("key count", keys);
  }
  template <typename T>
  TestFile& scalar(std::string_view key, ValueType type, T value) {
    start_value(key, type);
    return put(std::string(key), value);
  }
  TestFile& string(std::string_view key, std::string_view value) {
    start_value(key, ValueType::kString);
    return put_string(std::string(key), value);
  }
  template <typename T>
  TestFile& array(std::string_view key, ValueType element, const std::vector<T>& values) {
    start_value(key, ValueType::kArray);
    put(std::string(key) + " element type", element);
    put<std::uint64_t>(std::string(key) + " count", values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::string name = std::string(key) + "[" + std::to_string(i) + "]";
      if constexpr (std::is_convertible_v<T, std::string_view>) put_string(name, values[i]);
      else put(name, static_cast<T>(values[i]));
    }
    return *this;
  }
  TestFile& tensor(std::string_view name, const std::vector<std::uint64_t>& dims, std::uint32_t type,
                   std::uint64_t offset) {
    const std::string field(name);
    put_string(field, name);
    put(field + " dimension count", static_cast<std::uint32_t>(dims.size()));
    for (std::size_t i = 0; i < dims.size(); ++i) put(field + " dim " + std::to_string(i), dims[i]);
    put(field + " type", type);
    return put(field + " offset", offset);
  }
  /// Pads to `alignment` and appends `size` bytes of tensor data.
  TestFile& data(std::size_t size, std::size_t alignment = 32) {
    directory_end_ = bytes_.size();
    while (bytes_.size() % alignment != 0) bytes_.push_back(std::byte{0});
    data_start_ = bytes_.size();
    for (std::size_t i = 0; i < size; ++i) bytes_.push_back(static_cast<std::byte>(i * 7 + 1));
    return *this;
  }

  std::vector<std::byte> bytes() const { return bytes_; }
  const std::vector<Field>& fields() const { return fields_; }
  std::size_t directory_end() const { return directory_end_; }
  std::size_t data_start() const { return data_start_; }

  /// The file with the low bytes of `value` in place of a field.
  std::vector<std::byte> with(const Field& field, std::uint64_t value) const {
    std::vector<std::byte> out = bytes_;
    std::memcpy(out.data() + field.offset, &value, field.width);
    return out;
  }
  const Field& field(std::string_view name) const {
    for (const Field& candidate : fields_)
      if (candidate.name == name) return candidate;
    check_failed("a field of this file", __FILE__, __LINE__);
  }

 private:
  void start_value(std::string_view key, ValueType type) {
    put_string(std::string(key) + " key", key);
    put(std::string(key) + " type", type);
  }
  std::vector<std::byte> bytes_;
  std::vector<Field> fields_;
  std::size_t directory_end_ = 0;
  std::size_t data_start_ = 0;
};

/// A small valid file with a key of every type and a tensor of every type of block size.
inline TestFile small_test_file() {
  TestFile file;
  file.header(4, 17);
  file.string("general.architecture", "deepseek4");
  file.scalar("general.alignment", ValueType::kU32, std::uint32_t{32});
  file.scalar("split.count", ValueType::kU16, std::uint16_t{1});
  file.scalar("t.u8", ValueType::kU8, std::uint8_t{200});
  file.scalar("t.i8", ValueType::kI8, std::int8_t{-3});
  file.scalar("t.i16", ValueType::kI16, std::int16_t{-300});
  file.scalar("t.i32", ValueType::kI32, std::int32_t{-70000});
  file.scalar("t.f32", ValueType::kF32, 1.5f);
  file.scalar("t.bool", ValueType::kBool, std::uint8_t{1});
  file.scalar("t.u64", ValueType::kU64, std::uint64_t{1} << 40);
  file.scalar("t.i64", ValueType::kI64, -(std::int64_t{1} << 40));
  file.scalar("t.f64", ValueType::kF64, 0.25);
  file.array("t.strings", ValueType::kString, std::vector<std::string>{"a", "", "\xff\xfe", "long enough"});
  file.array("t.ints", ValueType::kI32, std::vector<std::int32_t>{0, 4, 128, -1});
  file.array("t.floats", ValueType::kF32, std::vector<float>{10.0f, 0.5f});
  file.array("t.bools", ValueType::kBool, std::vector<std::uint8_t>{0, 1});
  file.array("t.none", ValueType::kU64, std::vector<std::uint64_t>{});
  file.tensor("a.f32", {5, 3}, 0, 0);              // 60 bytes
  file.tensor("b.q8_0", {64, 2, 2}, 8, 64);        // 272 bytes
  file.tensor("c.q2_k", {256, 1, 1, 2}, 10, 352);  // 168 bytes
  file.tensor("d.f16", {4096}, 1, 544);            // 8192 bytes
  return file.data(544 + 8192);
}

}  // namespace ds4::gguf
