#include "eval/answer.h"

#include <algorithm>
#include <cctype>

#include <nlohmann/json.hpp>

namespace ds4::eval {

namespace {

using Json = nlohmann::json;

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }

bool contains(std::string_view text, std::string_view wanted) {
  if (wanted.empty()) return true;
  for (std::size_t at = text.find(wanted); at != std::string_view::npos; at = text.find(wanted, at + 1)) {
    const std::size_t end = at + wanted.size();
    const bool begins = at == 0 || !is_word(wanted.front()) || !is_word(text[at - 1]);
    const bool ends = end == text.size() || !is_word(wanted.back()) || !is_word(text[end]);
    if (begins && ends) return true;
  }
  return false;
}

bool has_type(const Json& value, const Json& property) {
  const auto type = property.find("type");
  if (type == property.end() || !type->is_string()) return true;
  const std::string& name = type->get_ref<const std::string&>();
  if (name == "string") {
    const auto options = property.find("enum");
    const bool listed =
        options == property.end() || std::find(options->begin(), options->end(), value) != options->end();
    return value.is_string() && listed;
  }
  if (name == "integer") return value.is_number_integer();
  if (name == "number") return value.is_number();
  if (name == "boolean") return value.is_boolean();
  if (name == "array") return value.is_array();
  return name != "object" || value.is_object();
}

/// The member `key` of an object; null where there is none, or no object.
const Json& part(const Json& object, const char* key) {
  static const Json nothing;
  const auto found = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && found != object.end() ? *found : nothing;
}

bool fits(const Call& call, const Json& tool) {
  const Json arguments = Json::parse(call.arguments, nullptr, false);
  if (!arguments.is_object()) return false;
  const Json& parameters = part(tool, "parameters");
  const Json& properties = part(parameters, "properties");
  for (const Json& required : part(parameters, "required")) {
    if (!required.is_string() || !arguments.contains(required.get<std::string>())) return false;
  }
  const auto entries = arguments.items();
  return std::all_of(entries.begin(), entries.end(), [&](const auto& entry) {
    return properties.contains(entry.key()) && has_type(entry.value(), properties.at(entry.key()));
  });
}

}  // namespace

bool contains_all(std::string_view text, std::span<const std::string> wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const std::string& each) { return contains(text, each); });
}

bool same_calls(std::span<const Call> calls, std::span<const Call> wanted) {
  return std::equal(calls.begin(), calls.end(), wanted.begin(), wanted.end(), [](const Call& a, const Call& b) {
    const Json left = Json::parse(a.arguments, nullptr, false);
    return a.name == b.name && !left.is_discarded() && left == Json::parse(b.arguments, nullptr, false);
  });
}

bool well_formed(const Answer& answer, std::span<const std::string> tools) {
  if (answer.block_failed || answer.calls.empty()) return false;
  return std::all_of(answer.calls.begin(), answer.calls.end(), [&](const Call& call) {
    return std::any_of(tools.begin(), tools.end(), [&](const std::string& text) {
      const Json tool = Json::parse(text, nullptr, false);
      return part(tool, "name") == call.name && fits(call, tool);
    });
  });
}

bool obeys_thinking(const Answer& answer, bool thinking) {
  if (!thinking) return answer.opened == 0 && answer.closed == 0 && answer.reasoning.empty();
  return answer.opened == 0 && answer.closed == 1 && !answer.reasoning.empty();
}

}  // namespace ds4::eval
