#include "kvstore/record_log.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include "base/text.h"

namespace ds4::kvstore {

namespace {

constexpr std::array<std::uint8_t, 8> kLogMagic = {'D', 'S', '4', 'L', 'O', 'G', 0x1a, 0x0a};
constexpr std::uint32_t kRecordMagic = 0x1e434552;  // "REC" and a record separator
constexpr std::size_t kRecordSizeAt = 4, kRecordIdentityAt = 8, kRecordCheckAt = 40, kHeadCheckAt = 56;
static_assert(kHeadCheckAt + 16 == kRecordHeadBytes);
/// No file of ours is longer, whatever its budget was.
constexpr std::uint64_t kMaxLogBytes = std::uint64_t{256} << 20;
constexpr const char* kLogLockName = "calls.lock";

std::uint32_t number_at(std::span<const std::byte> bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value |= static_cast<std::uint32_t>(bytes[at + i]) << 8 * i;
  return value;
}

void put_number(std::span<std::byte> bytes, std::size_t at, std::uint32_t value) {
  for (std::size_t i = 0; i < 4; ++i) bytes[at + i] = static_cast<std::byte>(value >> 8 * i);
}

bool same(std::span<const std::byte> bytes, std::size_t at, const Checksum& check) {
  return std::memcmp(bytes.data() + at, check.data(), check.size()) == 0;
}

std::array<std::byte, kLogHeadBytes> new_head() {
  std::array<std::byte, kLogHeadBytes> head{};
  std::memcpy(head.data(), kLogMagic.data(), kLogMagic.size());
  put_number(head, 8, kLogVersion);
  std::random_device random;
  for (std::size_t at = 16; at < kLogHeadBytes; at += 4) put_number(head, at, random());
  return head;
}

}  // namespace

std::vector<std::byte> encode_record(const Key& identity, std::string_view payload) {
  std::vector<std::byte> out(kRecordHeadBytes + payload.size());
  const std::span<std::byte> bytes(out);
  std::memcpy(out.data() + kRecordHeadBytes, payload.data(), payload.size());
  put_number(bytes, 0, kRecordMagic);
  put_number(bytes, kRecordSizeAt, static_cast<std::uint32_t>(payload.size()));
  std::memcpy(out.data() + kRecordIdentityAt, identity.data(), identity.size());
  const Checksum check = checksum(bytes.subspan(kRecordHeadBytes));
  std::memcpy(out.data() + kRecordCheckAt, check.data(), check.size());
  const Checksum head = checksum(bytes.first(kHeadCheckAt));
  std::memcpy(out.data() + kHeadCheckAt, head.data(), head.size());
  return out;
}

std::string log_head_problem(std::span<const std::byte> bytes) {
  if (bytes.size() < kLogHeadBytes) return cat("expected a head of ", kLogHeadBytes, " bytes, found ", bytes.size());
  if (std::memcmp(bytes.data(), kLogMagic.data(), kLogMagic.size()) != 0)
    return "magic at byte 0: expected DS4LOG\\x1a\\x0a, found something else";
  if (const std::uint32_t version = number_at(bytes, 8); version != kLogVersion)
    return cat("version at byte 8: expected ", kLogVersion, ", found ", version);
  return {};
}

ParsedRecords parse_records(std::span<const std::byte> bytes, std::uint64_t offset) {
  ParsedRecords out;
  while (out.end < bytes.size()) {
    const auto rest = bytes.subspan(out.end);
    // Without a head there is no telling where the next record begins. It is not looked for: what a record holds comes
    // from outside, and may look like one.
    const bool head = rest.size() >= kRecordHeadBytes && number_at(rest, 0) == kRecordMagic &&
                      number_at(rest, kRecordSizeAt) <= kMaxRecordBytes &&
                      same(rest, kHeadCheckAt, checksum(rest.first(kHeadCheckAt)));
    const std::size_t size = head ? kRecordHeadBytes + number_at(rest, kRecordSizeAt) : 0;
    if (!head || size > rest.size()) {
      out.problems.push_back(cat("record at byte ", offset + out.end, ": expected a ", head ? "payload" : "head",
                                 " that verifies, found something else in the last ", rest.size(), " bytes"));
      break;
    }
    const auto payload = rest.subspan(kRecordHeadBytes, size - kRecordHeadBytes);
    if (const Checksum check = checksum(payload); same(rest, kRecordCheckAt, check)) {
      ParsedRecords::Record& record = out.good.emplace_back();
      record.at = out.end;
      record.bytes = size;
      std::memcpy(record.identity.data(), rest.data() + kRecordIdentityAt, record.identity.size());
      record.payload = {reinterpret_cast<const char*>(payload.data()), payload.size()};
    } else {
      out.problems.push_back(cat("record at byte ", offset + out.end, ": payload checksum at byte ",
                                 offset + out.end + kRecordCheckAt, ": expected ", hex(check), ", found another"));
    }
    out.end += size;
  }
  return out;
}

std::unique_ptr<Folder::Lock> lock_records(Folder& folder, double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (true) {
    std::unique_ptr<Folder::Lock> lock = folder.try_lock(kLogLockName);
    if (lock != nullptr || std::chrono::steady_clock::now() >= end) return lock;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

Status RecordLog::read() {
  if (options_.budget == 0) return {};
  const std::unique_ptr<Folder::Lock> lock = lock_records(folder_, options_.lock_seconds);
  return catch_up(lock != nullptr);
}

Status RecordLog::catch_up(bool locked) {
  DS4_ASSIGN_OR_RETURN(const auto entries, folder_.list([](std::string_view name) { return name == kRecordLogName; }));
  DS4_ASSIGN_OR_RETURN(const auto head, folder_.read(kRecordLogName, kLogHeadBytes));
  if (entries.empty() || !head) {
    known_ = 0;
    return {};
  }
  std::vector<std::string> problems;
  if (std::string problem = log_head_problem(*head); !problem.empty()) {
    known_ = 0;
    problems.push_back(std::move(problem));
  } else {
    // Another head: it has been written anew by somebody. Shorter: not by us.
    if (known_ < kLogHeadBytes || entries.front().bytes < known_ || !std::ranges::equal(*head, head_))
      known_ = kLogHeadBytes;
    std::ranges::copy(*head, head_.begin());
    DS4_ASSIGN_OR_RETURN(const auto bytes, folder_.read(kRecordLogName, kMaxLogBytes, known_));
    if (!bytes || (locked && bytes->size() != entries.front().bytes - known_))
      return Error{ErrorCode::kIo, cat(kRecordLogName, ": expected ", entries.front().bytes, " bytes, found fewer")};
    ParsedRecords parsed = parse_records(*bytes, known_);
    for (const ParsedRecords::Record& record : parsed.good) {
      if (record.identity == options_.identity && options_.found) options_.found(record.payload);
    }
    known_ += parsed.end;
    problems = std::move(parsed.problems);
  }
  if (problems.empty() || !locked) return {};
  if (options_.warn) options_.warn(cat(kRecordLogName, ": ", problems.size(), " not used: ", problems.front()));
  return rewrite(options_.budget);
}

Status RecordLog::rewrite(std::uint64_t bytes) {
  std::vector<std::span<const std::byte>> pieces;
  DS4_ASSIGN_OR_RETURN(const auto file, folder_.read(kRecordLogName, kMaxLogBytes));
  const auto head = new_head();
  std::uint64_t size = head.size();
  if (file && log_head_problem(*file).empty()) {
    const auto records = std::span(*file).subspan(kLogHeadBytes);
    const ParsedRecords parsed = parse_records(records);
    for (auto record = parsed.good.rbegin(); record != parsed.good.rend() && size + record->bytes <= bytes; ++record) {
      pieces.push_back(records.subspan(record->at, record->bytes));
      size += record->bytes;
    }
  }
  pieces.emplace_back(head);
  std::ranges::reverse(pieces);
  const std::string temporary = cat("t-", ::getpid(), "-calls-", ++temporary_, ".tmp");
  Status status = folder_.write(temporary, pieces);
  if (status.ok()) status = folder_.rename(temporary, kRecordLogName);
  if (!status.ok()) {
    static_cast<void>(folder_.remove(temporary));
    return status;
  }
  head_ = head;
  known_ = size;
  return folder_.sync();
}

Status RecordLog::append(std::span<const std::string> records) {
  if (options_.budget == 0) return {};
  const std::unique_ptr<Folder::Lock> lock = lock_records(folder_, options_.lock_seconds);
  if (lock == nullptr)
    return Error{ErrorCode::kIo,
                 cat(kRecordLogName, ": another process has held its lock for ", options_.lock_seconds, " s")};
  DS4_RETURN_IF_ERROR(catch_up(true));
  std::vector<std::vector<std::byte>> encoded;
  std::uint64_t size = 0;
  for (const std::string& record : records) {
    if (record.size() > kMaxRecordBytes || kLogHeadBytes + kRecordHeadBytes + record.size() > options_.budget) continue;
    size += encoded.emplace_back(encode_record(options_.identity, record)).size();
  }
  // Half of it is made free at once, so that not every append writes everything again.
  if (known_ == 0 || known_ + size > options_.budget)
    DS4_RETURN_IF_ERROR(rewrite(known_ == 0 ? kLogHeadBytes : options_.budget / 2));
  std::vector<std::span<const std::byte>> pieces;
  for (const auto& one : encoded) {
    if (known_ + one.size() > options_.budget) break;
    pieces.emplace_back(one);
    known_ += one.size();
  }
  const Status status = folder_.append(kRecordLogName, pieces);
  // How much of it is there is seen by the next one, which reads from the start.
  if (!status.ok()) known_ = 0;
  return status;
}

}  // namespace ds4::kvstore
