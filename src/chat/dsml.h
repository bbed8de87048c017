// The tags of a tool block in the spellings that are read: with the marker token ("<｜DSML｜invoke"), with its first
// bar lost ("<DSML｜invoke"), and plain ("<invoke"). Only the first is ever written.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace ds4::chat::dsml {

enum class Spelling { kFull, kShort, kPlain };
enum class Element { kToolCalls, kInvoke, kParameter };

inline constexpr std::array kSpellings = {Spelling::kFull, Spelling::kShort, Spelling::kPlain};

/// "<｜DSML｜invoke", without what follows the word.
[[nodiscard]] std::string_view open_head(Spelling spelling, Element element);
/// "</｜DSML｜invoke".
[[nodiscard]] std::string_view close_head(Spelling spelling, Element element);
/// "<｜DSML｜tool_calls>", the whole tag.
[[nodiscard]] std::string_view block_opening(Spelling spelling);
/// "</｜DSML｜parameter>", the whole tag, and how it is written inside of a value.
[[nodiscard]] std::string_view value_end(Spelling spelling);
[[nodiscard]] std::string_view value_end_escaped(Spelling spelling);

/// May tags of both spellings stand in one block? The marker's two forms mix; plain tags keep to themselves.
[[nodiscard]] bool same_family(Spelling a, Spelling b);

struct Attributes {
  std::optional<std::string> name;
  std::optional<bool> string;
};

/// The attributes between a tag's word and its '>' (`text` is without both). nullopt for anything but name="..." and
/// string="true|false", each at most once, each behind white space.
[[nodiscard]] std::optional<Attributes> parse_attributes(std::string_view text);

constexpr bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

}  // namespace ds4::chat::dsml
