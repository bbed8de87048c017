#include "eval/items.h"

#include <map>

#include <nlohmann/json.hpp>

#include "base/text.h"

namespace ds4::eval {

namespace {

using Json = nlohmann::ordered_json;

/// Thrown and caught in this file only: a value that is missing or of another type, somewhere inside a line.
struct BadItem {
  std::string message;
};

const Json& member(const Json& object, const char* key) {
  if (!object.is_object() || !object.contains(key)) throw BadItem{cat("expected a member \"", key, "\"")};
  return object.at(key);
}

std::string text_of(const Json& value, const char* what) {
  if (!value.is_string()) throw BadItem{cat(what, ": expected a string, found ", escaped(value.dump()))};
  return value.get<std::string>();
}

std::string text_member(const Json& object, const char* key) { return text_of(member(object, key), key); }

const Json& array(const Json& value, const char* what) {
  if (!value.is_array()) throw BadItem{cat(what, ": expected an array")};
  return value;
}

std::size_t index_of(const Json& value, std::size_t limit, const char* what) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= limit) {
    throw BadItem{cat(what, ": expected a number below ", limit, ", found ", escaped(value.dump()))};
  }
  return value.get<std::size_t>();
}

bool boolean(const Json& value, const char* what) {
  if (!value.is_boolean()) throw BadItem{cat(what, ": expected true or false")};
  return value.get<bool>();
}

std::vector<std::string> texts(const Json& value, const char* what) {
  std::vector<std::string> out;
  for (const Json& entry : array(value, what)) out.push_back(text_of(entry, what));
  return out;
}

Call call_of(const Json& value) {
  const Json& arguments = member(value, "arguments");
  if (!arguments.is_object()) throw BadItem{"arguments: expected an object"};
  return {text_member(value, "name"), arguments.dump()};
}

class Reader {
 public:
  void line(const Json& value) {
    const std::string kind = text_member(value, "kind");
    if (kind == "tools") {
      for (const auto& [name, schema] : member(value, "tools").items()) catalogue_[name] = schema.dump();
    } else if (kind == "snippets") {
      snippets_ = texts(member(value, "texts"), "texts");
    } else if (kind == "chat") {
      chat(value);
    } else if (kind == "recall") {
      recall(value);
    } else {
      throw BadItem{cat("kind: expected tools, snippets, chat or recall, found \"", escaped(kind), "\"")};
    }
  }
  std::vector<Item> take() { return std::move(items_); }

 private:
  chat::Message message(const Json& value) const {
    const std::string role = text_member(value, "role");
    const std::string content = text_member(value, "content");
    if (role == "system") return chat::text_message(chat::Role::kSystem, content);
    if (role == "user") return chat::text_message(chat::Role::kUser, content);
    if (role == "tool") return chat::tool_message(text_member(value, "call_id"), content);
    if (role != "assistant") throw BadItem{cat("role: no such role \"", escaped(role), "\"")};
    chat::Message out = chat::text_message(chat::Role::kAssistant, content);
    if (value.contains("reasoning")) out.reasoning = text_member(value, "reasoning");
    if (!value.contains("calls")) return out;
    for (const Json& entry : array(value.at("calls"), "calls")) {
      Call call = call_of(entry);
      out.tool_calls.push_back({text_member(entry, "id"), std::move(call.name), std::move(call.arguments)});
    }
    return out;
  }

  Check check(const Json& value, const chat::Conversation& messages) const {
    Check out;
    out.at = index_of(member(value, "at"), messages.size(), "at");
    if (out.at == 0 || messages[out.at].role != chat::Role::kAssistant) {
      throw BadItem{cat("at: message ", out.at, " is not an answer of the assistant")};
    }
    if (value.contains("calls")) {
      out.calls.emplace();
      for (const Json& entry : array(value.at("calls"), "calls")) out.calls->push_back(call_of(entry));
    }
    if (value.contains("contains")) out.contains = texts(value.at("contains"), "contains");
    return out;
  }

  void chat(const Json& value) {
    Item item;
    item.skill = text_member(value, "skill");
    item.thinking = boolean(member(value, "thinking"), "thinking");
    for (const Json& entry : array(member(value, "messages"), "messages")) item.messages.push_back(message(entry));
    for (const Json& entry : array(member(value, "tools"), "tools")) {
      if (entry.is_object()) {
        item.tools.push_back(entry.dump());
        continue;
      }
      const auto found = catalogue_.find(text_of(entry, "tools"));
      if (found == catalogue_.end())
        throw BadItem{cat("tools: \"", escaped(entry.get<std::string>()), "\" is not in the catalogue")};
      item.tools.push_back(found->second);
    }
    for (const Json& entry : array(member(value, "checks"), "checks")) {
      item.checks.push_back(check(entry, item.messages));
    }
    items_.push_back(std::move(item));
  }

  void recall(const Json& value) {
    const std::uint64_t tokens = index_of(member(value, "tokens"), std::size_t{1} << 30, "tokens");
    const std::string join = text_member(value, "join");
    std::string document = text_member(value, "before");
    const char* comma = "";
    for (const Json& entry : array(member(value, "pieces"), "pieces")) {
      document += comma;
      document += entry.is_string() ? entry.get<std::string>() : snippets_[index_of(entry, snippets_.size(), "pieces")];
      comma = join.c_str();
    }
    for (const Json& entry : array(member(value, "questions"), "questions")) {
      Item item;
      item.skill = cat("recall ", tokens / 1024, "K");
      item.messages.push_back(chat::text_message(chat::Role::kUser, cat(document, "\n\n", text_member(entry, "ask"))));
      item.messages.push_back(chat::text_message(chat::Role::kAssistant, ""));
      item.checks.push_back({.at = 1, .calls = {}, .contains = texts(member(entry, "contains"), "contains")});
      items_.push_back(std::move(item));
    }
  }

  std::map<std::string, std::string, std::less<>> catalogue_;
  std::vector<std::string> snippets_;
  std::vector<Item> items_;
};

}  // namespace

Result<std::vector<Item>> parse_items(std::string_view text, const std::string& name) {
  Reader reader;
  std::size_t number = 0;
  while (!text.empty()) {
    ++number;
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty()) continue;
    const Json value = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (value.is_discarded()) return Error{ErrorCode::kFailure, cat(name, ": line ", number, ": expected JSON")};
    try {
      reader.line(value);
    } catch (const BadItem& bad) {
      return Error{ErrorCode::kFailure, cat(name, ": line ", number, ": ", bad.message)};
    }
  }
  return reader.take();
}

}  // namespace ds4::eval
