#include "engine/token_model.h"

#include <algorithm>
#include <vector>

namespace ds4 {

namespace {

Error cannot() { return Error{ErrorCode::kFailure, "this model cannot save its states"}; }

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
  Result<std::vector<std::vector<std::byte>>> save_blocks(std::int64_t first, std::int64_t count) const override {
    return sequence_.save_blocks(first, count);
  }
  Result<std::vector<std::byte>> save_point(std::int64_t at) const override { return sequence_.save_point(at); }
  Sequence& sequence() { return sequence_; }

 private:
  Sequence sequence_;
};

class DeepSeekTokens final : public TokenModel {
 public:
  DeepSeekTokens(Model& model, Remake remake)
      : model_(&model),
        remake_(std::move(remake)),
        vocab_(model.shape().dims.vocab),
        layers_(static_cast<int>(model.shape().layers.size())),
        options_(model.options()),
        sizes_{model.block_bytes(), model.point_bytes()},
        draws_(model.ranks()) {}
  int vocab() const override { return vocab_; }
  int layers() const override { return layers_; }
  std::int64_t context() const override { return options_.context; }
  int max_rows() const override { return options_.max_rows; }
  int max_logit_rows() const override { return options_.max_logit_rows; }
  bool draws() const override { return draws_; }

  Result<std::unique_ptr<Track>> new_track() override {
    DS4_ASSIGN_OR_RETURN(Sequence sequence, model_->new_sequence());
    return std::unique_ptr<Track>(std::make_unique<SequenceTrack>(std::move(sequence)));
  }

  PieceSizes piece_sizes() const override { return sizes_; }
  Result<std::unique_ptr<Track>> restore(const SequencePieces& pieces) override {
    DS4_ASSIGN_OR_RETURN(Sequence sequence, model_->restore(pieces));
    return std::unique_ptr<Track>(std::make_unique<SequenceTrack>(std::move(sequence)));
  }

  Status forward(std::span<const TrackStep> steps, const StepOptions& options) override {
    std::size_t tokens = 0;
    bool ranked = false;
    for (const TrackStep& step : steps) {
      tokens += step.tokens.size();
      ranked = ranked || step.next != nullptr;
    }
    ranked = ranked && tokens <= static_cast<std::size_t>(options_.rows_of_step());
    const auto vocab = static_cast<std::size_t>(vocab_);
    std::vector<BatchRow> rows;
    std::vector<std::span<float>> all;  // where the logits of every step go
    std::size_t wanted = 0;
    for (const TrackStep& step : steps) {
      Sequence& sequence = static_cast<SequenceTrack&>(*step.track).sequence();
      if (step.next != nullptr) {
        step.next->top.count = 0;
        step.next->all.resize(ranked ? 0 : vocab);
      }
      all.push_back(step.next != nullptr ? std::span(step.next->all) : step.logits);
      const std::size_t loud = step.next != nullptr ? 1 : step.logits.size() / vocab;
      const std::size_t silent = step.tokens.size() - loud;
      for (std::size_t i = 0; i < step.tokens.size(); ++i) {
        rows.push_back({&sequence, step.tokens[i], sequence.length() + static_cast<std::int64_t>(i), i >= silent});
      }
      wanted += loud;
    }
    ForwardOptions forward_options;
    forward_options.cancel = options.cancel;
    forward_options.progress = options.progress;
    if (ranked) return forward_ranked(rows, wanted, steps, forward_options);
    if (steps.size() == 1) return model_->forward(rows, all.front(), forward_options);
    together_.resize(wanted * vocab);
    DS4_RETURN_IF_ERROR(model_->forward(rows, together_, forward_options));
    auto from = together_.begin();
    for (const std::span<float>& to : all) {
      std::copy_n(from, to.size(), to.begin());
      from += static_cast<std::ptrdiff_t>(to.size());
    }
    return {};
  }

  Status health() const override { return model_ != nullptr ? model_->health() : lost_; }

  Status rebuild() override {
    if (!remake_) return TokenModel::rebuild();
    model_ = nullptr;
    Result<Model*> again = remake_();
    if (!again.ok()) return lost_ = again.error();
    model_ = *again;
    return {};
  }

 private:
  /// The largest logits of all rows that want some; all of a row where those do not do.
  Status forward_ranked(std::span<const BatchRow> rows, std::size_t wanted, std::span<const TrackStep> steps,
                        ForwardOptions& options) {
    std::vector<TopLogits> top(wanted);
    options.top = top;
    DS4_RETURN_IF_ERROR(model_->forward(rows, {}, options));
    const auto vocab = static_cast<std::size_t>(vocab_);
    int row = 0;
    for (const TrackStep& step : steps) {
      if (step.next == nullptr) {
        for (std::size_t at = 0; at < step.logits.size(); at += vocab)
          DS4_RETURN_IF_ERROR(model_->read_logits(row++, step.logits.subspan(at, vocab)));
        continue;
      }
      const TopLogits& largest = top[static_cast<std::size_t>(row)];
      if (settles(largest, vocab_, *step.sampling)) {
        step.next->top = largest;
      } else {
        step.next->all.resize(vocab);
        DS4_RETURN_IF_ERROR(model_->read_logits(row, step.next->all));
      }
      ++row;
    }
    return {};
  }

  Model* model_;  // null: it could not be made again
  Remake remake_;
  Status lost_;
  // What other threads ask for at any time, and no rebuild changes.
  const int vocab_;
  const int layers_;
  const ModelOptions options_;
  const PieceSizes sizes_;
  const bool draws_;
  std::vector<float> together_;  // logits of several steps
};

}  // namespace

Result<std::vector<std::vector<std::byte>>> Track::save_blocks(std::int64_t, std::int64_t) const { return cannot(); }
Result<std::vector<std::byte>> Track::save_point(std::int64_t) const { return cannot(); }
Result<std::unique_ptr<Track>> TokenModel::restore(const SequencePieces&) { return cannot(); }
Status TokenModel::rebuild() { return Error{ErrorCode::kNoDevice, "this model cannot be set up again"}; }

std::unique_ptr<TokenModel> make_token_model(Model& model, Remake remake) {
  return std::make_unique<DeepSeekTokens>(model, std::move(remake));
}

}  // namespace ds4
