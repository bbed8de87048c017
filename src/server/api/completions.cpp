// POST /v1/completions: a text, or token ids, to be continued. With a field that speaks of thinking the prompt is a
// message of the user instead, as in ds4.
#include "base/text.h"
#include "server/api/dialect.h"
#include "server/api/openai_usage.h"
#include "server/api/shared_fields.h"

namespace ds4::server {

namespace {

void read_token_ids(const Json& list, JsonReader& reader, GenerationRequest& request) {
  request.tokens.emplace();
  for (const Json& id : list) {
    const bool fits = id.is_number_integer() && !(id.is_number_unsigned() && id.get<std::uint64_t>() > INT32_MAX);
    if (!fits || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() > INT32_MAX) {
      return reader.fail("prompt", cat("expected token ids, found ", kind_of(id)));
    }
    request.tokens->push_back(id.get<std::int64_t>());
  }
}

void read_prompt(JsonReader& reader, GenerationRequest& request) {
  const Json* prompt = reader.value("prompt");
  if (prompt == nullptr) return reader.fail("prompt", "expected a string or token ids");
  const Json* one = prompt;
  if (prompt->is_array() && !prompt->empty() && !(*prompt)[0].is_number()) {
    if (prompt->size() != 1) return reader.fail("prompt", "only one prompt is served at a time");
    one = &(*prompt)[0];
  }
  if (one->is_array() && !one->empty()) return read_token_ids(*one, reader, request);
  if (!one->is_string() || one->get_ref<const std::string&>().empty()) {
    return reader.fail("prompt", cat("expected a text or token ids, found ", kind_of(*one)));
  }
  request.text = one->get<std::string>();
}

}  // namespace

Parsed parse_completions(const Json& body) {
  Parsed parsed;
  GenerationRequest& request = parsed.request;
  request.dialect = Dialect::kCompletions;
  JsonReader reader(body, "", parsed.error);
  request.model = reader.text("model").value_or("");
  read_prompt(reader, request);
  const bool as_chat = reader.has("thinking") || reader.has("think") || reader.has("reasoning_effort");
  read_thinking(reader, request);
  if (as_chat && request.text) {
    request.conversation.push_back(chat::text_message(chat::Role::kUser, *request.text));
    request.text.reset();
  }
  read_sampling(reader, request);
  read_stop(reader, "stop", request);
  request.max_tokens = reader.integer("max_tokens", 1, kMaxTokens);
  request.stream = reader.boolean("stream").value_or(false);
  if (const Json* options = reader.value("stream_options")) {
    JsonReader inner(*options, "stream_options", parsed.error);
    request.include_usage = inner.boolean("include_usage").value_or(false);
  }
  if (const auto logprobs = reader.integer("logprobs", 0, 20)) {
    request.logprobs = true;
    request.top_logprobs = static_cast<int>(*logprobs);
  }
  reader.integer("n", 1, 1);
  reader.integer("best_of", 1, 1);
  reader.refuse_unless("echo", {false}, "the prompt is not repeated");
  reader.refuse_unless("suffix", {""}, "filling in the middle is not served");
  reader.refuse_unless("response_format", {}, "schemas are not served yet");
  reader.accept({"user", "cache_prompt"});
  request.unknown_fields = reader.unread();
  return parsed;
}

namespace {

Json object(const AnswerHeader& header) {
  return {{"id", cat("cmpl-", header.id)},
          {"object", "text_completion"},
          {"created", header.created},
          {"model", header.model},
          {"system_fingerprint", "ds4"}};
}

Json finish_reason(Ending ending) { return ending == Ending::kLength ? "length" : "stop"; }

Json logprobs(const std::vector<TokenChoice>& choices) {
  Json tokens = Json::array(), values = Json::array(), top = Json::array();
  for (const TokenChoice& choice : choices) {
    tokens.push_back(choice.token.bytes);
    values.push_back(choice.token.logprob);
    Json best = Json::object();
    for (const TokenInfo& token : choice.top) best[token.bytes] = token.logprob;
    top.push_back(std::move(best));
  }
  return {{"tokens", std::move(tokens)}, {"token_logprobs", std::move(values)}, {"top_logprobs", std::move(top)}};
}

Json choice(std::string_view text, const Json& logprobs, const Json& reason) {
  return {{"index", 0}, {"text", text}, {"logprobs", logprobs}, {"finish_reason", reason}};
}

class CompletionsWriter final : public StreamWriter {
 public:
  CompletionsWriter(const GenerationRequest& request, AnswerHeader header)
      : header_(std::move(header)), usage_(request.include_usage), logprobs_(request.logprobs) {}

  std::string write(const AnswerEvent& event) override {
    if (event.kind == AnswerEvent::Kind::kText) return piece(event.text, event, nullptr);
    if (event.kind == AnswerEvent::Kind::kReasoning) {
      Json out = object(header_);
      out["choices"] = Json::array({choice("", nullptr, nullptr)});
      out["choices"][0]["reasoning_content"] = event.text;
      return sse("", out);
    }
    if (event.kind != AnswerEvent::Kind::kEnd) return {};
    if (event.ending == Ending::kError || event.ending == Ending::kCancelled) {
      return cat("data: ", error_body(Dialect::kCompletions, error_of(event)), "\n\n");
    }
    std::string out = piece("", event, finish_reason(event.ending));
    if (usage_) {
      Json last = object(header_);
      last["choices"] = Json::array();
      last["usage"] = openai_usage(event.usage);
      last["timings"] = timings(event.usage);
      out += sse("", last);
    }
    return out + "data: [DONE]\n\n";
  }

 private:
  std::string piece(std::string_view text, const AnswerEvent& event, const Json& reason) {
    Json out = object(header_);
    const bool scored = logprobs_ && !event.choices.empty();
    out["choices"] = Json::array({choice(text, scored ? logprobs(event.choices) : Json(), reason)});
    return sse("", out);
  }
  AnswerHeader header_;
  bool usage_;
  bool logprobs_;
};

}  // namespace

std::unique_ptr<StreamWriter> completions_writer(const GenerationRequest& request, const AnswerHeader& header) {
  return std::make_unique<CompletionsWriter>(request, header);
}

std::string completions_body(const GenerationRequest& request, const AnswerHeader& header, const Answer& answer) {
  Json out = object(header);
  const Json scores = request.logprobs ? logprobs(answer.choices) : Json();
  out["choices"] = Json::array({choice(answer.text, scores, finish_reason(answer.end.ending))});
  if (!answer.reasoning.empty()) out["choices"][0]["reasoning_content"] = answer.reasoning;
  out["usage"] = openai_usage(answer.end.usage);
  out["timings"] = timings(answer.end.usage);
  return dump(out);
}

}  // namespace ds4::server
