// POST /v1/responses, as OpenAI documents it, without state on the server: every request brings its whole input.
#include "base/text.h"
#include "server/api/dialect.h"
#include "server/api/sealed_text.h"
#include "server/api/shared_fields.h"

namespace ds4::server {

namespace {

const std::vector<std::string> kTextTypes = {"input_text",   "output_text",    "text",
                                             "summary_text", "reasoning_text", "refusal"};

/// Input items become messages; what the assistant said in several items in a row is one message.
class InputReader {
 public:
  InputReader(GenerationRequest& request, std::optional<FieldError>& error) : request_(request), error_(error) {}

  void read(const Json& value, const std::string& path) {
    JsonReader reader(value, path, error_);
    const std::string type = reader.text("type").value_or("message");
    if (type == "message") return message(reader);
    if (type == "function_call" || type == "custom_tool_call") return call(reader, type == "custom_tool_call");
    if (type == "function_call_output" || type == "custom_tool_call_output" || type == "local_shell_call_output") {
      return output(reader);
    }
    if (type == "local_shell_call") return shell_call(reader);
    if (type == "reasoning") return reasoning(reader);
    if (type == "compaction" || type == "compaction_summary") return compaction(reader);
    if (type == "web_search_call" || type == "image_generation_call" || type == "tool_search_call" ||
        type == "tool_search_output") {
      request_.unknown_fields.push_back(cat(path, " of type ", type));  // what a tool of another server did
      return;
    }
    reader.fail("type", cat("items of type \"", escaped(type, 40), "\" are not served"));
  }

 private:
  chat::Message& assistant() {
    auto& all = request_.conversation;
    if (all.empty() || all.back().role != chat::Role::kAssistant) {
      all.emplace_back();
      all.back().role = chat::Role::kAssistant;
    }
    return all.back();
  }

  void message(JsonReader& reader) {
    const std::string role = reader.choice("role", {"system", "developer", "user", "assistant"}).value_or("");
    const Json* content = reader.value("content");
    if (role.empty()) return reader.fail("role", "expected a role");
    if (content == nullptr) return reader.fail("content", "expected text");
    auto blocks = read_content(*content, reader.path_of("content"), kTextTypes, error_);
    if (role == "assistant") {
      auto& into = assistant().content;
      into.insert(into.end(), blocks.begin(), blocks.end());
      return;
    }
    chat::Message out;
    out.role = role == "user" ? chat::Role::kUser : chat::Role::kSystem;
    out.content = std::move(blocks);
    request_.conversation.push_back(std::move(out));
  }

  void call(JsonReader& reader, bool custom) {
    const auto name = reader.text("name");
    if (!name || name->empty()) return reader.fail("name", "expected the name of a function");
    const std::string space = reader.text("namespace").value_or("");
    std::string arguments =
        custom ? dump({{"input", reader.text("input").value_or("")}}) : reader.text("arguments").value_or("{}");
    assistant().tool_calls.push_back(
        {reader.text("call_id").value_or(""), space.empty() ? *name : cat(space, ".", *name), std::move(arguments)});
  }

  void shell_call(JsonReader& reader) {
    const Json* action = reader.value("action");
    assistant().tool_calls.push_back(
        {reader.text("call_id").value_or(""), "local_shell", action == nullptr ? "{}" : dump(*action)});
  }

  void output(JsonReader& reader) {
    const auto id = reader.text("call_id");
    if (!id) return reader.fail("call_id", "expected the id of the call");
    const Json* value = reader.value("output");
    chat::Message out;
    out.role = chat::Role::kTool;
    out.call_id = *id;
    if (value == nullptr) return reader.fail("output", "expected what the tool said");
    if (value->is_array()) {
      for (std::size_t i = 0; i < value->size(); ++i) {
        JsonReader part((*value)[i], item(reader.path_of("output"), i), error_);
        const std::string type = part.text("type").value_or("text");
        const auto text = part.text("text");
        const auto kind = text ? chat::ContentBlock::Kind::kText : chat::ContentBlock::Kind::kUnsupported;
        out.content.push_back({kind, text ? *text : type, {}, {}});
      }
    } else {
      const std::string text = value->is_string() ? value->get<std::string>() : dump(*value);
      out.content.push_back({chat::ContentBlock::Kind::kText, text, {}, {}});
    }
    request_.conversation.push_back(std::move(out));
  }

  void reasoning(JsonReader& reader) {
    std::string text;
    if (const auto sealed = reader.text("encrypted_content")) text = unseal(*sealed).value_or("");
    for (const char* field : {"content", "summary"}) {
      const Json* parts = reader.value(field);
      if (parts == nullptr || !text.empty()) continue;
      for (const auto& block : read_content(*parts, reader.path_of(field), kTextTypes, error_)) text += block.text;
    }
    if (!text.empty()) assistant().reasoning += text;
  }

  void compaction(JsonReader& reader) {
    const auto sealed = reader.text("encrypted_content");
    const auto text = sealed ? unseal(*sealed) : std::nullopt;
    if (!text) return reader.fail("encrypted_content", "this server did not write it");
    request_.conversation.push_back(chat::text_message(chat::Role::kUser, *text));
  }

  GenerationRequest& request_;
  std::optional<FieldError>& error_;
};

void read_tool(JsonReader& tool, const std::string& space, std::vector<std::string>& tools,
               GenerationRequest& request) {
  const std::string type = tool.text("type").value_or("function");
  const std::string name = tool.text("name").value_or("");
  const std::string full = space.empty() ? name : cat(space, ".", name);
  if (type == "namespace") {
    const Json& inner = array_of(tool, "tools", kMaxTools);
    for (std::size_t i = 0; i < inner.size(); ++i) {
      JsonReader one(inner[i], item(tool.path_of("tools"), i), tool.error());
      read_tool(one, name, tools, request);
    }
    return;
  }
  if (type == "web_search" || type == "web_search_preview" || type == "image_generation" || type == "tool_search") {
    request.unknown_fields.push_back(cat(tool.path_of("type"), " ", type));  // nothing here to do it with
    return;
  }
  if (type != "function" && type != "custom") {
    return tool.fail("type", cat("tools of type \"", escaped(type, 40), "\" are not served"));
  }
  if (tools.size() >= kMaxTools) return tool.fail_here(cat("expected at most ", kMaxTools, " tools"));
  Json schema = {{"name", full}};
  if (const auto description = tool.text("description")) schema["description"] = *description;
  if (type == "custom") {
    schema["parameters"] = {
        {"type", "object"}, {"properties", {{"input", {{"type", "string"}}}}}, {"required", Json::array({"input"})}};
  } else if (const Json* parameters = tool.value("parameters")) {
    schema["parameters"] = *parameters;
  }
  if (type == "custom" || !space.empty()) request.tool_kinds[full] = {space, name, type == "custom"};
  const std::size_t before = tools.size();
  add_tool(tool, std::move(schema), tools, request);
  if (tools.size() > before) request.tool_names.back() = full;
}

void read_tool_choice(JsonReader& reader, GenerationRequest& request) {
  const Json* choice = reader.value("tool_choice");
  if (choice == nullptr) return;
  if (choice->is_string()) {
    const std::string name = reader.choice("tool_choice", {"auto", "none", "required"}).value_or("auto");
    request.tool_use = name == "auto" ? ToolUse::kAuto : name == "none" ? ToolUse::kNone : ToolUse::kRequired;
    return;
  }
  JsonReader inner(*choice, "tool_choice", reader.error());
  inner.choice("type", {"function", "custom"});
  request.tool_use = ToolUse::kNamed;
  request.tool_name = inner.text("name").value_or("");
}

void read_reasoning(JsonReader& reader, GenerationRequest& request) {
  if (const Json* reasoning = reader.value("reasoning")) {
    JsonReader inner(*reasoning, "reasoning", reader.error());
    request.thinking = thinking_of_effort(inner, "effort");
    const auto summary = inner.text("summary");
    request.reasoning_summary = summary && *summary != "none";
    if (const auto old = inner.text("generate_summary")) request.reasoning_summary = *old != "none";
  }
  for (const Json& what : array_of(reader, "include", 64)) {
    if (what == "reasoning.encrypted_content") request.reasoning_sealed = true;
  }
}

}  // namespace

Parsed parse_responses(const Json& body) {
  Parsed parsed;
  GenerationRequest& request = parsed.request;
  request.dialect = Dialect::kResponses;
  JsonReader reader(body, "", parsed.error);
  request.model = reader.text("model").value_or("");
  if (const auto instructions = reader.text("instructions")) {
    request.conversation.push_back(chat::text_message(chat::Role::kSystem, *instructions));
  }
  const Json* input = reader.value("input");
  if (input != nullptr && input->is_string()) {
    request.conversation.push_back(chat::text_message(chat::Role::kUser, input->get<std::string>()));
  } else {
    const Json& items = array_of(reader, "input", kMaxMessages);
    if (items.empty()) reader.fail("input", "expected a text or at least one item");
    InputReader reads(request, parsed.error);
    for (std::size_t i = 0; i < items.size() && !reader.failed(); ++i) reads.read(items[i], item("input", i));
  }
  settle_system(request.conversation);
  open_last(request.conversation);
  std::vector<std::string> tools;
  const Json& list = array_of(reader, "tools", kMaxTools);
  for (std::size_t i = 0; i < list.size(); ++i) {
    JsonReader tool(list[i], item("tools", i), parsed.error);
    read_tool(tool, "", tools, request);
  }
  read_tool_choice(reader, request);
  attach(reader, std::move(tools), request);
  request.parallel_calls = reader.boolean("parallel_tool_calls").value_or(true);
  read_sampling(reader, request);
  read_stop(reader, "stop", request);
  read_reasoning(reader, request);
  request.max_tokens = reader.integer("max_output_tokens", 1, kMaxTokens);
  const auto other_name = reader.integer("max_tokens", 1, kMaxTokens);
  if (!request.max_tokens) request.max_tokens = other_name;
  request.stream = reader.boolean("stream").value_or(false);
  if (const Json* text = reader.value("text")) {
    JsonReader inner(*text, "text", parsed.error);
    if (const Json* format = inner.value("format")) {
      JsonReader kind(*format, "text.format", parsed.error);
      if (kind.text("type").value_or("text") != "text") {
        kind.fail("type", "only \"text\" is served: this server does not yet hold a model to a schema");
      }
    }
  }
  reader.refuse_unless("previous_response_id", {}, "nothing is kept here: send the whole input again");
  reader.refuse_unless("conversation", {}, "nothing is kept here: send the whole input again");
  reader.refuse_unless("background", {false}, "answers are given at once");
  reader.refuse_unless("prompt", {}, "there are no stored prompts");
  reader.refuse_unless("top_logprobs", {0}, "ask /v1/chat/completions for logprobs");
  reader.accept({"store", "metadata", "user", "service_tier", "truncation", "prompt_cache_key", "safety_identifier",
                 "client_metadata", "stream_options", "max_tool_calls", "prompt_cache_retention"});
  for (std::string& name : reader.unread()) request.unknown_fields.push_back(std::move(name));
  return parsed;
}

namespace {

Json usage_json(const Usage& usage) {
  return {{"input_tokens", usage.prompt_tokens},
          {"input_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"output_tokens", usage.answer_tokens},
          {"output_tokens_details", {{"reasoning_tokens", usage.reasoning_tokens}}},
          {"total_tokens", usage.prompt_tokens + usage.answer_tokens}};
}

Json text_part(std::string_view text) {
  return {{"type", "output_text"}, {"text", text}, {"annotations", Json::array()}, {"logprobs", Json::array()}};
}

/// The items of an answer, and the object around them; what a stream and a whole answer have in common.
class Items {
 public:
  Items(const GenerationRequest& request, AnswerHeader header) : request_(request), header_(std::move(header)) {}

  Json response(std::string_view status, const Json& output, const AnswerEvent* end) const {
    const bool cut = end != nullptr && end->ending == Ending::kLength;
    const bool failed = end != nullptr && (end->ending == Ending::kError || end->ending == Ending::kCancelled);
    return {{"id", cat("resp_", header_.id)},
            {"object", "response"},
            {"created_at", header_.created},
            {"status", status},
            {"error", failed ? Json{{"code", "server_error"}, {"message", end->text}} : Json()},
            {"incomplete_details", cut ? Json{{"reason", "max_output_tokens"}} : Json()},
            {"instructions", nullptr},
            {"max_output_tokens", request_.max_tokens ? Json(*request_.max_tokens) : Json()},
            {"model", header_.model},
            {"output", output},
            {"parallel_tool_calls", request_.parallel_calls},
            {"previous_response_id", nullptr},
            {"reasoning", {{"effort", nullptr}, {"summary", nullptr}}},
            {"store", false},
            {"temperature", request_.temperature ? Json(*request_.temperature) : Json()},
            {"text", {{"format", {{"type", "text"}}}}},
            {"tool_choice", "auto"},
            {"tools", Json::array()},
            {"top_p", request_.top_p ? Json(*request_.top_p) : Json()},
            {"truncation", "disabled"},
            {"usage", end == nullptr ? Json() : usage_json(end->usage)},
            {"user", nullptr},
            {"metadata", Json::object()}};
  }

  Json reasoning(std::size_t index, const std::string& text, bool done) const {
    Json summary = Json::array();
    if (done && request_.reasoning_summary) summary.push_back({{"type", "summary_text"}, {"text", text}});
    Json out = {{"id", id("rs_", index)}, {"type", "reasoning"}, {"summary", std::move(summary)}};
    if (request_.reasoning_sealed) out["encrypted_content"] = done ? Json(seal(text)) : Json("");
    return out;
  }

  Json message(std::size_t index, const std::string& text, bool done) const {
    return {{"id", id("msg_", index)},
            {"type", "message"},
            {"status", done ? "completed" : "in_progress"},
            {"role", "assistant"},
            {"content", done ? Json::array({text_part(text)}) : Json::array()}};
  }

  Json call(std::size_t index, const Answer::Call& call, bool done) const {
    const auto kind = request_.tool_kinds.find(call.name);
    const bool known = kind != request_.tool_kinds.end();
    const bool custom = known && kind->second.custom;
    Json out = {{"id", id(custom ? "ctc_" : "fc_", index)},
                {"type", custom ? "custom_tool_call" : "function_call"},
                {"status", done ? "completed" : "in_progress"},
                {"call_id", call.id},
                {"name", known ? kind->second.name : call.name}};
    if (known && !kind->second.space.empty()) out["namespace"] = kind->second.space;
    out[custom ? "input" : "arguments"] = custom ? free_text(call.arguments) : call.arguments;
    return out;
  }
  bool is_custom(const std::string& name) const {
    const auto kind = request_.tool_kinds.find(name);
    return kind != request_.tool_kinds.end() && kind->second.custom;
  }

  std::string id(std::string_view prefix, std::size_t index) const { return cat(prefix, header_.id, "_", index); }
  bool summary() const { return request_.reasoning_summary; }

  static std::string free_text(const std::string& arguments) {
    const Json parsed = Json::parse(arguments, nullptr, false);
    if (!parsed.is_object() || !parsed.contains("input")) return arguments;
    return parsed["input"].is_string() ? parsed["input"].get<std::string>() : dump(parsed["input"]);
  }

 private:
  GenerationRequest request_;
  AnswerHeader header_;
};

class ResponsesWriter final : public StreamWriter {
 public:
  ResponsesWriter(const GenerationRequest& request, AnswerHeader header) : items_(request, std::move(header)) {}

  std::string write(const AnswerEvent& event) override {
    using Kind = AnswerEvent::Kind;
    switch (event.kind) {
      case Kind::kBegin: {
        const Json response = items_.response("in_progress", Json::array(), nullptr);
        return in_order({emit("response.created", {{"response", response}}),
                         emit("response.in_progress", {{"response", response}})});
      }
      case Kind::kReasoning: return reasoning(event.text);
      case Kind::kText: return text(event.text);
      case Kind::kCallStart: return call_start(event);
      case Kind::kCallArguments: return call_arguments(event.text);
      case Kind::kCallEnd: return close();
      case Kind::kEnd: return end(event);
    }
    return {};
  }

 private:
  enum class Open { kNothing, kReasoning, kText, kCall };

  std::string emit(std::string_view type, Json fields) {
    Json out = {{"type", type}, {"sequence_number", sequence_++}};
    for (auto& [name, value] : fields.items()) out[name] = std::move(value);
    return sse(type, out);
  }
  /// An event about the item that is open.
  std::string about(std::string_view type, std::string_view prefix, Json fields) {
    Json out = {{"item_id", items_.id(prefix, index())}, {"output_index", index()}};
    for (auto& [name, value] : fields.items()) out[name] = std::move(value);
    return emit(type, std::move(out));
  }
  std::size_t index() const { return output_.size(); }
  std::string added(Open what, Json item) {
    open_ = what;
    said_.clear();
    return emit("response.output_item.added", {{"output_index", index()}, {"item", std::move(item)}});
  }
  std::string done(Json item) {
    open_ = Open::kNothing;
    std::string out = emit("response.output_item.done", {{"output_index", index()}, {"item", item}});
    output_.push_back(std::move(item));
    return out;
  }

  std::string reasoning(const std::string& piece) {
    std::string out;
    if (open_ != Open::kReasoning) {
      out = close();
      out += added(Open::kReasoning, items_.reasoning(index(), "", false));
      if (items_.summary()) {
        out += about("response.reasoning_summary_part.added", "rs_",
                     {{"summary_index", 0}, {"part", {{"type", "summary_text"}, {"text", ""}}}});
      }
    }
    said_ += piece;
    if (!items_.summary()) return out;
    return out + about("response.reasoning_summary_text.delta", "rs_", {{"summary_index", 0}, {"delta", piece}});
  }

  std::string text(const std::string& piece) {
    std::string out;
    if (open_ != Open::kText) {
      out = close();
      out += added(Open::kText, items_.message(index(), "", false));
      out += about("response.content_part.added", "msg_", {{"content_index", 0}, {"part", text_part("")}});
    }
    said_ += piece;
    return out + about("response.output_text.delta", "msg_",
                       {{"content_index", 0}, {"delta", piece}, {"logprobs", Json::array()}});
  }

  std::string call_start(const AnswerEvent& event) {
    const std::string closed = close();
    call_ = {event.id, event.text, ""};
    return closed + added(Open::kCall, items_.call(index(), call_, false));
  }
  std::string call_arguments(const std::string& piece) {
    call_.arguments += piece;
    if (items_.is_custom(call_.name)) return {};  // its text is known when the JSON around it is
    return about("response.function_call_arguments.delta", "fc_", {{"delta", piece}});
  }

  std::string close() {
    switch (open_) {
      case Open::kNothing: return {};
      case Open::kReasoning: {
        std::string out;
        if (items_.summary()) {
          out = about("response.reasoning_summary_text.done", "rs_", {{"summary_index", 0}, {"text", said_}});
          out += about("response.reasoning_summary_part.done", "rs_",
                       {{"summary_index", 0}, {"part", {{"type", "summary_text"}, {"text", said_}}}});
        }
        return out + done(items_.reasoning(index(), said_, true));
      }
      case Open::kText:
        return in_order(
            {about("response.output_text.done", "msg_",
                   {{"content_index", 0}, {"text", said_}, {"logprobs", Json::array()}}),
             about("response.content_part.done", "msg_", {{"content_index", 0}, {"part", text_part(said_)}}),
             done(items_.message(index(), said_, true))});
      case Open::kCall: {
        const Json item = items_.call(index(), call_, true);
        if (items_.is_custom(call_.name)) {
          return in_order({about("response.custom_tool_call_input.delta", "ctc_", {{"delta", item["input"]}}),
                           about("response.custom_tool_call_input.done", "ctc_", {{"input", item["input"]}}),
                           done(item)});
        }
        return in_order({about("response.function_call_arguments.done", "fc_",
                               {{"name", item["name"]}, {"arguments", call_.arguments}}),
                         done(item)});
      }
    }
    return {};
  }

  std::string end(const AnswerEvent& event) {
    const bool failed = event.ending == Ending::kError || event.ending == Ending::kCancelled;
    std::string out = failed ? std::string() : close();
    const std::string_view status = failed ? "failed" : event.ending == Ending::kLength ? "incomplete" : "completed";
    return out + emit(cat("response.", status), {{"response", items_.response(status, output_, &event)}});
  }

  Items items_;
  std::int64_t sequence_ = 0;
  Json output_ = Json::array();
  Open open_ = Open::kNothing;
  std::string said_;
  Answer::Call call_;
};

}  // namespace

std::unique_ptr<StreamWriter> responses_writer(const GenerationRequest& request, const AnswerHeader& header) {
  return std::make_unique<ResponsesWriter>(request, header);
}

std::string responses_body(const GenerationRequest& request, const AnswerHeader& header, const Answer& answer) {
  const Items items(request, header);
  Json output = Json::array();
  if (!answer.reasoning.empty()) output.push_back(items.reasoning(0, answer.reasoning, true));
  if (!answer.text.empty()) output.push_back(items.message(output.size(), answer.text, true));
  for (const Answer::Call& call : answer.calls) output.push_back(items.call(output.size(), call, true));
  const std::string_view status = answer.end.ending == Ending::kLength ? "incomplete" : "completed";
  return dump(items.response(status, output, &answer.end));
}

}  // namespace ds4::server
