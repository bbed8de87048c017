// Connections: accepts, reads requests, writes answers whole or as a stream, and notices clients that are gone. One
// thread does it all and never waits for anybody, so an idle connection costs its memory and no thread.
//
// What is served is decided by two functions that the thread calls: `check` with every head, before a body is read, and
// `handle` with every request. Both must return at once; the answer comes through the Exchange, from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "server/http_parser.h"
#include "server/http_request.h"

namespace ds4::server {

/// One request that waits for its answer. Any thread.
class Exchange {
 public:
  virtual ~Exchange() = default;
  /// The whole answer. A second answer to one request is dropped.
  virtual void reply(HttpReply reply) = 0;
  /// The head of a stream, then its pieces, then its end.
  virtual void begin_stream(HttpReply head) = 0;
  virtual void send(std::string bytes) = 0;
  virtual void end_stream() = 0;
  /// There will be no answer: the connection is closed.
  virtual void abandon() = 0;
  /// Called by the connections' thread when the client goes away before the answer is complete; at once if it has.
  virtual void on_gone(std::function<void()> callback) = 0;
  /// Called every so often while the answer is not complete and nothing was sent for `keepalive` seconds.
  virtual void on_silence(std::function<void()> callback) = 0;
};

struct HttpOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8000;
  HttpLimits limits;
  int max_connections = 1024;
  double head_seconds = 10;
  double body_seconds = 10;      // and body_rate besides
  double body_rate = 64 * 1024;  // bytes a second at least
  double idle_seconds = 75;
  double write_seconds = 30;               // without any progress
  std::size_t stream_buffer = 256 * 1024;  // of a reader that does not keep up
  double keepalive_seconds = 5;
  std::string tls_certificate, tls_key;  // PEM files, both or none: HTTPS in place of HTTP
  int inherited_socket = -1;             // listens already; host and port are its own
};

struct HttpCounts {
  std::int64_t open = 0;
  std::uint64_t accepted = 0;
  std::uint64_t refused = 0;  // over max_connections
  std::uint64_t timed_out = 0;
};

class HttpServer {
 public:
  using Check = std::function<std::optional<HttpReply>(HttpRequest&)>;
  using Handle = std::function<void(HttpRequest, std::shared_ptr<Exchange>)>;

  /// Binds and listens; serving begins with start().
  static Result<std::unique_ptr<HttpServer>> listen(const HttpOptions& options);
  virtual ~HttpServer() = default;

  virtual void start(Check check, Handle handle) = 0;
  /// From now on every answer closes its connection, and idle connections are closed.
  virtual void drain() = 0;
  /// Reads certificate and key again, for connections to come. After a failure the old ones stay.
  virtual Status reload_tls() = 0;
  /// Closes everything and joins the thread.
  virtual void stop() = 0;
  virtual std::uint16_t port() const = 0;
  virtual HttpCounts counts() const = 0;
};

}  // namespace ds4::server
