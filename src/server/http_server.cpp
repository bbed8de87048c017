#include "server/http_server.h"

#include <pthread.h>

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <deque>
#include <thread>
#include <unordered_set>

#include "base/text.h"
#include "server/tls.h"

namespace ds4::server {

namespace asio = boost::asio;
using Tcp = asio::ip::tcp;
using ErrorCodeBoost = boost::system::error_code;
using Clock = std::chrono::steady_clock;

namespace {

constexpr auto kTick = std::chrono::milliseconds(100);
constexpr std::size_t kReadBlock = 16 * 1024;
/// Read ahead of a request that is being answered: enough to see a client go, and a pipelined request or two.
constexpr std::size_t kReadAhead = 64 * 1024;
/// How long a connection that will be closed is read on, so that the answer is not lost in a reset.
constexpr double kLinger = 1.0;

Clock::duration time_of(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

class Server;

class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  /// `tls`: may be null, for a connection in the clear.
  Connection(Server& server, Tcp::socket socket, const std::shared_ptr<asio::ssl::context>& tls);
  void start();
  void tick(Clock::time_point now);
  void close();
  void refuse(const HttpReply& reply);

  void reply(std::uint64_t request, HttpReply reply);
  void begin_stream(std::uint64_t request, HttpReply head);
  void send(std::uint64_t request, std::string bytes);
  void end_stream(std::uint64_t request);
  void abandon(std::uint64_t request);
  void on_gone(std::uint64_t request, std::function<void()> callback);
  void on_silence(std::uint64_t request, std::function<void()> callback);

 private:
  enum class State { kShakingHands, kReading, kAnswering, kStreaming, kClosing, kClosed };

  void shake_hands();
  void read();
  void process();
  bool head_read();
  void request_read();
  void fail(int status, const std::string& problem);
  void write(std::string bytes);
  void write_next();
  void finish_sending();
  void answered();
  void next_request();
  std::string head_text(const HttpReply& reply, std::string_view framing, bool closes) const;
  bool current(std::uint64_t request) const { return request == request_ && !answered_; }

  Server& server_;
  Tcp::socket socket_;
  std::optional<asio::ssl::stream<Tcp::socket&>> tls_;
  State state_ = State::kReading;
  std::string in_;
  char block_[kReadBlock];
  bool reading_ = false;
  std::optional<RequestParser> parser_;
  bool head_seen_ = false;
  std::string request_id_;
  int minor_ = 1;
  bool keep_alive_ = false;

  std::uint64_t request_ = 0;  // which one of this connection is being answered
  bool answered_ = true;
  bool head_only_ = false;  // HEAD: no body goes out
  bool close_after_ = false;
  std::function<void()> gone_, silence_;
  std::deque<std::string> out_;
  std::size_t out_bytes_ = 0;
  bool writing_ = false;
  bool told_ = false;  // TLS: that nothing more will come
  Clock::time_point read_deadline_ = Clock::time_point::max(), write_deadline_ = Clock::time_point::max();
  Clock::time_point body_began_, last_sent_;
};

/// What a handler holds: a request of a connection. Everything goes to the connections' thread.
class ConnectionExchange final : public Exchange {
 public:
  ConnectionExchange(asio::io_context& io, std::shared_ptr<Connection> connection, std::uint64_t request)
      : io_(io), connection_(std::move(connection)), request_(request) {}
  void reply(HttpReply reply) override {
    post([reply = std::move(reply)](Connection& c, std::uint64_t r) mutable { c.reply(r, std::move(reply)); });
  }
  void begin_stream(HttpReply head) override {
    post([head = std::move(head)](Connection& c, std::uint64_t r) mutable { c.begin_stream(r, std::move(head)); });
  }
  void send(std::string bytes) override {
    post([bytes = std::move(bytes)](Connection& c, std::uint64_t r) mutable { c.send(r, std::move(bytes)); });
  }
  void end_stream() override {
    post([](Connection& c, std::uint64_t r) { c.end_stream(r); });
  }
  void abandon() override {
    post([](Connection& c, std::uint64_t r) { c.abandon(r); });
  }
  void on_gone(std::function<void()> callback) override {
    post([callback = std::move(callback)](Connection& c, std::uint64_t r) mutable {
      c.on_gone(r, std::move(callback));
    });
  }
  void on_silence(std::function<void()> callback) override {
    post([callback = std::move(callback)](Connection& c, std::uint64_t r) mutable {
      c.on_silence(r, std::move(callback));
    });
  }

 private:
  template <typename Action>
  void post(Action action) {
    asio::post(io_, [connection = connection_, request = request_, action = std::move(action)]() mutable {
      action(*connection, request);
    });
  }
  asio::io_context& io_;
  std::shared_ptr<Connection> connection_;
  std::uint64_t request_;
};

class Server final : public HttpServer {
 public:
  explicit Server(const HttpOptions& options) : options_(options), acceptor_(io_), timer_(io_), retry_(io_) {}
  ~Server() override { stop(); }

  Status bind() {
    DS4_RETURN_IF_ERROR(reload_tls());
    ErrorCodeBoost error;
    if (options_.inherited_socket >= 0) {
      const bool six = asio::ip::make_address(options_.host, error).is_v6();
      if (!error) acceptor_.assign(six ? Tcp::v6() : Tcp::v4(), options_.inherited_socket, error);
      if (!error) acceptor_.non_blocking(true, error);
      if (error) return Error{ErrorCode::kUsage, cat("the socket that was handed over: ", error.message())};
      port_ = options_.port;
      return {};
    }
    const auto address = asio::ip::make_address(options_.host == "localhost" ? "127.0.0.1" : options_.host, error);
    const auto refuse = [&](std::string_view what) {
      return Error{ErrorCode::kUsage,
                   cat(what, " ", escaped(options_.host), " port ", options_.port, ": ", error.message())};
    };
    if (error) return refuse("expected an address to listen on, found");
    const Tcp::endpoint endpoint(address, options_.port);
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(Tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(512, error);
    if (error) return refuse("cannot listen on");
    acceptor_.non_blocking(true, error);
    port_ = acceptor_.local_endpoint(error).port();
    return {};
  }

  void start(Check check, Handle handle) override {
    check_ = std::move(check);
    handle_ = std::move(handle);
    accept();
    tick();
    thread_ = std::thread([this] {
      pthread_setname_np(pthread_self(), "ds4-http");
      while (true) {
        try {
          io_.run();
          return;
        } catch (const std::exception&) {
          // Out of memory, for one connection: it will be closed when its time is up.
        }
      }
    });
  }
  void drain() override { draining_ = true; }
  Status reload_tls() override {
    if (options_.tls_certificate.empty()) return {};
    DS4_ASSIGN_OR_RETURN(auto made, make_tls(options_.tls_certificate, options_.tls_key));
    const std::lock_guard lock(tls_mutex_);
    tls_ = std::move(made);
    return {};
  }
  void stop() override {
    asio::post(io_, [this] {
      ErrorCodeBoost ignored;
      acceptor_.close(ignored);
      timer_.cancel();
      retry_.cancel();
      stopped_ = true;
      for (const auto& connection : std::vector(connections_.begin(), connections_.end())) connection->close();
    });
    if (thread_.joinable()) thread_.join();
  }
  std::uint16_t port() const override { return port_; }
  HttpCounts counts() const override { return {open_, accepted_, refused_, timed_out_}; }

  // For connections.
  asio::io_context& io() { return io_; }
  const HttpOptions& options() const { return options_; }
  bool draining() const { return draining_; }
  Check& check() { return check_; }
  Handle& handle() { return handle_; }
  void forget(const std::shared_ptr<Connection>& connection) {
    connections_.erase(connection);
    open_ = static_cast<std::int64_t>(connections_.size());
  }
  void count_timeout() { ++timed_out_; }

 private:
  void accept() {
    acceptor_.async_accept([this](ErrorCodeBoost error, Tcp::socket socket) {
      if (error == asio::error::operation_aborted || stopped_) return;
      if (error) {  // out of file descriptors, most likely: not again at once
        retry_.expires_after(kTick);
        retry_.async_wait([this](ErrorCodeBoost cancelled) {
          if (!cancelled) accept();
        });
        return;
      }
      ++accepted_;
      ErrorCodeBoost ignored;
      socket.set_option(Tcp::no_delay(true), ignored);
      auto connection = std::make_shared<Connection>(*this, std::move(socket), tls());
      connections_.insert(connection);
      open_ = static_cast<std::int64_t>(connections_.size());
      if (open_ > options_.max_connections) {
        ++refused_;
        connection->refuse({503, "text/plain", "too many connections\n", {{"Retry-After", "1"}}});
      } else {
        connection->start();
      }
      accept();
    });
  }

  std::shared_ptr<asio::ssl::context> tls() {
    const std::lock_guard lock(tls_mutex_);
    return tls_;
  }

  void tick() {
    timer_.expires_after(kTick);
    timer_.async_wait([this](ErrorCodeBoost error) {
      if (error || stopped_) return;
      const auto now = Clock::now();
      for (const auto& connection : std::vector(connections_.begin(), connections_.end())) connection->tick(now);
      tick();
    });
  }

  HttpOptions options_;
  std::mutex tls_mutex_;  // guards tls_
  std::shared_ptr<asio::ssl::context> tls_;
  asio::io_context io_{1};
  Tcp::acceptor acceptor_;
  asio::steady_timer timer_, retry_;
  Check check_;
  Handle handle_;
  std::unordered_set<std::shared_ptr<Connection>> connections_;
  bool stopped_ = false;
  std::uint16_t port_ = 0;
  std::atomic<bool> draining_{false};
  std::atomic<std::int64_t> open_{0};
  std::atomic<std::uint64_t> accepted_{0}, refused_{0}, timed_out_{0};
  std::thread thread_;
};

Connection::Connection(Server& server, Tcp::socket socket, const std::shared_ptr<asio::ssl::context>& tls)
    : server_(server), socket_(std::move(socket)) {
  if (tls) tls_.emplace(socket_, *tls);  // OpenSSL keeps what it needs of the context
}

void Connection::start() {
  if (tls_) return shake_hands();
  next_request();
  read();
}

void Connection::shake_hands() {
  state_ = State::kShakingHands;
  read_deadline_ = Clock::now() + time_of(server_.options().head_seconds);
  tls_->async_handshake(asio::ssl::stream_base::server, [self = shared_from_this()](ErrorCodeBoost error) {
    if (self->state_ == State::kClosed) return;
    if (error) return self->close();
    self->next_request();
    self->read();
  });
}

void Connection::refuse(const HttpReply& reply) {
  if (tls_) return close();  // shaking hands first is work, and there is too much of it
  close_after_ = true;
  write(head_text(reply, cat("Content-Length: ", reply.body.size(), "\r\n"), true) + reply.body);
  answered();
  read();
}

void Connection::next_request() {
  state_ = State::kReading;
  parser_.emplace(server_.options().limits);
  head_seen_ = false;
  const auto now = Clock::now();
  // The first request has to come soon; after an answer a client may take its time.
  read_deadline_ =
      now + time_of(request_ == 0 || !in_.empty() ? server_.options().head_seconds : server_.options().idle_seconds);
}

void Connection::read() {
  if (reading_ || state_ == State::kClosed) return;
  const bool waits = state_ == State::kAnswering || state_ == State::kStreaming;
  if (waits && in_.size() >= kReadAhead) return;
  reading_ = true;
  auto came = [self = shared_from_this()](ErrorCodeBoost error, std::size_t count) {
    self->reading_ = false;
    if (self->state_ == State::kClosed) return;
    if (error) return self->close();  // the client is gone, or has nothing more to say: nobody listens any more
    if (self->state_ != State::kClosing) {
      if (self->state_ == State::kReading && self->parser_->idle() && self->in_.empty()) {
        self->read_deadline_ = Clock::now() + time_of(self->server_.options().head_seconds);
      }
      self->in_.append(self->block_, count);
      self->process();
    }
    self->read();
  };
  if (tls_) tls_->async_read_some(asio::buffer(block_), std::move(came));
  else socket_.async_read_some(asio::buffer(block_), std::move(came));
}

void Connection::process() {
  while (state_ == State::kReading && !in_.empty()) {
    const std::size_t taken = parser_->feed(in_);
    in_.erase(0, taken);
    if (parser_->state() == RequestParser::State::kFailed) return fail(parser_->status(), parser_->problem());
    if (parser_->state() == RequestParser::State::kHead) return;
    if (!head_seen_ && !head_read()) return;
    if (parser_->state() == RequestParser::State::kDone) return request_read();
  }
}

/// What can be refused without the body is refused now; false when it was.
bool Connection::head_read() {
  head_seen_ = true;
  body_began_ = Clock::now();
  HttpRequest& request = parser_->request();
  minor_ = request.minor;
  keep_alive_ = parser_->keep_alive();
  head_only_ = request.method == "HEAD";
  if (std::optional<HttpReply> refusal = server_.check()(request)) {
    request_id_ = request.id;
    ++request_;
    answered_ = false;
    // A body that nobody will read would be taken for the next request.
    if (parser_->state() != RequestParser::State::kDone) close_after_ = true;
    state_ = State::kAnswering;
    reply(request_, std::move(*refusal));
    return false;
  }
  request_id_ = request.id;
  if (parser_->expects_continue() && parser_->state() == RequestParser::State::kBody) {
    write("HTTP/1.1 100 Continue\r\n\r\n");
  }
  return true;
}

void Connection::request_read() {
  state_ = State::kAnswering;
  ++request_;
  answered_ = false;
  read_deadline_ = Clock::time_point::max();
  last_sent_ = Clock::now();
  auto exchange = std::make_shared<ConnectionExchange>(server_.io(), shared_from_this(), request_);
  server_.handle()(std::move(parser_->request()), std::move(exchange));
}

void Connection::fail(int status, const std::string& problem) {
  close_after_ = true;
  ++request_;
  answered_ = false;
  state_ = State::kAnswering;
  const std::string body = cat("{\"error\":{\"message\":\"", problem, "\",\"type\":\"invalid_request_error\"}}");
  reply(request_, {status, "application/json", body, {}});
}

std::string Connection::head_text(const HttpReply& reply, std::string_view framing, bool closes) const {
  std::string head = cat("HTTP/1.1 ", reply.status, " ", reason_phrase(reply.status), "\r\nServer: ds4-server\r\n");
  if (!reply.type.empty()) head += cat("Content-Type: ", reply.type, "\r\n");
  if (!request_id_.empty()) head += cat("x-request-id: ", request_id_, "\r\nrequest-id: ", request_id_, "\r\n");
  for (const auto& [name, value] : reply.headers) head += cat(name, ": ", value, "\r\n");
  head += framing;
  if (closes) head += "Connection: close\r\n";
  else if (minor_ == 0) head += "Connection: keep-alive\r\n";
  return head + "\r\n";
}

void Connection::reply(std::uint64_t request, HttpReply reply) {
  if (!current(request) || state_ != State::kAnswering) return;
  close_after_ = close_after_ || !keep_alive_ || server_.draining();
  const bool bare = reply.status == 204 || reply.status == 304;
  const std::string framing = bare ? "" : cat("Content-Length: ", reply.body.size(), "\r\n");
  std::string out = head_text(reply, framing, close_after_);
  if (!head_only_) out += reply.body;
  write(std::move(out));
  answered();
}

void Connection::begin_stream(std::uint64_t request, HttpReply head) {
  if (!current(request) || state_ != State::kAnswering) return;
  state_ = State::kStreaming;
  close_after_ = close_after_ || !keep_alive_ || minor_ == 0 || server_.draining();
  write(head_text(head, minor_ == 0 ? "" : "Transfer-Encoding: chunked\r\n", close_after_));
}

void Connection::send(std::uint64_t request, std::string bytes) {
  if (!current(request) || state_ != State::kStreaming || bytes.empty()) return;
  if (out_bytes_ + bytes.size() > server_.options().stream_buffer) return close();  // the reader does not keep up
  if (minor_ == 0) return write(std::move(bytes));
  char size[20];
  std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  write(cat(std::string_view(size), bytes, "\r\n"));
}

void Connection::end_stream(std::uint64_t request) {
  if (!current(request) || state_ != State::kStreaming) return;
  if (minor_ != 0) write("0\r\n\r\n");
  answered();
}

void Connection::abandon(std::uint64_t request) {
  if (current(request)) close();
}

void Connection::on_gone(std::uint64_t request, std::function<void()> callback) {
  if (state_ == State::kClosed && request == request_ && !answered_) return callback();
  if (current(request)) gone_ = std::move(callback);
}

void Connection::on_silence(std::uint64_t request, std::function<void()> callback) {
  if (current(request) && state_ != State::kClosed) silence_ = std::move(callback);
}

void Connection::answered() {
  answered_ = true;
  gone_ = nullptr;
  silence_ = nullptr;
  if (state_ == State::kClosed) return;
  if (close_after_) {
    state_ = State::kClosing;
    read_deadline_ = Clock::now() + time_of(server_.options().write_seconds);
    if (!writing_) write_next();
    return;
  }
  next_request();
  process();
  read();
}

void Connection::write(std::string bytes) {
  if (state_ == State::kClosed) return;
  last_sent_ = Clock::now();
  out_bytes_ += bytes.size();
  out_.push_back(std::move(bytes));
  if (!writing_) write_next();
}

void Connection::write_next() {
  if (out_.empty()) {
    write_deadline_ = Clock::time_point::max();
    if (state_ == State::kClosing) finish_sending();
    return;
  }
  writing_ = true;
  write_deadline_ = Clock::now() + time_of(server_.options().write_seconds);
  auto gone = [self = shared_from_this()](ErrorCodeBoost error, std::size_t count) {
    self->writing_ = false;
    if (self->state_ == State::kClosed) return;
    if (error) return self->close();
    self->out_bytes_ -= count;
    self->out_.front().erase(0, count);
    if (self->out_.front().empty()) self->out_.pop_front();
    self->write_next();
  };
  if (tls_) tls_->async_write_some(asio::buffer(out_.front()), std::move(gone));
  else socket_.async_write_some(asio::buffer(out_.front()), std::move(gone));
}

/// Everything is out: the client is told, and has a moment to take it in.
void Connection::finish_sending() {
  read_deadline_ = Clock::now() + time_of(kLinger);
  const auto shut = [self = shared_from_this()](ErrorCodeBoost) {
    ErrorCodeBoost ignored;
    if (self->state_ != State::kClosed) self->socket_.shutdown(Tcp::socket::shutdown_send, ignored);
  };
  if (!tls_) return shut({});
  // A second shutdown of the same stream would be a bug in it.
  if (!std::exchange(told_, true)) tls_->async_shutdown(shut);
}

void Connection::tick(Clock::time_point now) {
  const HttpOptions& options = server_.options();
  if (now >= write_deadline_) {
    server_.count_timeout();
    return close();
  }
  if (state_ == State::kShakingHands && now >= read_deadline_) {
    server_.count_timeout();
    return close();
  }
  if (state_ == State::kReading) {
    if (server_.draining() && request_ > 0 && parser_->idle() && out_.empty()) return close();
    if (head_seen_) {
      const double allowed = options.body_seconds + static_cast<double>(parser_->body_bytes()) / options.body_rate;
      read_deadline_ = body_began_ + time_of(allowed);
    }
    if (now < read_deadline_) return;
    server_.count_timeout();
    if (parser_->idle()) return close();
    return fail(408, "the request took too long to arrive");
  }
  if (state_ == State::kClosing && now >= read_deadline_) return close();
  const bool waits = state_ == State::kAnswering || state_ == State::kStreaming;
  if (waits && silence_ && now - last_sent_ >= time_of(options.keepalive_seconds)) {
    last_sent_ = now;
    silence_();
  }
}

void Connection::close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  ErrorCodeBoost ignored;
  socket_.close(ignored);
  silence_ = nullptr;
  if (auto gone = std::exchange(gone_, nullptr)) gone();
  server_.forget(shared_from_this());
}

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::listen(const HttpOptions& options) {
  auto server = std::make_unique<Server>(options);
  DS4_RETURN_IF_ERROR(server->bind());
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace ds4::server
