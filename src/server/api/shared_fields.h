// Fields that several dialects have, read into a GenerationRequest: sampling, stop strings, tools, content parts.
// Pure functions; errors go to the reader.
#pragma once

#include <string>
#include <vector>

#include "server/api/generation_request.h"
#include "server/api/json_reader.h"

namespace ds4::server {

inline constexpr std::size_t kMaxStops = 16;
inline constexpr std::size_t kMaxStopBytes = 1024;
inline constexpr std::size_t kMaxTools = 128;
inline constexpr std::size_t kMaxMessages = 16384;
inline constexpr std::int64_t kMaxTokens = 1 << 30;

/// temperature, top_p, top_k, min_p, seed, penalties, logit_bias.
void read_sampling(JsonReader& reader, GenerationRequest& request);
/// A string or an array of strings.
void read_stop(JsonReader& reader, std::string_view name, GenerationRequest& request);
/// `thinking` (bool, or {type}), `think`, `reasoning_effort`; the first that says something counts.
void read_thinking(JsonReader& reader, GenerationRequest& request);
/// none, minimal ... max.
std::optional<chat::Thinking> thinking_of_effort(JsonReader& reader, std::string_view name);

/// The elements of an array field; none when it is absent. Another type, or more than `most`, is an error.
const Json& array_of(JsonReader& reader, std::string_view name, std::size_t most);

/// A string, or parts whose type is one of `text_types`, as text blocks. Images, audio and files are errors.
std::vector<chat::ContentBlock> read_content(const Json& value, const std::string& path,
                                             const std::vector<std::string>& text_types,
                                             std::optional<FieldError>& error);

/// A function tool: its schema for the prompt, its name for tool_choice.
void add_tool(JsonReader& function, Json schema, std::vector<std::string>& tools, GenerationRequest& request);
/// Puts the tools on the conversation unless tool_use says none; checks the named one.
void attach(JsonReader& reader, std::vector<std::string> tools, GenerationRequest& request);

/// System messages at the beginning become one; later ones speak as the user, since the model knows no other place.
void settle_system(chat::Conversation& conversation);
/// An assistant message at the end is to be continued.
void open_last(chat::Conversation& conversation);

}  // namespace ds4::server
