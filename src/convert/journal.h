// What an interrupted conversion leaves beside OUT.part: OUT.journal, a text file that says which tensors are complete.
//
//   ds4-quantize journal 1 <fingerprint of the conversion, 16 hex digits>
//   <tensor> <bytes> <content_hash of its bytes, 16 hex digits>
//
// A line counts when it is whole. Nothing has to be synced: what a line claims is checked against the bytes of OUT.part
// before it is believed. One thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "base/result.h"

namespace ds4 {

struct JournalEntry {
  std::string tensor;
  std::uint64_t bytes = 0;
  std::uint64_t hash = 0;
};

/// The entries of the journal at `path`; none when there is no such file, or when it is of another conversion.
std::vector<JournalEntry> read_journal(const std::string& path, std::uint64_t fingerprint);

class JournalWriter {
 public:
  /// A journal with these entries, in place of any that exists.
  static Result<JournalWriter> create(const std::string& path, std::uint64_t fingerprint,
                                      std::span<const JournalEntry> entries, FileSystem& disk = FileSystem::real());
  Status add(const JournalEntry& entry);
  std::size_t entries() const { return entries_; }
  /// The conversion is complete: the journal goes.
  Status remove();

 private:
  JournalWriter(std::string path, FileSystem& disk) : path_(std::move(path)), disk_(&disk) {}
  Status append(std::string_view line);
  std::string path_;
  FileSystem* disk_;
  std::unique_ptr<OutputFile> file_;
  std::uint64_t size_ = 0;
  std::size_t entries_ = 0;
};

}  // namespace ds4
