#include "server/http_parser.h"

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "base/text.h"

namespace ds4::server {

namespace http = boost::beast::http;

/// A chunk's head, or the trailers, may be so long.
constexpr std::size_t kMaxPending = 8 * 1024;

struct RequestParser::Beast {
  http::request_parser<http::string_body> parser;
};

RequestParser::RequestParser(const HttpLimits& limits) : limits_(limits), beast_(std::make_unique<Beast>()) {
  beast_->parser.header_limit(static_cast<std::uint32_t>(2 * limits.head));
  beast_->parser.body_limit(limits.body);
}
RequestParser::~RequestParser() = default;
RequestParser::RequestParser(RequestParser&&) noexcept = default;
RequestParser& RequestParser::operator=(RequestParser&&) noexcept = default;

std::uint64_t RequestParser::body_bytes() const { return beast_->parser.get().body().size(); }

std::size_t RequestParser::fail(int status, std::string problem) {
  state_ = State::kFailed;
  status_ = status;
  problem_ = std::move(problem);
  return 0;
}

std::size_t RequestParser::feed(std::string_view bytes) {
  if (state_ == State::kHead) return feed_head(bytes);
  if (state_ == State::kBody) return feed_body(bytes);
  return 0;
}

std::size_t RequestParser::feed_head(std::string_view bytes) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (!check_head_byte(bytes[i])) return i;
    if (head_.ends_with("\r\n\r\n")) {
      head_complete();
      return i + 1;
    }
  }
  return bytes.size();
}

/// Lines end with CR LF and nothing else does; no control bytes, no folded fields, nothing too long.
bool RequestParser::check_head_byte(char c) {
  const auto byte = static_cast<unsigned char>(c);
  const bool after_cr = head_.ends_with('\r');
  if (after_cr != (c == '\n')) return fail(400, "a line of the head must end with CR LF") != 0;
  if ((byte < 0x20 && c != '\r' && c != '\n' && c != '\t') || byte == 0x7F) {
    return fail(400, "a control byte in the head") != 0;
  }
  const bool line_begins = head_.size() == line_start_;
  if (line_begins && (c == ' ' || c == '\t')) return fail(400, "a line of the head begins with white space") != 0;
  if (lines_ == 0 && line_begins && c == '\r') return fail(400, "an empty line in place of a request") != 0;
  head_ += c;
  if (lines_ == 0 && head_.size() > limits_.line) {
    return fail(414, cat("the request line is longer than ", limits_.line, " bytes")) != 0;
  }
  if (head_.size() > limits_.head) return fail(431, cat("the head is longer than ", limits_.head, " bytes")) != 0;
  if (c != '\n') return true;
  ++lines_;
  const bool blank = head_.size() == line_start_ + 2;
  line_start_ = head_.size();
  if (!blank && lines_ > limits_.fields + 1) return fail(431, cat("more than ", limits_.fields, " header fields")) != 0;
  return true;
}

void RequestParser::head_complete() {
  const std::string_view line = std::string_view(head_).substr(0, head_.find("\r\n"));
  const std::size_t version = line.rfind(' ');
  if (version == std::string_view::npos || !line.substr(version + 1).starts_with("HTTP/")) {
    fail(400, "expected METHOD TARGET HTTP/1.1");
    return;
  }
  const std::string_view number = line.substr(version + 6);
  if (number != "1.1" && number != "1.0") {
    fail(505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    return;
  }
  boost::system::error_code error;
  beast_->parser.put(boost::asio::buffer(head_), error);
  if (error == http::error::body_limit) {
    fail(413, cat("the body is larger than ", limits_.body, " bytes"));
    return;
  }
  if (error) {
    fail(400, cat("not a request: ", error.message()));
    return;
  }
  auto& message = beast_->parser.get();
  const auto text = [](auto view) { return std::string(view.data(), view.size()); };
  request_.method = text(message.method_string());
  request_.target = text(message.target());
  request_.minor = message.version() == 10 ? 0 : 1;
  const std::size_t query = request_.target.find('?');
  request_.path = request_.target.substr(0, query);
  if (query != std::string::npos) request_.query = request_.target.substr(query + 1);
  for (const auto& field : message.base()) {
    std::string name = text(field.name_string());
    for (char& c : name) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    request_.headers.emplace_back(std::move(name), text(field.value()));
  }
  if (!check_fields()) return;
  keep_alive_ = beast_->parser.keep_alive();
  expects_continue_ = request_.minor == 1 && request_.has("expect");
  state_ = beast_->parser.is_done() ? State::kDone : State::kBody;
}

bool RequestParser::check_fields() {
  const auto bad = [&](int status, std::string problem) {
    fail(status, std::move(problem));
    return false;
  };
  std::size_t lengths = 0, encodings = 0, hosts = 0;
  for (const auto& [name, value] : request_.headers) {
    lengths += name == "content-length";
    encodings += name == "transfer-encoding";
    hosts += name == "host";
  }
  if (lengths > 1 || encodings > 1 || (lengths > 0 && encodings > 0)) return bad(400, "the length is said twice");
  if (hosts > 1) return bad(400, "more than one Host");
  if (lengths == 1) {
    const std::string_view length = request_.header("content-length");
    if (length.empty() || length.size() > 18 || length.find_first_not_of("0123456789") != std::string_view::npos) {
      return bad(400, "Content-Length: expected a number");
    }
  }
  if (encodings == 1 && (request_.minor == 0 || request_.header("transfer-encoding") != "chunked")) {
    return bad(400, "Transfer-Encoding: expected chunked");
  }
  const std::string& target = request_.target;
  if (!target.starts_with('/') && !(target == "*" && request_.method == "OPTIONS")) {
    return bad(400, "expected a path that begins with /");
  }
  if (request_.has("expect") && request_.header("expect") != "100-continue") {
    return bad(417, "Expect: only 100-continue is known");
  }
  if (request_.method == "POST" && lengths == 0 && encodings == 0) return bad(411, "a POST needs a Content-Length");
  return true;
}

std::size_t RequestParser::feed_body(std::string_view bytes) {
  const std::size_t before = pending_.size();
  std::string_view all = bytes;
  if (before > 0) {
    pending_ += bytes;
    all = pending_;
  }
  std::size_t used = 0;
  while (used < all.size() && !beast_->parser.is_done()) {
    boost::system::error_code error;
    const std::size_t taken =
        beast_->parser.put(boost::asio::const_buffer(all.data() + used, all.size() - used), error);
    used += taken;
    if (error == http::error::need_more) break;
    if (error == http::error::body_limit) return fail(413, cat("the body is larger than ", limits_.body, " bytes"));
    if (error) return fail(400, cat("not a body: ", error.message()));
    if (taken == 0) break;
  }
  if (beast_->parser.is_done()) {
    state_ = State::kDone;
    request_.body = std::move(beast_->parser.get().body());
    return used - std::min(used, before);
  }
  pending_ = std::string(all.substr(used));
  if (pending_.size() > kMaxPending) return fail(400, "a chunk's head is too long");
  return bytes.size();
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 411: return "Length Required";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
    case 529: return "Overloaded";
    default: return "Status";
  }
}

}  // namespace ds4::server
