// The four ways to ask and to be answered, each a file beside this one: pure functions from JSON to a
// GenerationRequest, and from the events of an answer to bytes. Any thread.
#pragma once

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "server/api/answer.h"
#include "server/api/generation_request.h"
#include "server/api/json_reader.h"

namespace ds4::server {

struct Parsed {
  GenerationRequest request;
  std::optional<FieldError> error;
};

struct AnswerHeader {
  std::string id;  // without the prefix of a dialect
  std::int64_t created = 0;
  std::string model;
};

/// Turns the events of one answer into server-sent events. Owned by the request.
class StreamWriter {
 public:
  virtual ~StreamWriter() = default;
  virtual std::string write(const AnswerEvent& event) = 0;
  /// Keeps proxies and clients waiting.
  virtual std::string keepalive() { return ": keepalive\n\n"; }
};

enum class ApiError { kInvalid, kAuth, kForbidden, kNotFound, kTooLarge, kQueueFull, kUnavailable, kServer, kContext };

struct ErrorInfo {
  ApiError kind = ApiError::kServer;
  std::string message;
  std::string field = {};
  std::int64_t prompt_tokens = 0;  // kContext
  std::int64_t context = 0;        // kContext
};

/// Anthropic has a status of its own, 529, for what the others call 503.
int http_status(Dialect dialect, ApiError kind);
/// The body of an error answer in the words of OpenAI's or Anthropic's API.
std::string error_body(Dialect dialect, const ErrorInfo& error);
ErrorInfo error_of(const AnswerEvent& end);

Parsed parse_chat(const Json& body);
Parsed parse_completions(const Json& body);
Parsed parse_responses(const Json& body);
Parsed parse_messages(const Json& body);
Parsed parse_request(Dialect dialect, const Json& body);

std::unique_ptr<StreamWriter> chat_writer(const GenerationRequest& request, const AnswerHeader& header);
std::unique_ptr<StreamWriter> completions_writer(const GenerationRequest& request, const AnswerHeader& header);
std::unique_ptr<StreamWriter> responses_writer(const GenerationRequest& request, const AnswerHeader& header);
std::unique_ptr<StreamWriter> messages_writer(const GenerationRequest& request, const AnswerHeader& header);
std::unique_ptr<StreamWriter> stream_writer(const GenerationRequest& request, const AnswerHeader& header);

std::string chat_body(const GenerationRequest& request, const AnswerHeader& header, const Answer& answer);
std::string completions_body(const GenerationRequest& request, const AnswerHeader& header, const Answer& answer);
std::string responses_body(const GenerationRequest& request, const AnswerHeader& header, const Answer& answer);
std::string messages_body(const GenerationRequest& request, const AnswerHeader& header, const Answer& answer);
std::string whole_body(const GenerationRequest& request, const AnswerHeader& header, const Answer& answer);

/// JSON as it goes out: bytes that are no UTF-8 are replaced, never an exception.
std::string dump(const Json& value);
/// The pieces joined. They are made in their order, which those of a sum or of a call's arguments need not be.
std::string in_order(std::initializer_list<std::string> pieces);
/// One server-sent event; `name` may be empty.
std::string sse(std::string_view name, const Json& data);

}  // namespace ds4::server
