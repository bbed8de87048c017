// Items, answers and how they are counted; running a model is the e2e test's.
#include "eval/nano.h"

#include <gtest/gtest.h>

#include <limits>

#include "eval/report.h"

namespace ds4::eval {
namespace {

std::string cat_lines(const std::vector<std::string>& lines) {
  std::string out;
  for (const std::string& line : lines) out += line + "\n";
  return out;
}

constexpr const char* kTools =
    R"({"kind":"tools","tools":{"get_weather":{"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}},"required":["city"]}}}})";

std::string tool_line(const std::string& checks) {
  return R"({"kind":"chat","skill":"tool","thinking":false,"tools":["get_weather",{"name":"own"}],"messages":[{"role":"user","content":"Rome?"},)"
         R"({"role":"assistant","content":"","reasoning":"r","calls":[{"id":"c","name":"get_weather","arguments":{"city":"Rome","days":2}}]},)"
         R"({"role":"tool","call_id":"c","content":"19"},{"role":"assistant","content":"It is 19."}],"checks":)" +
         checks + "}";
}

std::string error_of(const std::string& text) {
  const auto items = parse_items(text, "items");
  return items.ok() ? "" : items.error().message;
}

TEST(Items, AChatWithToolsOfTheCatalogueAndItsOwn) {
  const auto items = parse_items(
      cat_lines(
          {kTools,
           tool_line(
               R"([{"at":1,"calls":[{"name":"get_weather","arguments":{"city":"Rome"}}]},{"at":3,"contains":["19"]}])")}),
      "items");
  ASSERT_TRUE(items.ok()) << items.error().message;
  ASSERT_EQ(items->size(), 1u);
  const Item& item = items->front();
  EXPECT_EQ(item.skill, "tool");
  ASSERT_EQ(item.tools.size(), 2u);
  EXPECT_NE(item.tools[0].find("\"city\""), std::string::npos);
  EXPECT_EQ(item.messages[1].tool_calls[0].arguments, R"({"city":"Rome","days":2})");
  EXPECT_EQ(item.messages[2].role, chat::Role::kTool);
  ASSERT_EQ(item.checks.size(), 2u);
  EXPECT_TRUE(item.checks[0].calls.has_value());
  EXPECT_FALSE(item.checks[1].calls.has_value());
  EXPECT_EQ(item.checks[1].contains, std::vector<std::string>{"19"});
}

TEST(Items, ARecallDocumentIsPutTogetherOnceForEachQuestion) {
  const auto items = parse_items(
      cat_lines(
          {R"({"kind":"snippets","texts":["first","second"]})",
           R"({"kind":"recall","tokens":4096,"before":"Doc: ","join":"\n","pieces":[1,"Mira=4821",0],"questions":[{"ask":"Mira?","contains":["Mira=4821"]},{"ask":"And?","contains":[]}]})"}),
      "items");
  ASSERT_TRUE(items.ok()) << items.error().message;
  ASSERT_EQ(items->size(), 2u);
  EXPECT_EQ((*items)[0].skill, "recall 4K");
  EXPECT_EQ((*items)[0].messages[0].content[0].text, "Doc: second\nMira=4821\nfirst\n\nMira?");
  EXPECT_EQ((*items)[1].messages[0].content[0].text, "Doc: second\nMira=4821\nfirst\n\nAnd?");
}

TEST(Items, ErrorsNameTheLineAndWhatIsWrong) {
  EXPECT_EQ(error_of("{\"kind\":\"tools\",\"tools\":{}}\n{"), "items: line 2: expected JSON");
  EXPECT_EQ(error_of("[]"), "items: line 1: expected a member \"kind\"");
  EXPECT_EQ(error_of("{\"kind\":\"song\"}"),
            "items: line 1: kind: expected tools, snippets, chat or recall, found \"song\"");
  EXPECT_EQ(error_of(tool_line("[]")), "items: line 1: tools: \"get_weather\" is not in the catalogue");
  EXPECT_EQ(error_of(cat_lines({kTools, tool_line(R"([{"at":4}])")})),
            "items: line 2: at: expected a number below 4, found 4");
  EXPECT_EQ(error_of(cat_lines({kTools, tool_line(R"([{"at":2}])")})),
            "items: line 2: at: message 2 is not an answer of the assistant");
  EXPECT_EQ(error_of(cat_lines({kTools, tool_line(R"([{"at":0}])")})),
            "items: line 2: at: message 0 is not an answer of the assistant");
  EXPECT_EQ(error_of(R"({"kind":"recall","tokens":1024,"before":"","join":"","pieces":[0],"questions":[]})"),
            "items: line 1: pieces: expected a number below 0, found 0");
}

TEST(Answers, TextIsFoundAsAWholeOnly) {
  const auto holds = [](std::string_view text, std::string wanted) {
    return contains_all(text, std::vector{std::move(wanted)});
  };
  EXPECT_TRUE(holds("Mira=482.", "Mira=482"));
  EXPECT_FALSE(holds("Mira=4821", "Mira=482"));
  EXPECT_FALSE(holds("Samira=482", "ira=482"));
  EXPECT_TRUE(holds("x4821 and 482", "482"));
  EXPECT_TRUE(holds("ends in .fr", ".fr"));
  EXPECT_FALSE(holds("", "a"));
  EXPECT_TRUE(contains_all("", {}));
}

TEST(Answers, CallsAreComparedAsValuesInOrder) {
  const std::vector<Call> a = {{"f", R"({"x":1,"y":"s"})"}};
  EXPECT_TRUE(same_calls(a, std::vector<Call>{{"f", R"({ "y":"s", "x":1 })"}}));
  EXPECT_FALSE(same_calls(a, std::vector<Call>{{"f", R"({"x":"1","y":"s"})"}}));
  EXPECT_FALSE(same_calls(a, std::vector<Call>{{"g", R"({"x":1,"y":"s"})"}}));
  EXPECT_FALSE(same_calls(a, std::vector<Call>{a[0], a[0]}));
  EXPECT_FALSE(same_calls(std::vector<Call>{{"f", "{"}}, std::vector<Call>{{"f", "{"}}));
}

TEST(Answers, WellFormedMeansAsTheSchemaSays) {
  const std::vector<std::string> tools = {
      R"({"name":"f","parameters":{"properties":{"n":{"type":"integer"},"s":{"type":"string","enum":["a","b"]}},"required":["n"]}})"};
  const auto form = [&](const char* name, const char* arguments) {
    Answer answer;
    answer.calls = {{name, arguments}};
    return well_formed(answer, tools);
  };
  EXPECT_TRUE(form("f", R"({"n":1})"));
  EXPECT_TRUE(form("f", R"({"n":1,"s":"a"})"));
  EXPECT_FALSE(form("f", R"({"s":"a"})"));          // lacks what is required
  EXPECT_FALSE(form("f", R"({"n":1.5})"));          // of another type
  EXPECT_FALSE(form("f", R"({"n":1,"s":"c"})"));    // not in the enumeration
  EXPECT_FALSE(form("f", R"({"n":1,"other":2})"));  // no such parameter
  EXPECT_FALSE(form("g", R"({"n":1})"));            // no such tool
  EXPECT_FALSE(well_formed(Answer{}, tools));       // no call at all
  Answer broken;
  broken.calls = {{"f", R"({"n":1})"}};
  broken.block_failed = true;
  EXPECT_FALSE(well_formed(broken, tools));
}

TEST(Answers, ThinkingIsObeyedBothWays) {
  Answer plain;
  EXPECT_TRUE(obeys_thinking(plain, false));
  EXPECT_FALSE(obeys_thinking(plain, true));
  Answer thought;
  thought.reasoning = "r";
  thought.closed = 1;
  EXPECT_TRUE(obeys_thinking(thought, true));
  EXPECT_FALSE(obeys_thinking(thought, false));
  thought.closed = 2;
  EXPECT_FALSE(obeys_thinking(thought, true));
}

class TallyTest : public testing::Test {
 protected:
  void SetUp() override {
    auto items = parse_items(
        cat_lines(
            {kTools,
             tool_line(
                 R"([{"at":1,"calls":[{"name":"get_weather","arguments":{"city":"Rome"}}]},{"at":3,"calls":[],"contains":["19"]}])")}),
        "items");
    ASSERT_TRUE(items.ok()) << items.error().message;
    item_ = std::move(items->front());
  }
  Item item_;
  NanoReport report_;
};

TEST_F(TallyTest, ARightCallCountsForFormAndArguments) {
  Answer answer;
  answer.stopped = true;
  answer.calls = {{"get_weather", R"({"city":"Rome"})"}};
  EXPECT_TRUE(tally(item_, item_.checks[0], answer, report_));
  answer.calls = {{"get_weather", R"({"city":"Bari"})"}};
  EXPECT_FALSE(tally(item_, item_.checks[0], answer, report_));
  EXPECT_EQ(report_.skills["call_form"].right, 2);
  EXPECT_EQ(report_.skills["call_right"].right, 1);
  EXPECT_EQ(report_.skills["call_right"].total, 2);
  EXPECT_EQ(report_.skills["thinking"].right, 2);
}

TEST_F(TallyTest, AnAnswerThatCallsAgainDoesNotUseTheResult) {
  Answer answer;
  answer.stopped = true;
  answer.text = "It is 19 degrees.";
  EXPECT_TRUE(tally(item_, item_.checks[1], answer, report_));
  answer.calls = {{"get_weather", R"({"city":"Rome"})"}};
  EXPECT_FALSE(tally(item_, item_.checks[1], answer, report_));
  EXPECT_EQ(report_.skills["result_used"].right, 1);
  EXPECT_EQ(report_.skills["result_used"].total, 2);
  EXPECT_EQ(report_.skills["call_form"].total, 1);
}

TEST_F(TallyTest, AnAnswerThatWasCutIsNotRight) {
  item_.skill = "fact";
  Answer answer;
  answer.text = "19";
  EXPECT_FALSE(tally(item_, item_.checks[1], answer, report_));
  answer.stopped = true;
  EXPECT_TRUE(tally(item_, item_.checks[1], answer, report_));
  EXPECT_EQ(report_.skills["fact"].right, 1);
  EXPECT_EQ(report_.skills["fact"].total, 2);
}

TEST(Report, TextSaysWhatWasMissed) {
  NanoReport report;
  report.skills["fact"] = {70, 100};
  report.skills["recall 1K"] = {100, 100};
  const std::string text = nano_text(report);
  EXPECT_NE(text.find("70 of 100"), std::string::npos) << text;
  EXPECT_NE(text.find("80 %  missed"), std::string::npos) << text;
  EXPECT_EQ(text.find("95 %  missed"), std::string::npos) << text;
  EXPECT_NE(nano_json(report, "m\xff").find("\"right\": 70"), std::string::npos);
}

TEST(Report, UnknownIntervalsAreNull) {
  Comparison one;
  one.nll_a.low = -std::numeric_limits<double>::infinity();
  EXPECT_NE(compare_json(one, {"a", "b", "t"}).find("\"low\": null"), std::string::npos);
}

}  // namespace
}  // namespace ds4::eval
