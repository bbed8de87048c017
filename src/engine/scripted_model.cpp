#include "engine/scripted_model.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/text.h"

namespace ds4 {

namespace {

constexpr float kCertain = 60;

class ScriptedTrack final : public Track {
 public:
  std::int64_t length() const override { return static_cast<std::int64_t>(tokens.size()); }
  std::int64_t rewind_floor() const override { return 0; }
  bool rewind(std::int64_t to) override {
    if (to < 0 || to > length()) return false;
    tokens.resize(static_cast<std::size_t>(to));
    return true;
  }
  Result<std::unique_ptr<Track>> fork() const override {
    return std::unique_ptr<Track>(std::make_unique<ScriptedTrack>(*this));
  }
  std::vector<TokenId> tokens;
};

/// How much of `answer` stands at the end of `history`.
std::size_t said(std::span<const TokenId> history, std::span<const TokenId> answer) {
  for (std::size_t size = std::min(history.size(), answer.size()); size > 0; --size) {
    if (std::ranges::equal(history.last(size), answer.first(size))) return size;
  }
  return 0;
}

Status wait(int milliseconds, const std::atomic<bool>* cancel) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  while (true) {
    if (cancel != nullptr && cancel->load()) return Error{ErrorCode::kCancelled, "cancelled"};
    const auto now = std::chrono::steady_clock::now();
    if (now >= end) return {};
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(end - now, std::chrono::milliseconds(5)));
  }
}

}  // namespace

ScriptedModel::ScriptedModel(const Tokenizer& tokenizer, std::vector<ScriptRule> rules, const ScriptedOptions& options)
    : tokenizer_(tokenizer), rules_(std::move(rules)), options_(options) {}

Result<std::unique_ptr<Track>> ScriptedModel::new_track() {
  return std::unique_ptr<Track>(std::make_unique<ScriptedTrack>());
}

ScriptedModel::Next ScriptedModel::next_after(std::span<const TokenId> history) const {
  const auto last = [&](std::string_view marker) -> std::size_t {
    const std::optional<TokenId> id = tokenizer_.added_token(marker);
    if (!id) return 0;
    const auto found = std::find(history.rbegin(), history.rend(), *id);
    return static_cast<std::size_t>(history.rend() - found);  // behind it; 0: not there
  };
  const std::size_t answer = last("<｜Assistant｜>");
  const std::size_t turn = std::min(last("<｜User｜>"), answer);
  const std::string text = tokenizer_.decode(answer == 0 ? history : history.subspan(turn, answer - turn));
  const bool thinks = answer > 0 && answer < history.size() && history[answer] == tokenizer_.added_token("<think>");

  Next next;
  next.token = tokenizer_.eos();
  for (const ScriptRule& rule : rules_) {
    if (text.find(rule.when) == std::string::npos) continue;
    next.rule = &rule;
    const std::string whole = thinks ? cat(rule.reasoning, "</think>", rule.reply) : rule.reply;
    const std::vector<TokenId> tokens = tokenizer_.encode_text(whole, true);
    const std::size_t done = said(history.subspan(answer == 0 ? 0 : std::min(answer + 1, history.size())), tokens);
    next.index = static_cast<std::int64_t>(done);
    if (done < tokens.size()) next.token = tokens[done];
    break;
  }
  return next;
}

Status ScriptedModel::health() const {
  if (fault_ == nullptr) return {};
  return Error{ErrorCode::kNoDevice, "the script says that this token takes the device down"};
}

Status ScriptedModel::rebuild() {
  DS4_RETURN_IF_ERROR(wait(fault_->rebuild_ms, nullptr));
  if (fault_->stays_down) return Error{ErrorCode::kNoDevice, "the script says that it stays down"};
  fault_ = nullptr;
  return {};
}

Status ScriptedModel::forward(std::span<const TrackStep> steps, const StepOptions& options) {
  DS4_RETURN_IF_ERROR(health());
  int longest = 0;
  std::vector<Next> answers(steps.size());
  for (std::size_t i = 0; i < steps.size(); ++i) {
    auto history = static_cast<ScriptedTrack&>(*steps[i].track).tokens;
    history.insert(history.end(), steps[i].tokens.begin(), steps[i].tokens.end());
    answers[i] = next_after(history);
    const ScriptRule* rule = answers[i].rule;
    if (rule == nullptr) continue;
    const auto rows = static_cast<int>(steps[i].tokens.size());
    longest = std::max(longest, rows == 1 ? rule->token_ms : rows * rule->prompt_ms);
    if (steps[i].logits.empty()) continue;
    if (rule->down_at == answers[i].index) fault_ = rule;
    if (rule->fail_at == answers[i].index) return Error{ErrorCode::kNoDevice, "the script says that this token fails"};
  }
  DS4_RETURN_IF_ERROR(health());
  DS4_RETURN_IF_ERROR(wait(longest, options.cancel));
  for (std::size_t i = 0; i < steps.size(); ++i) {
    auto& tokens = static_cast<ScriptedTrack&>(*steps[i].track).tokens;
    tokens.insert(tokens.end(), steps[i].tokens.begin(), steps[i].tokens.end());
    if (steps[i].logits.empty()) continue;
    std::ranges::fill(steps[i].logits, 0.0f);
    steps[i].logits[static_cast<std::size_t>(answers[i].token)] = kCertain;
  }
  if (options.progress) options.progress(1);
  return {};
}

}  // namespace ds4
