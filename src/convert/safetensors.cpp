#include "convert/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>
#include <unordered_set>

#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "base/text.h"

namespace ds4 {
namespace {

using Json = nlohmann::json;  // not the ordered one: its insertion is linear, and a header may hold 100,000 names

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own reader
constexpr std::size_t kMaxDims = 8;
constexpr int kMaxDepth = 3;  // header, tensor, its lists

struct SafeTypeInfo {
  SafeType type;
  std::string_view name;
  std::size_t bytes;
};

constexpr std::array kTypes = {
    SafeTypeInfo{SafeType::kBool, "BOOL", 1},       SafeTypeInfo{SafeType::kU8, "U8", 1},
    SafeTypeInfo{SafeType::kI8, "I8", 1},           SafeTypeInfo{SafeType::kF8_E5M2, "F8_E5M2", 1},
    SafeTypeInfo{SafeType::kF8_E4M3, "F8_E4M3", 1}, SafeTypeInfo{SafeType::kF8_E8M0, "F8_E8M0", 1},
    SafeTypeInfo{SafeType::kI16, "I16", 2},         SafeTypeInfo{SafeType::kU16, "U16", 2},
    SafeTypeInfo{SafeType::kF16, "F16", 2},         SafeTypeInfo{SafeType::kBF16, "BF16", 2},
    SafeTypeInfo{SafeType::kI32, "I32", 4},         SafeTypeInfo{SafeType::kU32, "U32", 4},
    SafeTypeInfo{SafeType::kF32, "F32", 4},         SafeTypeInfo{SafeType::kI64, "I64", 8},
    SafeTypeInfo{SafeType::kU64, "U64", 8},         SafeTypeInfo{SafeType::kF64, "F64", 8},
};

const SafeTypeInfo& info_of(SafeType type) {
  const auto* found = std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& info) { return info.type == type; });
  DS4_CHECK(found != kTypes.end());
  return *found;
}

/// Reads the header of one file. Each step returns what is wrong with it, prefixed with the file by the caller.
class HeaderParser {
 public:
  HeaderParser(std::span<const std::byte> bytes, std::string name) : bytes_(bytes), name_(std::move(name)) {}

  Result<std::vector<SafeTensor>> parse() {
    DS4_RETURN_IF_ERROR(read_header_length());
    DS4_ASSIGN_OR_RETURN(const Json header, read_json());
    std::vector<SafeTensor> tensors;
    tensors.reserve(header.size());
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        if (!entry.is_object()) return error("__metadata__: expected an object");
        continue;
      }
      DS4_ASSIGN_OR_RETURN(SafeTensor tensor, read_tensor(name, entry));
      tensors.push_back(std::move(tensor));
    }
    std::sort(tensors.begin(), tensors.end(), [](const SafeTensor& a, const SafeTensor& b) {
      return std::tuple(a.offset, a.data.size(), std::string_view(a.name)) <
             std::tuple(b.offset, b.data.size(), std::string_view(b.name));  // empty tensors share an offset
    });
    DS4_RETURN_IF_ERROR(check_contiguous(tensors));
    return tensors;
  }

 private:
  Error error(std::string_view what) const {
    return Error{ErrorCode::kBadModel, cat(escaped(name_, 4096), ": ", what)};
  }
  Error tensor_error(std::string_view tensor, std::string_view what) const {
    return error(cat("tensor ", escaped(tensor), ": ", what));
  }

  Status read_header_length() {
    if (bytes_.size() < 8) return error(cat("expected a safetensors header, found ", bytes_.size(), " bytes"));
    std::uint64_t length = 0;
    std::memcpy(&length, bytes_.data(), 8);
    const std::uint64_t limit = std::min<std::uint64_t>(bytes_.size() - 8, kMaxHeaderBytes);
    if (length > limit)
      return error(cat("header length at byte 0: expected at most ", limit, " (file of ", bytes_.size(),
                       " bytes), found ", length));
    data_start_ = 8 + length;
    return {};
  }

  Result<Json> read_json() {
    const auto* text = reinterpret_cast<const char*>(bytes_.data() + 8);
    std::unordered_set<std::string> names;
    std::string problem;
    // The callback sees what the finished object no longer shows: a name that occurs twice, and nesting too deep to be
    // a header, which is dropped as it is read so that it costs no memory.
    const auto callback = [&](int depth, Json::parse_event_t event, Json& value) {
      if (depth > kMaxDepth) {
        if (problem.empty()) problem = "lists and objects are nested too deeply for a header";
        return false;
      }
      if (event == Json::parse_event_t::key && depth == 1 && !names.insert(value.get<std::string>()).second &&
          problem.empty())
        problem = cat("tensor ", escaped(value.get<std::string>()), ": the name occurs twice");
      return true;
    };
    Json header = Json::parse(text, text + (data_start_ - 8), callback, /*allow_exceptions=*/false);
    if (!problem.empty()) return error(problem);
    if (!header.is_object())
      return error(cat("header at byte 8: expected a JSON object of ", data_start_ - 8, " bytes"));
    return header;
  }

  Result<SafeTensor> read_tensor(const std::string& name, const Json& entry) {
    if (!entry.is_object()) return tensor_error(name, "expected an object");
    SafeTensor tensor;
    tensor.name = name;
    DS4_ASSIGN_OR_RETURN(tensor.type, read_type(name, entry));
    DS4_ASSIGN_OR_RETURN(tensor.shape, read_numbers(name, entry, "shape", kMaxDims));
    DS4_ASSIGN_OR_RETURN(const std::vector<std::uint64_t> range, read_numbers(name, entry, "data_offsets", 2));
    if (range.size() != 2) return tensor_error(name, "data_offsets: expected two numbers");
    const std::uint64_t available = bytes_.size() - data_start_;
    if (range[0] > range[1] || range[1] > available)
      return tensor_error(name, cat("data_offsets: expected begin <= end <= ", available,
                                    " (the data in the file), found ", describe_shape(range)));
    Checked bytes(safe_type_bytes(tensor.type));
    for (const std::uint64_t dim : tensor.shape) bytes = bytes * Checked(dim);
    if (bytes.value() != range[1] - range[0])
      return tensor_error(name, cat("data_offsets: expected the size of ", safe_type_name(tensor.type), " ",
                                    describe_shape(tensor.shape), ", found ", range[1] - range[0], " bytes"));
    tensor.offset = data_start_ + range[0];
    tensor.data = bytes_.subspan(tensor.offset, range[1] - range[0]);
    return tensor;
  }

  Result<SafeType> read_type(const std::string& name, const Json& entry) {
    const auto field = entry.find("dtype");
    if (field == entry.end() || !field->is_string()) return tensor_error(name, "dtype: expected a string");
    const auto& text = field->get_ref<const std::string&>();
    for (const SafeTypeInfo& info : kTypes)
      if (info.name == text) return info.type;
    return tensor_error(name, cat("dtype: expected one of the safetensors types, found \"", escaped(text), "\""));
  }

  Result<std::vector<std::uint64_t>> read_numbers(const std::string& name, const Json& entry, const char* key,
                                                  std::size_t limit) {
    const auto field = entry.find(key);
    if (field == entry.end() || !field->is_array() || field->size() > limit)
      return tensor_error(name, cat(key, ": expected a list of at most ", limit, " numbers"));
    std::vector<std::uint64_t> numbers;
    for (const Json& number : *field) {
      if (!number.is_number_unsigned()) return tensor_error(name, cat(key, ": expected whole numbers, not negative"));
      numbers.push_back(number.get<std::uint64_t>());
    }
    return numbers;
  }

  /// The format allows neither gaps nor overlaps; a file that has them, or that goes on after the last tensor, was
  /// damaged.
  Status check_contiguous(std::span<const SafeTensor> tensors) const {
    std::uint64_t end = data_start_;
    for (const SafeTensor& tensor : tensors) {
      if (tensor.offset != end)
        return tensor_error(tensor.name, cat("expected its data at byte ", end,
                                             ", where the tensor before it ends, found ", tensor.offset));
      end += tensor.data.size();
    }
    if (end != bytes_.size())
      return error(
          cat("expected the file to end at byte ", end, " with its last tensor, found ", bytes_.size(), " bytes"));
    return {};
  }

  std::span<const std::byte> bytes_;
  std::string name_;
  std::uint64_t data_start_ = 8;
};

}  // namespace

std::string_view safe_type_name(SafeType type) { return info_of(type).name; }
std::size_t safe_type_bytes(SafeType type) { return info_of(type).bytes; }

std::string describe_shape(std::span<const std::uint64_t> shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += cat(i == 0 ? "" : ", ", shape[i]);
  return out + "]";
}

std::string describe(const SafeTensor& tensor) {
  return cat(safe_type_name(tensor.type), " ", describe_shape(tensor.shape));
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  DS4_ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::open(path));
  DS4_ASSIGN_OR_RETURN(SafetensorsFile file, parse(mapping.bytes(), path));
  file.mapping_ = std::move(mapping);
  return file;
}

Result<SafetensorsFile> SafetensorsFile::parse(std::span<const std::byte> bytes, const std::string& name) {
  DS4_ASSIGN_OR_RETURN(std::vector<SafeTensor> tensors, HeaderParser(bytes, name).parse());
  SafetensorsFile file;
  file.path_ = name;
  file.tensors_ = std::move(tensors);
  for (std::size_t i = 0; i < file.tensors_.size(); ++i) file.index_.emplace(file.tensors_[i].name, i);
  return file;
}

const SafeTensor* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

Error SafetensorsFile::tensor_error(const SafeTensor& tensor, std::string_view what) const {
  return Error{ErrorCode::kBadModel,
               cat(escaped(path_, 4096), ": tensor ", escaped(tensor.name), " at byte ", tensor.offset, ": ", what)};
}

}  // namespace ds4
