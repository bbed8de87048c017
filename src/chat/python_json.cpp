#include "chat/python_json.h"

#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "base/text.h"

namespace ds4::chat {

namespace {

using Json = nlohmann::ordered_json;

/// Python's repr: the shortest digits that read back the same, as a plain decimal for 1e-4 <= |value| < 1e16.
std::string python_float(double value) {
  std::array<char, 32> buffer{};
  const auto end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific).ptr;
  std::string_view text(buffer.data(), static_cast<std::size_t>(end - buffer.data()));
  std::string out;
  if (text.front() == '-') {
    out = "-";
    text.remove_prefix(1);
  }
  const std::size_t e = text.find('e');
  std::string digits(text.substr(0, e));
  if (digits.size() > 1) digits.erase(1, 1);  // the point
  std::string_view exponent_text = text.substr(e + 1);
  if (exponent_text.front() == '+') exponent_text.remove_prefix(1);
  int exponent = 0;
  std::from_chars(exponent_text.data(), exponent_text.data() + exponent_text.size(), exponent);

  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) out += cat('.', std::string_view(digits).substr(1));
    const int magnitude = exponent < 0 ? -exponent : exponent;
    return out + cat(exponent < 0 ? "e-" : "e+", magnitude < 10 ? "0" : "", magnitude);
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) return out + digits + std::string(whole - digits.size(), '0') + ".0";
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

/// Prints the parser's events as they come. With `split`, the members of the outermost object are kept apart instead.
class PythonPrinter : public nlohmann::json_sax<Json> {
 public:
  explicit PythonPrinter(bool split) : split_(split) {}

  bool null() override { return scalar("null"); }
  bool boolean(bool value) override { return scalar(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return scalar(cat(value)); }
  bool number_unsigned(number_unsigned_t value) override { return scalar(cat(value)); }
  bool number_float(number_float_t value, const string_t& written) override {
    const bool integer = written.find_first_of(".eE") == std::string::npos;  // too large for 64 bits
    return scalar(integer ? written : python_float(value));
  }
  bool string(string_t& value) override {
    if (split_ && open_.size() == 1) {
      arguments_.back().is_string = true;
      arguments_.back().value = std::move(value);
      return true;
    }
    if (!begin_value()) return false;
    append_json_string(out_, value);
    return end_value();
  }
  bool binary(binary_t&) override { return fail("binary data"); }

  bool start_object(std::size_t) override { return open('{', true); }
  bool key(string_t& name) override {
    Level& level = open_.back();
    if (!level.keys.insert(name).second) return fail(cat("the key \"", escaped(name), "\" twice in one object"));
    if (split_ && open_.size() == 1) {
      arguments_.push_back({name, false, {}});
      out_.clear();
      return true;
    }
    if (!std::exchange(level.first, false)) out_ += ", ";
    append_json_string(out_, name);
    out_ += ": ";
    return true;
  }
  bool end_object() override { return close('}'); }
  bool start_array(std::size_t) override { return open('[', false); }
  bool end_array() override { return close(']'); }

  bool parse_error(std::size_t position, const std::string& last_token, const nlohmann::detail::exception&) override {
    return fail(cat("no JSON at byte ", position, ": \"", escaped(last_token), "\""));
  }

  const std::string& error() const { return error_; }
  std::string take_text() { return std::move(out_); }
  std::vector<Argument> take_arguments() { return std::move(arguments_); }

 private:
  struct Level {
    bool is_object;
    bool first = true;
    std::unordered_set<std::string> keys = {};
  };

  bool fail(std::string why) {
    if (error_.empty()) error_ = std::move(why);
    return false;
  }
  bool begin_value() {
    if (split_ && open_.empty()) return fail("expected a JSON object");
    if (!open_.empty() && !open_.back().is_object && !std::exchange(open_.back().first, false)) out_ += ", ";
    return true;
  }
  bool end_value() {
    if (split_ && open_.size() == 1) arguments_.back().value = std::exchange(out_, {});
    return true;
  }
  bool scalar(std::string_view text) {
    if (!begin_value()) return false;
    out_ += text;
    return end_value();
  }
  bool open(char bracket, bool is_object) {
    const bool is_split_object = split_ && open_.empty() && is_object;
    if (!is_split_object && !begin_value()) return false;
    if (!is_split_object) out_ += bracket;
    open_.push_back({is_object});
    return true;
  }
  bool close(char bracket) {
    open_.pop_back();
    if (split_ && open_.empty()) return true;
    out_ += bracket;
    return end_value();
  }

  bool split_;
  std::string out_;
  std::vector<Level> open_;
  std::vector<Argument> arguments_;
  std::string error_;
};

/// What the library would let pass: it skips a byte order mark and takes a NUL for the end of the input.
bool has_foreign_bytes(std::string_view json) {
  return json.find('\0') != std::string_view::npos || json.substr(0, 3) == "\xEF\xBB\xBF";
}

Status print(std::string_view json, PythonPrinter& printer) {
  if (has_foreign_bytes(json)) return Error{ErrorCode::kUsage, "no JSON: a NUL byte or a byte order mark"};
  if (!Json::sax_parse(json.begin(), json.end(), &printer)) return Error{ErrorCode::kUsage, printer.error()};
  return {};
}

}  // namespace

Result<std::string> python_json(std::string_view json) {
  PythonPrinter printer(false);
  DS4_RETURN_IF_ERROR(print(json, printer));
  return printer.take_text();
}

Result<std::vector<Argument>> split_arguments(std::string_view json) {
  PythonPrinter printer(true);
  DS4_RETURN_IF_ERROR(print(json, printer));
  return printer.take_arguments();
}

bool is_json(std::string_view text) { return !has_foreign_bytes(text) && Json::accept(text.begin(), text.end()); }

void append_json_escaped(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\f': out += "\\f"; break;
      case '\b': out += "\\b"; break;
      default: {
        const auto byte = static_cast<unsigned char>(c);
        if (byte >= 0x20) {
          out += c;
        } else {
          out += "\\u00";
          out += kHex[byte >> 4];
          out += kHex[byte & 15];
        }
      }
    }
  }
}

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  append_json_escaped(out, text);
  out += '"';
}

}  // namespace ds4::chat
