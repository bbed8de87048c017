#include "engine/token_model.h"

#include <vector>

namespace ds4 {

namespace {

class SequenceTrack final : public Track {
 public:
  explicit SequenceTrack(Sequence sequence) : sequence_(std::move(sequence)) {}
  std::int64_t length() const override { return sequence_.length(); }
  std::int64_t rewind_floor() const override { return sequence_.rewind_floor(); }
  bool rewind(std::int64_t to) override { return sequence_.rewind(to); }
  Result<std::unique_ptr<Track>> fork() const override {
    DS4_ASSIGN_OR_RETURN(Sequence copy, sequence_.fork());
    return std::unique_ptr<Track>(std::make_unique<SequenceTrack>(std::move(copy)));
  }
  Sequence& sequence() { return sequence_; }

 private:
  Sequence sequence_;
};

class DeepSeekTokens final : public TokenModel {
 public:
  explicit DeepSeekTokens(Model& model) : model_(model) {}
  int vocab() const override { return model_.shape().dims.vocab; }
  int layers() const override { return static_cast<int>(model_.shape().layers.size()); }
  std::int64_t context() const override { return model_.options().context; }
  int max_rows() const override { return model_.options().max_rows; }
  int max_logit_rows() const override { return model_.options().max_logit_rows; }

  Result<std::unique_ptr<Track>> new_track() override {
    DS4_ASSIGN_OR_RETURN(Sequence sequence, model_.new_sequence());
    return std::unique_ptr<Track>(std::make_unique<SequenceTrack>(std::move(sequence)));
  }

  Status forward(Track& track, std::span<const TokenId> tokens, std::span<float> logits,
                 const StepOptions& options) override {
    Sequence& sequence = static_cast<SequenceTrack&>(track).sequence();
    const std::size_t silent = tokens.size() - logits.size() / static_cast<std::size_t>(vocab());
    std::vector<BatchRow> rows(tokens.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      rows[i] = {&sequence, tokens[i], sequence.length() + static_cast<std::int64_t>(i), i >= silent};
    }
    ForwardOptions forward_options;
    forward_options.cancel = options.cancel;
    forward_options.progress = options.progress;
    return model_.forward(rows, logits, forward_options);
  }

 private:
  Model& model_;
};

}  // namespace

std::unique_ptr<TokenModel> make_token_model(Model& model) { return std::make_unique<DeepSeekTokens>(model); }

}  // namespace ds4
