// A TokenModel for tests: the logits after a token are a hash of every token up to it, so two timelines have equal
// logits exactly when they have equal histories. Rewinds, forks and slots behave as those of the real one.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "base/rng.h"
#include "engine/token_model.h"
#include "model/kv_blocks.h"

namespace ds4 {

struct FakeOptions {
  int vocab = 50;
  std::int64_t context = 1000;
  int max_rows = 32;
  int max_logit_rows = 1;
  int max_tracks = 4;
  std::int64_t slack = kRewindSlack;
  std::int64_t block = kBlockTokens;  // tokens of a piece
  bool draws = false;
};

class FakeTokenModel final : public TokenModel {
 public:
  explicit FakeTokenModel(FakeOptions options = {}) : options_(options) {}

  int vocab() const override { return options_.vocab; }
  int layers() const override { return 2; }
  std::int64_t context() const override { return options_.context; }
  int max_rows() const override { return options_.max_rows; }
  int max_logit_rows() const override { return options_.max_logit_rows; }
  bool draws() const override { return options_.draws; }

  Result<std::unique_ptr<Track>> new_track() override { return make({}, 0); }

  /// A block is its tokens, a point a hash of all tokens: a wrong combination is noticed.
  PieceSizes piece_sizes() const override { return {static_cast<std::uint64_t>(options_.block) * sizeof(TokenId), 8}; }
  Result<std::unique_ptr<Track>> restore(const SequencePieces& pieces) override {
    std::vector<TokenId> tokens;
    for (const auto& block : pieces.blocks) {
      DS4_CHECK(block.size() == piece_sizes().block);
      tokens.resize(tokens.size() + static_cast<std::size_t>(options_.block));
      std::memcpy(tokens.data() + tokens.size() - options_.block, block.data(), block.size());
    }
    const std::vector<std::byte> expected = point_of(tokens);
    if (!std::ranges::equal(pieces.point, expected)) return Error{ErrorCode::kFailure, "a point of other tokens"};
    const auto length = static_cast<std::int64_t>(tokens.size());
    ++restored;
    return make(std::move(tokens), length + options_.slack);
  }

  Status forward(std::span<const TrackStep> steps, const StepOptions& options) override {
    const auto vocab_size = static_cast<std::size_t>(vocab());
    std::size_t rows = 0, logit_rows = 0;
    for (const TrackStep& step : steps) {
      DS4_CHECK(!step.tokens.empty());
      rows += step.tokens.size();
      DS4_CHECK(step.next == nullptr || (draws() && step.logits.empty()));
      logit_rows += step.next != nullptr ? 1 : step.logits.size() / vocab_size;
    }
    DS4_CHECK(rows <= static_cast<std::size_t>(max_rows()) && logit_rows <= static_cast<std::size_t>(max_logit_rows()));
    for (int layer = 1; layer <= layers(); ++layer) {
      if (before_layer) before_layer();
      if (options.cancel != nullptr && options.cancel->load()) return Error{ErrorCode::kCancelled, "cancelled"};
      if (options.progress) options.progress(layer);
    }
    if (!fault.ok()) return fault;
    if (fail_with) {
      if (std::optional<Error> error = fail_with()) return std::move(*error);
    }
    if (on_forward) {
      if (std::optional<Error> error = on_forward(steps)) return std::move(*error);
    }
    if (!fault.ok()) return fault;
    for (const TrackStep& step : steps) {
      auto& track = static_cast<FakeTrack&>(*step.track);
      append(track, step.tokens, step.logits);
      if (step.next == nullptr) continue;
      *step.next = {logits_of(track.tokens)};
      const TopLogits top = top_logits_of(step.next->all);
      if (!settles(top, vocab(), *step.sampling)) continue;
      *step.next = {{}, top};
      ++drawn_from_top;
    }
    return {};
  }

  Status health() const override { return fault; }
  Status rebuild() override {
    DS4_CHECK(tracks == 0);
    ++rebuilds;
    if (while_rebuilding) while_rebuilding();
    fault = cured ? Status() : Status(Error{ErrorCode::kNoDevice, "still on fire"});
    return fault;
  }

  void write_logits(std::span<const TokenId> history, std::span<float> logits) const {
    std::uint64_t hash = 1;
    for (const TokenId token : history) hash = random_bits(hash, static_cast<std::uint64_t>(token));
    for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(8 * uniform(hash, i));
  }
  std::vector<float> logits_of(std::span<const TokenId> history) const {
    std::vector<float> logits(static_cast<std::size_t>(vocab()));
    write_logits(history, logits);
    return logits;
  }

  std::function<void()> before_layer;               // runs at every poll of the cancel flag
  std::function<std::optional<Error>()> fail_with;  // asked at the end of every forward
  std::function<std::optional<Error>(std::span<const TrackStep>)> on_forward;
  std::function<void()> while_rebuilding;
  Status fault;       // of the device; set by one of the above
  bool cured = true;  // by a rebuild
  int rebuilds = 0;
  std::int64_t computed = 0;  // tokens, in all
  std::int64_t drawn_from_top = 0;
  int tracks = 0;  // alive
  int restored = 0;

 private:
  struct FakeTrack final : Track {
    FakeTrack(FakeTokenModel& owner, std::vector<TokenId> history, std::int64_t written_to)
        : model(owner), tokens(std::move(history)), written(written_to) {
      ++model.tracks;
    }
    ~FakeTrack() override { --model.tracks; }
    std::int64_t length() const override { return static_cast<std::int64_t>(tokens.size()); }
    std::int64_t rewind_floor() const override {
      return std::min(length(), std::max<std::int64_t>(0, written - model.options_.slack));
    }
    bool rewind(std::int64_t to) override {
      if (to != 0 && (to < rewind_floor() || to > length())) return false;
      tokens.resize(static_cast<std::size_t>(to));
      if (to == 0) written = 0;
      return true;
    }
    Result<std::unique_ptr<Track>> fork() const override { return model.make(tokens, written); }
    Result<std::vector<std::vector<std::byte>>> save_blocks(std::int64_t first, std::int64_t count) const override {
      const auto block = static_cast<std::size_t>(model.options_.block);
      DS4_CHECK((first + count) * model.options_.block <= length());
      std::vector<std::vector<std::byte>> out;
      for (auto b = static_cast<std::size_t>(first); b < static_cast<std::size_t>(first + count); ++b) {
        const auto bytes = std::as_bytes(std::span(tokens).subspan(b * block, block));
        out.emplace_back(bytes.begin(), bytes.end());
      }
      return out;
    }
    Result<std::vector<std::byte>> save_point(std::int64_t at) const override {
      DS4_CHECK(at > 0 && at % model.options_.block == 0 && at >= rewind_floor() && at <= length());
      return point_of(std::span(tokens).first(static_cast<std::size_t>(at)));
    }
    FakeTokenModel& model;
    std::vector<TokenId> tokens;
    std::int64_t written;
  };

  static std::vector<std::byte> point_of(std::span<const TokenId> history) {
    std::uint64_t hash = 2;
    for (const TokenId token : history) hash = random_bits(hash, static_cast<std::uint64_t>(token));
    std::vector<std::byte> out(sizeof hash);
    std::memcpy(out.data(), &hash, sizeof hash);
    return out;
  }

  void append(FakeTrack& state, std::span<const TokenId> tokens, std::span<float> logits) {
    const auto vocab_size = static_cast<std::size_t>(vocab());
    const std::size_t silent = tokens.size() - logits.size() / vocab_size;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      state.tokens.push_back(tokens[i]);
      if (i >= silent) write_logits(state.tokens, logits.subspan((i - silent) * vocab_size, vocab_size));
    }
    state.written = std::max(state.written, state.length());
    computed += static_cast<std::int64_t>(tokens.size());
  }

  Result<std::unique_ptr<Track>> make(std::vector<TokenId> history, std::int64_t written) {
    if (tracks == options_.max_tracks) return Error{ErrorCode::kOutOfMemory, "no track left"};
    return std::unique_ptr<Track>(std::make_unique<FakeTrack>(*this, std::move(history), written));
  }

  FakeOptions options_;
};

}  // namespace ds4
