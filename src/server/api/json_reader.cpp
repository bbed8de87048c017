#include "server/api/json_reader.h"

#include <cmath>

#include "base/text.h"

namespace ds4::server {

namespace {

/// Builds the document and refuses what nlohmann would let pass: depth, a key twice, NUL in a string.
class Builder {
 public:
  Builder(int max_depth, std::string& error) : max_depth_(max_depth), error_(error) {}

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(Json::number_integer_t value) { return put(value); }
  bool number_unsigned(Json::number_unsigned_t value) { return put(value); }
  bool number_float(Json::number_float_t value, const std::string& text) {
    if (!std::isfinite(value)) return refuse(cat("the number ", escaped(text, 40), " is beyond a double"));
    return put(value);
  }
  bool string(std::string& value) {
    if (value.find('\0') != std::string::npos) return refuse("a string holds a NUL character");
    return put(std::move(value));
  }
  bool binary(Json::binary_t&) { return refuse("unexpected binary value"); }
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    if (name.find('\0') != std::string::npos) return refuse("a key holds a NUL character");
    if (!keys_.back().insert(name).second) return refuse(cat("the key \"", escaped(name, 60), "\" occurs twice"));
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& what) {
    if (!error_.empty()) return false;
    const std::string_view message = what.what();
    const std::size_t colon = message.find(": ");
    error_ = cat("not valid JSON near byte ", position, ": ",
                 escaped(message.substr(colon == std::string_view::npos ? 0 : colon + 2), 160));
    return false;
  }

  Json take() { return std::move(root_); }

 private:
  bool refuse(std::string message) {
    error_ = std::move(message);
    return false;
  }
  Json* add(Json value) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    // The keys are known to differ: no search. There is room, see open(): growing would copy what is inside.
    auto& members = parent.get_ref<Json::object_t&>();
    members.emplace_back(std::move(key_), std::move(value));
    return &members.back().second;
  }
  bool put(Json value) {
    add(std::move(value));
    return true;
  }
  bool open(Json container) {
    if (static_cast<int>(stack_.size()) >= max_depth_) return refuse(cat("nested deeper than ", max_depth_, " levels"));
    stack_.push_back(add(std::move(container)));
    if (stack_.back()->is_object()) stack_.back()->get_ref<Json::object_t&>().reserve(stack_.size() == 1 ? 32 : 8);
    keys_.emplace_back();
    return true;
  }
  bool close() {
    stack_.pop_back();
    keys_.pop_back();
    return true;
  }

  int max_depth_;
  std::string& error_;
  Json root_;
  std::vector<Json*> stack_;  // only the innermost container grows, so the outer ones stay where they are
  std::vector<std::set<std::string>> keys_;
  std::string key_;
};

}  // namespace

std::optional<Json> parse_json(std::string_view text, std::string& error, int max_depth) {
  error.clear();
  if (text.starts_with("\xEF\xBB\xBF")) {
    error = "not valid JSON: it begins with a byte order mark";
    return std::nullopt;
  }
  // The parser takes such a byte for the end, and what stands behind it would be read by nobody.
  if (const std::size_t zero = text.find('\0'); zero != std::string_view::npos) {
    error = cat("not valid JSON: a NUL at byte ", zero);
    return std::nullopt;
  }
  Builder builder(max_depth, error);
  if (!Json::sax_parse(text.begin(), text.end(), &builder) || !error.empty()) {
    if (error.empty()) error = "not valid JSON";
    return std::nullopt;
  }
  return builder.take();
}

std::string kind_of(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null: return "null";
    case Json::value_t::object: return "an object";
    case Json::value_t::array: return cat("an array of ", value.size());
    case Json::value_t::string: return cat("\"", escaped(value.get_ref<const std::string&>(), 40), "\"");
    case Json::value_t::boolean: return value.get<bool>() ? "true" : "false";
    default: return value.dump();
  }
}

std::string item(std::string_view path, std::size_t index) { return cat(path, "[", index, "]"); }

JsonReader::JsonReader(const Json& object, std::string path, std::optional<FieldError>& error)
    : object_(object), path_(std::move(path)), error_(error) {
  if (!object.is_object()) fail_here(cat("expected an object, found ", kind_of(object)));
}

std::string JsonReader::path_of(std::string_view name) const {
  return path_.empty() ? std::string(name) : cat(path_, ".", name);
}

const Json* JsonReader::value(std::string_view name) {
  if (!object_.is_object()) return nullptr;
  read_.emplace(name);
  const auto found = object_.find(std::string(name));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void JsonReader::accept(std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) read_.emplace(name);
}

void JsonReader::refuse_unless(std::string_view name, const std::vector<Json>& harmless, std::string_view what) {
  const Json* found = value(name);
  if (found == nullptr) return;
  for (const Json& allowed : harmless) {
    if (*found == allowed) return;
  }
  fail(name, what);
}

std::optional<std::string> JsonReader::text(std::string_view name) {
  const Json* found = value(name);
  if (found == nullptr) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  fail(name, cat("expected a string, found ", kind_of(*found)));
  return std::nullopt;
}

std::optional<bool> JsonReader::boolean(std::string_view name) {
  const Json* found = value(name);
  if (found == nullptr) return std::nullopt;
  if (found->is_boolean()) return found->get<bool>();
  fail(name, cat("expected true or false, found ", kind_of(*found)));
  return std::nullopt;
}

std::optional<std::int64_t> JsonReader::integer(std::string_view name, std::int64_t least, std::int64_t most) {
  const Json* found = value(name);
  if (found == nullptr) return std::nullopt;
  const auto bad = [&]() -> std::optional<std::int64_t> {
    const std::string upper = most == std::numeric_limits<std::int64_t>::max() ? "" : cat(" to ", most);
    fail(name, cat("expected a whole number from ", least, upper, ", found ", kind_of(*found)));
    return std::nullopt;
  };
  if (found->is_number_unsigned()) {
    const auto number = found->get<std::uint64_t>();
    if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return bad();
    const auto value = static_cast<std::int64_t>(number);
    return value < least || value > most ? bad() : std::optional(value);
  }
  if (found->is_number_integer()) {
    const auto value = found->get<std::int64_t>();
    return value < least || value > most ? bad() : std::optional(value);
  }
  if (!found->is_number_float()) return bad();
  const double number = found->get<double>();
  if (number != std::floor(number) || std::abs(number) > 9.0e15) return bad();
  const auto value = static_cast<std::int64_t>(number);
  return value < least || value > most ? bad() : std::optional(value);
}

std::optional<double> JsonReader::number(std::string_view name, double least, double most) {
  const Json* found = value(name);
  if (found == nullptr) return std::nullopt;
  if (found->is_number()) {
    const double number = found->get<double>();
    if (number >= least && number <= most) return number;
  }
  fail(name, cat("expected a number from ", least, " to ", most, ", found ", kind_of(*found)));
  return std::nullopt;
}

std::optional<std::string> JsonReader::choice(std::string_view name, const std::vector<std::string>& allowed) {
  std::optional<std::string> found = text(name);
  if (!found) return found;
  std::string list;
  for (const std::string& one : allowed) {
    if (*found == one) return found;
    list += cat(list.empty() ? "" : ", ", one);
  }
  fail(name, cat("expected one of ", list, ", found \"", escaped(*found, 40), "\""));
  return std::nullopt;
}

void JsonReader::fail(std::string_view name, std::string_view message) {
  if (error_) return;
  std::string field = path_of(name);
  error_ = FieldError{field, cat(field, ": ", message)};
}

void JsonReader::fail_here(std::string_view message) {
  if (error_) return;
  error_ = FieldError{path_, cat(path_.empty() ? "the body" : path_, ": ", message)};
}

std::vector<std::string> JsonReader::unread() const {
  std::vector<std::string> names;
  if (!object_.is_object()) return names;
  for (const auto& [name, ignored] : object_.items()) {
    if (!read_.contains(name)) names.push_back(path_of(name));
  }
  return names;
}

}  // namespace ds4::server
