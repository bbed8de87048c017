// Any bytes as the body of a request. The first byte chooses the dialect. What is accepted can be rendered, or is
// refused with a reason; an answer to it can be written whole and as a stream.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "chat/render.h"
#include "chat/utf8_gate.h"
#include "server/api/dialect.h"

namespace {

using namespace ds4::server;

void answer(const GenerationRequest& request) {
  using Kind = AnswerEvent::Kind;
  const AnswerHeader header{"ID", 1, "m"};
  const std::string name = request.tool_names.empty() ? "f" : request.tool_names.front();
  AnswerEvent end{.kind = Kind::kEnd};
  end.ending = Ending::kToolCalls;
  const AnswerEvent events[] = {{.kind = Kind::kBegin},
                                {.kind = Kind::kReasoning, .text = "why"},
                                {.kind = Kind::kText, .text = "text"},
                                {.kind = Kind::kCallStart, .text = name, .id = "call_1"},
                                {.kind = Kind::kCallArguments, .text = "{\"input\": 1}"},
                                {.kind = Kind::kCallEnd, .text = "{\"input\": 1}", .id = "call_1"},
                                end};
  const auto writer = stream_writer(request, header);
  Answer whole;
  for (const AnswerEvent& event : events) {
    const std::string bytes = writer->write(event);
    DS4_CHECK(ds4::chat::valid_utf8(bytes) == bytes);
    whole.add(event);
  }
  std::string problem;
  DS4_CHECK(parse_json(whole_body(request, header, whole), problem).has_value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::string problem;
  const auto body = parse_json(text, problem);
  if (!body) {
    DS4_CHECK(!problem.empty());
    return 0;
  }
  const Parsed parsed = parse_request(static_cast<Dialect>(data[0] % 4), *body);
  if (parsed.error) {
    DS4_CHECK(!parsed.error->message.empty());
    return 0;
  }
  const auto prompt = ds4::chat::render(parsed.request.conversation, {.thinking = ds4::chat::Thinking::kThinking});
  if (!prompt.ok()) DS4_CHECK(!prompt.error().message.empty());
  answer(parsed.request);
  return 0;
}
