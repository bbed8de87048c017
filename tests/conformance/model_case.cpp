#include "model_case.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/text.h"
#include "gguf/file.h"
#include "model/model.h"

namespace ds4::conformance {

namespace {

constexpr int kTokens = 400;
constexpr int kQuickTokens = 150;  // beyond the window and a compressed row of every kind
constexpr int kSteps = 12;
constexpr int kMaxBatch = 16;

/// A model on one device, and what the checks ask of it.
class Subject {
 public:
  Subject(const gguf::File& file, const BackendOptions& options) {
    std::vector<std::unique_ptr<Backend>> backends;
    for (const std::string& device : or_exit(device_names(options.device))) {
      BackendOptions one = options;
      one.device = device;
      backends.push_back(or_exit(create_backend(one)));
    }
    ModelOptions model;
    model.kv = KvFormat::kF32;
    model.context = 1024;
    model.max_sequences = kMaxBatch + 1;
    model.max_rows = kTokens;
    model.max_logit_rows = kTokens;
    spread_layers(model, static_cast<int>(or_exit(read_shape(file)).layers.size()), static_cast<int>(backends.size()));
    if (backends.size() > 1) model.step_rows = 64;
    model_ = or_exit(Model::load(file, std::move(backends), model));
  }
  std::size_t vocab() const { return static_cast<std::size_t>(model_->shape().dims.vocab); }
  Sequence sequence() { return or_exit(model_->new_sequence()); }

  std::vector<float> forward(std::span<const BatchRow> rows, bool eager = false) {
    std::vector<float> logits(static_cast<std::size_t>(std::ranges::count_if(rows, &BatchRow::wants_logits)) * vocab());
    ForwardOptions options;
    const Dims& dims = model_->shape().dims;
    std::vector<float> streams(rows.size() * static_cast<std::size_t>(dims.hc) * static_cast<std::size_t>(dims.hidden));
    const StreamTap tap{0, streams};
    if (eager) options.taps = {&tap, 1};  // a step that is looked into cannot be replayed
    const Status status = model_->forward(rows, logits, options);
    if (!status.ok()) {
      std::fprintf(stderr, "ds4-conformance: %s\n", status.error().message.c_str());
      std::exit(exit_status(status.error().code));
    }
    return logits;
  }

  /// Logits of every token, `chunk` at a time.
  std::vector<float> all(const std::vector<std::int32_t>& tokens, std::size_t chunk) {
    Sequence s = sequence();
    std::vector<float> logits;
    for (std::size_t at = 0; at < tokens.size(); at += chunk) {
      std::vector<BatchRow> rows;
      for (std::size_t i = at; i < std::min(at + chunk, tokens.size()); ++i)
        rows.push_back({&s, tokens[i], static_cast<std::int64_t>(i), true});
      const std::vector<float> part = forward(rows);
      logits.insert(logits.end(), part.begin(), part.end());
    }
    return logits;
  }

  /// kSteps tokens one by one after a prompt.
  std::vector<float> steps(const std::vector<std::int32_t>& tokens, bool eager) {
    Sequence s = sequence();
    start(s, tokens);
    std::vector<float> logits;
    for (int i = 0; i < kSteps; ++i) {
      const BatchRow row{&s, tokens[static_cast<std::size_t>(i)], s.length(), true};
      const std::vector<float> part = forward({&row, 1}, eager);
      logits.insert(logits.end(), part.begin(), part.end());
    }
    return logits;
  }

  void start(Sequence& s, const std::vector<std::int32_t>& tokens) {
    std::vector<BatchRow> rows;
    for (std::size_t i = 0; i < tokens.size(); ++i)
      rows.push_back({&s, tokens[i], static_cast<std::int64_t>(i), false});
    forward(rows);
  }

 private:
  std::unique_ptr<Model> model_;
};

std::vector<std::int32_t> random_tokens(std::uint64_t seed, int count, std::size_t vocab) {
  Random random(seed);
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::int32_t>(random.below(static_cast<std::int64_t>(vocab))));
  return tokens;
}

double largest_difference(std::span<const float> a, std::span<const float> b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return largest;
}

/// Each sequence's next step in a batch of `size`, against the same step alone.
void check_batch(Subject& subject, int size, Report& report) {
  std::vector<Sequence> together;
  std::vector<float> alone;
  std::vector<std::int32_t> next;
  for (int i = 0; i < size; ++i) {
    const auto tokens = random_tokens(100 + static_cast<std::uint64_t>(i), 20 + 9 * i, subject.vocab());
    next.push_back(tokens.front());
    together.push_back(subject.sequence());
    subject.start(together.back(), tokens);
    Sequence single = or_exit(together.back().fork());
    const BatchRow row{&single, next.back(), single.length(), true};
    const std::vector<float> logits = subject.forward({&row, 1});
    alone.insert(alone.end(), logits.begin(), logits.end());
  }
  std::vector<BatchRow> rows;
  for (int i = 0; i < size; ++i) {
    Sequence& s = together[static_cast<std::size_t>(i)];
    rows.push_back({&s, next[static_cast<std::size_t>(i)], s.length(), true});
  }
  const double difference = largest_difference(subject.forward(rows), alone);
  report.check(difference <= 2e-4, cat("model, batch of ", size), cat("difference ", difference, ", bound 2e-4"));
}

}  // namespace

void run_model(const std::string& path, const BackendOptions& device, bool quick, Report& report) {
  const gguf::File file = or_exit(gguf::File::open(path));
  BackendOptions host;
  host.device = "cpu";
  host.quality = true;
  BackendOptions exact = device;
  exact.quality = true;
  Subject oracle(file, host);
  using Sizes = std::vector<std::size_t>;
  const auto tokens = random_tokens(7, quick ? kQuickTokens : kTokens, oracle.vocab());
  const std::vector<float> expected = oracle.all(tokens, tokens.size());
  {
    Subject subject(file, exact);
    for (const std::size_t chunk : quick ? Sizes{127, tokens.size()} : Sizes{1, 5, 127, tokens.size()}) {
      const double difference = largest_difference(expected, subject.all(tokens, chunk));
      report.check(difference <= 1e-3, cat("model, exact, chunk ", chunk),
                   cat("difference ", difference, ", bound 1e-3"));
    }
  }
  Subject subject(file, device);
  for (const std::size_t chunk : quick ? Sizes{16, tokens.size()} : Sizes{1, 16, 17, tokens.size()}) {
    const Distance d = distance(expected, subject.all(tokens, chunk));
    const double bound = device.device == "cpu" ? 6e-2 : 2e-2;  // int8 activations; f16 activations
    report.check(d.mean <= bound, cat("model, fast, chunk ", chunk),
                 cat("mean difference ", d.mean, ", bound ", bound));
  }
  const std::vector<float> replayed = subject.steps(tokens, false);
  const std::vector<float> eager = subject.steps(tokens, true);
  report.check(std::memcmp(replayed.data(), eager.data(), eager.size() * sizeof(float)) == 0, "model, steps",
               cat("a replayed step gives the same bits; difference ", largest_difference(replayed, eager)));
  for (const int size : quick ? std::vector<int>{2, 16} : std::vector<int>{2, 4, 8, 16})
    check_batch(subject, size, report);
}

}  // namespace ds4::conformance
