#include "server/service.h"

#include <algorithm>
#include <ctime>

#include "base/text.h"
#include "chat/utf8_gate.h"
#include "server/answer_stream.h"
#include "server/random_id.h"

namespace ds4::server {

namespace {

std::string_view name_of(Dialect dialect) {
  switch (dialect) {
    case Dialect::kChat: return "chat";
    case Dialect::kCompletions: return "completions";
    case Dialect::kResponses: return "responses";
    case Dialect::kMessages: return "messages";
  }
  return "?";
}

std::string_view prompt_field(Dialect dialect) {
  if (dialect == Dialect::kResponses) return "input";
  return dialect == Dialect::kCompletions ? "prompt" : "messages";
}

std::string_view name_of(Ending ending) {
  switch (ending) {
    case Ending::kStop: return "stop";
    case Ending::kStopString: return "stop_string";
    case Ending::kLength: return "length";
    case Ending::kToolCalls: return "tool_calls";
    case Ending::kCancelled: return "cancelled";
    case Ending::kError: return "error";
  }
  return "?";
}

/// What was asked for, as it was understood, with the defaults filled in.
std::string describe(const GenerationRequest& asked, const Request& request) {
  constexpr const char* kUses[] = {"auto", "none", "required", "named"};
  const Sampling& sampling = request.sampling;
  std::string stops;
  for (const std::string& stop : asked.stop) stops += cat(" \"", escaped(stop), "\"");
  return cat("model ", escaped(asked.model), "\nprompt ", request.prompt.tokens.size(), " tokens, answer at most ",
             request.max_tokens, "\ntools ", asked.tool_names.size(), ", ", kUses[static_cast<int>(asked.tool_use)],
             " ", escaped(asked.tool_name), "\ntemperature ", sampling.temperature, ", top_p ", sampling.top_p,
             ", top_k ", sampling.top_k, ", min_p ", sampling.min_p, ", seed ", sampling.seed, "\nstop", stops,
             asked.stream ? "\nstreamed\n" : "\nwhole\n");
}

std::string milliseconds(double seconds) { return cat(static_cast<std::int64_t>(seconds * 1e3)); }

constexpr const char* kStreamType = "text/event-stream; charset=utf-8";

}  // namespace

/// One answer on its way to its client. Events come from the engine's thread, silence from the connections'.
class Service::Generation : public std::enable_shared_from_this<Generation> {
 public:
  Generation(Service& service, GenerationRequest request, AnswerHeader header, std::string id, Headers headers,
             std::shared_ptr<Exchange> exchange)
      : service_(service),
        request_(std::move(request)),
        header_(std::move(header)),
        id_(std::move(id)),
        headers_(std::move(headers)),
        exchange_(std::move(exchange)) {
    if (request_.stream) writer_ = stream_writer(request_, header_);
    ++service_.running_;
  }
  ~Generation() { --service_.running_; }

  /// An answer that cannot be put into words ends its connection; the engine's thread goes on.
  void take(AnswerEvent event) {
    guarded([&] { this->event(std::move(event)); });
  }

  void silence() {
    guarded([&] {
      if (!writer_) return;
      begin();
      exchange_->send(writer_->keepalive());
    });
  }

 private:
  template <typename Action>
  void guarded(Action action) {
    const std::lock_guard lock(mutex_);
    if (broken_) return;
    try {
      action();
    } catch (const std::exception& failure) {
      broken_ = true;
      service_.log_.warn("failure", {{"id", id_}, {"what", failure.what()}});
      exchange_->abandon();
    }
  }

  void event(AnswerEvent event) {
    if (event.kind == AnswerEvent::Kind::kBegin) service_.metrics_.count_cached(event.usage.cached_tokens);
    if (service_.trace_.on()) trace(event);
    const bool ends = event.kind == AnswerEvent::Kind::kEnd;
    if (ends) account(event);
    if (!writer_) {
      answer_.add(event);
      if (ends) reply_whole();
      return;
    }
    if (ends && !begun_ && (event.ending == Ending::kError || event.ending == Ending::kCancelled)) {
      return exchange_->reply(service_.failure(request_.dialect, error_of(event), headers_));
    }
    begin();
    exchange_->send(writer_->write(event));
    if (ends) exchange_->end_stream();
  }

  void begin() {
    if (begun_) return;
    begun_ = true;
    HttpReply head{200, kStreamType, {}, headers_};
    head.headers.emplace_back("Cache-Control", "no-cache");
    head.headers.emplace_back("X-Accel-Buffering", "no");
    service_.metrics_.count_reply(name_of(request_.dialect), 200);
    exchange_->begin_stream(std::move(head));
  }

  void reply_whole() {
    if (answer_.end.ending == Ending::kError || answer_.end.ending == Ending::kCancelled) {
      return exchange_->reply(service_.failure(request_.dialect, error_of(answer_.end), headers_));
    }
    service_.metrics_.count_reply(name_of(request_.dialect), 200);
    exchange_->reply({200, "application/json", whole_body(request_, header_, answer_), headers_});
  }

  void account(const AnswerEvent& end) {
    service_.metrics_.count_answer(end.usage, end.ending);
    const Usage& usage = end.usage;
    service_.log_.info("answer", {{"id", id_},
                                  {"api", std::string(name_of(request_.dialect))},
                                  {"ending", std::string(name_of(end.ending))},
                                  {"prompt", cat(usage.prompt_tokens)},
                                  {"cached", cat(usage.cached_tokens)},
                                  {"loaded", cat(usage.loaded_tokens)},
                                  {"tokens", cat(usage.answer_tokens)},
                                  {"queue_ms", milliseconds(usage.queue_seconds)},
                                  {"load_ms", milliseconds(usage.load_seconds)},
                                  {"prompt_ms", milliseconds(usage.prompt_seconds)},
                                  {"answer_ms", milliseconds(usage.answer_seconds)},
                                  {"error", end.ending == Ending::kError ? end.text : std::string("-")}});
  }

  void trace(const AnswerEvent& event) {
    using Kind = AnswerEvent::Kind;
    traced_.add(event);
    if (event.kind != Kind::kEnd) return;
    std::string text = cat("reasoning: ", traced_.reasoning, "\ntext: ", traced_.text, "\n");
    for (const Answer::Call& call : traced_.calls)
      text += cat("call ", call.id, " ", call.name, " ", call.arguments, "\n");
    text +=
        cat("ending: ", name_of(event.ending), " ", event.text, "\ncached ", event.usage.cached_tokens, " of ",
            event.usage.prompt_tokens, ", ", event.usage.answer_tokens, " tokens in ",
            milliseconds(event.usage.answer_seconds), " ms after ", milliseconds(event.usage.prompt_seconds), " ms\n");
    service_.trace_.write(id_, "answer", text);
  }

  Service& service_;
  const GenerationRequest request_;
  const AnswerHeader header_;
  const std::string id_;
  const Headers headers_;
  const std::shared_ptr<Exchange> exchange_;

  std::mutex mutex_;
  std::unique_ptr<StreamWriter> writer_;  // null: the answer goes out as a whole
  bool begun_ = false;
  bool broken_ = false;
  Answer answer_, traced_;
};

Service::Service(const ServiceOptions& options, Worker& worker, const Tokenizer* tokenizer, ReplayMap& replay, Log& log,
                 Metrics& metrics, Trace& trace)
    : options_(options),
      worker_(worker),
      tokenizer_(tokenizer),
      replay_(replay),
      log_(log),
      metrics_(metrics),
      trace_(trace),
      started_(std::time(nullptr)) {}

HttpReply Service::failure(Dialect dialect, const ErrorInfo& error, Headers headers) const {
  const int status = http_status(dialect, error.kind);
  if (error.kind == ApiError::kQueueFull || error.kind == ApiError::kUnavailable)
    headers.emplace_back("Retry-After", "2");
  metrics_.count_reply(name_of(dialect), status);
  return {status, "application/json", error_body(dialect, error), std::move(headers)};
}

std::variant<GenerationRequest, ErrorInfo> Service::read(Dialect dialect, const HttpRequest& request) {
  std::string problem;
  const std::optional<Json> body = parse_json(request.body, problem);
  if (!body) return ErrorInfo{ApiError::kInvalid, problem};
  Parsed parsed = parse_request(dialect, *body);
  if (parsed.error) return ErrorInfo{ApiError::kInvalid, parsed.error->message, parsed.error->field};
  for (const std::string& field : parsed.request.unknown_fields) {
    log_.once(cat(name_of(dialect), " ", field), "ignored_field",
              {{"api", std::string(name_of(dialect))}, {"field", field}});
  }
  if (auto error = check_numbers(parsed.request)) return std::move(*error);
  return std::move(parsed.request);
}

/// Token ids against the vocabulary, which no dialect knows.
std::optional<ErrorInfo> Service::check_numbers(const GenerationRequest& request) const {
  const auto bad = [&](std::string_view field, std::int64_t id) {
    return ErrorInfo{ApiError::kInvalid,
                     cat(field, ": expected token ids from 0 to ", worker_.vocab() - 1, ", found ", id),
                     std::string(field)};
  };
  for (const auto& [token, bias] : request.logit_bias) {
    if (token >= worker_.vocab()) return bad("logit_bias", token);
  }
  if (!request.tokens) return std::nullopt;
  for (const std::int64_t token : *request.tokens) {
    if (token < 0 || token >= worker_.vocab()) return bad("prompt", token);
  }
  return std::nullopt;
}

chat::Thinking Service::thinking_of(const GenerationRequest& request) const {
  chat::Thinking thinking = options_.thinking;
  if (request.model == "deepseek-chat") thinking = chat::Thinking::kChat;
  if (request.model == "deepseek-reasoner") thinking = chat::Thinking::kThinking;
  thinking = request.thinking.value_or(thinking);
  if (thinking == chat::Thinking::kMax && worker_.context() < kThinkMaxContext) return chat::Thinking::kThinking;
  return thinking;
}

Service::Outcome Service::prepare(GenerationRequest& request) {
  Prepared out;
  if (request.tokens) {
    out.plain = true;
    std::vector<TokenId> tokens;
    for (const std::int64_t token : *request.tokens) tokens.push_back(static_cast<TokenId>(token));
    out.prompt = Worker::as_given(std::move(tokens));
  } else {
    Prompt prompt;
    if (request.text) {
      out.plain = true;
      if (tokenizer_ != nullptr) {
        prompt.push_back({SegmentKind::kMarker, std::string(tokenizer_->token_bytes(tokenizer_->bos()))});
      }
      prompt.push_back({SegmentKind::kUntrusted, *request.text});
    } else {
      if (options_.exact_replay) replay_.restore(request.conversation);
      Result<Prompt> rendered = chat::render(request.conversation, {.thinking = thinking_of(request)});
      if (!rendered.ok()) return ErrorInfo{ApiError::kInvalid, rendered.error().message};
      prompt = std::move(rendered).value();
      out.thinking = chat::opens_thinking(prompt);
      const auto has_tools = [](const chat::Message& turn) { return !turn.tools.empty(); };
      out.answer_returns = !out.thinking || std::ranges::any_of(request.conversation, has_tools);
    }
    if (trace_.on()) out.text = chat::prompt_text(prompt);
    Result<PromptTokens> matched = worker_.match(prompt);
    if (!matched.ok()) return ErrorInfo{ApiError::kInvalid, matched.error().message};
    out.prompt = std::move(matched).value();
  }
  const auto count = static_cast<std::int64_t>(out.prompt.tokens.size());
  if (count >= worker_.context()) {
    return ErrorInfo{ApiError::kContext,
                     cat("the prompt has ", count, " tokens, but the context holds ", worker_.context()),
                     std::string(prompt_field(request.dialect)), count, worker_.context()};
  }
  return out;
}

Request Service::request_for(const GenerationRequest& asked, Prepared prepared) const {
  Request request;
  const auto room = worker_.context() - static_cast<std::int64_t>(prepared.prompt.tokens.size());
  request.prompt = std::move(prepared.prompt);
  request.answer_returns = prepared.answer_returns;
  request.max_tokens = std::min(asked.max_tokens.value_or(options_.max_tokens), room);
  request.sampling = options_.sampling;
  request.sampling.temperature = asked.temperature.value_or(options_.sampling.temperature);
  request.sampling.top_p = asked.top_p.value_or(options_.sampling.top_p);
  request.sampling.min_p = asked.min_p.value_or(options_.sampling.min_p);
  request.sampling.top_k = asked.top_k.value_or(options_.sampling.top_k);
  if (asked.seed) request.sampling.seed = static_cast<std::uint64_t>(*asked.seed);
  else request.sampling.seed = std::stoull(random_hex(8), nullptr, 16);
  request.adjustments.presence = asked.presence_penalty;
  request.adjustments.frequency = asked.frequency_penalty;
  request.adjustments.repetition = asked.repetition_penalty;
  for (const auto& [token, bias] : asked.logit_bias) {
    request.adjustments.bias.emplace_back(static_cast<TokenId>(token), static_cast<float>(bias));
  }
  if (tokenizer_ != nullptr) request.stop = {tokenizer_->eos()};
  request.logprobs = asked.logprobs;
  request.top_logprobs = asked.top_logprobs;
  return request;
}

void Service::generate(Dialect dialect, const HttpRequest& http, std::shared_ptr<Exchange> exchange, Headers headers) {
  trace_.write(http.id, cat("request ", name_of(dialect)), http.body);
  const auto refuse = [&](const ErrorInfo& error) {
    trace_.write(http.id, "refused", error.message);
    exchange->reply(failure(dialect, error, headers));
  };
  auto parsed = read(dialect, http);
  if (const auto* error = std::get_if<ErrorInfo>(&parsed)) return refuse(*error);
  GenerationRequest& asked = std::get<GenerationRequest>(parsed);
  Outcome outcome = prepare(asked);
  if (const auto* error = std::get_if<ErrorInfo>(&outcome)) return refuse(*error);
  Prepared& prepared = std::get<Prepared>(outcome);
  trace_.write(http.id, "prompt", prepared.text);
  // What waits in the queue are tokens; the words they came from need not wait with them.
  asked.conversation.clear();
  asked.text.reset();
  asked.tokens.reset();

  AnswerHeader header{random_hex(16), static_cast<std::int64_t>(std::time(nullptr)),
                      asked.model.empty() ? options_.model_id : chat::valid_utf8(asked.model)};
  auto generation = std::make_shared<Generation>(*this, asked, header, http.id, headers, exchange);
  AnswerStream::Setup setup;
  setup.tokenizer = tokenizer_;
  setup.replay = options_.exact_replay ? &replay_ : nullptr;
  setup.plain = prepared.plain;
  setup.thinking = prepared.thinking;
  setup.tools = !asked.tool_names.empty();
  setup.tool_use = asked.tool_use;
  setup.tool_name = asked.tool_name;
  setup.parallel_calls = asked.parallel_calls;
  setup.stream = asked.stream;
  setup.logprobs = asked.logprobs;
  setup.stop = asked.stop;
  setup.call_prefix = dialect == Dialect::kMessages ? "toolu_" : "call_";
  setup.tokens = &metrics_.answer_tokens();
  if (trace_.on()) {
    setup.on_complete = [this, id = http.id](std::string_view raw) { trace_.write(id, "sampled", raw); };
  }
  setup.emit = [generation](AnswerEvent event) { generation->take(std::move(event)); };

  Request request = request_for(asked, std::move(prepared));
  if (trace_.on()) trace_.write(http.id, "settings", describe(asked, request));
  request.listener = std::make_shared<AnswerStream>(std::move(setup));
  const auto cancel = request.cancel;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(cancels_, [](const auto& one) { return one.expired(); });
    cancels_.push_back(cancel);
  }
  // Weak: the exchange is held by the generation, and holds the callbacks.
  exchange->on_gone([this, cancel] {
    *cancel = true;
    worker_.wake();
  });
  exchange->on_silence([weak = std::weak_ptr<Generation>(generation)] {
    if (const auto alive = weak.lock()) alive->silence();
  });
  switch (worker_.submit(std::move(request))) {
    case Worker::Admission::kQueued: return;
    case Worker::Admission::kFull:
      return exchange->reply(
          failure(dialect, {ApiError::kQueueFull, cat("the queue is full: ", options_.queue, " requests are waiting")},
                  headers));
    case Worker::Admission::kDown:
      return exchange->reply(
          failure(dialect, {ApiError::kUnavailable, "the device has failed and is being set up again"}, headers));
    case Worker::Admission::kStopped:
      return exchange->reply(failure(dialect, {ApiError::kUnavailable, "the server is stopping"}, headers));
  }
}

void Service::cancel_all() {
  const std::lock_guard lock(mutex_);
  for (const auto& weak : cancels_) {
    if (const auto cancel = weak.lock()) *cancel = true;
  }
  worker_.wake();
}

HttpReply Service::count_tokens(const HttpRequest& http) {
  auto parsed = read(Dialect::kMessages, http);
  if (const auto* error = std::get_if<ErrorInfo>(&parsed)) return failure(Dialect::kMessages, *error, {});
  Outcome outcome = prepare(std::get<GenerationRequest>(parsed));
  std::int64_t count = 0;
  if (const auto* error = std::get_if<ErrorInfo>(&outcome)) {
    if (error->kind != ApiError::kContext) return failure(Dialect::kMessages, *error, {});
    count = error->prompt_tokens;
  } else {
    count = static_cast<std::int64_t>(std::get<Prepared>(outcome).prompt.tokens.size());
  }
  return {200, "application/json", dump({{"input_tokens", count}}), {}};
}

HttpReply Service::tokenize(const HttpRequest& http) {
  std::string problem;
  const std::optional<Json> body = parse_json(http.body, problem);
  if (!body) return failure(Dialect::kChat, {ApiError::kInvalid, problem}, {});
  std::optional<FieldError> error;
  JsonReader reader(*body, "", error);
  auto text = reader.text("content");
  if (!text) text = reader.text("prompt");
  if (!text) reader.fail("content", "expected a string");
  const bool special = reader.boolean("parse_special").value_or(false);
  const bool bos = reader.boolean("add_special").value_or(false);
  const bool pieces = reader.boolean("with_pieces").value_or(false);
  if (error) return failure(Dialect::kChat, {ApiError::kInvalid, error->message, error->field}, {});
  if (tokenizer_ == nullptr) return failure(Dialect::kChat, {ApiError::kInvalid, "this model has no tokenizer"}, {});
  std::vector<TokenId> tokens = tokenizer_->encode_text(*text, special);
  if (bos) tokens.insert(tokens.begin(), tokenizer_->bos());
  Json list = Json::array();
  for (const TokenId token : tokens) {
    if (pieces) list.push_back({{"id", token}, {"piece", tokenizer_->token_bytes(token)}});
    else list.push_back(token);
  }
  return {200, "application/json", dump({{"tokens", std::move(list)}}), {}};
}

HttpReply Service::detokenize(const HttpRequest& http) {
  std::string problem;
  const std::optional<Json> body = parse_json(http.body, problem);
  if (!body) return failure(Dialect::kChat, {ApiError::kInvalid, problem}, {});
  std::optional<FieldError> error;
  JsonReader reader(*body, "", error);
  const Json* tokens = reader.value("tokens");
  std::string text;
  if (tokens == nullptr || !tokens->is_array()) reader.fail("tokens", "expected an array of token ids");
  for (std::size_t i = 0; !error && i < tokens->size(); ++i) {
    const Json& id = (*tokens)[i];
    if (!id.is_number_integer() || id < 0 || id >= worker_.vocab()) {
      reader.fail("tokens", cat("expected ids from 0 to ", worker_.vocab() - 1, ", found ", kind_of(id)));
    } else if (tokenizer_ != nullptr) {
      text += tokenizer_->token_bytes(id.get<TokenId>());
    }
  }
  if (error) return failure(Dialect::kChat, {ApiError::kInvalid, error->message, error->field}, {});
  return {200, "application/json", dump({{"content", chat::valid_utf8(text)}}), {}};
}

/// One object for OpenAI's and Anthropic's clients.
Json Service::model_json(std::string_view id) const {
  char created[24];
  const std::time_t time = started_;
  std::tm utc{};
  gmtime_r(&time, &utc);
  std::strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", &utc);
  const std::int64_t context = worker_.context();
  return {{"id", id},
          {"object", "model"},
          {"created", started_},
          {"owned_by", "ds4"},
          {"type", "model"},
          {"display_name", id},
          {"created_at", created},
          {"context_length", context},
          {"max_model_len", context},
          {"top_provider",
           {{"context_length", context}, {"max_completion_tokens", std::min(options_.max_tokens, context)}}},
          {"supported_parameters",
           {"max_tokens",
            "max_completion_tokens",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "seed",
            "stop",
            "logprobs",
            "top_logprobs",
            "presence_penalty",
            "frequency_penalty",
            "repetition_penalty",
            "logit_bias",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "reasoning",
            "reasoning_effort",
            "thinking",
            "stream"}}};
}

HttpReply Service::models(std::string_view id) const {
  const std::vector<std::string> ids = {options_.model_id};
  if (id.empty()) {
    return {200,
            "application/json",
            dump({{"object", "list"},
                  {"data", Json::array({model_json(options_.model_id)})},
                  {"has_more", false},
                  {"first_id", options_.model_id},
                  {"last_id", options_.model_id}}),
            {}};
  }
  // Clients of ds4 ask for its names, whatever is loaded; any name is served.
  if (id == options_.model_id || id == "deepseek-v4-flash" || id == "deepseek-v4-pro" || id == "deepseek-chat" ||
      id == "deepseek-reasoner") {
    return {200, "application/json", dump(model_json(id)), {}};
  }
  return failure(Dialect::kChat, {ApiError::kNotFound, cat("there is no model \"", escaped(id, 100), "\"")}, {});
}

HttpReply Service::props() const {
  const Sampling& sampling = options_.sampling;
  return {200,
          "application/json",
          dump({{"default_generation_settings",
                 {{"n_ctx", worker_.context()},
                  {"params",
                   {{"temperature", sampling.temperature},
                    {"top_k", sampling.top_k},
                    {"top_p", sampling.top_p},
                    {"min_p", sampling.min_p},
                    {"max_tokens", options_.max_tokens}}}}},
                {"total_slots", worker_.parallel()},
                {"model_alias", options_.model_id},
                {"vocab_size", worker_.vocab()},
                {"build_info", "ds4-server"}}),
          {}};
}

}  // namespace ds4::server
