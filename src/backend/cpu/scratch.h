// Scratch hands out pieces of one block of memory, from the front. Without a block it only counts: the same code that
// lays out an op's scratch says how much it needs, so plan and allocation cannot differ.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace ds4::cpu {

class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(std::byte* base) : base_(base) {}

  template <typename T>
  T* take(std::int64_t count) {
    used_ = (used_ + 63) / 64 * 64;
    T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += static_cast<std::size_t>(std::max<std::int64_t>(count, 0)) * sizeof(T);
    return piece;
  }
  std::size_t used() const { return (used_ + 63) / 64 * 64; }

 private:
  std::byte* base_ = nullptr;
  std::size_t used_ = 0;
};

}  // namespace ds4::cpu
