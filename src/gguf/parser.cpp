// The header of a GGUF file, checked field by field in file order:
//
//   magic, version, tensor count, key count
//   keys:    name, value type, payload        (array: element type, count, elements)
//   tensors: name, dimension count, dimensions, type, offset in the data section
//   padding to the alignment, then the data section
//
// Nothing is believed before it is compared with the bytes that remain, and every name stays a view into the file.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/checked.h"
#include "base/text.h"
#include "gguf/file.h"
#include "gguf/limits.h"

namespace ds4::gguf {

static_assert(std::endian::native == std::endian::little, "the fields of a GGUF file are read as they lie");

namespace {

// The shortest entries that can exist: a one-byte name and a one-byte value; a one-byte name and one dimension.
constexpr std::uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;
constexpr std::uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;
constexpr std::size_t kMaxNotes = 16;

/// ggml's name of a type that this program does not read; a file with one of them is a real file, only not ours.
std::string_view foreign_type_name(std::uint32_t id) {
  static constexpr std::array<std::string_view, 42> kNames = {
      "f32",     "f16",    "q4_0",  "q4_1",    "retired", "retired", "q5_0",   "q5_1",    "q8_0",  "q8_1",    "q2_k",
      "q3_k",    "q4_k",   "q5_k",  "q6_k",    "q8_k",    "iq2_xxs", "iq2_xs", "iq3_xxs", "iq1_s", "iq4_nl",  "iq3_s",
      "iq2_s",   "iq4_xs", "i8",    "i16",     "i32",     "i64",     "f64",    "iq1_m",   "bf16",  "retired", "retired",
      "retired", "tq1_0",  "tq2_0", "retired", "retired", "retired", "mxfp4",  "nvfp4",   "q1_0"};
  return id < kNames.size() ? kNames[id] : "unknown";
}

}  // namespace

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, std::string path)
      : bytes_(bytes), header_bytes_(std::min<std::uint64_t>(bytes.size(), kMaxHeaderBytes)) {
    file_.path_ = std::move(path);
    file_.size_ = bytes.size();
  }

  Result<File> run() && {
    DS4_RETURN_IF_ERROR(read_counts());
    DS4_RETURN_IF_ERROR(read_values());
    DS4_RETURN_IF_ERROR(apply_general_keys());
    DS4_RETURN_IF_ERROR(read_tensors());
    DS4_RETURN_IF_ERROR(place_tensors());
    DS4_RETURN_IF_ERROR(check_overlaps());
    return std::move(file_);
  }

 private:
  enum class Part { kHeader, kKey, kTensor };

  Error refuse(std::uint64_t offset, std::string_view expected, std::string_view found) const {
    return Error{ErrorCode::kBadModel, cat(escaped(file_.path_, 4096), ": ", subject(), " at byte ", offset,
                                           ": expected ", expected, ", found ", found)};
  }
  /// What is being read: "header", "key general.name", or "key #3" before the name is known.
  std::string subject() const {
    if (part_ == Part::kHeader) return "header";
    const std::string_view noun = part_ == Part::kKey ? "key " : "tensor ";
    return name_.empty() ? cat(noun, "#", index_) : cat(noun, escaped(name_));
  }
  void enter(Part part, std::uint64_t index = 0, std::string_view name = {}) {
    part_ = part;
    index_ = index;
    name_ = name;
  }

  std::uint64_t remaining() const { return header_bytes_ - at_; }
  std::string remaining_text() const {
    const bool limited = header_bytes_ < bytes_.size();
    return cat(remaining(), limited ? " bytes before the size limit of a header" : " bytes before the end of the file");
  }
  std::uint64_t load_u64(std::uint64_t at) const {
    std::uint64_t value;
    std::memcpy(&value, bytes_.data() + at, sizeof value);
    return value;
  }
  std::string_view text(std::uint64_t at, std::uint64_t length) const {
    return {reinterpret_cast<const char*>(bytes_.data() + at), static_cast<std::size_t>(length)};
  }

  template <typename T>
  Status read(T& out, std::string_view what) {
    if (remaining() < sizeof out) return refuse(at_, cat(sizeof out, " bytes of ", what), remaining_text());
    std::memcpy(&out, bytes_.data() + at_, sizeof out);
    at_ += sizeof out;
    return {};
  }
  Status read_name();
  Status read_counts();
  Status check_version(std::uint32_t version) const;
  Status check_count(std::uint64_t count, std::uint64_t min_bytes, std::string_view what) const;

  Status read_values();
  Status read_value();
  Status read_string(Value& value);
  Status read_array(Value& value);
  Status skip_strings(std::uint64_t count);
  Status take_payload(Value& value, std::uint64_t length, std::string_view what);
  Status check_bools(const Value& value) const;
  Status index_values();
  Status apply_general_keys();

  Status read_tensors();
  Status read_tensor();
  Status read_dims(TensorInfo& tensor);
  Status index_tensors();
  Status place_tensors();
  Status place(TensorInfo& tensor, std::uint64_t data_start);
  Status check_overlaps();
  void note_gap(std::uint64_t begin, std::uint64_t end);

  std::span<const std::byte> bytes_;  // the whole file
  std::uint64_t header_bytes_;        // how far the header may reach
  std::uint64_t at_ = 0;              // the next byte of the header
  std::uint64_t tensor_count_ = 0;
  std::uint64_t value_count_ = 0;
  std::uint64_t data_start_ = 0;
  Part part_ = Part::kHeader;
  std::uint64_t index_ = 0;
  std::string_view name_;
  File file_;
};

// --- header -----------------------------------------------------------------------------------------------------

Status Parser::read_counts() {
  if (bytes_.empty()) return refuse(0, "a GGUF file", "an empty file");
  std::array<char, 4> magic{};
  DS4_RETURN_IF_ERROR(read(magic, "magic"));
  const std::string_view found(magic.data(), magic.size());
  if (found == "FUGG") return refuse(0, "a little-endian GGUF file", "a big-endian one");
  if (found != "GGUF") return refuse(0, "magic \"GGUF\"", cat("\"", escaped(found), "\""));
  std::uint32_t version = 0;
  DS4_RETURN_IF_ERROR(read(version, "version"));
  DS4_RETURN_IF_ERROR(check_version(version));
  DS4_RETURN_IF_ERROR(read(tensor_count_, "tensor count"));
  DS4_RETURN_IF_ERROR(check_count(tensor_count_, kMinTensorBytes, "tensors"));
  DS4_RETURN_IF_ERROR(read(value_count_, "key count"));
  return check_count(value_count_, kMinKeyBytes, "keys");
}

Status Parser::check_version(std::uint32_t version) const {
  if (version == kVersion) return {};
  const std::uint32_t swapped = __builtin_bswap32(version);
  if (version > 0xFFFF && swapped <= 0xFFFF)
    return refuse(4, cat("a little-endian GGUF file of version ", kVersion),
                  cat("a big-endian one of version ", swapped));
  const std::string_view age =
      version < kVersion ? " (an old layout: convert the model again)" : " (made by a later program)";
  return refuse(4, cat("GGUF version ", kVersion), cat("version ", version, age));
}

/// `at_` is just behind the count.
Status Parser::check_count(std::uint64_t count, std::uint64_t min_bytes, std::string_view what) const {
  if (count > kMaxEntries) return refuse(at_ - 8, cat("at most ", kMaxEntries, " ", what), cat(count));
  if (count <= remaining() / min_bytes) return {};
  return refuse(at_ - 8, cat("at most ", remaining() / min_bytes, " ", what, " in ", remaining_text()), cat(count));
}

/// A key or tensor name, into name_.
Status Parser::read_name() {
  const std::uint64_t start = at_;
  std::uint64_t length = 0;
  DS4_RETURN_IF_ERROR(read(length, "name length"));
  if (length == 0 || length > kMaxNameBytes)
    return refuse(start, cat("a name of 1 to ", kMaxNameBytes, " bytes"), cat(length, " bytes"));
  if (length > remaining()) return refuse(start, cat("a name of ", length, " bytes"), remaining_text());
  const std::string_view name = text(at_, length);
  if (!is_printable_utf8(name))
    return refuse(at_, "a name of printable UTF-8 characters", cat("\"", escaped(name), "\""));
  name_ = name;
  at_ += length;
  return {};
}

// --- keys -------------------------------------------------------------------------------------------------------

Status Parser::read_values() {
  file_.values_.reserve(value_count_);
  for (std::uint64_t i = 0; i < value_count_; ++i) {
    enter(Part::kKey, i);
    DS4_RETURN_IF_ERROR(read_value());
  }
  return index_values();
}

Status Parser::read_value() {
  DS4_RETURN_IF_ERROR(read_name());
  std::uint32_t type = 0;
  DS4_RETURN_IF_ERROR(read(type, "value type"));
  if (type > static_cast<std::uint32_t>(ValueType::kF64))
    return refuse(at_ - 4, "a value type from 0 to 12", cat("type id ", type));
  Value value;
  value.key = name_;
  value.type = value.element = static_cast<ValueType>(type);
  switch (value.type) {
    case ValueType::kString: DS4_RETURN_IF_ERROR(read_string(value)); break;
    case ValueType::kArray: DS4_RETURN_IF_ERROR(read_array(value)); break;
    default: DS4_RETURN_IF_ERROR(take_payload(value, value_type_bytes(value.type), "value"));
  }
  DS4_RETURN_IF_ERROR(check_bools(value));
  file_.values_.push_back(value);
  return {};
}

Status Parser::take_payload(Value& value, std::uint64_t length, std::string_view what) {
  if (length > remaining()) return refuse(at_, cat(length, " bytes of ", what), remaining_text());
  value.offset = at_;
  value.raw = bytes_.subspan(at_, length);
  at_ += length;
  return {};
}

Status Parser::read_string(Value& value) {
  const std::uint64_t start = at_;
  std::uint64_t length = 0;
  DS4_RETURN_IF_ERROR(read(length, "string length"));
  if (length > remaining()) return refuse(start, cat("a string of ", length, " bytes"), remaining_text());
  return take_payload(value, length, "string");
}

Status Parser::read_array(Value& value) {
  std::uint32_t element = 0;
  DS4_RETURN_IF_ERROR(read(element, "element type"));
  if (element == static_cast<std::uint32_t>(ValueType::kArray))
    return refuse(at_ - 4, "an array of numbers, bools or strings", "an array of arrays");
  if (element > static_cast<std::uint32_t>(ValueType::kF64))
    return refuse(at_ - 4, "an element type from 0 to 12", cat("type id ", element));
  value.element = static_cast<ValueType>(element);

  DS4_RETURN_IF_ERROR(read(value.count, "element count"));
  if (value.count > kMaxArrayElements)
    return refuse(at_ - 8, cat("at most ", kMaxArrayElements, " array elements"), cat(value.count));
  const bool strings = value.element == ValueType::kString;
  const std::uint64_t min_bytes = value.count * (strings ? 8 : value_type_bytes(value.element));
  if (min_bytes > remaining())
    return refuse(at_ - 8, cat("at least ", min_bytes, " bytes for ", value.count, " array elements"),
                  remaining_text());
  if (!strings) return take_payload(value, min_bytes, "array elements");

  const std::uint64_t start = at_;
  DS4_RETURN_IF_ERROR(skip_strings(value.count));
  value.offset = start;
  value.raw = bytes_.subspan(start, at_ - start);
  return {};
}

Status Parser::skip_strings(std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    if (remaining() < 8) return refuse(at_, cat("8 bytes of length of array element ", i), remaining_text());
    const std::uint64_t length = load_u64(at_);
    at_ += 8;
    if (length > remaining())
      return refuse(at_ - 8, cat("array element ", i, " of ", length, " bytes"), remaining_text());
    at_ += length;
  }
  return {};
}

Status Parser::check_bools(const Value& value) const {
  if (value.element != ValueType::kBool) return {};
  const auto odd = std::find_if(value.raw.begin(), value.raw.end(), [](std::byte b) { return b > std::byte{1}; });
  if (odd == value.raw.end()) return {};
  const auto position = static_cast<std::uint64_t>(odd - value.raw.begin());
  return refuse(value.offset + position, "a bool of 0 or 1", cat(std::to_integer<unsigned>(*odd)));
}

Status Parser::index_values() {
  const std::vector<Value>& values = file_.values_;
  std::vector<std::uint32_t>& order = file_.values_by_key_;
  order.resize(values.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    const int compared = values[a].key.compare(values[b].key);
    return compared != 0 ? compared < 0 : a < b;
  });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const std::string_view key = values[order[i]].key;
    if (key != values[order[i - 1]].key) continue;
    const auto at = static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(key.data()) - bytes_.data());
    enter(Part::kKey, order[i], key);
    return refuse(at, "every key once", cat("it already as key #", order[i - 1]));
  }
  return {};
}

/// The two keys that change how the rest of the file is read.
Status Parser::apply_general_keys() {
  DS4_ASSIGN_OR_RETURN(const auto parts, file_.get_uint("split.count"));
  if (parts.value_or(1) > 1)
    return file_.key_error("split.count", cat("expected a model in one file, found one of ", *parts,
                                              " parts: merge them into one file first"));
  DS4_ASSIGN_OR_RETURN(const auto alignment, file_.get_uint("general.alignment"));
  const std::uint64_t bytes = alignment.value_or(kDefaultAlignment);
  if (!std::has_single_bit(bytes) || bytes < kMinAlignment || bytes > kMaxAlignment)
    return file_.key_error("general.alignment", cat("expected a power of two from ", kMinAlignment, " to ",
                                                    kMaxAlignment, ", found ", bytes));
  file_.alignment_ = bytes;
  return {};
}

// --- tensors ----------------------------------------------------------------------------------------------------

Status Parser::read_tensors() {
  file_.tensors_.reserve(tensor_count_);
  for (std::uint64_t i = 0; i < tensor_count_; ++i) {
    enter(Part::kTensor, i);
    DS4_RETURN_IF_ERROR(read_tensor());
  }
  return index_tensors();
}

Status Parser::read_tensor() {
  TensorInfo tensor;
  tensor.entry = at_;
  DS4_RETURN_IF_ERROR(read_name());
  tensor.name = name_;
  DS4_RETURN_IF_ERROR(read_dims(tensor));
  std::uint32_t type = 0;
  DS4_RETURN_IF_ERROR(read(type, "tensor type"));
  const auto info = dtype_info(type);
  if (!info)
    return refuse(at_ - 4, "f32, f16, bf16, q8_0, q4_k, q2_k, iq2_xxs, mxfp4 or i32",
                  cat("type id ", type, " (", foreign_type_name(type), ")"));
  tensor.type = info->type;
  if (tensor.dims[0] % info->block_elements != 0)
    return refuse(at_ - 4 - 8 * static_cast<std::uint64_t>(tensor.n_dims),
                  cat("a first dimension in blocks of ", info->block_elements, " for ", info->name),
                  cat(tensor.dims[0]));
  DS4_RETURN_IF_ERROR(read(tensor.offset, "tensor offset"));  // in the data section, until place() makes it absolute
  file_.tensors_.push_back(tensor);
  return {};
}

Status Parser::read_dims(TensorInfo& tensor) {
  std::uint32_t n_dims = 0;
  DS4_RETURN_IF_ERROR(read(n_dims, "dimension count"));
  if (n_dims < 1 || n_dims > kMaxDims) return refuse(at_ - 4, cat("1 to ", kMaxDims, " dimensions"), cat(n_dims));
  tensor.n_dims = static_cast<int>(n_dims);
  for (std::uint32_t i = 0; i < n_dims; ++i) {
    DS4_RETURN_IF_ERROR(read(tensor.dims[i], "dimension"));
    if (tensor.dims[i] == 0) return refuse(at_ - 8, cat("dimension ", i, " of at least 1"), "0");
  }
  return {};
}

Status Parser::index_tensors() {
  const std::vector<TensorInfo>& tensors = file_.tensors_;
  std::vector<std::uint32_t>& order = file_.tensors_by_name_;
  order.resize(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    const int compared = tensors[a].name.compare(tensors[b].name);
    return compared != 0 ? compared < 0 : a < b;
  });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const TensorInfo& tensor = tensors[order[i]];
    if (tensor.name != tensors[order[i - 1]].name) continue;
    enter(Part::kTensor, order[i], tensor.name);
    return refuse(tensor.entry, "every tensor once", cat("it already as tensor #", order[i - 1]));
  }
  return {};
}

Status Parser::place_tensors() {
  enter(Part::kHeader);
  data_start_ = at_ + (file_.alignment_ - at_ % file_.alignment_) % file_.alignment_;
  for (TensorInfo& tensor : file_.tensors_) {
    enter(Part::kTensor, 0, tensor.name);
    DS4_RETURN_IF_ERROR(place(tensor, data_start_));
  }
  return {};
}

/// Where the directory entry keeps the offset: after the name, the dimensions and the type.
static std::uint64_t offset_field(const TensorInfo& tensor) {
  return tensor.entry + 8 + tensor.name.size() + 4 + 8 * static_cast<std::uint64_t>(tensor.n_dims) + 4;
}

Status Parser::place(TensorInfo& tensor, std::uint64_t data_start) {
  const std::uint64_t field = offset_field(tensor);
  if (tensor.offset % file_.alignment_ != 0)
    return refuse(field, cat("an offset aligned to ", file_.alignment_), cat(tensor.offset));
  const DTypeInfo& info = dtype_info(tensor.type);
  const Checked elements =
      Checked(tensor.dims[0]) * Checked(tensor.dims[1]) * Checked(tensor.dims[2]) * Checked(tensor.dims[3]);
  const Checked length = elements.divided_exactly_by(info.block_elements) * Checked(info.block_bytes);
  if (!length.valid()) return refuse(tensor.entry, "a size that fits in 64 bits", describe(tensor));
  const Checked begin = Checked(data_start) + Checked(tensor.offset);
  const Checked end = begin + length;
  if (!end.fits(bytes_.size())) {
    const std::string wanted = end.valid() ? cat("a file of at least ", *end.value(), " bytes for ", describe(tensor))
                                           : std::string("data that end below 2^64 bytes");
    const std::string found =
        end.valid() ? cat("one of ", bytes_.size(), " bytes: it may be incomplete") : cat("offset ", tensor.offset);
    return refuse(field, wanted, found);
  }
  tensor.offset = *begin.value();
  tensor.data = bytes_.subspan(tensor.offset, *length.value());
  return {};
}

Status Parser::check_overlaps() {
  const std::vector<TensorInfo>& tensors = file_.tensors_;
  std::vector<std::uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return std::pair(tensors[a].offset, a) < std::pair(tensors[b].offset, b);
  });
  std::uint64_t end = data_start_;
  std::string_view before;
  for (const std::uint32_t i : order) {
    const TensorInfo& tensor = tensors[i];
    if (tensor.offset < end) {
      enter(Part::kTensor, i, tensor.name);
      return refuse(offset_field(tensor), cat("data after byte ", end, ", the end of tensor ", escaped(before)),
                    cat("data at byte ", tensor.offset));
    }
    note_gap(end, tensor.offset);
    end = tensor.offset + tensor.data.size();
    before = tensor.name;
  }
  note_gap(end, bytes_.size());
  return {};
}

void Parser::note_gap(std::uint64_t begin, std::uint64_t end) {
  if (end < begin || end - begin <= kMaxGapBytes || file_.notes_.size() > kMaxNotes) return;
  if (file_.notes_.size() == kMaxNotes) {
    file_.notes_.push_back(cat(escaped(file_.path_, 4096), ": more unused stretches follow"));
    return;
  }
  file_.notes_.push_back(cat(escaped(file_.path_, 4096), ": bytes ", begin, " to ", end, " belong to no tensor (",
                             human_bytes(end - begin), ")"));
}

Result<File> File::open(const std::string& path) {
  auto mapping = MappedFile::open(path);
  if (!mapping.ok()) return Error{ErrorCode::kBadModel, mapping.error().message};
  DS4_ASSIGN_OR_RETURN(File file, parse(mapping->bytes(), path));
  file.mapping_ = std::move(mapping).value();
  return file;
}

Result<File> File::parse(std::span<const std::byte> bytes, const std::string& name) {
  return Parser(bytes, name).run();
}

}  // namespace ds4::gguf
