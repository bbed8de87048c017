// For tests: a second, slow and plain opinion on whether a GGUF file is acceptable, written from the format's
// description (docs/formats/gguf.md) and sharing no code and no constants with the parser. 128-bit sums cannot wrap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace ds4::gguf {

class TestOracle {
 public:
  static bool accepts(std::span<const std::byte> file) {
    TestOracle oracle(file);
    oracle.read_file();
    return oracle.good_;
  }

 private:
  __extension__ using Big = unsigned __int128;

  explicit TestOracle(std::span<const std::byte> file) : file_(file) {}

  void require(bool condition) { good_ = good_ && condition; }

  std::uint64_t number(std::size_t width) {
    require(at_ + width <= file_.size());
    if (!good_) return 0;
    std::uint64_t value = 0;
    for (std::size_t i = width; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(file_[at_ + i]);
    at_ += width;
    return value;
  }
  std::string text() {
    const std::uint64_t length = number(8);
    require(length <= file_.size() - at_);
    if (!good_) return {};
    std::string out(reinterpret_cast<const char*>(file_.data() + at_), length);
    at_ += length;
    return out;
  }
  /// Names in these tests are ASCII, so any byte of 128 and more is taken for broken UTF-8.
  std::string name() {
    std::string out = text();
    require(!out.empty() && out.size() < 65536);
    for (const char c : out) require(c >= 0x20 && c < 0x7F);
    return out;
  }

  static std::size_t width_of(std::uint64_t type) {
    static const std::map<std::uint64_t, std::size_t> widths = {{0, 1}, {1, 1}, {2, 2},  {3, 2},  {4, 4}, {5, 4},
                                                                {6, 4}, {7, 1}, {10, 8}, {11, 8}, {12, 8}};
    const auto at = widths.find(type);
    return at == widths.end() ? 0 : at->second;
  }

  void scalar(const std::string& key, std::uint64_t type) {
    if (type == 8) return void(text());
    const std::size_t width = width_of(type);
    require(width != 0);
    if (!good_) return;
    const std::uint64_t value = number(width);
    if (type == 7) require(value <= 1);
    const bool integer = type <= 5 || type == 10 || type == 11;
    const bool negative = (type == 1 || type == 3 || type == 5 || type == 11) && (value >> (8 * width - 1)) != 0;
    if (key == "general.alignment") {
      require(integer && !negative && value >= 8 && value <= 1048576 && (value & (value - 1)) == 0);
      alignment_ = value;
    }
    if (key == "split.count") require(integer && !negative && value <= 1);
  }

  void value() {
    const std::string key = name();
    require(keys_.insert(key).second);
    const std::uint64_t type = number(4);
    if (type != 9) return scalar(key, type);
    require(key != "general.alignment" && key != "split.count");
    const std::uint64_t element = number(4);
    const std::uint64_t count = number(8);
    require(count <= 2097152 && (element == 8 || width_of(element) != 0));
    for (std::uint64_t i = 0; good_ && i < count; ++i) scalar("", element);
  }

  struct Tensor {
    Big bytes;
    std::uint64_t offset;
  };

  void tensor() {
    static const std::map<std::uint64_t, std::pair<unsigned, unsigned>> blocks = {
        {0, {1, 4}},     {1, {1, 2}},  {8, {32, 34}}, {10, {256, 84}}, {12, {256, 144}},
        {16, {256, 66}}, {26, {1, 4}}, {30, {1, 2}},  {39, {32, 17}}};
    require(names_.insert(name()).second);
    const std::uint64_t n_dims = number(4);
    require(n_dims >= 1 && n_dims <= 4);
    Big elements = 1;
    std::uint64_t first = 0;
    for (std::uint64_t i = 0; good_ && i < n_dims; ++i) {
      const std::uint64_t dim = number(8);
      if (i == 0) first = dim;
      require(dim != 0);
      elements *= dim;
      require(elements < Big{1} << 62);  // far above the size of any file here
    }
    const auto block = blocks.find(number(4));
    require(block != blocks.end());
    const std::uint64_t offset = number(8);
    if (!good_) return;
    require(first % block->second.first == 0);
    tensors_.push_back({elements / block->second.first * block->second.second, offset});
  }

  void read_file() {
    require(number(4) == 0x46554747 && number(4) == 3);
    const std::uint64_t tensor_count = number(8);
    const std::uint64_t key_count = number(8);
    require(tensor_count <= 65536 && key_count <= 65536);
    for (std::uint64_t i = 0; good_ && i < key_count; ++i) value();
    for (std::uint64_t i = 0; good_ && i < tensor_count; ++i) tensor();
    if (!good_) return;
    std::size_t start = at_;
    while (start % alignment_ != 0) ++start;
    for (const Tensor& a : tensors_) {
      require(a.offset % alignment_ == 0 && Big{start} + a.offset + a.bytes <= file_.size());
      for (const Tensor& b : tensors_)
        require(&a == &b || Big{a.offset} + a.bytes <= b.offset || Big{b.offset} + b.bytes <= a.offset);
    }
  }

  std::span<const std::byte> file_;
  std::size_t at_ = 0;
  bool good_ = true;
  std::uint64_t alignment_ = 32;
  std::set<std::string> keys_;
  std::set<std::string> names_;
  std::vector<Tensor> tensors_;
};

}  // namespace ds4::gguf
