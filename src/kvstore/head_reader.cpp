#include "kvstore/head_reader.h"

#include "base/text.h"

namespace ds4::kvstore {

bool is_temporary(std::string_view name) { return name.starts_with("t-") && name.ends_with(".tmp"); }
bool is_ours(std::string_view name) { return read_file_name(name).has_value() || is_temporary(name); }

HeadReading read_head(Folder& folder, const Folder::Entry& entry) {
  using Outcome = HeadReading::Outcome;
  const NamedFile file = *read_file_name(entry.name);
  auto bytes = folder.read(entry.name, head_bytes(file.kind));
  if (!bytes.ok()) return {Outcome::kUnreadable, {}, bytes.error().message};
  if (!bytes->has_value()) return {Outcome::kGone, {}, {}};
  if (const auto version = file_version(**bytes); version && *version != kVersion)
    return {Outcome::kOtherVersion, {}, cat(entry.name, ": version ", *version)};
  Result<Head> head = parse_head(**bytes, entry.name);
  if (!head.ok()) return {Outcome::kBroken, {}, head.error().message};
  if (head->kind != file.kind || head->key != file.key)
    return {Outcome::kBroken, {}, cat(entry.name, ": it belongs under another name")};
  if (entry.bytes != head_bytes(file.kind) + head->payload_bytes) {
    return {Outcome::kBroken,
            {},
            cat(entry.name, ": expected ", head_bytes(file.kind) + head->payload_bytes, " bytes, found ", entry.bytes)};
  }
  return {Outcome::kGood, std::move(*head), {}};
}

}  // namespace ds4::kvstore
