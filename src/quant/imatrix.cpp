#include "quant/imatrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/text.h"

namespace ds4 {

static_assert(std::endian::native == std::endian::little, "the numbers of the file are read as they lie");

namespace {

constexpr std::int32_t kMaxEntries = 65536;
constexpr std::int32_t kMaxNameBytes = 1024;
constexpr std::int32_t kMaxDatasetBytes = 65536;

}  // namespace

class ImatrixParser {
 public:
  ImatrixParser(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes) { out_.path_ = name; }

  Result<Imatrix> run() {
    const Status parsed = parse();
    if (!parsed.ok()) return parsed.error();
    return std::move(out_);
  }

 private:
  Error refuse(std::uint64_t at, std::string_view field, std::string_view expected, std::string_view found) const {
    return Error{ErrorCode::kBadModel, cat(escaped(out_.path_, 4096), ": ", field, " at byte ", at, ": expected ",
                                           expected, ", found ", found)};
  }

  Result<std::span<const std::byte>> take(std::uint64_t count, std::string_view field) {
    if (bytes_.size() - at_ < count)
      return refuse(at_, field, cat(count, " bytes"), cat(bytes_.size() - at_, " before the end of the file"));
    const auto taken = bytes_.subspan(at_, count);
    at_ += count;
    return taken;
  }

  Result<std::int32_t> number(std::string_view field, std::int32_t low, std::int32_t high) {
    const std::uint64_t start = at_;
    DS4_ASSIGN_OR_RETURN(const auto raw, take(sizeof(std::int32_t), field));
    std::int32_t value = 0;
    std::memcpy(&value, raw.data(), sizeof value);
    if (value < low || value > high) return refuse(start, field, cat(low, " to ", high), cat(value));
    return value;
  }

  Status parse() {
    DS4_ASSIGN_OR_RETURN(const std::int32_t count, number("number of entries", 1, kMaxEntries));
    for (std::int32_t i = 0; i < count; ++i) DS4_RETURN_IF_ERROR(parse_entry(i));
    DS4_RETURN_IF_ERROR(sort_names());
    if (at_ == bytes_.size()) return {};  // the first writers of the format stopped here
    constexpr std::int32_t kAny = std::numeric_limits<std::int32_t>::max();
    DS4_ASSIGN_OR_RETURN(out_.chunks_, number("number of chunks", 0, kAny));
    DS4_ASSIGN_OR_RETURN(const std::int32_t length, number("length of the data set's name", 0, kMaxDatasetBytes));
    DS4_ASSIGN_OR_RETURN(const auto text, take(static_cast<std::uint64_t>(length), "data set"));
    out_.dataset_ = {reinterpret_cast<const char*>(text.data()), text.size()};
    if (at_ != bytes_.size()) return refuse(at_, "end", "the end of the file", cat(bytes_.size() - at_, " more bytes"));
    return {};
  }

  Status parse_entry(std::int32_t index) {
    Imatrix::Entry entry;
    entry.offset = at_;
    const std::string field = cat("entry ", index);
    DS4_ASSIGN_OR_RETURN(const std::int32_t length, number(cat(field, ", length of the name"), 1, kMaxNameBytes));
    const std::uint64_t name_at = at_;
    DS4_ASSIGN_OR_RETURN(const auto name, take(static_cast<std::uint64_t>(length), cat(field, ", name")));
    entry.name = {reinterpret_cast<const char*>(name.data()), name.size()};
    if (!is_printable_utf8(entry.name))
      return refuse(name_at, cat(field, ", name"), "printable text", cat("\"", escaped(entry.name), "\""));
    constexpr std::int32_t kAny = std::numeric_limits<std::int32_t>::max();
    const std::string what = cat("entry ", index, " (", escaped(entry.name), ")");
    DS4_ASSIGN_OR_RETURN(entry.calls, number(cat(what, ", calls"), 1, kAny));
    DS4_ASSIGN_OR_RETURN(const std::int32_t values, number(cat(what, ", number of values"), 1, kAny));
    const std::uint64_t values_at = at_;
    DS4_ASSIGN_OR_RETURN(entry.raw, take(static_cast<std::uint64_t>(values) * sizeof(float), cat(what, ", values")));
    for (std::int32_t i = 0; i < values; ++i) {
      float value = 0;
      std::memcpy(&value, entry.raw.data() + static_cast<std::size_t>(i) * sizeof value, sizeof value);
      if (!(value >= 0) || std::isinf(value))
        return refuse(values_at + static_cast<std::uint64_t>(i) * sizeof value, cat(what, ", value ", i),
                      "a mean square", cat(value));
    }
    out_.entries_.push_back(entry);
    return {};
  }

  Status sort_names() {
    const auto& entries = out_.entries_;
    out_.by_name_.resize(entries.size());
    std::iota(out_.by_name_.begin(), out_.by_name_.end(), 0U);
    std::sort(out_.by_name_.begin(), out_.by_name_.end(), [&](std::uint32_t a, std::uint32_t b) {
      return std::pair(entries[a].name, a) < std::pair(entries[b].name, b);
    });
    for (std::size_t i = 1; i < out_.by_name_.size(); ++i) {
      const Imatrix::Entry& entry = entries[out_.by_name_[i]];
      if (entry.name == entries[out_.by_name_[i - 1]].name)
        return refuse(entry.offset, "name", "every tensor once", cat(escaped(entry.name), " again"));
    }
    return {};
  }

  std::span<const std::byte> bytes_;
  std::uint64_t at_ = 0;
  Imatrix out_;
};

Result<Imatrix> Imatrix::open(const std::string& path) {
  auto mapping = MappedFile::open(path);
  if (!mapping.ok()) return Error{ErrorCode::kBadModel, mapping.error().message};
  DS4_ASSIGN_OR_RETURN(Imatrix out, parse(mapping->bytes(), path));
  out.mapping_ = std::move(mapping).value();
  return out;
}

Result<Imatrix> Imatrix::parse(std::span<const std::byte> bytes, const std::string& name) {
  return ImatrixParser(bytes, name).run();
}

const Imatrix::Entry* Imatrix::find(std::string_view name) const {
  const auto found =
      std::lower_bound(by_name_.begin(), by_name_.end(), name,
                       [&](std::uint32_t i, std::string_view wanted) { return entries_[i].name < wanted; });
  return found != by_name_.end() && entries_[*found].name == name ? &entries_[*found] : nullptr;
}

void Imatrix::read(const Entry& entry, std::uint64_t first, std::span<float> out) {
  DS4_CHECK(first <= entry.size() && out.size() <= entry.size() - first);
  std::memcpy(out.data(), entry.raw.data() + first * sizeof(float), out.size_bytes());
  if (entry.calls == 1) return;
  for (float& value : out) value /= static_cast<float>(entry.calls);
}

Error Imatrix::entry_error(const Entry& entry, std::string_view what) const {
  return Error{ErrorCode::kBadModel,
               cat(escaped(path_, 4096), ": entry ", escaped(entry.name), " at byte ", entry.offset, ": ", what)};
}

// ---- Writing -------------------------------------------------------------------------------------------------------

Result<ImatrixWriter> ImatrixWriter::create(const std::string& path, std::int32_t entries, FileSystem& disk) {
  DS4_CHECK(entries > 0 && entries <= kMaxEntries);
  ImatrixWriter writer(path, disk);
  DS4_ASSIGN_OR_RETURN(writer.file_, disk.create(path + ".part"));
  writer.left_ = entries;
  DS4_RETURN_IF_ERROR(writer.put_number(entries));
  return writer;
}

ImatrixWriter::~ImatrixWriter() {
  // Nobody is left to tell of a failure; a partial file that cannot be removed keeps its telling name.
  if (file_) [[maybe_unused]]
    const Status removed = disk_->remove(path_ + ".part");
}

Status ImatrixWriter::put(std::span<const std::byte> bytes) {
  DS4_RETURN_IF_ERROR(file_->write_at(written_, bytes));
  written_ += bytes.size();
  return {};
}
Status ImatrixWriter::put_number(std::int32_t value) { return put(std::as_bytes(std::span(&value, 1))); }
Status ImatrixWriter::put_text(std::string_view text) {
  DS4_RETURN_IF_ERROR(put_number(static_cast<std::int32_t>(text.size())));
  return put(std::as_bytes(std::span(text)));
}

Status ImatrixWriter::add(std::string_view name, std::span<const float> means) {
  DS4_CHECK(file_ && left_ > 0 && !name.empty() && name.size() <= kMaxNameBytes && !means.empty());
  if (means.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
    return Error{ErrorCode::kFailure, cat(escaped(path_, 4096), ": ", escaped(name), ": the format holds at most ",
                                          std::numeric_limits<std::int32_t>::max(), " values, found ", means.size())};
  --left_;
  DS4_RETURN_IF_ERROR(put_text(name));
  DS4_RETURN_IF_ERROR(put_number(1));
  DS4_RETURN_IF_ERROR(put_number(static_cast<std::int32_t>(means.size())));
  return put(std::as_bytes(means));
}

Status ImatrixWriter::finish(std::int32_t chunks, std::string_view dataset) {
  DS4_CHECK(file_ && left_ == 0);
  DS4_RETURN_IF_ERROR(put_number(chunks));
  DS4_RETURN_IF_ERROR(put_text(dataset.substr(0, kMaxDatasetBytes)));
  DS4_RETURN_IF_ERROR(file_->sync());
  DS4_RETURN_IF_ERROR(disk_->rename(path_ + ".part", path_));
  file_.reset();
  return disk_->sync_parent(path_);
}

}  // namespace ds4
