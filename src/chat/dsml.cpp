#include "chat/dsml.h"

#include "base/check.h"

namespace ds4::chat::dsml {

namespace {

struct Words {
  std::array<std::string_view, 3> open, close;  // tool_calls, invoke, parameter
  std::string_view block_opening, value_end, value_end_escaped;
};

constexpr std::array<Words, 3> kWords = {{
    {{"<｜DSML｜tool_calls", "<｜DSML｜invoke", "<｜DSML｜parameter"},
     {"</｜DSML｜tool_calls", "</｜DSML｜invoke", "</｜DSML｜parameter"},
     "<｜DSML｜tool_calls>",
     "</｜DSML｜parameter>",
     "&lt;/｜DSML｜parameter>"},
    {{"<DSML｜tool_calls", "<DSML｜invoke", "<DSML｜parameter"},
     {"</DSML｜tool_calls", "</DSML｜invoke", "</DSML｜parameter"},
     "<DSML｜tool_calls>",
     "</DSML｜parameter>",
     "&lt;/DSML｜parameter>"},
    {{"<tool_calls", "<invoke", "<parameter"},
     {"</tool_calls", "</invoke", "</parameter"},
     "<tool_calls>",
     "</parameter>",
     "&lt;/parameter>"},
}};

const Words& words(Spelling spelling) { return kWords[static_cast<std::size_t>(spelling)]; }

}  // namespace

std::string_view open_head(Spelling spelling, Element element) {
  return words(spelling).open[static_cast<std::size_t>(element)];
}
std::string_view close_head(Spelling spelling, Element element) {
  return words(spelling).close[static_cast<std::size_t>(element)];
}
std::string_view block_opening(Spelling spelling) { return words(spelling).block_opening; }
std::string_view value_end(Spelling spelling) { return words(spelling).value_end; }
std::string_view value_end_escaped(Spelling spelling) { return words(spelling).value_end_escaped; }

bool same_family(Spelling a, Spelling b) { return (a == Spelling::kPlain) == (b == Spelling::kPlain); }

std::optional<Attributes> parse_attributes(std::string_view text) {
  Attributes found;
  for (;;) {
    std::size_t spaces = 0;
    while (spaces < text.size() && is_space(text[spaces])) ++spaces;
    text.remove_prefix(spaces);
    if (text.empty()) return found;
    const std::size_t equals = text.find("=\"");
    if (spaces == 0 || equals == std::string_view::npos) return std::nullopt;
    const std::size_t end = text.find('"', equals + 2);
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view key = text.substr(0, equals);
    const std::string_view value = text.substr(equals + 2, end - equals - 2);
    if (key == "name" && !found.name) found.name = std::string(value);
    else if (key == "string" && !found.string && (value == "true" || value == "false")) found.string = value == "true";
    else return std::nullopt;
    text.remove_prefix(end + 1);
  }
}

}  // namespace ds4::chat::dsml
