// POST /v1/messages, as Anthropic documents it.
#include "base/text.h"
#include "server/api/dialect.h"
#include "server/api/shared_fields.h"

namespace ds4::server {

namespace {

using Block = chat::ContentBlock;

/// Parts of a tool's result. What is no text is named, so that the model knows that it does not see it.
std::vector<Block> read_result(const Json& value, const std::string& path, std::optional<FieldError>& error) {
  if (!value.is_array()) return read_content(value, path, {"text"}, error);
  std::vector<Block> parts;
  for (std::size_t i = 0; i < value.size(); ++i) {
    JsonReader part(value[i], item(path, i), error);
    const std::string type = part.text("type").value_or("text");
    if (type == "text") parts.push_back({Block::Kind::kText, part.text("text").value_or(""), {}, {}});
    else parts.push_back({Block::Kind::kUnsupported, type, {}, {}});
  }
  return parts;
}

void read_tool_use(JsonReader& block, chat::Message& message) {
  const auto name = block.text("name");
  if (!name || name->empty()) return block.fail("name", "expected the name of a tool");
  const Json* input = block.value("input");
  message.tool_calls.push_back({block.text("id").value_or(""), *name, input == nullptr ? "{}" : dump(*input)});
}

void read_block(JsonReader& block, chat::Message& message) {
  const std::string type = block.text("type").value_or("");
  const bool assistant = message.role == chat::Role::kAssistant;
  if (type == "text") {
    const auto text = block.text("text");
    if (!text) block.fail("text", "expected a string");
    message.content.push_back({Block::Kind::kText, text.value_or(""), {}, {}});
  } else if (type == "thinking" && assistant) {
    message.reasoning += block.text("thinking").value_or("");
  } else if (type == "redacted_thinking" && assistant) {
    block.accept({"data"});
  } else if (type == "tool_use" && assistant) {
    read_tool_use(block, message);
  } else if (type == "tool_result" && message.role == chat::Role::kUser) {
    const auto id = block.text("tool_use_id");
    if (!id) block.fail("tool_use_id", "expected the id of the call");
    Block result{Block::Kind::kToolResult, {}, id.value_or(""), {}};
    if (const Json* content = block.value("content")) {
      result.parts = read_result(*content, block.path_of("content"), block.error());
    }
    message.content.push_back(std::move(result));
  } else {
    block.fail("type", cat("this model reads text only, found \"", escaped(type, 40), "\""));
  }
}

chat::Message read_message(const Json& value, const std::string& path, std::optional<FieldError>& error) {
  JsonReader reader(value, path, error);
  const std::string role = reader.choice("role", {"user", "assistant", "system"}).value_or("");
  if (role.empty()) reader.fail("role", "expected a role");
  chat::Message message;
  message.role = role == "assistant" ? chat::Role::kAssistant
                 : role == "system"  ? chat::Role::kSystem
                                     : chat::Role::kUser;
  const Json* content = reader.value("content");
  if (content == nullptr) {
    reader.fail("content", "expected text or blocks");
  } else if (!content->is_array()) {
    message.content = read_content(*content, reader.path_of("content"), {"text"}, error);
  } else {
    for (std::size_t i = 0; i < content->size(); ++i) {
      JsonReader block((*content)[i], item(reader.path_of("content"), i), error);
      read_block(block, message);
    }
  }
  return message;
}

/// Parts that begin with "x-anthropic-" are about billing and differ in every request: they would end every shared
/// beginning right there.
void read_system(JsonReader& reader, GenerationRequest& request) {
  const Json* system = reader.value("system");
  if (system == nullptr) return;
  chat::Message message;
  message.role = chat::Role::kSystem;
  for (Block& block : read_content(*system, "system", {"text"}, reader.error())) {
    if (block.text.starts_with("x-anthropic-")) continue;
    if (!message.content.empty()) message.content.push_back({Block::Kind::kText, "\n\n", {}, {}});
    message.content.push_back(std::move(block));
  }
  if (!message.content.empty()) request.conversation.push_back(std::move(message));
}

void read_tools(JsonReader& reader, std::vector<std::string>& tools, GenerationRequest& request) {
  const Json& list = array_of(reader, "tools", kMaxTools);
  for (std::size_t i = 0; i < list.size(); ++i) {
    JsonReader tool(list[i], item("tools", i), reader.error());
    const std::string type = tool.text("type").value_or("custom");
    if (type.starts_with("web_search") || type.starts_with("web_fetch")) {  // nothing here to search with
      request.unknown_fields.push_back(cat(item("tools", i), " of type ", escaped(type, 40)));
      continue;
    }
    if (type != "custom") {
      tool.fail("type", cat("tools of type \"", escaped(type, 40), "\" are not served"));
      continue;
    }
    Json schema = {{"name", tool.text("name").value_or("")}};
    if (const auto description = tool.text("description")) schema["description"] = *description;
    const Json* input = tool.value("input_schema");
    if (input == nullptr || !input->is_object()) {
      tool.fail("input_schema", "expected an object");
      continue;
    }
    schema["parameters"] = *input;
    add_tool(tool, std::move(schema), tools, request);
  }
}

void read_tool_choice(JsonReader& reader, GenerationRequest& request) {
  const Json* choice = reader.value("tool_choice");
  if (choice == nullptr) return;
  JsonReader inner(*choice, "tool_choice", reader.error());
  const std::string type = inner.choice("type", {"auto", "any", "tool", "none"}).value_or("auto");
  request.parallel_calls = !inner.boolean("disable_parallel_tool_use").value_or(false);
  if (type == "any") request.tool_use = ToolUse::kRequired;
  if (type == "none") request.tool_use = ToolUse::kNone;
  if (type != "tool") return;
  request.tool_use = ToolUse::kNamed;
  request.tool_name = inner.text("name").value_or("");
}

}  // namespace

Parsed parse_messages(const Json& body) {
  Parsed parsed;
  GenerationRequest& request = parsed.request;
  request.dialect = Dialect::kMessages;
  JsonReader reader(body, "", parsed.error);
  request.model = reader.text("model").value_or("");
  read_system(reader, request);
  const Json& messages = array_of(reader, "messages", kMaxMessages);
  if (messages.empty()) reader.fail("messages", "expected at least one message");
  for (std::size_t i = 0; i < messages.size() && !reader.failed(); ++i) {
    request.conversation.push_back(read_message(messages[i], item("messages", i), parsed.error));
  }
  settle_system(request.conversation);
  open_last(request.conversation);
  std::vector<std::string> tools;
  read_tools(reader, tools, request);
  read_tool_choice(reader, request);
  attach(reader, std::move(tools), request);
  read_sampling(reader, request);
  read_stop(reader, "stop_sequences", request);
  read_thinking(reader, request);
  if (const Json* output = reader.value("output_config")) {
    JsonReader inner(*output, "output_config", parsed.error);
    const auto effort = thinking_of_effort(inner, "effort");
    if (effort && request.thinking != chat::Thinking::kChat) request.thinking = effort;
    inner.refuse_unless("format", {}, "schemas are not served yet");
  }
  request.max_tokens = reader.integer("max_tokens", 1, kMaxTokens);
  request.stream = reader.boolean("stream").value_or(false);
  reader.refuse_unless("mcp_servers", {Json::array()}, "servers of tools are not called from here");
  reader.refuse_unless("output_format", {}, "schemas are not served yet");
  reader.accept({"metadata", "service_tier", "context_management", "container", "betas", "inference_geo",
                 "cache_control", "speed"});
  for (std::string& name : reader.unread()) request.unknown_fields.push_back(std::move(name));
  return parsed;
}

namespace {

constexpr const char* kSignature = "ds4";  // thinking comes back with it; nothing is signed

Json usage_json(const Usage& usage) {
  return {{"input_tokens", usage.prompt_tokens - usage.cached_tokens},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", usage.cached_tokens},
          {"output_tokens", usage.answer_tokens}};
}

Json message_json(const AnswerHeader& header, Json content, const Usage& usage) {
  return {{"id", cat("msg_", header.id)},  {"type", "message"},
          {"role", "assistant"},           {"model", header.model},
          {"content", std::move(content)}, {"stop_reason", nullptr},
          {"stop_sequence", nullptr},      {"usage", usage_json(usage)}};
}

std::string_view stop_reason(Ending ending) {
  switch (ending) {
    case Ending::kLength: return "max_tokens";
    case Ending::kToolCalls: return "tool_use";
    case Ending::kStopString: return "stop_sequence";
    default: return "end_turn";
  }
}

class MessagesWriter final : public StreamWriter {
 public:
  explicit MessagesWriter(AnswerHeader header) : header_(std::move(header)) {}

  std::string write(const AnswerEvent& event) override {
    using Kind = AnswerEvent::Kind;
    switch (event.kind) {
      case Kind::kBegin:
        begun_ = true;
        return sse("message_start",
                   {{"type", "message_start"}, {"message", message_json(header_, Json::array(), event.usage)}});
      case Kind::kReasoning:
        return in_order({enter(Open::kThinking, {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}}),
                         delta({{"type", "thinking_delta"}, {"thinking", event.text}})});
      case Kind::kText:
        return in_order({enter(Open::kText, {{"type", "text"}, {"text", ""}}),
                         delta({{"type", "text_delta"}, {"text", event.text}})});
      case Kind::kCallStart:
        return in_order(
            {close(), open(Open::kCall,
                           {{"type", "tool_use"}, {"id", event.id}, {"name", event.text}, {"input", Json::object()}})});
      case Kind::kCallArguments: return delta({{"type", "input_json_delta"}, {"partial_json", event.text}});
      case Kind::kCallEnd: return close();
      case Kind::kEnd: return end(event);
    }
    return {};
  }

  std::string keepalive() override { return begun_ ? sse("ping", {{"type", "ping"}}) : StreamWriter::keepalive(); }

 private:
  enum class Open { kNothing, kThinking, kText, kCall };

  std::string enter(Open what, Json block) {
    return open_ == what ? std::string() : in_order({close(), open(what, std::move(block))});
  }
  std::string open(Open what, Json block) {
    open_ = what;
    return sse("content_block_start",
               {{"type", "content_block_start"}, {"index", index_}, {"content_block", std::move(block)}});
  }
  std::string delta(Json part) {
    return sse("content_block_delta", {{"type", "content_block_delta"}, {"index", index_}, {"delta", std::move(part)}});
  }
  std::string close() {
    if (open_ == Open::kNothing) return {};
    std::string out;
    if (open_ == Open::kThinking) out = delta({{"type", "signature_delta"}, {"signature", kSignature}});
    open_ = Open::kNothing;
    return out + sse("content_block_stop", {{"type", "content_block_stop"}, {"index", index_++}});
  }
  std::string end(const AnswerEvent& event) {
    if (event.ending == Ending::kError || event.ending == Ending::kCancelled) {
      return cat("event: error\ndata: ", error_body(Dialect::kMessages, error_of(event)), "\n\n");
    }
    const bool string = event.ending == Ending::kStopString;
    const Json delta = {{"stop_reason", stop_reason(event.ending)},
                        {"stop_sequence", string ? Json(event.text) : Json()}};
    return in_order(
        {close(),
         sse("message_delta", {{"type", "message_delta"}, {"delta", delta}, {"usage", usage_json(event.usage)}}),
         sse("message_stop", {{"type", "message_stop"}})});
  }

  AnswerHeader header_;
  Open open_ = Open::kNothing;
  int index_ = 0;
  bool begun_ = false;
};

}  // namespace

std::unique_ptr<StreamWriter> messages_writer(const GenerationRequest&, const AnswerHeader& header) {
  return std::make_unique<MessagesWriter>(header);
}

std::string messages_body(const GenerationRequest&, const AnswerHeader& header, const Answer& answer) {
  Json content = Json::array();
  if (!answer.reasoning.empty()) {
    content.push_back({{"type", "thinking"}, {"thinking", answer.reasoning}, {"signature", kSignature}});
  }
  if (!answer.text.empty()) content.push_back({{"type", "text"}, {"text", answer.text}});
  for (const Answer::Call& call : answer.calls) {
    content.push_back({{"type", "tool_use"},
                       {"id", call.id},
                       {"name", call.name},
                       {"input", Json::parse(call.arguments, nullptr, false)}});
  }
  Json out = message_json(header, std::move(content), answer.end.usage);
  out["stop_reason"] = stop_reason(answer.end.ending);
  if (answer.end.ending == Ending::kStopString) out["stop_sequence"] = answer.end.text;
  return dump(out);
}

}  // namespace ds4::server
