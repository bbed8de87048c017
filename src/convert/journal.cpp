#include "convert/journal.h"

#include <charconv>
#include <cstdio>
#include <optional>

#include "base/mapped_file.h"
#include "base/text.h"

namespace ds4 {
namespace {

constexpr std::string_view kTitle = "ds4-quantize journal 1 ";

std::string hex(std::uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

template <int base>
std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// "<tensor> <bytes> <hash>", or nothing. Tensor names may hold spaces: the numbers are the last two words.
std::optional<JournalEntry> parse_line(std::string_view line) {
  const std::size_t last = line.rfind(' ');
  if (last == line.npos || last == 0) return std::nullopt;
  const std::size_t middle = line.rfind(' ', last - 1);
  if (middle == line.npos || middle == 0 || line.size() - last - 1 != 16) return std::nullopt;
  const auto bytes = number<10>(line.substr(middle + 1, last - middle - 1));
  const auto hash = number<16>(line.substr(last + 1));
  if (!bytes || !hash) return std::nullopt;
  return JournalEntry{std::string(line.substr(0, middle)), *bytes, *hash};
}

}  // namespace

std::vector<JournalEntry> read_journal(const std::string& path, std::uint64_t fingerprint) {
  std::vector<JournalEntry> entries;
  const auto file = MappedFile::open(path);
  if (!file.ok()) return entries;
  std::string_view text(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
  const std::string title = cat(kTitle, hex(fingerprint), "\n");
  if (!text.starts_with(title)) return entries;
  text.remove_prefix(title.size());
  for (std::size_t end = text.find('\n'); end != text.npos; end = text.find('\n')) {
    auto entry = parse_line(text.substr(0, end));
    if (!entry) break;
    entries.push_back(std::move(*entry));
    text.remove_prefix(end + 1);
  }
  return entries;
}

Result<JournalWriter> JournalWriter::create(const std::string& path, std::uint64_t fingerprint,
                                            std::span<const JournalEntry> entries, FileSystem& disk) {
  JournalWriter writer(path, disk);
  DS4_ASSIGN_OR_RETURN(writer.file_, disk.create(path));
  std::string text = cat(kTitle, hex(fingerprint), "\n");
  for (const JournalEntry& entry : entries) text += cat(entry.tensor, " ", entry.bytes, " ", hex(entry.hash), "\n");
  DS4_RETURN_IF_ERROR(writer.append(text));
  writer.entries_ = entries.size();
  return writer;
}

Status JournalWriter::add(const JournalEntry& entry) {
  ++entries_;
  return append(cat(entry.tensor, " ", entry.bytes, " ", hex(entry.hash), "\n"));
}

Status JournalWriter::append(std::string_view line) {
  DS4_RETURN_IF_ERROR(file_->write_at(size_, std::as_bytes(std::span(line))));
  size_ += line.size();
  return {};
}

Status JournalWriter::remove() {
  file_.reset();
  return disk_->remove(path_);
}

}  // namespace ds4
