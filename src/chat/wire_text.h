// The exact texts the model was trained on (spec 6.3, 7.3 and appendix B). The bars are U+FF5C, the low lines U+2581.
#pragma once

#include <string_view>

namespace ds4::chat::wire {

inline constexpr std::string_view kBos = "<｜begin▁of▁sentence｜>";
inline constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";
inline constexpr std::string_view kUser = "<｜User｜>";
inline constexpr std::string_view kAssistant = "<｜Assistant｜>";
inline constexpr std::string_view kLatestReminder = "<｜latest_reminder｜>";
inline constexpr std::string_view kExtractedUrl = "<｜extracted_url｜>";
inline constexpr std::string_view kThink = "<think>";
inline constexpr std::string_view kEndThink = "</think>";
inline constexpr std::string_view kDsml = "｜DSML｜";  // one token; the brackets and words around it are ordinary text

inline constexpr std::string_view kAction = "<｜action｜>";
inline constexpr std::string_view kQuery = "<｜query｜>";
inline constexpr std::string_view kAuthority = "<｜authority｜>";
inline constexpr std::string_view kDomain = "<｜domain｜>";
inline constexpr std::string_view kTitle = "<｜title｜>";
inline constexpr std::string_view kReadUrl = "<｜read_url｜>";

inline constexpr std::string_view kToolResultOpen = "<tool_result>";
inline constexpr std::string_view kToolResultClose = "</tool_result>";
inline constexpr std::string_view kToolResultCloseEscaped = "&lt;/tool_result>";
inline constexpr std::string_view kParameterClose = "</｜DSML｜parameter>";
inline constexpr std::string_view kParameterCloseEscaped = "&lt;/｜DSML｜parameter>";

extern const std::string_view kMaxEffort;             // B.1, with its two line feeds
extern const std::string_view kToolsBeforeSchemas;    // B.2 up to the first schema
extern const std::string_view kToolsAfterSchemas;     // B.2 behind the last schema
extern const std::string_view kBeforeResponseFormat;  // up to the schema

}  // namespace ds4::chat::wire
