// One file of records beside the states (docs/formats/call-log.md): bytes that are kept for this process and those to
// come, and mean nothing here. Appended only; several processes may append, each under a lock. Bounded: when it is
// full, the newest records are written anew and the rest goes.
//
// A record counts if every byte of it verifies and it is of this identity. Owned by one Store and used by its thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kvstore/file_format.h"
#include "kvstore/folder.h"

namespace ds4::kvstore {

inline constexpr const char* kRecordLogName = "calls.log";
inline constexpr std::uint32_t kLogVersion = 1;
inline constexpr std::size_t kLogHeadBytes = 32;
inline constexpr std::size_t kRecordHeadBytes = 72;
/// Longer ones are not kept.
inline constexpr std::size_t kMaxRecordBytes = std::size_t{1} << 20;

/// What a file of records holds.
struct ParsedRecords {
  struct Record {
    std::size_t at = 0, bytes = 0;  // in what was parsed, with its head
    Key identity{};
    std::string_view payload;
  };
  std::vector<Record> good;
  std::vector<std::string> problems;  // a record that does not verify; bytes at the end that are none
  std::size_t end = 0;                // behind the last record that could be told
};
/// `bytes` are records, without the head of the file; `offset` is where they stand in it.
ParsedRecords parse_records(std::span<const std::byte> bytes, std::uint64_t offset = kLogHeadBytes);
/// Nothing when the head of the file is ours; otherwise what is wrong with it.
std::string log_head_problem(std::span<const std::byte> bytes);
std::vector<std::byte> encode_record(const Key& identity, std::string_view payload);

/// Held while the file is read or written; null when another process has it for so long.
std::unique_ptr<Folder::Lock> lock_records(Folder& folder, double seconds);

class RecordLog {
 public:
  struct Options {
    Key identity{};
    std::uint64_t budget = 0;  // of the file; 0: there is none
    double lock_seconds = 5;   // to wait for another process
    std::function<void(std::string_view)> found;
    std::function<void(const std::string&)> warn;
  };
  RecordLog(Folder& folder, Options options) : folder_(folder), options_(std::move(options)) {}

  /// Gives `found` what is there and was not given yet, the oldest first. What does not verify is left out, a warning,
  /// and no longer there afterwards.
  Status read();
  /// Keeps these; then also what others have kept meanwhile is found.
  Status append(std::span<const std::string> records);

 private:
  Status catch_up(bool locked);
  /// Writes the file anew with the newest sound records that fit into `bytes`.
  Status rewrite(std::uint64_t bytes);

  Folder& folder_;
  const Options options_;
  std::array<std::byte, kLogHeadBytes> head_{};  // of the file that was read
  std::uint64_t known_ = 0;                      // bytes of it; 0: none
  std::uint64_t temporary_ = 0;
};

}  // namespace ds4::kvstore
