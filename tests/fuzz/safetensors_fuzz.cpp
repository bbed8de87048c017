// Any bytes as a safetensors file: an error, or tensors that lie inside the file.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "base/check.h"
#include "convert/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  const auto file = ds4::SafetensorsFile::parse(bytes, "fuzz");
  if (!file.ok()) {
    DS4_CHECK(!file.error().message.empty());
    return 0;
  }
  std::uint64_t sum = 0;
  for (const ds4::SafeTensor& tensor : file->tensors()) {
    DS4_CHECK(tensor.offset + tensor.data.size() <= size);
    DS4_CHECK(tensor.elements() * ds4::safe_type_bytes(tensor.type) == tensor.data.size());
    DS4_CHECK(file->find(tensor.name) == &tensor);
    sum += tensor.data.size();
  }
  DS4_CHECK(sum <= size);
  return 0;
}
