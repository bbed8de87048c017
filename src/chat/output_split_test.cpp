// However the output is cut, the joined events are the same.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "chat/output_parser.h"
#include "chat/python_json.h"

namespace ds4::chat {
namespace {

std::vector<Event> parse(const std::string& output, const std::vector<std::size_t>& cuts,
                         const OutputOptions& options) {
  OutputParser parser(options);
  std::vector<Event> events;
  const auto feed = [&](std::size_t begin, std::size_t end) {
    for (Event& event : parser.feed(std::string_view(output).substr(begin, end - begin))) events.push_back(event);
  };
  std::size_t begin = 0;
  for (const std::size_t cut : cuts) {
    feed(begin, cut);
    begin = cut;
  }
  feed(begin, output.size());
  for (Event& event : parser.finish()) events.push_back(event);
  return joined(events);
}

std::string output_of(const std::vector<std::string>& pieces) {
  std::string output;
  for (const std::string& piece : pieces) output += piece;
  return output;
}

rc::Gen<std::string> output_gen() {
  static const std::vector<std::string> kPieces = {
      "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">",
      "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
      "<｜DSML｜tool_calls>",
      "<｜DSML｜invoke name=\"g\">",
      "<｜DSML｜parameter name=\"b\" string=\"false\">",
      "<｜DSML｜parameter name=\"c\">",
      "</｜DSML｜parameter>",
      "</｜DSML｜invoke>",
      "</｜DSML｜tool_calls>",
      "<DSML｜tool_calls>",
      "<tool_calls>",
      "<invoke name=\"h\">",
      "<parameter name=\"d\">",
      "</parameter>",
      "</invoke>",
      "</tool_calls>",
      "<think>",
      "</think>",
      "\n",
      "\n\n",
      "```",
      "\n```\n",
      "{\"x\": [1, \"y\"]}",
      "true",
      "\"",
      "\\",
      "<",
      "&",
      "&lt;/｜DSML｜parameter>",
      "&lt;",
      " ",
      "text",
      "\u4e2d",
      "\U0001F600",
      "\xE5\xBC",
      "\xFF",
      ">",
      "name=\"b\""};
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(kPieces)), output_of);
}

OutputOptions options_gen() {
  return {.thinking = *rc::gen::arbitrary<bool>(),
          .tools = *rc::gen::weightedElement<bool>({{9, true}, {1, false}}),
          .max_block_bytes = *rc::gen::weightedElement<std::size_t>({{4, 1 << 16}, {1, 100}})};
}

RC_GTEST_PROP(OutputSplit, EveryCutGivesTheSameEvents, ()) {
  const std::string output = *rc::gen::scale(0.4, output_gen());
  const OutputOptions options = options_gen();
  const auto whole = parse(output, {}, options);
  for (std::size_t cut = 1; cut < output.size(); ++cut) RC_ASSERT(parse(output, {cut}, options) == whole);
}

RC_GTEST_PROP(OutputSplit, ManyCutsGiveTheSameEvents, ()) {
  const std::string output = *rc::gen::scale(3.0, output_gen());
  const OutputOptions options = options_gen();
  const auto whole = parse(output, {}, options);

  std::vector<std::size_t> every;
  for (std::size_t cut = 1; cut < output.size(); ++cut) every.push_back(cut);
  RC_ASSERT(parse(output, every, options) == whole);

  auto some = *rc::gen::container<std::vector<std::size_t>>(rc::gen::inRange<std::size_t>(0, output.size() + 1));
  std::sort(some.begin(), some.end());
  RC_ASSERT(parse(output, some, options) == whole);
}

/// Nothing is lost: reasoning, text and blocks together are the output, but for dropped think tags and bad bytes.
RC_GTEST_PROP(OutputSplit, TheEventsHoldTheWholeOutput, ()) {
  std::string output = *output_gen();
  for (const std::string_view gone : {"<think>", "</think>", "\xE5\xBC", "\xFF"}) {
    for (std::size_t at; (at = output.find(gone)) != std::string::npos;) output.erase(at, gone.size());
  }
  std::string kept;
  bool complete = false;
  for (const Event& event : parse(output, {}, options_gen())) {
    using Kind = Event::Kind;
    complete = complete || event.kind == Kind::kToolBlockEnd;
    if (event.kind == Kind::kReasoning || event.kind == Kind::kText || event.kind == Kind::kToolBlockEnd ||
        event.kind == Kind::kToolBlockFailed) {
      kept += event.text;
    }
    if (event.kind == Kind::kToolCallEnd) RC_ASSERT(is_json(event.text));
  }
  RC_ASSERT((complete ? output.substr(0, kept.size()) : output) == kept);
}

}  // namespace
}  // namespace ds4::chat
