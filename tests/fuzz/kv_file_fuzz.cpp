// Any bytes as a file of the KV store, or as records of its log: an error, or what is written again byte for byte.
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "kvstore/file_format.h"
#include "kvstore/record_log.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ds4::kvstore;
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto head = parse_head(bytes, "fuzz");
  const auto file = parse_file(bytes, "fuzz");
  DS4_CHECK(head.ok() || (!head.error().message.empty() && !file.ok()));
  if (head.ok()) {
    DS4_CHECK(file_version(bytes) == kVersion && head->position % kBlockTokens == 0 && head_bytes(head->kind) <= size);
  }
  if (file.ok()) {
    const std::vector<std::byte> again = encode_head(file->head, file->payload);
    DS4_CHECK(again.size() + file->payload.size() == size);
    // A label may have bytes behind its end: everything else is determined.
    DS4_CHECK(file->head.kind == head->kind && file->head.key == head->key);
  }
  const ParsedRecords records = parse_records(bytes);
  DS4_CHECK(records.end <= size && (records.end == size || !records.problems.empty()));
  for (const ParsedRecords::Record& record : records.good) {
    const std::vector<std::byte> again = encode_record(record.identity, record.payload);
    DS4_CHECK(std::ranges::equal(again, bytes.subspan(record.at, record.bytes)));
  }
  const std::string name(reinterpret_cast<const char*>(data), std::min<std::size_t>(size, 100));
  if (const auto named = read_file_name(name)) DS4_CHECK(file_name(named->kind, named->key) == name);
  return 0;
}
