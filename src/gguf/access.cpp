// Typed access to the metadata of an open file, and the messages about it.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/text.h"
#include "gguf/file.h"

namespace ds4::gguf {

namespace {

struct TypeFacts {
  std::string_view name;
  std::uint32_t bytes;
};
constexpr std::array<TypeFacts, 13> kTypes = {{{"u8", 1},
                                               {"i8", 1},
                                               {"u16", 2},
                                               {"i16", 2},
                                               {"u32", 4},
                                               {"i32", 4},
                                               {"f32", 4},
                                               {"bool", 1},
                                               {"string", 0},
                                               {"array", 0},
                                               {"u64", 8},
                                               {"i64", 8},
                                               {"f64", 8}}};
const TypeFacts& facts(ValueType type) {
  const auto id = static_cast<std::size_t>(type);
  DS4_CHECK(id < kTypes.size());
  return kTypes[id];
}

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// An integer of any width: the 64 bits, and whether they are a negative number.
struct Integer {
  std::uint64_t bits;
  bool negative;
};
template <typename T>
Integer integer(T value) {
  return {static_cast<std::uint64_t>(value), std::is_signed_v<T> && value < T{0}};
}
std::optional<Integer> load_integer(ValueType type, const std::byte* from) {
  switch (type) {
    case ValueType::kU8: return integer(load<std::uint8_t>(from));
    case ValueType::kI8: return integer(load<std::int8_t>(from));
    case ValueType::kU16: return integer(load<std::uint16_t>(from));
    case ValueType::kI16: return integer(load<std::int16_t>(from));
    case ValueType::kU32: return integer(load<std::uint32_t>(from));
    case ValueType::kI32: return integer(load<std::int32_t>(from));
    case ValueType::kU64: return integer(load<std::uint64_t>(from));
    case ValueType::kI64: return integer(load<std::int64_t>(from));
    default: return std::nullopt;
  }
}
std::string to_text(Integer value) {
  return value.negative ? cat(static_cast<std::int64_t>(value.bits)) : cat(value.bits);
}

std::string type_text(const Value& value) {
  if (value.type == ValueType::kArray) return cat("an array of ", value_type_name(value.element));
  return cat("a value of type ", value_type_name(value.type));
}

/// The entry with this name in `entries`, whose `order` is sorted by name.
template <typename Entry, typename Name>
const Entry* find(const std::vector<Entry>& entries, const std::vector<std::uint32_t>& order, std::string_view name,
                  Name name_of) {
  const auto at = std::lower_bound(order.begin(), order.end(), name, [&](std::uint32_t i, std::string_view wanted) {
    return name_of(entries[i]) < wanted;
  });
  return at != order.end() && name_of(entries[*at]) == name ? &entries[*at] : nullptr;
}

}  // namespace

std::string_view value_type_name(ValueType type) { return facts(type).name; }
std::uint32_t value_type_bytes(ValueType type) { return facts(type).bytes; }

std::string describe(const TensorInfo& tensor) {
  std::string out = "[";
  for (int i = 0; i < tensor.n_dims; ++i) out += cat(i == 0 ? "" : ", ", tensor.dims[i]);
  return out + cat("] ", dtype_info(tensor.type).name);
}

const Value* File::find_value(std::string_view key) const {
  return find(values_, values_by_key_, key, [](const Value& value) { return value.key; });
}

const TensorInfo* File::find_tensor(std::string_view name) const {
  return find(tensors_, tensors_by_name_, name, [](const TensorInfo& tensor) { return tensor.name; });
}

Error File::key_error(std::string_view key, std::string_view what) const {
  const Value* value = find_value(key);
  const std::string where = value == nullptr ? std::string() : cat(" at byte ", value->offset);
  return Error{ErrorCode::kBadModel, cat(escaped(path_, 4096), ": key ", escaped(key), where, ": ", what)};
}

Error File::tensor_error(const TensorInfo& tensor, std::string_view what) const {
  return Error{ErrorCode::kBadModel,
               cat(escaped(path_, 4096), ": tensor ", escaped(tensor.name), " at byte ", tensor.entry, ": ", what)};
}

Result<std::optional<std::uint64_t>> File::get_uint(std::string_view key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::optional<std::uint64_t>();
  const auto number = load_integer(value->type, value->raw.data());
  if (!number) return key_error(key, cat("expected an integer, found ", type_text(*value)));
  if (number->negative) return key_error(key, cat("expected an integer of at least 0, found ", to_text(*number)));
  return std::optional(number->bits);
}

Result<std::optional<double>> File::get_float(std::string_view key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::optional<double>();
  if (value->type == ValueType::kF32) return std::optional<double>(load<float>(value->raw.data()));
  if (value->type == ValueType::kF64) return std::optional(load<double>(value->raw.data()));
  return key_error(key, cat("expected f32 or f64, found ", type_text(*value)));
}

Result<std::optional<bool>> File::get_bool(std::string_view key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::optional<bool>();
  if (value->type == ValueType::kBool) return std::optional(value->raw[0] != std::byte{0});
  const auto number = load_integer(value->type, value->raw.data());
  if (!number) return key_error(key, cat("expected a bool, found ", type_text(*value)));
  if (number->bits > 1) return key_error(key, cat("expected a bool, 0 or 1, found ", to_text(*number)));
  return std::optional(number->bits == 1);
}

Result<std::optional<std::string_view>> File::get_string(std::string_view key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::optional<std::string_view>();
  if (value->type != ValueType::kString) return key_error(key, cat("expected a string, found ", type_text(*value)));
  return std::optional(std::string_view(reinterpret_cast<const char*>(value->raw.data()), value->raw.size()));
}

Result<std::optional<std::vector<std::int64_t>>> File::get_int_array(std::string_view key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::optional<std::vector<std::int64_t>>();
  const std::uint32_t bytes = value_type_bytes(value->element);
  const bool integers = value->element != ValueType::kBool && value->element != ValueType::kF32 &&
                        value->element != ValueType::kF64 && value->element != ValueType::kString;
  if (value->type != ValueType::kArray || !integers)
    return key_error(key, cat("expected an array of integers, found ", type_text(*value)));
  std::vector<std::int64_t> out;
  out.reserve(value->count);
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const Integer number = *load_integer(value->element, value->raw.data() + i * bytes);
    if (!number.negative && number.bits > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      return key_error(key, cat("expected integers below 2^63, found ", number.bits, " as element ", i));
    out.push_back(static_cast<std::int64_t>(number.bits));
  }
  return std::optional(std::move(out));
}

Result<std::optional<std::vector<float>>> File::get_float_array(std::string_view key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::optional<std::vector<float>>();
  const bool narrow = value->element == ValueType::kF32;
  if (value->type != ValueType::kArray || !(narrow || value->element == ValueType::kF64))
    return key_error(key, cat("expected an array of f32 or f64, found ", type_text(*value)));
  std::vector<float> out;
  out.reserve(value->count);
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const double number = narrow ? load<float>(value->raw.data() + i * 4) : load<double>(value->raw.data() + i * 8);
    if (std::isfinite(number) && std::fabs(number) > std::numeric_limits<float>::max())
      return key_error(key, cat("expected numbers that fit f32, found ", number, " as element ", i));
    out.push_back(static_cast<float>(number));
  }
  return std::optional(std::move(out));
}

Result<std::optional<std::vector<std::string_view>>> File::get_string_array(std::string_view key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::optional<std::vector<std::string_view>>();
  if (value->type != ValueType::kArray || value->element != ValueType::kString)
    return key_error(key, cat("expected an array of strings, found ", type_text(*value)));
  std::vector<std::string_view> out;
  out.reserve(value->count);
  const std::byte* at = value->raw.data();
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto length = static_cast<std::size_t>(load<std::uint64_t>(at));
    out.emplace_back(reinterpret_cast<const char*>(at + 8), length);
    at += 8 + length;
  }
  return std::optional(std::move(out));
}

}  // namespace ds4::gguf
