// Any bytes as an importance matrix: an error, or entries that lie inside the file.
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "base/check.h"
#include "quant/imatrix.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = ds4::Imatrix::parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!file.ok()) {
    DS4_CHECK(!file.error().message.empty());
    return 0;
  }
  std::uint64_t bytes = 0;
  for (const ds4::Imatrix::Entry& entry : file->entries()) {
    DS4_CHECK(file->find(entry.name) == &entry);
    DS4_CHECK(entry.offset + entry.raw.size() <= size);
    bytes += entry.raw.size();
    std::vector<float> values(entry.size());
    ds4::Imatrix::read(entry, 0, values);
    for (const float value : values) DS4_CHECK(std::isfinite(value) && value >= 0);
  }
  DS4_CHECK(bytes <= size && file->dataset().size() <= size && file->chunks() >= 0);
  return 0;
}
