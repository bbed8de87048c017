#include "server/app.h"

#include <chrono>
#include <thread>

#include "base/text.h"
#include "server/random_id.h"
#include "server/script.h"
#include "server/web_page.h"

namespace ds4::server {

enum class Action {
  kPage,
  kHealth,
  kMetrics,
  kModels,
  kProps,
  kTokenize,
  kDetokenize,
  kCountTokens,
  kChat,
  kCompletions,
  kResponses,
  kMessages,
};

struct App::Route {
  std::string_view path;
  Action action;
  bool post;
  bool open;   // without a key, and while the model is loading
  bool under;  // also everything below the path
};

namespace {

constexpr std::size_t kMaxWaitingTasks = 256;
constexpr std::size_t kMaxWaitingBytes = std::size_t{256} << 20;
constexpr int kRequestThreads = 2;
constexpr double kFlushSeconds = 10;

Dialect dialect_of(std::string_view path) {
  if (path.starts_with("/v1/messages")) return Dialect::kMessages;
  if (path == "/v1/responses") return Dialect::kResponses;
  return path == "/v1/completions" ? Dialect::kCompletions : Dialect::kChat;
}

/// JSON under its own name, or under the one that `curl -d` and its like give to everything. A page may send those
/// other names to any server without asking it first, so from what may be a page only the right one counts.
bool is_json(const HttpRequest& request) {
  std::string_view type = request.header("content-type");
  type = type.substr(0, type.find(';'));
  while (type.ends_with(' ')) type.remove_suffix(1);
  std::string lower(type);
  for (char& c : lower) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  if (lower == "application/json") return true;
  const bool usual = lower.empty() || lower == "application/x-www-form-urlencoded" || lower == "text/plain";
  return usual && !may_be_page(request);
}

std::string request_id(std::string_view given) {
  const bool sane = !given.empty() && given.size() <= 64 &&
                    given.find_first_not_of("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.") ==
                        std::string_view::npos;
  return sane ? std::string(given) : "req_" + random_hex(12);
}

}  // namespace

const App::Route* App::find_route(std::string_view path) {
  static constexpr Route kRoutes[] = {
      {"/", Action::kPage, false, true, false},
      {"/web", Action::kPage, false, true, true},
      {"/health", Action::kHealth, false, true, false},
      {"/metrics", Action::kMetrics, false, false, false},
      {"/props", Action::kProps, false, false, false},
      {"/v1/models", Action::kModels, false, false, true},
      {"/tokenize", Action::kTokenize, true, false, false},
      {"/detokenize", Action::kDetokenize, true, false, false},
      {"/v1/chat/completions", Action::kChat, true, false, false},
      {"/v1/completions", Action::kCompletions, true, false, false},
      {"/v1/responses", Action::kResponses, true, false, false},
      {"/v1/messages", Action::kMessages, true, false, false},
      {"/v1/messages/count_tokens", Action::kCountTokens, true, false, false},
  };
  for (const Route& route : kRoutes) {
    if (route.path == path) return &route;
    const bool below = route.under && path.starts_with(route.path) && path.size() > route.path.size() + 1 &&
                       path[route.path.size()] == '/';
    if (below && path.find('/', route.path.size() + 1) == std::string_view::npos) return &route;
  }
  return nullptr;
}

App::App(ServerOptions options)
    : options_(std::move(options)), gate_(options_.gate), log_(options_.quiet), replay_(options_.service.replay_ids) {}

App::~App() {
  if (http_ != nullptr) http_->stop();
  tasks_.reset();   // requests that are being read
  worker_.reset();  // and answered: their listeners refer to the service
}

std::uint16_t App::port() const { return http_->port(); }

Status App::listen() {
  if (!is_loopback(options_.http.host) && options_.gate.keys.empty() && !options_.allow_keyless) {
    return Error{ErrorCode::kUsage,
                 cat("--host ", escaped(options_.http.host),
                     " can be reached by other machines, and there is no API key: give --api-key-file FILE, or set "
                     "DS4_API_KEY (--no-api-key, if everybody may use it)")};
  }
  DS4_ASSIGN_OR_RETURN(trace_, Trace::open(options_.trace));
  DS4_ASSIGN_OR_RETURN(http_, HttpServer::listen(options_.http));
  tasks_ = std::make_unique<TaskPool>(kRequestThreads, kMaxWaitingTasks);
  http_->start([this](HttpRequest& request) { return check(request); },
               [this](HttpRequest request, std::shared_ptr<Exchange> exchange) {
                 handle(std::move(request), std::move(exchange));
               });
  log_.info("listening", {{"host", options_.http.host},
                          {"port", cat(http_->port())},
                          {"tls", options_.http.tls_certificate.empty() ? "no" : "yes"}});
  return {};
}

Status App::load() {
  DS4_ASSIGN_OR_RETURN(ModelFile file, open_model_file(options_.model));
  DS4_RETURN_IF_ERROR(start_worker(std::move(file)));
  const Tokenizer* tokenizer = scripted_file_ ? &*scripted_file_->tokenizer : engine_->tokenizer();
  service_ = std::make_unique<Service>(options_.service, *worker_, tokenizer, replay_, log_, metrics_, *trace_);
  state_ = State::kServing;
  log_.info("serving", {{"model", options_.service.model_id},
                        {"context", cat(worker_->context())},
                        {"parallel", cat(worker_->parallel())},
                        {"backend", device_}});
  return {};
}

/// A fault ends what runs; the worker's thread then sets the device up again while this thread's neighbours answer.
void App::watch_device(WorkerOptions& worker) {
  worker.on_fault = [this](const Error& fault) {
    const bool again = watch_.failed(fault, state_ == State::kServing);
    log_.error("device_fault", {{"device", device_}, {"fault", fault.message}, {"rebuild", again ? "yes" : "no"}});
    return again;
  };
  worker.on_rebuilt = [this](const Status& status) {
    watch_.rebuilt(status);
    if (status.ok()) log_.info("device_rebuilt", {{"device", device_}});
    else log_.error("device_lost", {{"device", device_}, {"why", status.error().message}});
  };
}

Status App::start_worker(ModelFile file) {
  WorkerOptions worker;
  worker.max_queue = options_.service.queue;
  worker.mixed_rows = options_.mixed_rows;
  watch_device(worker);
  if (!options_.script.empty()) {
    if (!file.tokenizer) return Error{ErrorCode::kUsage, "--script needs a model with a tokenizer"};
    if (!options_.disk.folder.empty()) return Error{ErrorCode::kUsage, "--kv-disk-dir: a script has no states to keep"};
    DS4_ASSIGN_OR_RETURN(std::vector<ScriptRule> rules, read_script(options_.script));
    ScriptedOptions scripted;
    if (options_.engine.context > 0) scripted.context = options_.engine.context;
    scripted.sessions = worker.parallel = options_.parallel > 0 ? options_.parallel : kMostParallel;
    worker.points = worker.parallel * options_.resume_points;
    metrics_.set_limits(worker.parallel, worker.points);
    device_ = "script";
    scripted_file_.emplace(std::move(file));
    scripted_ = std::make_unique<ScriptedModel>(*scripted_file_->tokenizer, std::move(rules), scripted);
    worker_ = std::make_unique<Worker>(*scripted_, &*scripted_file_->tokenizer, worker);
    return {};
  }
  EngineOptions engine = options_.engine;
  engine.snapshots = options_.resume_points;
  engine.sessions = options_.parallel > 0 ? options_.parallel : kMostParallel;
  while (options_.parallel == 0 && engine.sessions > 1) {
    DS4_ASSIGN_OR_RETURN(const EnginePlan plan, plan_engine(file, engine));
    if (plan.fits()) break;
    --engine.sessions;
  }
  DS4_ASSIGN_OR_RETURN(engine_, Engine::load(std::move(file), engine));
  device_ = engine_->backend_name();
  if (const std::string note = engine_->plan().note(); !note.empty()) log_.warn("memory", {{"note", note}});
  if (options_.warm_weights) DS4_RETURN_IF_ERROR(engine_->warm_weights(nullptr, nullptr));
  worker.parallel = engine.sessions;
  worker.points = engine.sessions * engine.snapshots;
  metrics_.set_limits(worker.parallel, worker.points);
  DS4_RETURN_IF_ERROR(open_disk());
  worker.disk = disk_.get();
  worker_ = std::make_unique<Worker>(engine_->token_model(), engine_->tokenizer(), worker);
  return {};
}

Status App::open_disk() {
  if (options_.disk.folder.empty()) return {};
  DiskOptions disk = options_.disk;
  disk.warn = [this](const std::string& what) { log_.warn("kv_store", {{"what", what}}); };
  disk.saved = [this](const kvstore::SaveReport& report) {
    log_.info("kv_saved", {{"tokens", cat(report.position)},
                           {"blocks", cat(report.blocks)},
                           {"bytes", cat(report.bytes)},
                           {"ms", cat(static_cast<std::int64_t>(report.seconds * 1e3))}});
  };
  if (options_.service.exact_replay) {
    disk.record = [this](std::string_view calls) {
      if (!replay_.add_kept(calls)) log_.warn("kv_store", {{"what", "a record of calls is not used: it is cut"}});
    };
  }
  Result<std::unique_ptr<DiskStates>> opened = engine_->open_disk(std::move(disk));
  // Whoever asked for states on disk is told at once that there will be none.
  if (!opened.ok()) return Error{ErrorCode::kUsage, cat("--kv-disk-dir: ", opened.error().message)};
  disk_ = std::move(opened).value();
  replay_.keep_with([this](std::string calls) { disk_->keep(std::move(calls)); });
  const kvstore::StoreStats stats = disk_->store().stats();
  log_.info("kv_store", {{"folder", options_.disk.folder},
                         {"points", cat(stats.points)},
                         {"blocks", cat(stats.blocks)},
                         {"bytes", cat(stats.bytes)},
                         {"calls", cat(stats.records_found)},
                         {"budget", cat(options_.disk.budget)}});
  return {};
}

HttpReply App::refuse(const HttpRequest& request, const ErrorInfo& error) const {
  const Dialect dialect = dialect_of(request.path);
  HttpReply reply{http_status(dialect, error.kind), "application/json", error_body(dialect, error),
                  gate_.cors(request)};
  if (reply.status == 401) reply.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (error.kind == ApiError::kUnavailable) reply.headers.emplace_back("Retry-After", "5");
  return reply;
}

/// What is wrong with a request before its body has been read. The connections' thread.
std::optional<HttpReply> App::check(HttpRequest& request) {
  request.id = request_id(request.header("x-request-id"));
  const auto refuse_with = [&](ApiError kind, std::string message) {
    HttpReply reply = refuse(request, {kind, std::move(message)});
    metrics_.count_reply("refused", reply.status);
    log_.info("refused", {{"id", request.id}, {"path", request.path}, {"status", cat(reply.status)}});
    return reply;
  };
  const Route* route = find_route(request.path);
  const bool open = route != nullptr && route->open;
  const bool options = request.method == "OPTIONS";
  if (const auto refusal = gate_.check(request, open || options)) {
    switch (*refusal) {
      case Gatekeeper::Refusal::kHost:
        return refuse_with(ApiError::kForbidden, "this Host is not served here; --allow-host NAME adds one");
      case Gatekeeper::Refusal::kOrigin:
        return refuse_with(ApiError::kForbidden, "pages of this Origin may not call; --cors-origin ORIGIN adds one");
      case Gatekeeper::Refusal::kKey: return refuse_with(ApiError::kAuth, "the API key is missing or wrong");
    }
  }
  if (options) return std::nullopt;
  if (route == nullptr) return refuse_with(ApiError::kNotFound, "there is nothing here");
  const bool reads = request.method == "GET" || request.method == "HEAD";
  if (route->post ? request.method != "POST" : !reads) {
    HttpReply reply = refuse_with(ApiError::kInvalid, cat("expected ", route->post ? "POST" : "GET"));
    reply.status = 405;
    reply.headers.emplace_back("Allow", route->post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS");
    return reply;
  }
  if (route->post && !is_json(request)) {
    HttpReply reply = refuse_with(ApiError::kInvalid, "Content-Type: expected application/json");
    reply.status = 415;
    return reply;
  }
  if (!open && route->action != Action::kMetrics) {
    if (state_ == State::kLoading) return refuse_with(ApiError::kUnavailable, "the model is loading");
    if (state_ == State::kDraining) return refuse_with(ApiError::kUnavailable, "the server is stopping");
    if (watch_.state() != DeviceWatch::State::kUp)
      return refuse_with(ApiError::kUnavailable, "the device has failed and is being set up again");
  }
  return std::nullopt;
}

HttpReply App::preflight(const HttpRequest& request) const {
  HttpReply reply{204, "", "", gate_.cors(request)};
  if (reply.headers.empty()) return reply;
  reply.headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
  std::string allowed =
      "authorization, content-type, x-api-key, anthropic-version, anthropic-beta, "
      "anthropic-dangerous-direct-browser-access, x-request-id";
  // x-stainless-* of the vendors' clients cannot be listed with a star when credentials are sent.
  for (const char* name : {"arch", "async", "custom-poll-interval", "helper-method", "lang", "os", "package-version",
                           "poll-helper", "retry-count", "runtime", "runtime-version", "timeout"}) {
    allowed += cat(", x-stainless-", name);
  }
  reply.headers.emplace_back("Access-Control-Allow-Headers", allowed);
  reply.headers.emplace_back("Access-Control-Max-Age", "600");
  return reply;
}

HttpReply App::health() const {
  const State state = state_;
  const DeviceWatch::State device = watch_.state();
  if (state == State::kServing && device != DeviceWatch::State::kUp) {
    const bool again = device == DeviceWatch::State::kRebuilding;
    return {503,
            "application/json",
            dump({{"status", "device down"}, {"device", device_}, {"fault", watch_.fault()}, {"rebuilding", again}}),
            {{"Retry-After", "5"}}};
  }
  if (state == State::kServing) return {200, "application/json", "{\"status\":\"ok\"}", {}};
  const char* status = state == State::kLoading ? "loading model" : "stopping";
  return {503, "application/json", cat("{\"status\":\"", status, "\"}"), {{"Retry-After", "5"}}};
}

/// The connections' thread: what takes time goes to the request threads.
void App::handle(HttpRequest request, std::shared_ptr<Exchange> exchange) {
  if (request.method == "OPTIONS") return exchange->reply(preflight(request));
  const Route* route = find_route(request.path);
  if (route == nullptr) return exchange->reply(refuse(request, {ApiError::kNotFound, "there is nothing here"}));
  if (!route->post) {
    HttpReply reply = answer(*route, request);
    for (auto& header : gate_.cors(request)) reply.headers.push_back(std::move(header));
    return exchange->reply(std::move(reply));
  }
  const std::size_t bytes = request.body.size();
  if (waiting_bytes_.load() + bytes > kMaxWaitingBytes) {
    return exchange->reply(refuse(request, {ApiError::kUnavailable, "too many large requests at once"}));
  }
  auto shared = std::make_shared<HttpRequest>(std::move(request));
  waiting_bytes_ += bytes;
  const bool taken = tasks_->run([this, route, shared, exchange, bytes] {
    run_task(*route, *shared, exchange);
    waiting_bytes_ -= bytes;
  });
  if (taken) return;
  waiting_bytes_ -= bytes;
  exchange->reply(refuse(*shared, {ApiError::kUnavailable, "too many requests at once"}));
}

/// A request thread.
void App::run_task(const Route& route, const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  Headers cors = gate_.cors(request);
  try {
    switch (route.action) {
      case Action::kChat: return service_->generate(Dialect::kChat, request, exchange, std::move(cors));
      case Action::kCompletions: return service_->generate(Dialect::kCompletions, request, exchange, std::move(cors));
      case Action::kResponses: return service_->generate(Dialect::kResponses, request, exchange, std::move(cors));
      case Action::kMessages: return service_->generate(Dialect::kMessages, request, exchange, std::move(cors));
      default: break;
    }
    HttpReply reply = answer(route, request);
    for (auto& header : cors) reply.headers.push_back(std::move(header));
    exchange->reply(std::move(reply));
  } catch (const std::exception& failure) {
    log_.warn("failure", {{"id", request.id}, {"what", failure.what()}});
    exchange->reply(refuse(request, {ApiError::kServer, "the server failed to read this request"}));
  }
}

HttpReply App::answer(const Route& route, const HttpRequest& request) {
  switch (route.action) {
    case Action::kPage: return web_page(request);
    case Action::kHealth: return health();
    case Action::kMetrics:
      return {200,
              "text/plain; version=0.0.4; charset=utf-8",
              metrics_.text(state_ != State::kLoading && worker_ != nullptr ? worker_->stats() : WorkerStats{},
                            http_->counts(), watch_,
                            state_ == State::kServing && watch_.state() == DeviceWatch::State::kUp),
              {}};
    case Action::kModels:
      return service_->models(request.path.size() > route.path.size() ? request.path.substr(route.path.size() + 1)
                                                                      : "");
    case Action::kProps: return service_->props();
    case Action::kTokenize: return service_->tokenize(request);
    case Action::kDetokenize: return service_->detokenize(request);
    case Action::kCountTokens: return service_->count_tokens(request);
    default: return {404, "text/plain", "", {}};
  }
}

bool App::reload_tls() {
  if (options_.http.tls_certificate.empty()) return false;
  const Status status = http_->reload_tls();
  if (status.ok()) log_.info("certificate", {{"file", options_.http.tls_certificate}});
  else log_.warn("certificate", {{"problem", status.error().message}});
  return true;
}

void App::drain() {
  using Clock = std::chrono::steady_clock;
  state_ = State::kDraining;
  log_.info("draining", {{"running", cat(service_ != nullptr ? service_->running() : 0)}});
  http_->drain();
  if (service_ == nullptr) return;
  const auto end = Clock::now() + std::chrono::duration<double>(options_.drain_seconds);
  const auto busy = [&] { return service_->running() > 0 || waiting_bytes_ > 0; };
  while (busy() && Clock::now() < end && !hurry_) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  service_->cancel_all();
  finish_replies();
  watch_.release();
}

Status App::wait() {
  const Status lost = watch_.wait();
  if (lost.ok()) return {};
  log_.info("draining", {{"running", cat(service_->running())}});
  http_->drain();
  finish_replies();
  return lost;
}

/// Every answer has been told to end: waits until it has, and until it is written.
void App::finish_replies() {
  using Clock = std::chrono::steady_clock;
  const auto busy = [&] { return service_->running() > 0 || waiting_bytes_ > 0; };
  const auto last = Clock::now() + std::chrono::seconds(5);
  while (busy() && Clock::now() < last) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  // Every answer has handed its state over by now; what the disk does not take in time is only a cache.
  if (disk_ != nullptr && !disk_->flush(hurry_ ? 1 : kFlushSeconds)) {
    log_.warn("kv_store", {{"what", cat("the disk is slow: states of the last answers are not stored")}});
  }
  // What has been written has to get out: connections close themselves when it is.
  const auto flushed = Clock::now() + std::chrono::seconds(hurry_ ? 0 : 2);
  while (http_->counts().open > 0 && Clock::now() < flushed) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  log_.info("stopped", {});
}

}  // namespace ds4::server
