#include "server/api/dialect.h"

#include "base/text.h"

namespace ds4::server {

std::string dump(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string in_order(std::initializer_list<std::string> pieces) {
  std::string out;
  for (const std::string& piece : pieces) out += piece;
  return out;
}

std::string sse(std::string_view name, const Json& data) {
  return name.empty() ? cat("data: ", dump(data), "\n\n") : cat("event: ", name, "\ndata: ", dump(data), "\n\n");
}

int http_status(Dialect dialect, ApiError kind) {
  switch (kind) {
    case ApiError::kInvalid:
    case ApiError::kContext: return 400;
    case ApiError::kAuth: return 401;
    case ApiError::kForbidden: return 403;
    case ApiError::kNotFound: return 404;
    case ApiError::kTooLarge: return 413;
    case ApiError::kQueueFull: return 429;
    case ApiError::kUnavailable: return dialect == Dialect::kMessages ? 529 : 503;
    case ApiError::kServer: return 500;
  }
  return 500;
}

namespace {

std::string_view openai_type(ApiError kind) {
  switch (kind) {
    case ApiError::kAuth: return "authentication_error";
    case ApiError::kForbidden: return "permission_error";
    case ApiError::kNotFound: return "not_found_error";
    case ApiError::kQueueFull: return "rate_limit_error";
    case ApiError::kUnavailable: return "service_unavailable_error";
    case ApiError::kServer: return "server_error";
    default: return "invalid_request_error";
  }
}

std::string_view anthropic_type(ApiError kind) {
  switch (kind) {
    case ApiError::kAuth: return "authentication_error";
    case ApiError::kForbidden: return "permission_error";
    case ApiError::kNotFound: return "not_found_error";
    case ApiError::kTooLarge: return "request_too_large";
    case ApiError::kQueueFull: return "rate_limit_error";
    case ApiError::kUnavailable: return "overloaded_error";
    case ApiError::kServer: return "api_error";
    default: return "invalid_request_error";
  }
}

Json code_of(ApiError kind) {
  switch (kind) {
    case ApiError::kAuth: return "invalid_api_key";
    case ApiError::kContext: return "context_length_exceeded";
    case ApiError::kQueueFull: return "queue_full";
    default: return nullptr;
  }
}

}  // namespace

std::string error_body(Dialect dialect, const ErrorInfo& error) {
  if (dialect == Dialect::kMessages) {
    return dump({{"type", "error"}, {"error", {{"type", anthropic_type(error.kind)}, {"message", error.message}}}});
  }
  Json inner = {{"message", error.message},
                {"type", openai_type(error.kind)},
                {"param", error.field.empty() ? Json(nullptr) : Json(error.field)},
                {"code", code_of(error.kind)}};
  if (error.kind == ApiError::kContext) {
    inner["n_prompt_tokens"] = error.prompt_tokens;
    inner["n_ctx"] = error.context;
  }
  return dump({{"error", std::move(inner)}});
}

ErrorInfo error_of(const AnswerEvent& end) {
  ErrorInfo info;
  info.message = end.text;
  if (end.ending == Ending::kCancelled) {
    info.kind = ApiError::kUnavailable;
    if (info.message.empty()) info.message = "the server is stopping";
  } else if (end.retry) {
    info.kind = ApiError::kUnavailable;
  } else if (end.error == ErrorCode::kUsage) {
    info.kind = ApiError::kInvalid;
  } else if (end.error == ErrorCode::kOutOfMemory) {
    info.kind = ApiError::kUnavailable;
  }
  return info;
}

Parsed parse_request(Dialect dialect, const Json& body) {
  switch (dialect) {
    case Dialect::kChat: return parse_chat(body);
    case Dialect::kCompletions: return parse_completions(body);
    case Dialect::kResponses: return parse_responses(body);
    case Dialect::kMessages: return parse_messages(body);
  }
  return {};
}

std::unique_ptr<StreamWriter> stream_writer(const GenerationRequest& request, const AnswerHeader& header) {
  switch (request.dialect) {
    case Dialect::kChat: return chat_writer(request, header);
    case Dialect::kCompletions: return completions_writer(request, header);
    case Dialect::kResponses: return responses_writer(request, header);
    case Dialect::kMessages: return messages_writer(request, header);
  }
  return nullptr;
}

std::string whole_body(const GenerationRequest& request, const AnswerHeader& header, const Answer& answer) {
  switch (request.dialect) {
    case Dialect::kChat: return chat_body(request, header, answer);
    case Dialect::kCompletions: return completions_body(request, header, answer);
    case Dialect::kResponses: return responses_body(request, header, answer);
    case Dialect::kMessages: return messages_body(request, header, answer);
  }
  return {};
}

}  // namespace ds4::server
