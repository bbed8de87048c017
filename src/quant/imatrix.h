// Importance matrices: how much each column of a weight matrix matters, as the mean square of what the column is
// multiplied with. The file is llama.cpp's legacy .dat format; docs/formats/imatrix.md has the layout.
//
// Imatrix is a view into the mapped file, checked completely by open(), immutable afterwards; any thread may read.
// ImatrixWriter writes one entry at a time; the file gets its name only when it is complete. One thread.
// Errors name the file, the entry, the byte offset, what was expected and what was found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "base/mapped_file.h"
#include "base/result.h"

namespace ds4 {

class Imatrix {
 public:
  static Result<Imatrix> open(const std::string& path);
  /// The same checks over bytes in memory; `bytes` must outlive the object.
  static Result<Imatrix> parse(std::span<const std::byte> bytes, const std::string& name);

  /// One tensor: [columns], or [experts][columns].
  struct Entry {
    std::string_view name;
    std::int32_t calls = 1;    // the values in the file are sums of so many means
    std::uint64_t offset = 0;  // of the entry in the file
    std::span<const std::byte> raw;
    std::uint64_t size() const { return raw.size() / sizeof(float); }
  };

  const std::string& path() const { return path_; }
  std::span<const Entry> entries() const { return entries_; }
  const Entry* find(std::string_view name) const;
  /// Means [first, first + out.size()) of the entry.
  static void read(const Entry& entry, std::uint64_t first, std::span<float> out);

  std::int32_t chunks() const { return chunks_; }        // 0: the file does not say
  std::string_view dataset() const { return dataset_; }  // what the statistics were taken from; may be empty
  Error entry_error(const Entry& entry, std::string_view what) const;

 private:
  friend class ImatrixParser;
  std::optional<MappedFile> mapping_;
  std::string path_;
  std::vector<Entry> entries_;
  std::vector<std::uint32_t> by_name_;  // sorted
  std::int32_t chunks_ = 0;
  std::string_view dataset_;
};

class ImatrixWriter {
 public:
  /// Creates PATH.part; `disk` must outlive the writer.
  static Result<ImatrixWriter> create(const std::string& path, std::int32_t entries,
                                      FileSystem& disk = FileSystem::real());
  ImatrixWriter(ImatrixWriter&&) noexcept = default;
  /// Removes what is not finished.
  ~ImatrixWriter();

  Status add(std::string_view name, std::span<const float> means);
  Status finish(std::int32_t chunks, std::string_view dataset);

 private:
  ImatrixWriter(std::string path, FileSystem& disk) : path_(std::move(path)), disk_(&disk) {}
  Status put(std::span<const std::byte> bytes);
  Status put_number(std::int32_t value);
  Status put_text(std::string_view text);

  std::string path_;
  FileSystem* disk_;
  std::unique_ptr<OutputFile> file_;
  std::uint64_t written_ = 0;
  std::int32_t left_ = 0;
};

}  // namespace ds4
