#include "synthetic_case.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/text.h"
#include "bench/random_history.h"
#include "bench/synthetic_model.h"
#include "model/model.h"

namespace ds4::conformance {

namespace {

constexpr int kSequences = 17;  // one more than kernels of few rows take
constexpr int kPrompt = 150;    // tokens of one sequence in one step: no whole tile, past a row of both compressors
constexpr int kLast = 16;       // of them
constexpr double kBound = 2e-2;

class Layers {
 public:
  Layers(const gguf::File& file, const BackendOptions& device) {
    ModelOptions options;
    const std::int64_t choice = 4 * or_exit(read_shape(file)).dims.index_topk;  // tokens of as many rows as are chosen
    options.context = 2 * choice;
    options.max_sequences = 2 * kSequences + 1;
    options.max_rows = kPrompt;
    options.max_logit_rows = 2 * kSequences;
    std::vector<std::unique_ptr<Backend>> backends;
    backends.push_back(or_exit(create_backend(device)));
    model_ = or_exit(Model::load(file, std::move(backends), options));
    for (int i = 0; i < kSequences; ++i)  // lengths on all sides of a compressed row
      sequences_.push_back(or_exit(model_->restore(bench::random_history(
          model_->shape(), options, 1, choice + 452 + 3 * i, 11 + static_cast<std::uint64_t>(i), 2))));
  }

  /// The logits of a step of sequences first .. first + count - 1 in one batch; the sequences stay as they are.
  std::vector<float> step(int first, int count) {
    std::vector<Sequence> copies;
    std::vector<BatchRow> rows;
    copies.reserve(static_cast<std::size_t>(count));
    for (int i = first; i < first + count; ++i) {
      copies.push_back(or_exit(sequences_[static_cast<std::size_t>(i)].fork()));
      rows.push_back({&copies.back(), 1000 + 17 * i, copies.back().length(), true});
    }
    return forward(rows, count);
  }

  /// The logits behind the last kLast of kPrompt tokens of a copy of the first sequence, read `portion` at a time.
  std::vector<float> prompt(int portion) {
    Sequence copy = or_exit(sequences_.front().fork());
    std::vector<float> last;
    for (int done = 0; done < kPrompt; done += portion) {
      std::vector<BatchRow> rows;
      int wanted = 0;
      for (int i = done; i < std::min(done + portion, kPrompt); ++i) {
        rows.push_back({&copy, 2000 + 7 * i, copy.length() + i - done, i >= kPrompt - kLast});
        wanted += rows.back().wants_logits ? 1 : 0;
      }
      const std::vector<float> logits = forward(rows, wanted);
      last.insert(last.end(), logits.begin(), logits.end());
    }
    return last;
  }
  std::size_t vocab() const { return static_cast<std::size_t>(model_->shape().dims.vocab); }

 private:
  std::vector<float> forward(const std::vector<BatchRow>& rows, int wanted) {
    std::vector<float> logits(static_cast<std::size_t>(wanted) * vocab());
    const Status status = model_->forward(rows, logits);
    if (!status.ok()) {
      std::fprintf(stderr, "ds4-conformance: %s\n", status.error().message.c_str());
      std::exit(exit_status(status.error().code));
    }
    return logits;
  }

  std::unique_ptr<Model> model_;
  std::vector<Sequence> sequences_;
};

}  // namespace

void run_synthetic(const std::string& what, const BackendOptions& device, Report& report) {
  bench::SyntheticOptions options;
  options.spec = or_exit(bench::parse_synthetic(what));
  options.aliased = true;
  options.threads = 4;
  const bench::SyntheticModel synthetic = or_exit(bench::SyntheticModel::create(options));
  Layers layers(synthetic.file(), device);
  const std::size_t vocab = layers.vocab();

  const auto row = [&](const std::vector<float>& logits, int i) {
    return std::vector<float>(logits.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(i) * vocab),
                              logits.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(i + 1) * vocab));
  };
  const auto check_rows = [&](const std::string& name, std::vector<double> differences, double bound) {
    std::ranges::sort(differences);
    const double most = differences[differences.size() - 1 - differences.size() / 8];
    report.check(most <= bound, cat(what, ", ", name),
                 cat("mean difference ", most, " (median ", differences[differences.size() / 2], ", largest ",
                     differences.back(), "), bound ", bound));
  };

  std::vector<float> alone;
  for (int i = 0; i < kSequences; ++i) {
    const std::vector<float> first = layers.step(i, 1);
    const std::vector<float> second = layers.step(i, 1);
    if (i < 4) {
      const std::vector<float> third = layers.step(i, 1);
      const auto same = [&](const std::vector<float>& other) {
        return std::memcmp(first.data(), other.data(), first.size() * sizeof(float)) == 0;
      };
      report.check(same(second) && same(third), cat(what, ", step ", i), "the same bits again");
    }
    alone.insert(alone.end(), first.begin(), first.end());
  }
  const double apart = distance(row(alone, 0), row(alone, 1)).mean;
  report.check(apart > 10 * kBound, cat(what, ", histories"),
               cat("two give logits ", apart, " apart, at least ", 10 * kBound));
  {
    BackendOptions host;
    host.device = "cpu";
    host.quality = true;
    Layers exact(synthetic.file(), host);
    std::vector<double> differences;
    for (int i = 0; i < kSequences; ++i) differences.push_back(distance(exact.step(i, 1), row(alone, i)).mean);
    check_rows("alone", differences, device.device == "cpu" ? 0.2 : 5e-2);  // int8 activations; f16 activations
  }
  for (const int count : {2, 3, 8, 9, 16, kSequences}) {
    std::vector<double> differences;
    for (int first = 0; first + count <= kSequences; first += count) {
      const std::vector<float> together = layers.step(first, count);
      for (int i = 0; i < count; ++i) differences.push_back(distance(row(alone, first + i), row(together, i)).mean);
    }
    check_rows(cat(count, " together"), differences, kBound);
  }
  const std::vector<float> one_by_one = layers.prompt(1);
  for (const int portion : {2, kSequences, kPrompt / 2, kPrompt}) {
    const std::vector<float> found = layers.prompt(portion);
    std::vector<double> differences;
    for (int i = 0; i < kLast; ++i) differences.push_back(distance(row(one_by_one, i), row(found, i)).mean);
    check_rows(cat("a prompt, ", portion, " at a time"), differences,
               1.5 * kBound);  // its rows' own and their history's
  }
}

}  // namespace ds4::conformance
