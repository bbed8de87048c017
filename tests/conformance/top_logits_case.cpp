#include "top_logits_case.h"

#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "base/text.h"

namespace ds4::conformance {

namespace {

enum class Kind { kSpread, kTied, kBelowZero, kZeros, kSpoilt };

std::vector<float> make_row(Kind kind, std::size_t vocab, std::uint64_t number) {
  constexpr float kBad[] = {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN()};
  std::vector<float> row(vocab);
  for (std::size_t i = 0; i < vocab; ++i) {
    const double draw = uniform(number, i);
    row[i] = static_cast<float>(kind == Kind::kTied        ? std::floor(9 * draw)
                                : kind == Kind::kBelowZero ? -30 * draw - 1
                                : kind == Kind::kZeros     ? (draw < 0.5 ? -0.0 : 0.0)
                                                           : 40 * draw - 20);
  }
  if (kind == Kind::kSpoilt) row[random_bits(number, vocab) % vocab] = kBad[number % 4];
  return row;
}

}  // namespace

void check_top_logits(Rig& rig, int rows, const std::string& device, Report& report) {
  for (const std::size_t vocab :
       {std::size_t{10}, std::size_t{64}, std::size_t{65}, std::size_t{4097}, std::size_t{9001}, std::size_t{129280},
        std::size_t{131073}})  // the last is more than the vocabulary
    for (const Kind kind : {Kind::kSpread, Kind::kTied, Kind::kBelowZero, Kind::kZeros, Kind::kSpoilt}) {
      std::vector<float> logits;
      std::vector<TopLogits> expected;
      for (int row = 0; row < rows; ++row) {
        // Of the spoilt rows every second is sound.
        const std::vector<float> values = make_row(row % 2 == 1 && kind == Kind::kSpoilt ? Kind::kSpread : kind, vocab,
                                                   static_cast<std::uint64_t>(row));
        expected.push_back(top_logits_of(values));
        logits.insert(logits.end(), values.begin(), values.end());
      }
      std::vector<TopLogits> found(expected.size());
      const Tensor input = rig.input(logits, rows);
      const Status status = rig.backend().top_logits(input, found);
      int wrong = status.ok() ? 0 : rows;
      for (std::size_t row = 0; row < found.size() && status.ok(); ++row) {
        const auto count = static_cast<std::size_t>(expected[row].count);
        const bool same =
            found[row].count == expected[row].count &&
            std::equal(expected[row].tokens.begin(), expected[row].tokens.begin() + static_cast<std::ptrdiff_t>(count),
                       found[row].tokens.begin()) &&
            std::equal(expected[row].logits.begin(), expected[row].logits.begin() + static_cast<std::ptrdiff_t>(count),
                       found[row].logits.begin());
        wrong += same ? 0 : 1;
      }
      report.check(wrong == 0,
                   cat("top_logits ", device, " vocab ", vocab, " rows ", rows, " kind ", static_cast<int>(kind)),
                   cat(wrong, " rows differ from those of the host"));
      rig.clear();
    }
}

}  // namespace ds4::conformance
