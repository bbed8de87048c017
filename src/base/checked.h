// Checked: the only arithmetic allowed on a size that comes from a file or a socket. Overflow is sticky: once a
// step wrapped, every later result is invalid, so one test at the end covers the whole chain.
//
//   const Checked bytes = Checked(rows) * Checked(row_bytes) + Checked(padding);
//   if (!bytes.fits(file_size)) return Error{...};
#pragma once

#include <cstdint>
#include <optional>

namespace ds4 {

class Checked {
 public:
  constexpr explicit Checked(std::uint64_t value) : value_(value) {}

  constexpr bool valid() const { return valid_; }
  constexpr bool fits(std::uint64_t limit) const { return valid_ && value_ <= limit; }
  constexpr std::optional<std::uint64_t> value() const {
    return valid_ ? std::optional<std::uint64_t>(value_) : std::nullopt;
  }

  friend constexpr Checked operator+(Checked a, Checked b) {
    Checked out(0);
    out.valid_ = !__builtin_add_overflow(a.value_, b.value_, &out.value_) && a.valid_ && b.valid_;
    return out;
  }
  friend constexpr Checked operator-(Checked a, Checked b) {
    Checked out(0);
    out.valid_ = !__builtin_sub_overflow(a.value_, b.value_, &out.value_) && a.valid_ && b.valid_;
    return out;
  }
  friend constexpr Checked operator*(Checked a, Checked b) {
    Checked out(0);
    out.valid_ = !__builtin_mul_overflow(a.value_, b.value_, &out.value_) && a.valid_ && b.valid_;
    return out;
  }
  /// Exact division: a remainder or a zero divisor is an error.
  constexpr Checked divided_exactly_by(std::uint64_t divisor) const {
    Checked out(0);
    out.valid_ = valid_ && divisor != 0 && value_ % divisor == 0;
    if (out.valid_) out.value_ = value_ / divisor;
    return out;
  }
  /// The next multiple of `alignment` (not zero).
  constexpr Checked aligned_up(std::uint64_t alignment) const {
    Checked out(0);
    out.valid_ = valid_ && alignment != 0;
    if (!out.valid_) return out;
    const std::uint64_t rest = value_ % alignment;
    return rest == 0 ? *this : *this + Checked(alignment - rest);
  }

 private:
  std::uint64_t value_;
  bool valid_ = true;
};

}  // namespace ds4
