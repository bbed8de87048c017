// One HTTP/1.1 request from bytes in any pieces. Strict: what is not plainly right is refused with a status, since two
// readers of a doubtful request may disagree about where it ends. Boost.Beast reads the head and decodes the body; what
// it would let pass is refused before it.
//
// One parser per request, one thread. Linear; keeps the head and the decoded body.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "server/http_request.h"

namespace ds4::server {

struct HttpLimits {
  std::size_t line = 8 * 1024;
  std::size_t head = 32 * 1024;
  std::size_t fields = 100;
  std::uint64_t body = 16 * 1024 * 1024;
};

class RequestParser {
 public:
  enum class State { kHead, kBody, kDone, kFailed };

  explicit RequestParser(const HttpLimits& limits);
  ~RequestParser();
  RequestParser(RequestParser&&) noexcept;
  RequestParser& operator=(RequestParser&&) noexcept;

  /// Takes what belongs to this request and returns how many bytes that was. Stops behind the head and at the end.
  std::size_t feed(std::string_view bytes);

  State state() const { return state_; }
  /// Nothing has come yet.
  bool idle() const { return state_ == State::kHead && head_.empty(); }
  /// The head from kBody on, all of it when kDone.
  HttpRequest& request() { return request_; }
  /// The client waits for "100 Continue".
  bool expects_continue() const { return expects_continue_; }
  bool keep_alive() const { return keep_alive_; }
  std::uint64_t body_bytes() const;
  /// kFailed: what to answer. The connection cannot be used any more.
  int status() const { return status_; }
  const std::string& problem() const { return problem_; }

 private:
  struct Beast;

  std::size_t feed_head(std::string_view bytes);
  std::size_t feed_body(std::string_view bytes);
  bool check_head_byte(char c);
  void head_complete();
  bool check_fields();
  std::size_t fail(int status, std::string problem);

  HttpLimits limits_;
  State state_ = State::kHead;
  HttpRequest request_;
  std::unique_ptr<Beast> beast_;
  std::string head_;
  std::size_t line_start_ = 0;
  std::size_t lines_ = 0;
  std::string pending_;  // of a chunked body: a chunk's head that is not complete
  bool expects_continue_ = false;
  bool keep_alive_ = false;
  int status_ = 0;
  std::string problem_;
};

}  // namespace ds4::server
