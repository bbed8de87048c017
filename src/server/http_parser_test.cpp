#include "server/http_parser.h"

#include <gtest/gtest.h>

#include "base/text.h"

namespace ds4::server {
namespace {

using State = RequestParser::State;

struct Read {
  int status = 0;  // of a refusal; 0: a request
  HttpRequest request;
  std::string left;  // what belongs to the next one
  bool complete = false;
};

Read read(const std::string& bytes, std::size_t piece, HttpLimits limits = {}) {
  RequestParser parser(limits);
  std::string left;
  for (std::size_t at = 0; at < bytes.size() && left.empty(); at += piece) {
    std::string_view block = std::string_view(bytes).substr(at, piece);
    while (!block.empty()) {
      const std::size_t taken = parser.feed(block);
      block.remove_prefix(taken);
      if (parser.state() == State::kDone || parser.state() == State::kFailed) {
        left = std::string(block) + (at + piece < bytes.size() ? bytes.substr(at + piece) : "");
        break;
      }
    }
    if (parser.state() == State::kDone || parser.state() == State::kFailed) break;
  }
  Read out;
  out.complete = parser.state() == State::kDone;
  if (parser.state() == State::kFailed) {
    out.status = parser.status();
    EXPECT_FALSE(parser.problem().empty());
  }
  out.request = parser.request();
  out.left = left;
  return out;
}

std::string get(const std::string& more = "") { return "GET /x HTTP/1.1\r\nHost: a\r\n" + more + "\r\n"; }
std::string post(const std::string& fields, const std::string& body) {
  return "POST /x HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" + body;
}

TEST(RequestParser, ReadsARequestHoweverItIsCut) {
  const std::string plain = post("Content-Length: 5\r\nX-Y: a b\r\n", "hello") + "GET ";
  const std::string chunked =
      post("Transfer-Encoding: chunked\r\n", "3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\nTrailer: x\r\n\r\n") + "GET ";
  for (const std::string& bytes : {plain, chunked}) {
    for (std::size_t piece : {1, 2, 3, 7, 1000}) {
      const Read out = read(bytes, piece);
      EXPECT_TRUE(out.complete) << bytes << " by " << piece;
      EXPECT_EQ(out.request.method, "POST");
      EXPECT_EQ(out.request.path, "/x");
      EXPECT_EQ(out.request.body, "hello");
      EXPECT_EQ(out.left, "GET ") << piece;
    }
  }
  const Read query = read("GET /a/b?c=d HTTP/1.0\r\nX-Y: z\r\n\r\n", 100);
  EXPECT_TRUE(query.complete);
  EXPECT_EQ(query.request.path, "/a/b");
  EXPECT_EQ(query.request.query, "c=d");
  EXPECT_EQ(query.request.minor, 0);
  EXPECT_EQ(query.request.header("x-y"), "z");
}

struct Bad {
  std::string bytes;
  int status;
};

TEST(RequestParser, RefusesWhatIsDoubtful) {
  const std::string many = [] {
    std::string fields;
    for (int i = 0; i < 101; ++i) fields += cat("a", i, ": b\r\n");
    return fields;
  }();
  std::string tiny;
  for (int i = 0; i < 5000; ++i) tiny += "a:\r\n";
  const Bad cases[] = {
      {"GET /" + std::string(8200, 'a') + " HTTP/1.1\r\n\r\n", 414},
      {std::string(9000, 'a'), 414},
      {get("X: " + std::string(33000, 'b') + "\r\n"), 431},
      {get(many), 431},
      {get(tiny), 431},
      {post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), 400},
      {post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"), 400},
      {post("Content-Length: -5\r\n", "hello"), 400},
      {post("Content-Length: +5\r\n", "hello"), 400},
      {post("Content-Length: 5,5\r\n", "hello"), 400},
      {post("Content-Length: 9223372036854775808\r\n", "hello"), 413},
      {post("Content-Length: 99999999999999999999\r\n", "hello"), 400},
      {post("Content-Length: 0x5\r\n", "hello"), 400},
      {post("Content-Length: \r\n", "hello"), 400},
      {post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400},
      {post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), 400},
      {post("Transfer-Encoding: gzip\r\n", ""), 400},
      {post("Transfer-Encoding: chunked, chunked\r\n", ""), 400},
      {post("Transfer-Encoding: xchunked\r\n", ""), 400},
      {post("", ""), 411},
      {post("Transfer-Encoding: chunked\r\n", "-2\r\nab\r\n"), 400},
      {post("Transfer-Encoding: chunked\r\n", "11111111111111111\r\nab\r\n"), 400},
      {post("Transfer-Encoding: chunked\r\n", "zz\r\nab\r\n"), 400},
      {post("Transfer-Encoding: chunked\r\n", "1;" + std::string(20000, 'x')), 400},
      {post("Content-Length: 99999999\r\n", ""), 413},
      {"get /x HTTP/1.1\r\nHost: a\r\n\r\n", 0},  // a method that no route has
      {"GET /x\r\n\r\n", 400},
      {"GET /x HTTP/2.0\r\n\r\n", 505},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {"GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET /x HTTP/1.1\nHost: a\n\n", 400},
      {"GET /x HTTP/1.1\r\nHost: a\n\r\n", 400},
      {"GET /x HTTP/1.1\r\nA: b\rc\r\n\r\n", 400},
      {"GET /x HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400},
      {"GET /x HTTP/1.1\r\n A: b\r\n\r\n", 400},
      {"GET /x HTTP/1.1\r\nA : b\r\n\r\n", 400},
      {"GET /x HTTP/1.1\r\nA b\r\n\r\n", 400},
      {"GET /x HTTP/1.1\r\n: b\r\n\r\n", 400},
      {std::string("GET /x HTTP/1.1\r\nA: b\0c\r\n\r\n", 28), 400},
      {"GET /x\x01 HTTP/1.1\r\n\r\n", 400},
      {"\r\nGET /x HTTP/1.1\r\n\r\n", 400},
      {"GET  /x HTTP/1.1\r\n\r\n", 400},
      {get("Host: b\r\n"), 400},
      {get("Expect: something\r\n"), 417},
      {"\x16\x03\x01\x02", 400},
  };
  for (const Bad& one : cases) {
    for (std::size_t piece : {1, 5, 100000}) {
      const Read out = read(one.bytes, piece);
      EXPECT_EQ(out.status, one.status) << escaped(one.bytes, 120) << " by " << piece;
    }
  }
}

TEST(RequestParser, TheLimitOfABodyHoldsWhileItIsRead) {
  HttpLimits limits;
  limits.body = 10;
  EXPECT_EQ(read(post("Content-Length: 11\r\n", ""), 1000, limits).status, 413);
  EXPECT_EQ(read(post("Content-Length: 10\r\n", "0123456789"), 1000, limits).status, 0);
  EXPECT_EQ(read(post("Transfer-Encoding: chunked\r\n", "6\r\nabcdef\r\n6\r\nabcdef\r\n0\r\n\r\n"), 3, limits).status,
            413);
}

TEST(RequestParser, OneByteChunksAreReadInTheirOwnTime) {
  std::string body;
  for (int i = 0; i < 20000; ++i) body += "1\r\nx\r\n";
  const Read out = read(post("Transfer-Encoding: chunked\r\n", body + "0\r\n\r\n"), 1000);
  EXPECT_TRUE(out.complete);
  EXPECT_EQ(out.request.body.size(), 20000u);
}

TEST(RequestParser, ABodyThatIsAwaitedCanBeAskedFor) {
  RequestParser parser({});
  parser.feed(post("Content-Length: 5\r\nExpect: 100-continue\r\n", ""));
  EXPECT_EQ(parser.state(), State::kBody);
  EXPECT_TRUE(parser.expects_continue());
  EXPECT_TRUE(parser.keep_alive());
}

}  // namespace
}  // namespace ds4::server
