// Any output, cut anywhere: no crash, and the events of the pieces joined are those of the whole. The first four bytes
// choose the options and the cuts.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "chat/output_parser.h"
#include "chat/python_json.h"
#include "chat/utf8_gate.h"

namespace {

using ds4::chat::Event;
using ds4::chat::OutputOptions;
using ds4::chat::OutputParser;

/// `longest`: of a piece; 0 for one piece.
std::vector<Event> parse(std::string_view output, const OutputOptions& options, std::size_t longest,
                         std::uint32_t seed) {
  OutputParser parser(options);
  std::vector<Event> events;
  while (!output.empty()) {
    seed = seed * 1664525u + 1013904223u;
    const std::size_t size =
        longest == 0 ? output.size() : std::min<std::size_t>(output.size(), 1 + (seed >> 16) % longest);
    for (Event& event : parser.feed(output.substr(0, size))) events.push_back(std::move(event));
    DS4_CHECK(!(parser.inside_tool_structure() && parser.inside_tool_value()));
    output.remove_prefix(size);
  }
  for (Event& event : parser.finish()) events.push_back(std::move(event));
  return ds4::chat::joined(events);
}

/// Pieces are valid UTF-8, arguments are JSON and the sum of their pieces, indices count up.
void check(const std::vector<Event>& events) {
  std::string arguments;
  int next = 0;
  for (const Event& event : events) {
    if (event.kind != Event::Kind::kToolBlockEnd) DS4_CHECK(ds4::chat::valid_utf8(event.text) == event.text);
    if (event.kind == Event::Kind::kToolCallStart) {
      DS4_CHECK(event.index == next++);
      arguments.clear();
    }
    if (event.kind == Event::Kind::kToolArguments) arguments += event.text;
    if (event.kind == Event::Kind::kToolCallEnd) DS4_CHECK(event.text == arguments && ds4::chat::is_json(arguments));
  }
  DS4_CHECK(!events.empty() && events.back().kind == Event::Kind::kEnd);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 4) return 0;
  const OutputOptions options{.thinking = (data[0] & 1) != 0,
                              .tools = (data[0] & 2) == 0,
                              .max_block_bytes = (data[0] & 4) != 0 ? std::size_t{data[1]} : std::size_t{1} << 16};
  const std::string_view output(reinterpret_cast<const char*>(data) + 4, size - 4);
  const std::vector<Event> whole = parse(output, options, 0, 0);
  check(whole);
  DS4_CHECK(parse(output, options, 1, 0) == whole);
  DS4_CHECK(parse(output, options, 1 + data[2] % 32, data[3]) == whole);
  return 0;
}
