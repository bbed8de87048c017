#include "server/api/shared_fields.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/text.h"
#include "server/api/dialect.h"

namespace ds4::server {

namespace {

/// {"50256": -100}: token ids as keys.
void read_bias(JsonReader& reader, GenerationRequest& request) {
  const Json* bias = reader.value("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) return reader.fail("logit_bias", cat("expected an object, found ", kind_of(*bias)));
  for (const auto& [name, value] : bias->items()) {
    std::int64_t token = -1;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), token);
    if (error != std::errc() || end != name.data() + name.size() || token < 0) {
      return reader.fail("logit_bias", cat("expected token ids as keys, found \"", escaped(name, 40), "\""));
    }
    if (!value.is_number() || !(std::abs(value.get<double>()) <= 100)) {
      return reader.fail("logit_bias", cat("expected numbers from -100 to 100, found ", kind_of(value)));
    }
    request.logit_bias.emplace_back(token, value.get<double>());
  }
}

chat::ContentBlock text_block(std::string text) { return {chat::ContentBlock::Kind::kText, std::move(text), {}, {}}; }

}  // namespace

void read_sampling(JsonReader& reader, GenerationRequest& request) {
  request.temperature = reader.number("temperature", 0, 100);
  request.top_p = reader.number("top_p", 0, 1);
  request.min_p = reader.number("min_p", 0, 1);
  request.top_k = reader.integer("top_k", -1, std::numeric_limits<std::int32_t>::max());
  if (request.top_k == -1) request.top_k = 0;  // what some clients mean by "off"
  request.seed =
      reader.integer("seed", std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max());
  request.presence_penalty = reader.number("presence_penalty", -2, 2).value_or(0);
  request.frequency_penalty = reader.number("frequency_penalty", -2, 2).value_or(0);
  const auto repetition = reader.number("repetition_penalty", 0.01, 100);
  request.repetition_penalty = repetition ? *repetition : reader.number("repeat_penalty", 0.01, 100).value_or(1);
  reader.accept({"repeat_penalty"});
  read_bias(reader, request);
}

void read_stop(JsonReader& reader, std::string_view name, GenerationRequest& request) {
  const Json* stop = reader.value(name);
  if (stop == nullptr) return;
  const auto add = [&](const Json& one) {
    if (!one.is_string()) return reader.fail(name, cat("expected strings, found ", kind_of(one)));
    const auto& text = one.get_ref<const std::string&>();
    if (text.empty() || text.size() > kMaxStopBytes) {
      return reader.fail(name, cat("expected strings of 1 to ", kMaxStopBytes, " bytes, found one of ", text.size()));
    }
    request.stop.push_back(text);
  };
  if (!stop->is_array()) return add(*stop);
  if (stop->size() > kMaxStops) {
    return reader.fail(name, cat("expected at most ", kMaxStops, " strings, found ", stop->size()));
  }
  for (const Json& one : *stop) add(one);
}

std::optional<chat::Thinking> thinking_of_effort(JsonReader& reader, std::string_view name) {
  const auto effort =
      reader.choice(name, {"none", "off", "minimal", "low", "medium", "high", "xhigh", "max", "auto", "default"});
  if (!effort || *effort == "auto" || *effort == "default") return std::nullopt;
  if (*effort == "none" || *effort == "off") return chat::Thinking::kChat;
  return *effort == "max" ? chat::Thinking::kMax : chat::Thinking::kThinking;
}

void read_thinking(JsonReader& reader, GenerationRequest& request) {
  const auto effort = thinking_of_effort(reader, "reasoning_effort");
  std::optional<bool> on;
  if (const Json* thinking = reader.value("thinking")) {
    if (thinking->is_boolean()) {
      on = thinking->get<bool>();
    } else {
      JsonReader inner(*thinking, reader.path_of("thinking"), reader.error());
      const auto type = inner.choice("type", {"enabled", "disabled", "adaptive", "auto"});
      if (type == "enabled" || type == "disabled") on = type == "enabled";
    }
  }
  if (!on) on = reader.boolean("think");
  else reader.accept({"think"});
  if (!on) on = reader.boolean("enable_thinking");
  else reader.accept({"enable_thinking"});
  if (on == false) request.thinking = chat::Thinking::kChat;
  else if (effort) request.thinking = effort;
  else if (on == true) request.thinking = chat::Thinking::kThinking;
}

const Json& array_of(JsonReader& reader, std::string_view name, std::size_t most) {
  static const Json none = Json::array();
  const Json* found = reader.value(name);
  if (found == nullptr) return none;
  if (!found->is_array()) {
    reader.fail(name, cat("expected an array, found ", kind_of(*found)));
    return none;
  }
  if (found->size() > most) {
    reader.fail(name, cat("expected at most ", most, " entries, found ", found->size()));
    return none;
  }
  return *found;
}

std::vector<chat::ContentBlock> read_content(const Json& value, const std::string& path,
                                             const std::vector<std::string>& text_types,
                                             std::optional<FieldError>& error) {
  const auto fail = [&](const std::string& field, const std::string& message) {
    if (!error) error = FieldError{field, cat(field, ": ", message)};
  };
  std::vector<chat::ContentBlock> blocks;
  if (value.is_string()) {
    blocks.push_back(text_block(value.get<std::string>()));
    return blocks;
  }
  if (!value.is_array()) {
    fail(path, cat("expected a string or an array of parts, found ", kind_of(value)));
    return blocks;
  }
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (value[i].is_string()) {
      blocks.push_back(text_block(value[i].get<std::string>()));
      continue;
    }
    JsonReader part(value[i], item(path, i), error);
    const std::string type = part.text("type").value_or("text");
    if (std::ranges::find(text_types, type) == text_types.end()) {
      fail(part.path_of("type"), cat("this model reads text only, found \"", escaped(type, 40), "\""));
      return blocks;
    }
    const auto text = part.text(type == "refusal" ? "refusal" : "text");
    if (!text) part.fail("text", "expected a string");
    blocks.push_back(text_block(text.value_or("")));
  }
  return blocks;
}

void add_tool(JsonReader& function, Json schema, std::vector<std::string>& tools, GenerationRequest& request) {
  const auto name = function.text("name");
  if (!name || name->empty() || name->find('"') != std::string::npos) {
    return function.fail("name", "expected the name of a function, without quotes");
  }
  request.tool_names.push_back(*name);
  schema.erase("strict");
  tools.push_back(dump(schema));
}

void attach(JsonReader& reader, std::vector<std::string> tools, GenerationRequest& request) {
  const bool forced = request.tool_use == ToolUse::kRequired || request.tool_use == ToolUse::kNamed;
  if (tools.empty() && forced) reader.fail("tool_choice", "a call is asked for, but there are no tools");
  if (request.tool_use == ToolUse::kNamed &&
      std::ranges::find(request.tool_names, request.tool_name) == request.tool_names.end()) {
    reader.fail("tool_choice", cat("there is no tool named \"", escaped(request.tool_name, 60), "\""));
  }
  if (request.tool_use == ToolUse::kNone) request.tool_names.clear();
  else if (!tools.empty()) chat::attach_tools(request.conversation, std::move(tools));
}

void settle_system(chat::Conversation& conversation) {
  chat::Conversation settled;
  for (chat::Message& message : conversation) {
    if (message.role != chat::Role::kSystem) {
      settled.push_back(std::move(message));
      continue;
    }
    const bool leading = settled.empty() || (settled.size() == 1 && settled[0].role == chat::Role::kSystem);
    if (!leading) {
      message.role = chat::Role::kUser;
      settled.push_back(std::move(message));
    } else if (settled.empty()) {
      settled.push_back(std::move(message));
    } else {
      auto& content = settled[0].content;
      if (!content.empty() && !message.content.empty()) content.push_back(text_block("\n\n"));
      content.insert(content.end(), message.content.begin(), message.content.end());
    }
  }
  conversation = std::move(settled);
}

void open_last(chat::Conversation& conversation) {
  if (conversation.empty()) return;
  chat::Message& last = conversation.back();
  if (last.role == chat::Role::kAssistant && last.tool_calls.empty()) last.without_eos = true;
}

}  // namespace ds4::server
