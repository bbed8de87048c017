// Requests and answers as text: testdata/*.txt, one file a case, named after its dialect. Sections begin with "--- ":
//   request   JSON in
//   parsed    what it asks for, one line a thing; or "error FIELD: MESSAGE"
//   events    an answer, one line an event
//   stream    the bytes of the stream that the events become
//   whole     the body that the events become
// With DS4_WRITE_CASES set, parsed, stream and whole are written from what is found: for reviewing, not for trusting.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/text.h"
#include "server/api/dialect.h"

namespace ds4::server {
namespace {

using Sections = std::vector<std::pair<std::string, std::string>>;

Sections read_case(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  Sections sections;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("--- ")) sections.emplace_back(line.substr(4), "");
    else if (!sections.empty()) sections.back().second += line + "\n";
  }
  return sections;
}

void write_case(const std::string& path, const Sections& sections) {
  std::ofstream file(path, std::ios::binary);
  for (const auto& [name, text] : sections) file << "--- " << name << "\n" << text;
}

Dialect dialect_of(const std::string& name) {
  if (name.starts_with("chat")) return Dialect::kChat;
  if (name.starts_with("completions")) return Dialect::kCompletions;
  return name.starts_with("responses") ? Dialect::kResponses : Dialect::kMessages;
}

std::string_view role_name(chat::Role role) {
  switch (role) {
    case chat::Role::kSystem: return "system";
    case chat::Role::kDeveloper: return "developer";
    case chat::Role::kUser: return "user";
    case chat::Role::kAssistant: return "assistant";
    case chat::Role::kTool: return "tool";
    case chat::Role::kLatestReminder: return "reminder";
  }
  return "?";
}

std::string in_quotes(std::string_view text) { return dump(Json(text)); }

void describe(std::string& out, const chat::ContentBlock& block, std::string_view indent) {
  using Kind = chat::ContentBlock::Kind;
  if (block.kind == Kind::kText) out += cat(indent, "text ", in_quotes(block.text), "\n");
  if (block.kind == Kind::kUnsupported) out += cat(indent, "unsupported ", block.text, "\n");
  if (block.kind == Kind::kToolResult) {
    out += cat(indent, "result of ", block.call_id, "\n");
    for (const auto& part : block.parts) describe(out, part, cat(indent, "  "));
  }
}

std::string describe(const GenerationRequest& r) {
  std::string out;
  const auto line = [&](const auto&... pieces) { out += cat(pieces..., "\n"); };
  const auto number = [&](std::string_view name, const auto& value) {
    if (value) line(name, " ", *value);
  };
  if (!r.model.empty()) line("model ", r.model);
  if (r.text) line("continue ", in_quotes(*r.text));
  if (r.tokens) {
    std::string ids;
    for (const auto id : *r.tokens) ids += cat(" ", id);
    line("tokens", ids);
  }
  for (const chat::Message& message : r.conversation) {
    line(role_name(message.role), message.call_id.empty() ? "" : cat(" answers ", message.call_id),
         message.without_eos ? " goes on" : "");
    for (const auto& block : message.content) describe(out, block, "  ");
    if (!message.reasoning.empty()) line("  reasoning ", in_quotes(message.reasoning));
    for (const auto& call : message.tool_calls) line("  call ", call.id, " ", call.name, " ", call.arguments);
    for (const auto& tool : message.tools) line("  tool ", tool);
  }
  constexpr const char* kUses[] = {"auto", "none", "required", "named"};
  if (r.tool_use != ToolUse::kAuto) line("tool_choice ", kUses[static_cast<int>(r.tool_use)], " ", r.tool_name);
  if (!r.parallel_calls) line("one call at a time");
  constexpr const char* kThinking[] = {"off", "on", "max"};
  if (r.thinking) line("thinking ", kThinking[static_cast<int>(*r.thinking)]);
  number("temperature", r.temperature);
  number("top_p", r.top_p);
  number("min_p", r.min_p);
  number("top_k", r.top_k);
  number("seed", r.seed);
  if (r.presence_penalty != 0) line("presence ", r.presence_penalty);
  if (r.frequency_penalty != 0) line("frequency ", r.frequency_penalty);
  if (r.repetition_penalty != 1) line("repetition ", r.repetition_penalty);
  for (const auto& [token, bias] : r.logit_bias) line("bias ", token, " ", bias);
  number("max_tokens", r.max_tokens);
  for (const auto& stop : r.stop) line("stop ", in_quotes(stop));
  if (r.stream) line("stream");
  if (r.include_usage) line("usage in the stream");
  if (r.reasoning_summary) line("shows reasoning");
  if (r.reasoning_sealed) line("seals reasoning");
  if (r.logprobs) line("logprobs ", r.top_logprobs);
  for (const auto& field : r.unknown_fields) line("ignored ", field);
  return out;
}

/// "begin 10 4", "reasoning TEXT", "text TEXT", "call ID NAME", "args TEXT", "endcall", "end KIND TEXT".
std::vector<AnswerEvent> read_events(const std::string& text) {
  using Kind = AnswerEvent::Kind;
  std::vector<AnswerEvent> events;
  int index = -1;
  std::string id, arguments;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::string word = line.substr(0, line.find(' '));
    std::string rest = line.size() > word.size() ? line.substr(word.size() + 1) : "";
    if (rest.starts_with('"')) rest = Json::parse(rest).get<std::string>();
    AnswerEvent event;
    if (word == "begin") {
      std::istringstream(rest) >> event.usage.prompt_tokens >> event.usage.cached_tokens;
    } else if (word == "reasoning" || word == "text") {
      event.kind = word == "text" ? Kind::kText : Kind::kReasoning;
      event.text = rest;
    } else if (word == "scored") {  // a text with logprobs
      event.kind = Kind::kText;
      event.text = rest;
      event.choices = {{{rest, -0.5}, {{rest, -0.5}, {"no", -2}}}};
    } else if (word == "call") {
      id = rest.substr(0, rest.find(' '));
      arguments.clear();
      event.kind = Kind::kCallStart;
      event.index = ++index;
      event.id = id;
      event.text = rest.substr(id.size() + 1);
    } else if (word == "args") {
      arguments += rest;
      event.kind = Kind::kCallArguments;
      event.index = index;
      event.text = rest;
    } else if (word == "endcall") {
      event.kind = Kind::kCallEnd;
      event.index = index;
      event.id = id;
      event.text = arguments;
    } else if (word == "end") {
      const std::string kind = rest.substr(0, rest.find(' '));
      event.kind = Kind::kEnd;
      event.text = rest.size() > kind.size() ? rest.substr(kind.size() + 1) : "";
      event.ending = kind == "stop"     ? Ending::kStop
                     : kind == "string" ? Ending::kStopString
                     : kind == "length" ? Ending::kLength
                     : kind == "calls"  ? Ending::kToolCalls
                                        : Ending::kError;
      event.usage.prompt_tokens = 10;
      event.usage.cached_tokens = 4;
      event.usage.answer_tokens = 7;
      event.usage.reasoning_tokens = 2;
    } else {
      ADD_FAILURE() << "no event " << word;
    }
    events.push_back(std::move(event));
  }
  return events;
}

class DialectCases : public ::testing::TestWithParam<std::string> {};

TEST_P(DialectCases, SayWhatTheFileSays) {
  const std::string path = cat(DS4_SOURCE_DIR, "/src/server/api/testdata/", GetParam());
  Sections sections = read_case(path);
  const auto section = [&](std::string_view name) -> std::string* {
    const auto found = std::ranges::find(sections, name, &Sections::value_type::first);
    return found == sections.end() ? nullptr : &found->second;
  };
  const Dialect dialect = dialect_of(GetParam());
  const AnswerHeader header{"ID", 1700000000, "a-model"};
  ASSERT_NE(section("request"), nullptr);
  std::string problem;
  const std::optional<Json> body = parse_json(*section("request"), problem);
  ASSERT_TRUE(body) << problem;
  const Parsed parsed = parse_request(dialect, *body);
  std::map<std::string, std::string> found;
  found["parsed"] = parsed.error ? cat("error ", parsed.error->message, "\n") : describe(parsed.request);
  if (const std::string* events = section("events")) {
    const auto writer = stream_writer(parsed.request, header);
    Answer answer;
    for (const AnswerEvent& event : read_events(*events)) {
      found["stream"] += writer->write(event);
      answer.add(event);
    }
    if (answer.end.ending != Ending::kError) found["whole"] = whole_body(parsed.request, header, answer) + "\n";
  }
  const bool write = std::getenv("DS4_WRITE_CASES") != nullptr;
  for (const auto& [name, text] : found) {
    if (write) {
      if (std::string* there = section(name)) *there = text;
      else sections.emplace_back(name, text);
    } else if (name == "parsed" || section(name) != nullptr) {
      ASSERT_NE(section(name), nullptr);
      EXPECT_EQ(text, *section(name)) << name;
    }
  }
  if (write) write_case(path, sections);
}

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(DS4_SOURCE_DIR "/src/server/api/testdata")) {
    if (entry.path().extension() == ".txt") names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, DialectCases, ::testing::ValuesIn(case_names()),
                         [](const auto& one) { return one.param.substr(0, one.param.find('.')); });

struct BadField {
  Dialect dialect;
  const char* field;
  const char* value;
};

std::string body_with(Dialect dialect, const std::string& field, const std::string& value) {
  std::map<std::string, std::string> fields = {{"model", "\"m\""}, {"max_tokens", "5"}};
  if (dialect == Dialect::kCompletions) fields["prompt"] = "\"x\"";
  else if (dialect == Dialect::kResponses) fields["input"] = "\"x\"";
  else fields["messages"] = R"([{"role":"user","content":"x"}])";
  if (dialect == Dialect::kResponses) fields.erase("max_tokens");
  fields[field] = value;
  std::string body;
  for (const auto& [name, text] : fields) body += cat(body.empty() ? "{" : ",", "\"", name, "\":", text);
  return body + "}";
}

/// Every field with values of the wrong type or out of range: an error that names it.
TEST(DialectErrors, EveryFieldRefusesWhatItCannotMean) {
  const std::vector<std::string> junk = {
      "\"x\"", "[]", "{}", "true", "-1", "1e300", "1.5", "[{}]", "99999999999999999999"};
  struct Field {
    const char* name;
    std::vector<Dialect> dialects;
    std::vector<std::string> fine;
  };
  using enum Dialect;
  const std::vector<Field> fields = {
      {"temperature", {kChat, kCompletions, kResponses, kMessages}, {"1.5"}},
      {"top_p", {kChat, kCompletions, kResponses, kMessages}, {}},
      {"top_k", {kChat, kCompletions, kMessages}, {"-1"}},
      {"min_p", {kChat, kCompletions}, {}},
      {"seed", {kChat, kCompletions}, {"-1"}},
      {"presence_penalty", {kChat, kCompletions}, {"-1", "1.5"}},
      {"max_tokens", {kChat, kCompletions, kMessages}, {}},
      {"max_completion_tokens", {kChat}, {}},
      {"max_output_tokens", {kResponses}, {}},
      {"stream", {kChat, kCompletions, kResponses, kMessages}, {"true"}},
      {"stop", {kChat, kCompletions}, {"\"x\"", "[]"}},
      {"stop_sequences", {kMessages}, {"\"x\"", "[]"}},
      {"tools", {kChat, kResponses, kMessages}, {"[]"}},
      {"messages", {kChat, kMessages}, {}},
      {"prompt", {kCompletions}, {"\"x\""}},
      {"input", {kResponses}, {"\"x\""}},
      {"logit_bias", {kChat, kCompletions}, {"{}"}},
      {"logprobs", {kChat}, {"true"}},
      {"n", {kChat, kCompletions}, {}},
      {"model", {kChat, kCompletions, kResponses, kMessages}, {"\"x\""}},
      {"tool_choice", {kChat, kResponses, kMessages}, {}},
      {"reasoning_effort", {kChat, kCompletions, kMessages}, {}},
      {"thinking", {kChat, kCompletions, kMessages}, {"true", "{}"}},
      {"parallel_tool_calls", {kChat, kResponses}, {"true"}},
  };
  for (const Field& field : fields) {
    for (const Dialect dialect : field.dialects) {
      for (const std::string& value : junk) {
        const bool fine = std::ranges::find(field.fine, value) != field.fine.end();
        std::string problem;
        const auto body = parse_json(body_with(dialect, field.name, value), problem);
        ASSERT_TRUE(body) << problem;
        const Parsed parsed = parse_request(dialect, *body);
        if (parsed.error) {
          EXPECT_TRUE(parsed.error->field.starts_with(field.name))
              << field.name << "=" << value << ": " << parsed.error->message;
        } else if (!fine && !(value == "{}" && std::string(field.name) == "tool_choice")) {
          ADD_FAILURE() << field.name << "=" << value << " was accepted";
        }
      }
    }
  }
}

TEST(ParseJson, RefusesWhatIsNotPlainJson) {
  std::string deep(64, '[');
  deep += std::string(64, ']');
  std::string problem;
  EXPECT_TRUE(parse_json(deep, problem));
  const std::string bad[] = {"",
                             "[" + deep + "]",
                             "{\"a\":1,\"a\":2}",
                             "\"\xff\"",
                             "\"\\ud800\"",
                             "\"a\\u0000b\"",
                             "{\"a\\u0000\":1}",
                             "\xef\xbb\xbf{}",
                             "{} x",
                             "NaN",
                             "[Infinity]",
                             "1e999",
                             "[1,]",
                             "{'a':1}",
                             "[01]",
                             "\"\t\"",
                             std::string(1 << 20, '[')};
  for (const std::string& text : bad) {
    EXPECT_FALSE(parse_json(text, problem)) << text.substr(0, 40);
    EXPECT_FALSE(problem.empty());
  }
  const auto kept = parse_json("{\"b\":9007199254740993,\"a\":-0.0,\"c\":18446744073709551615}", problem);
  ASSERT_TRUE(kept);
  EXPECT_EQ(dump(*kept), "{\"b\":9007199254740993,\"a\":-0.0,\"c\":18446744073709551615}");
}

/// H10: the grammar's corners, in the kinds that public suites have: structure, numbers, strings, Unicode.
TEST(ParseJson, AcceptsAndRefusesAsTheSpecificationSays) {
  const char* good[] = {"[]",
                        "{}",
                        "[[]]",
                        "[{}]",
                        "{\"\":0}",
                        "{\"a\":[]}",
                        " [ ] ",
                        "\t\n\r [1]\n",
                        "null",
                        "true",
                        "false",
                        "\"\"",
                        "0",
                        "-0",
                        "1",
                        "-1",
                        "0.5",
                        "-0.1",
                        "1e5",
                        "1E+5",
                        "1e-5",
                        "0e0",
                        "0e+1",
                        "1.5E-10",
                        "123456789",
                        "[null, 1, \"x\"]",
                        "\"\\u0041\"",
                        "\"\\u00e9\"",
                        "\"\\uD834\\udd1e\"",
                        "\"\\\\\"",
                        "\"\\/\"",
                        "\"\\b\\f\\n\\r\\t\\\"\"",
                        "\"\x7f\"",
                        "\"\xc3\xa9\"",
                        "\"\xf0\x9f\x98\x80\"",
                        "\"\xef\xbf\xbf\"",
                        "\"\xe2\x80\xa8\"",
                        "\"/* no comment */\"",
                        "{\"a\":{\"b\":{\"c\":[1,[2,[3]]]}}}",
                        "{\"a\":1,\"A\":2}",
                        "[1,2,3]",
                        "[-1.0e-1]",
                        "\"\\u2028\"",
                        "{\"\\u0061\":1}",
                        "9223372036854775807",
                        "-9223372036854775808",
                        "18446744073709551615",
                        "1e308",
                        "5e-324",
                        "1e-999"};
  const char* bad[] = {
      // structure
      "", " ", "[", "]", "{", "}", "[1", "[1,", "[,1]", "[1,,2]", "[1 2]", "[1,]", "[,]", "[\"a\"", "[1]]", "[1][2]",
      "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{,\"a\":1}", "{\"a\" 1}", "{a:1}", "{1:1}", "{null:1}", "{\"a\":1 \"b\":2}",
      "{\"a\":1,,\"b\":2}", "{\"a\":1}x", "{\"a\":1}{", "[}", "{]", "[{]}", "[1:2]", "{\"a\",1}", "(1)", "<null>",
      "[a]", "nul", "nulll", "tru", "True", "FALSE", "None", "undefined", "// x\n1", "/* x */ 1", "1 // x", "# x\n1",
      "[1]\xc2\xa0", "\x0b[1]", "\x0c[1]", "\xe2\x81\xa0[1]", "{\"a\":1,\"a\":1}", "{\"a\":1,\"\\u0061\":2}",
      "[{\"x\":{\"a\":1,\"a\":2}}]",
      // numbers
      "+1", "01", "-01", "00", "1.", ".5", "-.5", "-", "--1", "1e", "1e+", "1e-", "1.e5", "0x10", "1_000", "1,5",
      "1.5.5", "1 e5", "Infinity", "-Infinity", "NaN", "-NaN", "inf", "1e400", "-1e400", "0b1", "1f", "\xef\xbc\x91",
      // strings
      "\"", "\"a", "'a'", "\"a\nb\"", "\"\t\"", "\"\x1f\"", "\"\\x41\"", "\"\\a\"", "\"\\u\"", "\"\\u00\"",
      "\"\\u00g0\"", "\"\\U0041\"", "\"\\\"", "\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\ud800\"", "\"\\ud800a\"",
      "\"\\udc00\\ud800\"", "\"\\u0000\"", "a\"", "\"a\"b", "`a`",
      // bytes
      "\"\xff\"", "\"\x80\"", "\"\xc0\xaf\"", "\"\xc3\"", "\"\xe0\x80\xaf\"", "\"\xed\xa0\x80\"",
      "\"\xf4\x90\x80\x80\"", "\"\xf8\x88\x80\x80\x80\"", "\"\xf0\x9f\x98\"", "\xef\xbb\xbf[]", "\xfe\xff",
      "{\"\xff\":1}", "[\"\xc3\xa9\xc3\"]"};
  std::string problem;
  for (const char* text : good) EXPECT_TRUE(parse_json(text, problem)) << text << ": " << problem;
  for (const char* text : bad) {
    problem.clear();
    EXPECT_FALSE(parse_json(text, problem)) << text;
    EXPECT_FALSE(problem.empty()) << text;
  }
  using namespace std::string_view_literals;
  for (const std::string_view text : {"[1]\0"sv, "\0"sv, "\"a\0\""sv, "{\"a\0b\":1}"sv})
    EXPECT_FALSE(parse_json(std::string(text), problem));
  const std::string digits(10 << 20, '1');
  EXPECT_FALSE(parse_json(digits, problem));
  EXPECT_FALSE(parse_json(cat("{\"a\":", digits, "}"), problem));
}

}  // namespace
}  // namespace ds4::server
