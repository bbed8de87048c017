#include "cli/diagnostics.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "base/text.h"
#include "chat/python_json.h"
#include "chat/utf8_gate.h"
#include "cli/interrupt.h"

namespace ds4::cli {

namespace {

static_assert(std::endian::native == std::endian::little, "dump_logits writes floats as they lie in memory");

/// A file being written; the first failure is kept for finish().
class Output {
 public:
  explicit Output(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "wb")) {
    if (file_ == nullptr) error_ = errno;
  }
  ~Output() {
    if (file_ != nullptr) std::fclose(file_);
  }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  void write(const void* data, std::size_t bytes) {
    if (error_ == 0 && std::fwrite(data, 1, bytes, file_) != bytes) error_ = errno;
  }
  void write(std::string_view text) { write(text.data(), text.size()); }
  bool ok() const { return error_ == 0; }
  Status finish() {
    if (file_ != nullptr && std::fclose(std::exchange(file_, nullptr)) != 0 && error_ == 0) error_ = errno;
    if (error_ == 0) return {};
    return Error{ErrorCode::kIo, cat(escaped(path_, 4096), ": cannot write: ", std::strerror(error_))};
  }

 private:
  std::string path_;
  std::FILE* file_;
  int error_ = 0;
};

std::string number(double value, const char* format = "%.9g") {
  if (!std::isfinite(value)) return "null";
  char text[40];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

/// {"id":..,"text":"..","bytes":[..]}: the text is for people, the bytes are exact.
std::string json_token(const Tokenizer* tokenizer, TokenId token) {
  std::string out = cat("{\"id\":", token);
  if (tokenizer != nullptr) {
    const std::string_view bytes = tokenizer->token_bytes(token);
    out += ",\"text\":";
    chat::append_json_string(out, chat::valid_utf8(bytes));
    out += ",\"bytes\":[";
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      out += cat(i == 0 ? "" : ",", static_cast<unsigned>(static_cast<unsigned char>(bytes[i])));
    }
    out += "]";
  }
  return out + "}";
}

}  // namespace

void dump_tokens(Console& console, const Tokenizer* tokenizer, std::span<const TokenId> tokens) {
  for (const TokenId token : tokens) {
    const std::string_view bytes = tokenizer != nullptr ? tokenizer->token_bytes(token) : std::string_view();
    console.out(cat(token, "\t", escaped(bytes), "\n"));
  }
}

Status dump_logits(Console& console, Session& session, std::span<const TokenId> tokens, const std::string& path) {
  Output file(path);
  if (!file.ok()) return file.finish();
  Progress progress(console, "computing logits");
  SyncOptions options;
  options.cancel = &interrupted();
  options.progress = [&](std::int64_t done, std::int64_t todo) {
    progress.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(todo));
  };
  const auto write_row = [&](std::int64_t, std::span<const float> logits) {
    file.write(logits.data(), logits.size_bytes());
  };
  DS4_RETURN_IF_ERROR(session.evaluate(tokens, write_row, options));
  return file.finish();
}

Status dump_logprobs(Console& console, Session& session, const Engine& engine, std::int64_t max_tokens,
                     std::int64_t top, const std::string& path) {
  Output file(path);
  if (!file.ok()) return file.finish();
  const Tokenizer* tokenizer = engine.tokenizer();
  file.write(cat("{\n  \"source\":\"ds4\",\n  \"prompt_tokens\":", session.timeline().size(),
                 ",\n  \"ctx\":", engine.context(), ",\n  \"top_k\":", top, ",\n  \"steps\":["));
  Progress progress(console, "decoding");
  for (std::int64_t step = 0; step < max_tokens && file.ok(); ++step) {
    const TokenId token = argmax(session.logits());
    file.write(cat(step == 0 ? "\n" : ",\n", "    {\"step\":", step, ",\"selected\":", json_token(tokenizer, token),
                   ",\"top_logprobs\":["));
    const char* comma = "";
    for (const TokenLogprob& entry : top_logprobs(session.logits(), static_cast<std::size_t>(top))) {
      const float logit = session.logits()[static_cast<std::size_t>(entry.token)];
      file.write(cat(comma, "{\"token\":", json_token(tokenizer, entry.token), ",\"logit\":", number(logit),
                     ",\"logprob\":", number(entry.logprob), "}"));
      comma = ",";
    }
    file.write("]}");
    if (tokenizer != nullptr && token == tokenizer->eos()) break;
    if (session.timeline().size() >= engine.context()) break;
    if (step + 1 < max_tokens) DS4_RETURN_IF_ERROR(session.append(token, &interrupted()));
    progress.update(static_cast<std::uint64_t>(step), static_cast<std::uint64_t>(max_tokens));
  }
  file.write("\n  ]\n}\n");
  return file.finish();
}

Status perplexity(Console& console, Session& session, std::span<const TokenId> tokens, std::int64_t max_scored) {
  constexpr std::int64_t kContext = 32;
  const std::int64_t scored = std::min(std::ssize(tokens) - kContext, max_scored);
  if (scored <= 0) {
    return Error{ErrorCode::kUsage, cat("perplexity: expected more than ", kContext, " tokens, found ", tokens.size())};
  }
  double nll = 0;
  {
    Progress progress(console, "scoring");
    SyncOptions options;
    options.cancel = &interrupted();
    options.progress = [&](std::int64_t done, std::int64_t todo) {
      progress.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(todo));
    };
    const std::int64_t end = kContext + scored;
    const auto add_row = [&](std::int64_t position, std::span<const float> logits) {
      const std::int64_t next = position + 1;
      if (next >= kContext && next < end) nll -= logprob(logits, tokens[static_cast<std::size_t>(next)]);
    };
    // The last scored token is only predicted, never computed.
    DS4_RETURN_IF_ERROR(session.evaluate(tokens.first(static_cast<std::size_t>(end - 1)), add_row, options));
  }
  const double average = nll / static_cast<double>(scored);
  console.out(cat("tokens=", tokens.size(), " scored=", scored, " nll=", number(nll, "%.9f"),
                  " avg_nll=", number(average, "%.9f"), " ppl=", number(std::exp(average), "%.9f"), "\n"));
  return {};
}

}  // namespace ds4::cli
