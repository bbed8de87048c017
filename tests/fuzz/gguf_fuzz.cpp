// Any bytes as a model file: they are refused with a message, or every entry of the file can be read.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/check.h"
#include "base/text.h"
#include "gguf/file.h"

namespace {

// A sum over everything that was handed out: each byte is touched, so a view outside the input is found.
std::uint64_t checksum = 0;

void touch(std::span<const std::byte> bytes) {
  for (const std::byte b : bytes) checksum = checksum * 31 + std::to_integer<std::uint64_t>(b);
}
void touch(std::string_view text) { touch(std::as_bytes(std::span(text))); }

template <typename T>
void check(const ds4::Result<T>& result) {
  if (!result.ok()) DS4_CHECK(ds4::is_printable_utf8(result.error().message));
}

void read_everything(const ds4::gguf::File& file) {
  for (const auto& value : file.values()) {
    DS4_CHECK(file.find_value(value.key) == &value);
    touch(value.key);
    touch(value.raw);
    check(file.get_uint(value.key));
    check(file.get_float(value.key));
    check(file.get_bool(value.key));
    check(file.get_string(value.key));
    check(file.get_int_array(value.key));
    check(file.get_float_array(value.key));
    const auto strings = file.get_string_array(value.key);
    check(strings);
    if (strings.ok() && *strings) {
      DS4_CHECK((*strings)->size() == value.count);
      for (const std::string_view text : **strings) touch(text);
    }
    DS4_CHECK(ds4::is_printable_utf8(file.key_error(value.key, "x").message));
  }
  for (const auto& tensor : file.tensors()) {
    DS4_CHECK(file.find_tensor(tensor.name) == &tensor);
    DS4_CHECK(tensor.elements() > 0 && !tensor.data.empty() && tensor.offset % file.alignment() == 0);
    touch(tensor.name);
    touch(tensor.data);
    touch(ds4::gguf::describe(tensor));
    DS4_CHECK(ds4::is_printable_utf8(file.tensor_error(tensor, "x").message));
  }
  for (const std::string& note : file.notes()) DS4_CHECK(ds4::is_printable_utf8(note));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = ds4::gguf::File::parse(std::as_bytes(std::span(data, size)), "fuzz.gguf");
  check(file);
  if (file.ok()) read_everything(*file);
  return 0;
}
