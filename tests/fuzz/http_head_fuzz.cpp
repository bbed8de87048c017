// Any bytes as an HTTP request, cut anywhere: no crash, the same result however they were cut, and what is accepted is
// one request with one length.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "server/http_parser.h"

namespace {

using ds4::server::RequestParser;

struct Outcome {
  RequestParser::State state;
  int status;
  std::size_t taken;
  std::string method, target, body;
  std::size_t fields;
  bool operator==(const Outcome&) const = default;
};

Outcome parse(std::string_view bytes, std::size_t piece) {
  ds4::server::HttpLimits limits;
  limits.body = 1 << 16;
  RequestParser parser(limits);
  std::size_t taken = 0;
  while (taken < bytes.size()) {
    const std::size_t size = piece == 0 ? bytes.size() - taken : std::min(piece, bytes.size() - taken);
    const std::size_t used = parser.feed(bytes.substr(taken, size));
    DS4_CHECK(used <= size);
    taken += used;
    const auto state = parser.state();
    if (state == RequestParser::State::kDone || state == RequestParser::State::kFailed) break;
    DS4_CHECK(used > 0);
  }
  if (parser.state() == RequestParser::State::kFailed) {
    DS4_CHECK(parser.status() >= 400 && !parser.problem().empty());
    return {parser.state(), parser.status(), 0, "", "", "", 0};  // how much of it was read does not matter
  }
  const auto& request = parser.request();
  return {parser.state(), 0, taken, request.method, request.target, request.body, request.headers.size()};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Outcome whole = parse(bytes, 0);
  DS4_CHECK(parse(bytes, 1) == whole);
  DS4_CHECK(parse(bytes, 1 + data[0] % 40) == whole);
  return 0;
}
