// POST /v1/chat/completions, as OpenAI documents it, with the fields that DeepSeek and local servers add
// (reasoning_content, thinking, min_p, top_k).
#include "base/text.h"
#include "server/api/dialect.h"
#include "server/api/openai_usage.h"
#include "server/api/shared_fields.h"

namespace ds4::server {

namespace {

const std::vector<std::string> kTextTypes = {"text", "input_text", "output_text", "refusal"};

void read_tool_calls(JsonReader& message, chat::Message& out) {
  const Json& calls = array_of(message, "tool_calls", kMaxMessages);
  for (std::size_t i = 0; i < calls.size(); ++i) {
    JsonReader call(calls[i], item(message.path_of("tool_calls"), i), message.error());
    call.choice("type", {"function"});
    const Json* function = call.value("function");
    if (function == nullptr) return call.fail("function", "expected an object with name and arguments");
    JsonReader inner(*function, call.path_of("function"), message.error());
    const auto name = inner.text("name");
    if (!name || name->empty()) return inner.fail("name", "expected the name of a function");
    // Some clients send the arguments as an object.
    const Json* arguments = inner.value("arguments");
    const std::string text = arguments == nullptr     ? "{}"
                             : arguments->is_string() ? arguments->get<std::string>()
                                                      : dump(*arguments);
    out.tool_calls.push_back({call.text("id").value_or(""), *name, text.empty() ? "{}" : text});
  }
}

chat::Message read_message(const Json& value, const std::string& path, std::optional<FieldError>& error) {
  JsonReader reader(value, path, error);
  const std::string role =
      reader.choice("role", {"system", "developer", "user", "assistant", "tool", "function"}).value_or("");
  chat::Message message;
  if (role.empty()) {
    reader.fail("role", "expected a role");
    return message;
  }
  message.role = role == "user"                            ? chat::Role::kUser
                 : role == "assistant"                     ? chat::Role::kAssistant
                 : role == "system" || role == "developer" ? chat::Role::kSystem
                                                           : chat::Role::kTool;
  const Json* content = reader.value("content");
  if (content != nullptr) {
    message.content = read_content(*content, reader.path_of("content"), kTextTypes, error);
  } else if (message.role != chat::Role::kAssistant) {
    reader.fail("content", "expected text");
  }
  if (message.role == chat::Role::kAssistant) {
    message.reasoning = reader.text("reasoning_content").value_or("");
    if (message.reasoning.empty()) message.reasoning = reader.text("reasoning").value_or("");
    read_tool_calls(reader, message);
    if (content == nullptr && message.tool_calls.empty() && message.reasoning.empty()) {
      reader.fail("content", "expected text or tool calls");
    }
  }
  if (message.role == chat::Role::kTool) {
    message.call_id = reader.text("tool_call_id").value_or("");
    if (message.call_id.empty() && role == "tool") reader.fail("tool_call_id", "expected the id of the call");
  }
  return message;
}

void read_tools(JsonReader& reader, std::vector<std::string>& tools, GenerationRequest& request) {
  const Json& list = array_of(reader, "tools", kMaxTools);
  for (std::size_t i = 0; i < list.size(); ++i) {
    JsonReader tool(list[i], item("tools", i), reader.error());
    tool.choice("type", {"function"});
    const Json* function = tool.value("function");
    if (function == nullptr) return tool.fail("function", "expected an object with name and parameters");
    JsonReader inner(*function, tool.path_of("function"), reader.error());
    add_tool(inner, *function, tools, request);
  }
}

void read_tool_choice(JsonReader& reader, GenerationRequest& request) {
  const Json* choice = reader.value("tool_choice");
  if (choice == nullptr) return;
  if (choice->is_string()) {
    const std::string name = reader.choice("tool_choice", {"auto", "none", "required", "any"}).value_or("auto");
    request.tool_use = name == "auto" ? ToolUse::kAuto : name == "none" ? ToolUse::kNone : ToolUse::kRequired;
    return;
  }
  JsonReader inner(*choice, "tool_choice", reader.error());
  inner.choice("type", {"function"});
  const Json* function = inner.value("function");
  if (function == nullptr) return inner.fail("function", "expected an object with the name of a function");
  JsonReader named(*function, "tool_choice.function", reader.error());
  request.tool_use = ToolUse::kNamed;
  request.tool_name = named.text("name").value_or("");
}

void read_response_format(JsonReader& reader) {
  const Json* format = reader.value("response_format");
  if (format == nullptr) return;
  JsonReader inner(*format, "response_format", reader.error());
  if (inner.text("type").value_or("text") != "text") {
    inner.fail("type", "only \"text\" is served: this server does not yet hold a model to a schema");
  }
}

}  // namespace

Parsed parse_chat(const Json& body) {
  Parsed parsed;
  GenerationRequest& request = parsed.request;
  request.dialect = Dialect::kChat;
  JsonReader reader(body, "", parsed.error);
  request.model = reader.text("model").value_or("");
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
  request.parallel_calls = reader.boolean("parallel_tool_calls").value_or(true);
  read_sampling(reader, request);
  read_stop(reader, "stop", request);
  read_thinking(reader, request);
  request.max_tokens = reader.integer("max_completion_tokens", 1, kMaxTokens);
  const auto old_name = reader.integer("max_tokens", 1, kMaxTokens);
  if (!request.max_tokens) request.max_tokens = old_name;
  request.stream = reader.boolean("stream").value_or(false);
  if (const Json* options = reader.value("stream_options")) {
    JsonReader inner(*options, "stream_options", parsed.error);
    request.include_usage = inner.boolean("include_usage").value_or(false);
  }
  request.logprobs = reader.boolean("logprobs").value_or(false);
  request.top_logprobs = static_cast<int>(reader.integer("top_logprobs", 0, 20).value_or(0));
  if (request.top_logprobs > 0 && !request.logprobs) reader.fail("top_logprobs", "needs logprobs to be true");
  reader.integer("n", 1, 1);
  read_response_format(reader);
  reader.refuse_unless("functions", {Json::array()}, "give tools in place of functions");
  reader.refuse_unless("function_call", {"auto", "none"}, "give tool_choice in place of function_call");
  reader.refuse_unless("modalities", {Json::array({"text"})}, "only text is served");
  reader.refuse_unless("audio", {}, "only text is served");
  reader.refuse_unless("grammar", {""}, "grammars are not served");
  reader.refuse_unless("guided_json", {}, "schemas are not served yet");
  reader.refuse_unless("best_of", {1}, "only 1 is served");
  reader.accept({"user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity",
                 "prediction", "cache_prompt", "prompt_cache_retention"});
  request.unknown_fields = reader.unread();
  return parsed;
}

namespace {

Json chunk(const AnswerHeader& header, std::string_view object) {
  return {{"id", cat("chatcmpl-", header.id)},
          {"object", object},
          {"created", header.created},
          {"model", header.model},
          {"system_fingerprint", "ds4"}};
}

Json finish_reason(Ending ending) {
  switch (ending) {
    case Ending::kLength: return "length";
    case Ending::kToolCalls: return "tool_calls";
    default: return "stop";
  }
}

Json token_json(const TokenInfo& token) {
  Json bytes = Json::array();
  for (const char c : token.bytes) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", token.bytes}, {"logprob", token.logprob}, {"bytes", std::move(bytes)}};
}

Json logprobs(const std::vector<TokenChoice>& choices) {
  Json content = Json::array();
  for (const TokenChoice& choice : choices) {
    Json one = token_json(choice.token);
    one["top_logprobs"] = Json::array();
    for (const TokenInfo& token : choice.top) one["top_logprobs"].push_back(token_json(token));
    content.push_back(std::move(one));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

class ChatWriter final : public StreamWriter {
 public:
  ChatWriter(const GenerationRequest& request, AnswerHeader header)
      : header_(std::move(header)), usage_(request.include_usage), logprobs_(request.logprobs) {}

  std::string write(const AnswerEvent& event) override {
    using Kind = AnswerEvent::Kind;
    switch (event.kind) {
      case Kind::kBegin: return delta({{"role", "assistant"}, {"content", ""}}, event);
      case Kind::kReasoning: return delta({{"reasoning_content", event.text}}, event);
      case Kind::kText: return delta({{"content", event.text}}, event);
      case Kind::kCallStart:
        return call({{"index", event.index},
                     {"id", event.id},
                     {"type", "function"},
                     {"function", {{"name", event.text}, {"arguments", ""}}}},
                    event);
      case Kind::kCallArguments:
        return call({{"index", event.index}, {"function", {{"arguments", event.text}}}}, event);
      case Kind::kCallEnd: return {};
      case Kind::kEnd: return end(event);
    }
    return {};
  }

 private:
  std::string call(Json part, const AnswerEvent& event) {
    return delta({{"tool_calls", Json::array({std::move(part)})}}, event);
  }
  std::string delta(Json delta, const AnswerEvent& event, const Json& reason = nullptr) {
    Json out = chunk(header_, "chat.completion.chunk");
    out["choices"] = Json::array({{{"index", 0},
                                   {"delta", std::move(delta)},
                                   {"logprobs", logprobs_ && !event.choices.empty() ? logprobs(event.choices) : Json()},
                                   {"finish_reason", reason}}});
    if (usage_) out["usage"] = nullptr;
    return sse("", out);
  }
  std::string end(const AnswerEvent& event) {
    if (event.ending == Ending::kError || event.ending == Ending::kCancelled) {
      return cat("data: ", error_body(Dialect::kChat, error_of(event)), "\n\n");
    }
    std::string out = delta(Json::object(), event, finish_reason(event.ending));
    if (usage_) {
      Json last = chunk(header_, "chat.completion.chunk");
      last["choices"] = Json::array();
      last["usage"] = openai_usage(event.usage);
      last["timings"] = timings(event.usage);
      out += sse("", last);
    }
    return out + "data: [DONE]\n\n";
  }

  AnswerHeader header_;
  bool usage_;
  bool logprobs_;
};

}  // namespace

std::unique_ptr<StreamWriter> chat_writer(const GenerationRequest& request, const AnswerHeader& header) {
  return std::make_unique<ChatWriter>(request, header);
}

std::string chat_body(const GenerationRequest& request, const AnswerHeader& header, const Answer& answer) {
  Json message = {{"role", "assistant"},
                  {"content", answer.text.empty() && !answer.calls.empty() ? Json(nullptr) : Json(answer.text)},
                  {"refusal", nullptr}};
  if (!answer.reasoning.empty()) message["reasoning_content"] = answer.reasoning;
  for (const Answer::Call& call : answer.calls) {
    message["tool_calls"].push_back(
        {{"id", call.id}, {"type", "function"}, {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
  }
  Json out = chunk(header, "chat.completion");
  out["choices"] = Json::array({{{"index", 0},
                                 {"message", std::move(message)},
                                 {"logprobs", request.logprobs ? logprobs(answer.choices) : Json()},
                                 {"finish_reason", finish_reason(answer.end.ending)}}});
  out["usage"] = openai_usage(answer.end.usage);
  out["timings"] = timings(answer.end.usage);
  return dump(out);
}

}  // namespace ds4::server
