#include "bench/measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/rng.h"
#include "base/text.h"
#include "bench/random_history.h"
#include "model/kv_state.h"

namespace ds4::bench {

namespace {

using Clock = std::chrono::steady_clock;
using Mode = ProfilingBackend::Mode;

constexpr std::int64_t kProfiledSteps = 16;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

int chunk_of(const Options& options) {
  if (options.prefill_chunk > 0) return options.prefill_chunk;
  return options.on_host() ? 512 : 4096;
}

std::int64_t pages(std::int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace

std::vector<Frontier> plan_frontiers(const Options& options) {
  std::vector<Frontier> out;
  if (!options.fill.empty()) {
    for (const std::int64_t context : options.fill)
      out.push_back({context, std::min(options.increment(), context), true});
    std::ranges::sort(out, {}, &Frontier::context);
    return out;
  }
  std::int64_t before = 0;
  for (std::int64_t at = options.ctx_start; at <= options.ctx_max;) {
    out.push_back({at, at - before, false});
    before = at;
    at = options.step_mul > 1
             ? std::max(at + 1, static_cast<std::int64_t>(std::llround(static_cast<double>(at) * options.step_mul)))
             : at + options.increment();
  }
  return out;
}

ModelOptions plan_model(const Options& options, const std::vector<Frontier>& frontiers, int devices, int layers) {
  const std::int64_t sequences = options.sequences;
  std::int64_t longest = 0;
  std::int64_t most_prefill = 0;
  for (const Frontier& f : frontiers) {
    longest = std::max(longest, f.context);
    most_prefill = std::max(most_prefill, f.prefill);
  }
  const std::int64_t decoded = options.gen_tokens;
  ModelOptions model;
  model.kv = options.kv;
  model.context = std::max(options.ctx_alloc, longest + decoded);
  model.max_rows = static_cast<int>(std::max<std::int64_t>(chunk_of(options), sequences));
  model.max_logit_rows = options.sequences;
  // All sequences at the frontier; their forks, which share all but the pages they write; and one more prefill.
  model.max_sequences = 2 * options.sequences + 1;
  model.max_tokens = kPageTokens * (sequences * (pages(longest) + pages(decoded) + 1) + pages(most_prefill) + 1);
  spread_layers(model, layers, devices);
  return model;
}

Bench::Bench(Model& model, std::vector<ProfilingBackend*> profilers, const Options& options,
             std::vector<std::int32_t> prompt, std::int32_t stop_token, int threads)
    : model_(model),
      profilers_(std::move(profilers)),
      options_(options),
      prompt_(std::move(prompt)),
      stop_token_(stop_token),
      threads_(threads),
      logits_(static_cast<std::size_t>(options.sequences) * static_cast<std::size_t>(model.shape().dims.vocab)),
      top_(model.ranks() ? static_cast<std::size_t>(options.sequences) : 0),
      answers_(static_cast<std::size_t>(options.sequences), -1) {}

std::int32_t Bench::token(std::size_t sequence, std::int64_t position) const {
  if (position < std::ssize(prompt_)) return prompt_[static_cast<std::size_t>(position)];
  const std::uint64_t random = random_bits(options_.seed, static_cast<std::uint64_t>(position), sequence);
  return static_cast<std::int32_t>(random % static_cast<std::uint64_t>(model_.shape().dims.vocab));
}

void Bench::set_mode(Mode mode) {
  for (ProfilingBackend* profiler : profilers_) profiler->set_mode(mode);
}

Profile Bench::take_profile() {
  Profile sum{};
  for (ProfilingBackend* profiler : profilers_) sum += profiler->take();
  return sum;
}

Status Bench::prefill(Sequence& sequence, std::int64_t to) {
  std::vector<BatchRow> rows;
  while (sequence.length() < to) {
    const std::int64_t end = std::min(to, sequence.length() + chunk_of(options_));
    rows.clear();
    for (std::int64_t p = sequence.length(); p < end; ++p) rows.push_back({&sequence, token(0, p), p, p == to - 1});
    const std::size_t vocab = end == to ? static_cast<std::size_t>(model_.shape().dims.vocab) : 0;
    DS4_RETURN_IF_ERROR(model_.forward(rows, std::span(logits_).first(vocab)));
  }
  return {};
}

/// The most likely token of the last step, but not the one that would end an answer.
std::int32_t Bench::answer(std::size_t sequence) const {
  if (!top_.empty()) return top_[sequence].tokens[top_[sequence].tokens[0] == stop_token_ ? 1 : 0];
  const auto vocab = static_cast<std::size_t>(model_.shape().dims.vocab);
  const auto row = std::span(logits_).subspan(sequence * vocab, vocab);
  std::size_t best = stop_token_ == 0 ? 1 : 0;
  for (std::size_t i = 0; i < vocab; ++i)
    if (row[i] > row[best] && static_cast<std::int32_t>(i) != stop_token_) best = i;
  return static_cast<std::int32_t>(best);
}

Status Bench::step(std::vector<Sequence>& sequences) {
  std::vector<BatchRow> rows;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const std::int64_t position = sequences[s].length();
    const bool fed_back = options_.greedy && answers_[s] >= 0;
    rows.push_back({&sequences[s], fed_back ? answers_[s] : token(s, position), position, true});
  }
  ForwardOptions forward;
  forward.top = top_;
  DS4_RETURN_IF_ERROR(model_.forward(rows, top_.empty() ? std::span(logits_) : std::span<float>(), forward));
  for (std::size_t s = 0; options_.greedy && s < sequences.size(); ++s) answers_[s] = answer(s);
  return {};
}

Result<std::vector<Sequence>> Bench::fork_all() const {
  std::vector<Sequence> forks;
  for (const Sequence& sequence : base_) {
    DS4_ASSIGN_OR_RETURN(Sequence fork, sequence.fork());
    forks.push_back(std::move(fork));
  }
  return forks;
}

Status Bench::warm_up() {
  const std::int64_t wanted = options_.warmup >= 0 ? options_.warmup : options_.on_host() ? 32 : chunk_of(options_);
  const std::int64_t tokens = std::min(wanted, model_.options().context - 2);
  if (tokens <= 0) return {};
  DS4_ASSIGN_OR_RETURN(Sequence sequence, model_.new_sequence());
  DS4_RETURN_IF_ERROR(prefill(sequence, tokens));
  std::vector<Sequence> one;
  one.push_back(std::move(sequence));
  const std::size_t vocab = static_cast<std::size_t>(model_.shape().dims.vocab);
  for (int i = 0; i < 2; ++i) {
    const BatchRow row{&one[0], token(0, one[0].length()), one[0].length(), true};
    DS4_RETURN_IF_ERROR(model_.forward({&row, 1}, std::span(logits_).first(vocab)));
  }
  return {};
}

/// Brings all sequences to the frontier; the first one is the one that is timed.
Status Bench::reach(const Frontier& frontier, Measurement& out) {
  const std::int64_t start = frontier.context - frontier.prefill;
  const auto fill = [&](std::int64_t tokens, int sequence) {
    return model_.restore(random_history(model_.shape(), model_.options(), static_cast<int>(profilers_.size()), tokens,
                                         random_bits(options_.seed, static_cast<std::uint64_t>(sequence), 7),
                                         threads_));
  };
  if (frontier.filled) base_.clear();
  else if (base_.size() > 1) base_.erase(base_.begin() + 1, base_.end());
  if (frontier.filled && start > 0) {
    DS4_ASSIGN_OR_RETURN(Sequence filled, fill(start, 0));
    base_.push_back(std::move(filled));
  }
  if (base_.empty()) {
    DS4_ASSIGN_OR_RETURN(Sequence fresh, model_.new_sequence());
    base_.push_back(std::move(fresh));
  }
  if (options_.ops && frontier.prefill > 0) DS4_RETURN_IF_ERROR(profile_prefill(frontier, out));
  for (int i = 0; i < options_.repeat && frontier.prefill > 0; ++i) {
    DS4_ASSIGN_OR_RETURN(Sequence copy, base_[0].fork());
    const auto from = Clock::now();
    DS4_RETURN_IF_ERROR(prefill(copy, frontier.context));
    out.prefill_seconds.add(seconds_since(from));
    if (i + 1 == options_.repeat) base_[0] = std::move(copy);
  }
  // The others have rows of their own: shared ones would stay in the caches.
  SequenceImage image;
  if (options_.sequences > 1 && !frontier.filled) {
    DS4_ASSIGN_OR_RETURN(image, base_[0].save());
  }
  for (int s = 1; s < options_.sequences; ++s) {
    DS4_ASSIGN_OR_RETURN(Sequence other, frontier.filled ? fill(frontier.context, s) : model_.restore(image));
    base_.push_back(std::move(other));
  }
  return {};
}

/// The first chunk of the way to the frontier.
Status Bench::profile_prefill(const Frontier& frontier, Measurement& out) {
  DS4_ASSIGN_OR_RETURN(Sequence copy, base_[0].fork());
  const std::int64_t rows = std::min<std::int64_t>(frontier.prefill, chunk_of(options_));
  const std::int64_t to = copy.length() + rows;
  set_mode(Mode::kTime);
  take_profile();
  const auto from = Clock::now();
  Status status = prefill(copy, to);
  const double seconds = seconds_since(from);
  set_mode(Mode::kOff);
  DS4_RETURN_IF_ERROR(std::move(status));
  out.profiles.push_back({"prefill", to - rows, rows, 1, seconds, take_profile()});
  return {};
}

Status Bench::decode_all(Measurement& out) {
  for (int i = 0; i < options_.repeat && options_.gen_tokens > 0; ++i) {
    DS4_ASSIGN_OR_RETURN(std::vector<Sequence> forks, fork_all());
    std::ranges::fill(answers_, -1);
    const auto from = Clock::now();
    for (std::int64_t t = 0; t < options_.gen_tokens; ++t) {
      DS4_RETURN_IF_ERROR(step(forks));
      if (t == 0) out.gen_first_seconds.add(seconds_since(from));
    }
    out.gen_seconds.add(seconds_since(from));
  }
  return {};
}

Status Bench::count_step(Measurement& out) {
  DS4_ASSIGN_OR_RETURN(std::vector<Sequence> forks, fork_all());
  set_mode(Mode::kCount);
  take_profile();
  Status status = step(forks);
  set_mode(Mode::kOff);
  DS4_RETURN_IF_ERROR(std::move(status));
  out.gen_cost = total_cost(take_profile());
  return {};
}

Status Bench::profile_decode(Measurement& out) {
  DS4_ASSIGN_OR_RETURN(std::vector<Sequence> forks, fork_all());
  const std::int64_t steps = std::min(options_.gen_tokens, kProfiledSteps);
  set_mode(Mode::kTime);
  take_profile();
  Status status;
  const auto from = Clock::now();
  for (std::int64_t t = 0; t < steps && status.ok(); ++t) status = step(forks);
  const double seconds = seconds_since(from);
  set_mode(Mode::kOff);
  DS4_RETURN_IF_ERROR(std::move(status));
  out.profiles.push_back({"decode", out.frontier.context, options_.sequences, steps, seconds, take_profile()});
  return {};
}

Result<Measurement> Bench::measure(const Frontier& frontier) {
  Measurement out;
  out.frontier = frontier;
  out.sequences = options_.sequences;
  out.gen_tokens = options_.gen_tokens;
  DS4_RETURN_IF_ERROR(reach(frontier, out));
  DS4_RETURN_IF_ERROR(decode_all(out));
  if (options_.gen_tokens > 0) {
    DS4_RETURN_IF_ERROR(count_step(out));
    if (options_.ops) DS4_RETURN_IF_ERROR(profile_decode(out));
  }
  const std::vector<bool> all(model_.shape().layers.size(), true);
  const KvLayout layout = make_kv_layout(model_.shape(), options_.kv, all);
  out.kv_bytes = static_cast<std::uint64_t>(options_.sequences) *
                 (static_cast<std::uint64_t>(pages(frontier.context)) * layout.page_bytes + layout.tail_bytes);
  return out;
}

}  // namespace ds4::bench
