// A TokenModel that answers from a script: the same tokenizer, scheduler, parsers and streams as with weights, and
// answers that a test of a client can rely on. What it says depends on the tokens alone, as with a real model: the last
// turn chooses the rule, and what stands behind it chooses the next token, which then is all but certain.
//
// One thread, as any TokenModel. The tokenizer must outlive it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/token_model.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {

struct ScriptRule {
  std::string when;                          // occurs in the last turn from outside; empty: always
  std::string reasoning;                     // said first when the prompt opens thinking
  std::string reply;                         // added tokens that it spells are those tokens
  int token_ms = 0;                          // time that each token takes
  int prompt_ms = 0;                         // time that each token of a prompt takes
  std::optional<std::int64_t> fail_at = {};  // computing this token of the answer fails
  std::optional<std::int64_t> down_at = {};  // computing this token takes the device down
  int rebuild_ms = 0;                        // time that it takes to set it up again
  bool stays_down = false;                   // it cannot be
};

struct ScriptedOptions {
  std::int64_t context = 32768;
  int max_rows = 512;
  int sessions = 1;
};

class ScriptedModel final : public TokenModel {
 public:
  /// The first rule that fits is taken; without one the answer is empty.
  ScriptedModel(const Tokenizer& tokenizer, std::vector<ScriptRule> rules, const ScriptedOptions& options);

  int vocab() const override { return tokenizer_.vocab_size(); }
  int layers() const override { return 1; }
  std::int64_t context() const override { return options_.context; }
  int max_rows() const override { return options_.max_rows; }
  int max_logit_rows() const override { return options_.sessions; }
  Result<std::unique_ptr<Track>> new_track() override;
  Status forward(std::span<const TrackStep> steps, const StepOptions& options) override;
  Status health() const override;
  Status rebuild() override;

 private:
  struct Next {
    const ScriptRule* rule = nullptr;
    TokenId token = 0;
    std::int64_t index = 0;  // in the answer
  };
  Next next_after(std::span<const TokenId> history) const;

  const Tokenizer& tokenizer_;
  std::vector<ScriptRule> rules_;
  ScriptedOptions options_;
  const ScriptRule* fault_ = nullptr;  // the rule that took the device down
};

}  // namespace ds4
