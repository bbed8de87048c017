#include "gguf/writer.h"

#include <algorithm>
#include <bit>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "base/checked.h"
#include "base/mapped_file.h"
#include "base/text.h"
#include "gguf/limits.h"

namespace ds4::gguf {

static_assert(std::endian::native == std::endian::little, "the fields of a GGUF file are written as they lie");

namespace {

/// The bytes of a header as they grow.
class HeaderBytes {
 public:
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  void put(T value) {
    put_raw(std::as_bytes(std::span(&value, 1)));
  }
  void put_raw(std::span<const std::byte> raw) { bytes_.insert(bytes_.end(), raw.begin(), raw.end()); }
  void put_string(std::string_view text) {
    put<std::uint64_t>(text.size());
    put_raw(std::as_bytes(std::span(text)));
  }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

/// Which bytes of a tensor have been written: disjoint ranges [begin, end), merged where they touch.
class Coverage {
 public:
  void add(std::uint64_t begin, std::uint64_t end) {
    if (begin == end) return;
    auto next = ranges_.upper_bound(begin);
    if (next != ranges_.begin() && std::prev(next)->second >= begin) {
      --next;
      begin = next->first;
    }
    while (next != ranges_.end() && next->first <= end) {
      end = std::max(end, next->second);
      next = ranges_.erase(next);
    }
    ranges_.emplace(begin, end);
  }
  std::uint64_t bytes() const {
    std::uint64_t sum = 0;
    for (const auto& [begin, end] : ranges_) sum += end - begin;
    return sum;
  }

 private:
  std::map<std::uint64_t, std::uint64_t> ranges_;
};

struct PlannedTensor {
  std::string name;
  std::uint64_t bytes = 0;
  std::uint64_t offset = 0;  // in the data section
  Coverage written;
};

}  // namespace

struct Writer::Impl {
  Impl(std::string target, std::uint32_t data_alignment, FileSystem& file_system)
      : path(std::move(target)), part(path + ".part"), alignment(data_alignment), disk(file_system) {
    if (!std::has_single_bit(alignment) || alignment < kMinAlignment || alignment > kMaxAlignment)
      refuse("general.alignment",
             cat("expected a power of two from ", kMinAlignment, " to ", kMaxAlignment, ", found ", alignment));
  }
  ~Impl() {
    if (!file || keep) return;
    // While the file is still open, and so still locked: the name cannot be another writer's. Nobody is left to tell of
    // a failure; a partial file that cannot be removed keeps its telling name.
    [[maybe_unused]] const Status removed = disk.remove(part);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  /// Keeps the first error for begin().
  void refuse(std::string_view subject, std::string_view what) {
    if (declared.ok())
      declared = Error{ErrorCode::kFailure, cat(escaped(path, 4096), ": ", escaped(subject), ": ", what)};
  }
  bool accept_name(std::string_view name, std::set<std::string, std::less<>>& seen, std::string_view noun) {
    if (name.empty() || name.size() > kMaxNameBytes || !is_printable_utf8(name)) {
      refuse(name, cat("expected a name of 1 to ", kMaxNameBytes, " printable bytes for a ", noun));
    } else if (seen.size() == kMaxEntries) {
      refuse(name, cat("expected at most ", kMaxEntries, " entries, found another ", noun));
    } else if (!seen.emplace(name).second) {
      refuse(name, cat("expected every ", noun, " once, found it again"));
    } else {
      return true;
    }
    return false;
  }
  /// Room for the payload of `key`; false if it was refused.
  bool begin_value(std::string_view key, ValueType type) {
    DS4_CHECK(!file);
    if (!accept_name(key, keys, "key")) return false;
    values.put_string(key);
    values.put(type);
    return true;
  }
  bool begin_array(std::string_view key, ValueType element, std::uint64_t count) {
    if (count > kMaxArrayElements) {
      refuse(key, cat("expected at most ", kMaxArrayElements, " array elements, found ", count));
      return false;
    }
    if (!begin_value(key, ValueType::kArray)) return false;
    values.put(element);
    values.put(count);
    return true;
  }

  std::uint64_t header_bytes() const { return 4 + 4 + 8 + 8 + values.bytes().size() + directory.bytes().size(); }
  Checked data_start() const { return Checked(header_bytes()).aligned_up(alignment); }
  Checked file_bytes() const { return data_start() + data_bytes; }

  std::string path;
  std::string part;
  std::uint32_t alignment;
  FileSystem& disk;
  Status declared;  // the first error of the declarations
  HeaderBytes values;
  HeaderBytes directory;
  std::set<std::string, std::less<>> keys;
  std::set<std::string, std::less<>> names;
  std::vector<PlannedTensor> tensors;
  Checked data_bytes{0};             // of the tensors so far, each padded
  std::unique_ptr<OutputFile> file;  // between begin() and finish()
  std::mutex coverage;               // guards PlannedTensor::written
  bool keep = false;

  Result<HeaderBytes> header();
};

Writer::Writer(std::string path, std::uint32_t alignment, FileSystem& disk)
    : impl_(std::make_unique<Impl>(std::move(path), alignment, disk)) {
  if (alignment != kDefaultAlignment) add_u32("general.alignment", alignment);
}
Writer::~Writer() = default;
Writer::Writer(Writer&&) noexcept = default;
Writer& Writer::operator=(Writer&&) noexcept = default;

void Writer::add_u32(std::string_view key, std::uint32_t value) {
  if (impl_->begin_value(key, ValueType::kU32)) impl_->values.put(value);
}
void Writer::add_u64(std::string_view key, std::uint64_t value) {
  if (impl_->begin_value(key, ValueType::kU64)) impl_->values.put(value);
}
void Writer::add_f32(std::string_view key, float value) {
  if (impl_->begin_value(key, ValueType::kF32)) impl_->values.put(value);
}
void Writer::add_bool(std::string_view key, bool value) {
  if (impl_->begin_value(key, ValueType::kBool)) impl_->values.put(static_cast<std::uint8_t>(value));
}
void Writer::add_string(std::string_view key, std::string_view value) {
  if (impl_->begin_value(key, ValueType::kString)) impl_->values.put_string(value);
}
void Writer::add_i32_array(std::string_view key, std::span<const std::int32_t> values) {
  if (impl_->begin_array(key, ValueType::kI32, values.size())) impl_->values.put_raw(std::as_bytes(values));
}
void Writer::add_u32_array(std::string_view key, std::span<const std::uint32_t> values) {
  if (impl_->begin_array(key, ValueType::kU32, values.size())) impl_->values.put_raw(std::as_bytes(values));
}
void Writer::add_f32_array(std::string_view key, std::span<const float> values) {
  if (impl_->begin_array(key, ValueType::kF32, values.size())) impl_->values.put_raw(std::as_bytes(values));
}
void Writer::add_string_array(std::string_view key, std::span<const std::string> values) {
  if (!impl_->begin_array(key, ValueType::kString, values.size())) return;
  for (const std::string& value : values) impl_->values.put_string(value);
}

void Writer::add_value(const Value& value) {
  if (value.type == ValueType::kArray) {
    if (!impl_->begin_array(value.key, value.element, value.count)) return;
  } else {
    if (!impl_->begin_value(value.key, value.type)) return;
    if (value.type == ValueType::kString) impl_->values.put<std::uint64_t>(value.raw.size());
  }
  impl_->values.put_raw(value.raw);
}

std::size_t Writer::add_tensor(std::string_view name, DType type, std::span<const std::uint64_t> dims) {
  DS4_CHECK(!impl_->file);
  const DTypeInfo& info = dtype_info(type);
  Checked elements(1);
  for (const std::uint64_t dim : dims) elements = elements * Checked(dim);
  const Checked bytes = elements.divided_exactly_by(info.block_elements) * Checked(info.block_bytes);
  const Checked offset = impl_->data_bytes;
  const Checked end = (offset + bytes).aligned_up(impl_->alignment);

  PlannedTensor tensor;
  tensor.name = name;
  if (impl_->accept_name(name, impl_->names, "tensor")) {
    if (dims.empty() || dims.size() > kMaxDims || std::find(dims.begin(), dims.end(), 0u) != dims.end()) {
      impl_->refuse(name, cat("expected 1 to ", kMaxDims, " dimensions, none of them 0"));
    } else if (dims[0] % info.block_elements != 0) {
      impl_->refuse(name, cat("expected a first dimension in blocks of ", info.block_elements, " for ", info.name,
                              ", found ", dims[0]));
    } else if (!end.valid()) {
      impl_->refuse(name, "expected a size that fits in 64 bits");
    } else {
      tensor.bytes = *bytes.value();
      tensor.offset = *offset.value();
      impl_->data_bytes = end;
    }
  }
  impl_->directory.put_string(name);
  impl_->directory.put(static_cast<std::uint32_t>(dims.size()));
  impl_->directory.put_raw(std::as_bytes(dims));
  impl_->directory.put(type);
  impl_->directory.put(tensor.offset);
  impl_->tensors.push_back(std::move(tensor));
  return impl_->tensors.size() - 1;
}

std::uint64_t Writer::tensor_bytes(std::size_t tensor) const {
  DS4_CHECK(tensor < impl_->tensors.size());
  return impl_->tensors[tensor].bytes;
}

std::uint64_t Writer::file_bytes() const { return impl_->file_bytes().value().value_or(0); }

Result<HeaderBytes> Writer::Impl::header() {
  if (declared.ok() && header_bytes() > kMaxHeaderBytes)
    refuse("header", cat("expected at most ", kMaxHeaderBytes, " bytes, found ", header_bytes()));
  if (declared.ok() && !file_bytes().valid()) refuse("header", "expected a size that fits in 64 bits");
  DS4_RETURN_IF_ERROR(declared);
  HeaderBytes out;
  out.put_raw(std::as_bytes(std::span("GGUF", 4)));
  out.put(kVersion);
  out.put<std::uint64_t>(tensors.size());
  out.put<std::uint64_t>(keys.size());
  out.put_raw(values.bytes());
  out.put_raw(directory.bytes());
  return out;
}

Status Writer::begin() {
  DS4_CHECK(!impl_->file);
  DS4_ASSIGN_OR_RETURN(const HeaderBytes header, impl_->header());
  DS4_ASSIGN_OR_RETURN(impl_->file, impl_->disk.create(impl_->part));
  DS4_RETURN_IF_ERROR(impl_->file->truncate(file_bytes()));
  return impl_->file->write_at(0, header.bytes());
}

Status Writer::resume() {
  DS4_CHECK(!impl_->file);
  DS4_ASSIGN_OR_RETURN(const HeaderBytes header, impl_->header());
  DS4_ASSIGN_OR_RETURN(const MappedFile found, MappedFile::open(impl_->part));
  const auto bytes = found.bytes();
  if (bytes.size() != file_bytes() || !std::ranges::equal(bytes.first(header.bytes().size()), header.bytes()))
    return Error{ErrorCode::kFailure, cat(escaped(impl_->part, 4096), ": the header is that of another file")};
  DS4_ASSIGN_OR_RETURN(impl_->file, impl_->disk.reopen(impl_->part));
  impl_->keep = true;
  return {};
}

void Writer::keep_partial() { impl_->keep = true; }

std::uint64_t Writer::tensor_offset(std::size_t tensor) const {
  DS4_CHECK(impl_->file && tensor < impl_->tensors.size());
  return *impl_->data_start().value() + impl_->tensors[tensor].offset;
}

Status Writer::write_data(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> bytes) {
  DS4_CHECK(impl_->file && tensor < impl_->tensors.size());
  PlannedTensor& planned = impl_->tensors[tensor];
  DS4_CHECK((Checked(offset) + Checked(bytes.size())).fits(planned.bytes));
  DS4_RETURN_IF_ERROR(impl_->file->write_at(*impl_->data_start().value() + planned.offset + offset, bytes));
  const std::lock_guard lock(impl_->coverage);
  planned.written.add(offset, offset + bytes.size());
  return {};
}

void Writer::skip_data(std::size_t tensor) {
  DS4_CHECK(impl_->file && tensor < impl_->tensors.size());
  impl_->tensors[tensor].written.add(0, impl_->tensors[tensor].bytes);
}

Status Writer::finish() {
  DS4_CHECK(impl_->file);
  for (const PlannedTensor& tensor : impl_->tensors) {
    const std::uint64_t written = tensor.written.bytes();
    if (written != tensor.bytes)
      return Error{ErrorCode::kFailure, cat(escaped(impl_->path, 4096), ": tensor ", escaped(tensor.name),
                                            ": expected ", tensor.bytes, " bytes, found ", written, " written")};
  }
  DS4_RETURN_IF_ERROR(impl_->file->sync());
  DS4_RETURN_IF_ERROR(impl_->disk.rename(impl_->part, impl_->path));
  impl_->file.reset();
  return impl_->disk.sync_parent(impl_->path);
}

}  // namespace ds4::gguf
