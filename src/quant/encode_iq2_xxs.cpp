// IQ2_XXS: eight groups of four octets; an octet is a point of the codebook with signs, a group has a scale of 4 bits,
// a block has d (spec section 9). Element i of an octet is +-u * point[i] with u = d * (2 s + 1) / 8.
//
//   1. For every octet, how well each point fits, signs included (block_search.h), and the best points at a few scales
//      around the one its group will want. Between neighbouring scales the best point hardly changes, so these few
//      stand for all 256 in what follows.
//   2. For every group the scale it would take if it could.
//   3. d, from the largest of those over several numbers of steps; each group takes the best step near its scale; then
//      least squares for d and the steps again, until nothing improves.
//   4. With d and the steps settled, the best of all 256 points for every octet, and a last least squares for d.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "quant/block_search.h"
#include "quant/encode_block.h"

namespace ds4 {
namespace {

constexpr int kGroups = 8;
constexpr int kPerGroup = kOctets / kGroups;

/// Scales at which the candidate points are looked for, over the group's weighted root mean square.
constexpr std::array<float, kProbes> kProbeScales = {0.026F, 0.031F, 0.036F, 0.042F, 0.049F, 0.057F, 0.067F, 0.080F};

/// Steps 2 s + 1 that the largest group scale may get. Above 31 it is clipped, below it the block wastes some.
constexpr std::array<float, 11> kTops = {31, 32, 33, 34.5F, 30, 29, 28, 26.5F, 25, 23, 21};

class Iq2Block {
 public:
  explicit Iq2Block(const ScaledBlock& block) : block_(block) {
    for (int o = 0; o < kOctets; ++o) fit_octet(o);
    for (int g = 0; g < kGroups; ++g) probe_group(g);
  }

  void search() {
    choose_steps();
    for (int round = 0; round < 2; ++round) {
      choose_points();
      if (!solve_d()) break;
    }
    choose_points();
  }

  void store(std::uint8_t* out) const {
    const std::uint16_t half = block_.half(choice_.d);
    std::memcpy(out, &half, sizeof half);
    for (int g = 0; g < kGroups; ++g) {
      std::uint32_t word = static_cast<std::uint32_t>(choice_.step[g]) << 28;
      for (int k = 0; k < kPerGroup; ++k) {
        const int o = kPerGroup * g + k;
        out[2 + 8 * g + k] = static_cast<std::uint8_t>(points_[o]);
        word |= (signs(o) & 127U) << (7 * k);
      }
      std::memcpy(out + 2 + 8 * g + 4, &word, sizeof word);
    }
  }

 private:
  struct Choice {
    float d = 0;  // as stored: rounded to f16
    std::array<int, kGroups> step{};
    float error = std::numeric_limits<float>::infinity();  // less what no choice can change
  };

  const float* values(int octet) const { return block_.x + 8 * octet; }
  const float* weights(int octet) const { return block_.w + 8 * octet; }
  static float scale_of(float d, int step) { return d * static_cast<float>(2 * step + 1) * 0.125F; }

  void fit_octet(int o) {
    int minus = 0;
    for (int i = 0; i < 8; ++i) {
      weighted_[o][i] = weights(o)[i] * std::fabs(values(o)[i]);
      minus += values(o)[i] < 0 ? 1 : 0;
    }
    odd_[o] = minus % 2 != 0;
    search_.grid_fit(weighted_[o], weights(o), odd_[o], fits_[o]);
  }

  /// Candidates of the group's octets, and the scale at which they fit best together.
  void probe_group(int g) {
    float sum = 0, weight = 0;
    for (int i = 32 * g; i < 32 * g + 32; ++i) {
      sum += block_.w[i] * block_.x[i] * block_.x[i];
      weight += block_.w[i];
    }
    std::array<float, kProbes> scales;
    for (int p = 0; p < kProbes; ++p) scales[p] = std::sqrt(sum / weight) * kProbeScales[p];
    std::array<float, kProbes> a{}, q{};
    for (int o = kPerGroup * g; o < kPerGroup * (g + 1); ++o) {
      std::int32_t points[kProbes];
      search_.grid_best(fits_[o], scales.data(), kProbes, points);
      for (int p = 0; p < kProbes; ++p) {
        a[p] += candidates_.a[p][o] = fits_[o].a[points[p]];
        q[p] += candidates_.q[p][o] = fits_[o].q[points[p]];
      }
    }
    float gain = 0;
    wanted_[g] = 0;
    for (int p = 0; p < kProbes; ++p) {
      if (!(a[p] > 0) || !(a[p] * a[p] > gain * q[p])) continue;
      gain = a[p] * a[p] / q[p];
      wanted_[g] = a[p] / q[p];
    }
  }

  /// The error of each group with these steps, by the best of the candidates.
  std::array<float, kGroups> errors(float d, const std::array<int, kGroups>& step) const {
    alignas(64) std::array<float, kOctets> scale;
    alignas(64) std::array<float, kOctets> least;
    for (int o = 0; o < kOctets; ++o) scale[o] = scale_of(d, step[o / kPerGroup]);
    search_.grid_errors(candidates_, scale.data(), least.data());
    std::array<float, kGroups> sum{};
    for (int o = 0; o < kOctets; ++o) sum[o / kPerGroup] += least[o];
    return sum;
  }

  /// The best steps for this d among `from` and their neighbours.
  Choice with_steps(float d, const std::array<int, kGroups>& from) const {
    Choice choice{d, from, 0};
    std::array<float, kGroups> least;
    least.fill(std::numeric_limits<float>::infinity());
    for (const int move : {0, 1, -1}) {
      std::array<int, kGroups> step = from;
      for (int& s : step) s = std::clamp(s + move, 0, 15);
      const std::array<float, kGroups> error = errors(d, step);
      for (int g = 0; g < kGroups; ++g) {
        if (!(error[g] < least[g])) continue;
        least[g] = error[g];
        choice.step[g] = step[g];
      }
    }
    for (const float error : least) choice.error += error;
    return choice;
  }

  std::array<int, kGroups> nearest_steps(float d) const {
    std::array<int, kGroups> step;
    for (int g = 0; g < kGroups; ++g) {
      const float twice = wanted_[g] * 8.0F / d - 1.0F;
      step[g] = static_cast<int>(std::clamp(twice * 0.5F + 0.5F, 0.0F, 15.0F));
    }
    return step;
  }

  /// Step 3.
  void choose_steps() {
    const float largest = *std::max_element(wanted_.begin(), wanted_.end());
    for (const float top : kTops) {
      const float d = block_.rounded(8.0F * largest / top);
      if (!(d > 0)) continue;
      Choice choice = with_steps(d, nearest_steps(d));
      for (int round = 0; round < 3; ++round) {
        const float better = block_.rounded(best_d(choice));
        if (!(better > 0) || better == choice.d) break;
        const Choice next = with_steps(better, choice.step);
        if (!(next.error < choice.error)) break;
        choice = next;
      }
      if (choice.error < choice_.error) choice_ = choice;
    }
  }

  /// Least squares for d with the steps of `choice` and the candidates that are best there.
  float best_d(const Choice& choice) const {
    float a = 0, q = 0;
    for (int o = 0; o < kOctets; ++o) {
      const float times = scale_of(1.0F, choice.step[o / kPerGroup]);
      const float scale = choice.d * times;
      float least = std::numeric_limits<float>::infinity();
      int best = 0;
      for (int p = 0; p < kProbes; ++p) {
        const float error = scale * candidates_.q[p][o] - 2.0F * candidates_.a[p][o];
        if (error < least) {
          least = error;
          best = p;
        }
      }
      a += times * candidates_.a[best][o];
      q += times * times * candidates_.q[best][o];
    }
    return q > 0 ? a / q : 0.0F;
  }

  /// Step 4.
  void choose_points() {
    for (int o = 0; o < kOctets; ++o) {
      const float scale = scale_of(choice_.d, choice_.step[o / kPerGroup]);
      search_.grid_best(fits_[o], &scale, 1, &points_[o]);
    }
  }

  /// d for the points and steps chosen; false when that is the d they were chosen for.
  bool solve_d() {
    float a = 0, q = 0;
    for (int o = 0; o < kOctets; ++o) {
      const float times = scale_of(1.0F, choice_.step[o / kPerGroup]);
      a += times * fits_[o].a[points_[o]];
      q += times * times * fits_[o].q[points_[o]];
    }
    const float d = q > 0 ? block_.rounded(a / q) : 0.0F;
    if (!(d > 0) || d == choice_.d) return false;
    choice_.d = d;
    return true;
  }

  /// The signs of an octet: its own, with the cheapest one flipped where their number is odd.
  unsigned signs(int o) const {
    unsigned bits = 0;
    for (int i = 0; i < 8; ++i) bits |= values(o)[i] < 0 ? 1U << i : 0U;
    if (!odd_[o]) return bits;
    int cheapest = 0;
    for (int i = 1; i < 8; ++i)
      if (weighted_[o][i] * entry(o, i) < weighted_[o][cheapest] * entry(o, cheapest)) cheapest = i;
    return bits ^ 1U << cheapest;
  }
  float entry(int o, int i) const { return kGridValues.at[i][points_[o]]; }

  const ScaledBlock& block_;
  const BlockSearch& search_ = block_search();
  float weighted_[kOctets][8];
  std::array<bool, kOctets> odd_{};
  GridFit fits_[kOctets];
  GridCandidates candidates_;
  std::array<float, kGroups> wanted_{};
  Choice choice_;
  std::array<std::int32_t, kOctets> points_{};
};

}  // namespace

void encode_iq2_xxs(const float* values, const float* weights, std::uint8_t* block) {
  std::memset(block, 0, 66);
  ScaledBlock scaled;
  scaled.load(values, weights);
  if (scaled.zero) return;
  Iq2Block search(scaled);
  search.search();
  search.store(block);
}

}  // namespace ds4
