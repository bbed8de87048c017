#include "chat/python_json.h"

#include <gtest/gtest.h>

#include <utility>

namespace ds4::chat {
namespace {

TEST(PythonJson, PrintsAsPythonDoes) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"b":1,"a":[1,2,{"c":null}]})", R"({"b": 1, "a": [1, 2, {"c": null}]})"},
      {"[]", "[]"},
      {"{}", "{}"},
      {"[[],{}]", "[[], {}]"},
      {" true ", "true"},
      {R"("\u00e9\u4e2d\ud83d\ude00")", "\"\u00e9\u4e2d\U0001F600\""},
      {R"("\u0001\u001f\u007f\/\b\f\n\r\t\"\\")", "\"\\u0001\\u001f\x7f/\\b\\f\\n\\r\\t\\\"\\\\\""},
      {"1e-07", "1e-07"},
      {"1e16", "1e+16"},
      {"1e15", "1000000000000000.0"},
      {"-0.0", "-0.0"},
      {"-0", "0"},
      {"0.0001", "0.0001"},
      {"0.00001", "1e-05"},
      {"1.5e300", "1.5e+300"},
      {"5e-324", "5e-324"},
      {"1E5", "100000.0"},
      {"100.0", "100.0"},
      {"0.1", "0.1"},
      {"123456789.125", "123456789.125"},
      {"9007199254740993.0", "9007199254740992.0"},
      {"-1.5e-7", "-1.5e-07"},
      {"18446744073709551615", "18446744073709551615"},
      {"-9223372036854775809", "-9223372036854775809"},
      {"123456789012345678901234567890", "123456789012345678901234567890"},
  };
  for (const auto& [json, expected] : cases) {
    const auto printed = python_json(json);
    ASSERT_TRUE(printed.ok()) << json << ": " << printed.error().message;
    EXPECT_EQ(*printed, expected) << json;
  }
}

TEST(PythonJson, RefusesWhatIsNoJson) {
  using std::string_view_literals::operator""sv;
  const std::string_view cases[] = {
      "",
      "{",
      "[1,]",
      "NaN",
      "Infinity",
      "1e999",
      "{'a':1}",
      "{\"a\":1,\"a\":2}",
      "[1]x",
      "\xEF\xBB\xBF[]",
      "1\0 2"sv,
      "\"\xff\"",
      "\"\\ud800\"",
      "\"\n\"",
      "01",
      "// c\n1",
  };
  for (const std::string_view json : cases) EXPECT_FALSE(python_json(json).ok()) << json;
  const auto twice = python_json(R"({"a":{"k":1,"k":2}})");
  ASSERT_FALSE(twice.ok());
  EXPECT_EQ(twice.error().message, "the key \"k\" twice in one object");
}

TEST(PythonJson, DeepNestingIsNoRecursion) {
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  const auto printed = python_json(deep);
  ASSERT_TRUE(printed.ok());
  EXPECT_EQ(*printed, deep);
  EXPECT_TRUE(is_json(deep));
}

TEST(PythonJson, SplitsTheOutermostObject) {
  const auto split = split_arguments(R"({"s":"a\nb","n":1.0,"o":{"u":"C","l":[1,2]},"e":"","z":null})");
  ASSERT_TRUE(split.ok());
  ASSERT_EQ(split->size(), 5u);
  const char* expected[][2] = {
      {"s", "a\nb"}, {"n", "1.0"}, {"o", R"({"u": "C", "l": [1, 2]})"}, {"e", ""}, {"z", "null"}};
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ((*split)[i].name, expected[i][0]);
    EXPECT_EQ((*split)[i].value, expected[i][1]);
    EXPECT_EQ((*split)[i].is_string, i == 0 || i == 3);
  }
  EXPECT_TRUE(split_arguments("{}").ok());
  for (const char* other : {"[]", "1", "\"x\"", "null", "", "[{}]"}) EXPECT_FALSE(split_arguments(other).ok()) << other;
}

}  // namespace
}  // namespace ds4::chat
