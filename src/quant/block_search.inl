// The loops of block_search.h, included by one file per instruction set inside a namespace of its own; kWidth is the
// number of floats in its vectors. No standard headers here: their inline functions would be compiled for that
// instruction set and might be linked into code for all.

template <int kFloats>
struct VectorOf {
  typedef float type __attribute__((vector_size(kFloats * sizeof(float))));
  typedef std::int32_t integers __attribute__((vector_size(kFloats * sizeof(float))));
};

constexpr float kHuge = 3e38F;
constexpr float kRound = 0x1.8p23F;  // adding and taking it away again rounds to the nearest even integer

inline float least_of(float a, float b) { return a < b ? a : b; }
inline float most_of(float a, float b) { return a > b ? a : b; }

// ---- K formats
// -------------------------------------------------------------------------------------------------------

/// kSubs sub-blocks of kLength values with codes 0..kTop; scales and minima are 0..kSteps times d and dmin.
///
///   1. Every sub-block alone: real scale and minimum by least squares, from several guesses of its range.
///   2. d and dmin such that multiples of them come close to those, each alone.
///   3. Together: each sub-block takes the best of the scales and minima around its own, then d and dmin are solved for
///      by least squares, until nothing improves.
template <int kSubs, int kLength, int kTop, int kSteps>
class KSearch {
 public:
  explicit KSearch(const ScaledBlock& block) : block_(block) {
    for (int i = 0; i < kLength; ++i) {
      for (int j = 0; j < kSubs; ++j) {
        x_[i].set(j, block.x[j * kLength + i]);
        w_[i].set(j, block.w[j * kLength + i]);
      }
    }
    for (int i = 0; i < kLength; ++i) {
      for (int p = 0; p < kParts; ++p) {
        sum_w_.v[p] += w_[i].v[p];
        sum_x_.v[p] += w_[i].v[p] * x_[i].v[p];
      }
    }
  }

  void search(KChoice& out) {
    Fit fit;
    fit_alone(fit);
    float steps[kStarts], minimum_steps[kStarts];
    steps_for(fit.scale, fit.qq, steps);
    steps_for(fit.minimum, sum_w_, minimum_steps);
    Choice best;
    best.error = kHuge;
    for (const float d : steps) {
      for (const float dmin : minimum_steps) {
        Choice found;
        improve(fit, d, dmin, found);
        if (found.error < best.error) best = found;
      }
    }
    store(best, out);
  }

 private:
  static constexpr int kLanes = kWidth < kSubs ? kWidth : kSubs;
  static constexpr int kParts = kSubs / kLanes;
  static constexpr int kStarts = 2;  // d and dmin to begin with, each
  typedef typename VectorOf<kLanes>::type V;

  /// One value per sub-block.
  struct Lanes {
    V v[kParts] = {};
    float at(int j) const { return v[j / kLanes][j % kLanes]; }
    void set(int j, float value) { v[j / kLanes][j % kLanes] = value; }
    void fill(float value) {
      for (V& part : v) part = V{} + value;
    }
  };

  /// Real scales and minima, and the sums their errors weigh with.
  struct Fit {
    Lanes scale;
    Lanes minimum;
    Lanes qq;  // sum(w q^2): how much an error of the scale costs
    Lanes error;
  };
  /// Sums over a sub-block with its codes q.
  struct Sums {
    Lanes q;   // sum(w q)
    Lanes qq;  // sum(w q^2)
    Lanes xq;  // sum(w x q)
  };
  /// The values that a sub-block can take: scale * q - minimum.
  struct Grid {
    Lanes scale;
    Lanes minimum;
    Lanes inverse;  // 1 / scale, or 0: every code is then 0
    void invert() {
      for (int p = 0; p < kParts; ++p) inverse.v[p] = scale.v[p] > 0.0F ? 1.0F / scale.v[p] : V{};
    }
  };
  struct Choice {
    float d = 0;
    float dmin = 0;
    Lanes scale;    // whole numbers 0..kSteps
    Lanes minimum;  // the same
    float error = 0;
    void grid(Grid& out) const {
      for (int p = 0; p < kParts; ++p) {
        out.scale.v[p] = d * scale.v[p];
        out.minimum.v[p] = dmin * minimum.v[p];
      }
      out.invert();
    }
  };

  static V code(const V& x, const V& minimum, const V& inverse) {
    const V top = V{} + static_cast<float>(kTop);
    V steps = (x + minimum) * inverse;
    steps = steps > 0.0F ? steps : V{};
    steps = steps < top ? steps : top;
    return steps + kRound - kRound;
  }

  void sums(const Grid& grid, Sums& s) const {
    for (int p = 0; p < kParts; ++p) {
      V q = {}, qq = {}, xq = {};
      for (int i = 0; i < kLength; ++i) {
        const V c = code(x_[i].v[p], grid.minimum.v[p], grid.inverse.v[p]);
        const V wc = w_[i].v[p] * c;
        q += wc;
        qq += wc * c;
        xq += wc * x_[i].v[p];
      }
      s.q.v[p] = q;
      s.qq.v[p] = qq;
      s.xq.v[p] = xq;
    }
  }

  void errors(const Grid& grid, Lanes& out) const {
    for (int p = 0; p < kParts; ++p) {
      V sum = {};
      for (int i = 0; i < kLength; ++i) {
        const V c = code(x_[i].v[p], grid.minimum.v[p], grid.inverse.v[p]);
        const V off = grid.scale.v[p] * c - grid.minimum.v[p] - x_[i].v[p];
        sum += w_[i].v[p] * off * off;
      }
      out.v[p] = sum;
    }
  }

  /// Scale and minimum, neither negative, that are best for the codes behind `s`.
  void solve(const Sums& s, Grid& grid) const {
    for (int p = 0; p < kParts; ++p) {
      const V w = sum_w_.v[p], x = sum_x_.v[p], q = s.q.v[p], qq = s.qq.v[p], xq = s.xq.v[p];
      const V determinant = w * qq - q * q;
      const auto regular = determinant > 1e-6F * w * qq;
      const V over = 1.0F / (regular ? determinant : V{} + 1.0F);
      V scale = (w * xq - x * q) * over;
      V minimum = (q * xq - qq * x) * over;
      // One code for all, or all values far above 0: the scale alone.
      const auto both = regular & (minimum >= 0.0F);
      const V alone = xq / (qq > 0.0F ? qq : V{} + 1.0F);
      minimum = both ? minimum : V{};
      scale = both ? scale : alone;
      const V mean = 0.0F - x / w;
      minimum = scale > 0.0F ? minimum : mean > 0.0F ? mean : V{};
      grid.scale.v[p] = scale > 0.0F ? scale : V{};
      grid.minimum.v[p] = minimum;
    }
    grid.invert();
  }

  /// Step 1.
  void fit_alone(Fit& best) const {
    Lanes low;
    Lanes high = x_[0];
    for (int i = 0; i < kLength; ++i) {
      for (int p = 0; p < kParts; ++p) {
        low.v[p] = x_[i].v[p] < low.v[p] ? x_[i].v[p] : low.v[p];
        high.v[p] = x_[i].v[p] > high.v[p] ? x_[i].v[p] : high.v[p];
      }
    }
    best.error.fill(kHuge);
    for (const float top : kTops) {
      Grid grid;
      for (int p = 0; p < kParts; ++p) {
        grid.scale.v[p] = (high.v[p] - low.v[p]) * (1.0F / top);
        grid.minimum.v[p] = 0.0F - low.v[p];
      }
      grid.invert();
      Sums s;
      for (int round = 0; round < kRounds; ++round) {
        sums(grid, s);
        solve(s, grid);
      }
      keep_better(grid, s.qq, best);
    }
  }

  void keep_better(const Grid& grid, const Lanes& qq, Fit& best) const {
    Lanes error;
    errors(grid, error);
    for (int p = 0; p < kParts; ++p) {
      const auto better = error.v[p] < best.error.v[p];
      best.error.v[p] = better ? error.v[p] : best.error.v[p];
      best.scale.v[p] = better ? grid.scale.v[p] : best.scale.v[p];
      best.minimum.v[p] = better ? grid.minimum.v[p] : best.minimum.v[p];
      best.qq.v[p] = better ? qq.v[p] : best.qq.v[p];
    }
  }

  /// Step 2: the best steps of those that put the largest of `wanted` at kSteps or a little beside it.
  static void steps_for(const Lanes& wanted, const Lanes& cost, float (&best)[kStarts]) {
    float largest = 0;
    for (int j = 0; j < kSubs; ++j) largest = most_of(largest, wanted.at(j));
    float least[kStarts];
    for (int s = 0; s < kStarts; ++s) {
      best[s] = 0;
      least[s] = kHuge;
    }
    if (!(largest > 0)) return;
    for (int c = 0; c < kStepCandidates; ++c) {
      const float step = largest / (static_cast<float>(kSteps) * (1.06F - 0.02F * static_cast<float>(c)));
      const float inverse = 1.0F / step;
      Lanes errors;
      for (int p = 0; p < kParts; ++p) {
        const V top = V{} + static_cast<float>(kSteps);
        V times = wanted.v[p] * inverse;
        times = (times < top ? times : top) + kRound - kRound;
        const V off = wanted.v[p] - times * step;
        errors.v[p] = cost.v[p] * off * off;
      }
      float error = 0;
      for (int j = 0; j < kSubs; ++j) error += errors.at(j);
      float candidate = step;
      for (int s = 0; s < kStarts; ++s) {  // kept in order; what is displaced moves on
        if (!(error < least[s])) continue;
        const float displaced = best[s], displaced_error = least[s];
        best[s] = candidate;
        least[s] = error;
        candidate = displaced;
        error = displaced_error;
      }
    }
  }

  /// Step 3, from the given d and dmin.
  void improve(const Fit& fit, float d, float dmin, Choice& choice) const {
    choice.d = block_.step(d);
    choice.dmin = block_.step(dmin);
    nearest_steps(fit.scale, choice.d, choice.scale);
    nearest_steps(fit.minimum, choice.dmin, choice.minimum);
    take_best_neighbours(choice);
    for (int round = 0; round < kImprovements; ++round) {
      Choice next = choice;
      if (!solve_steps(next)) break;
      take_best_neighbours(next);
      if (!(next.error < choice.error)) break;
      choice = next;
    }
  }

  static void nearest_steps(const Lanes& wanted, float step, Lanes& out) {
    const float inverse = step > 0 ? 1.0F / step : 0.0F;
    const V top = V{} + static_cast<float>(kSteps);
    for (int p = 0; p < kParts; ++p) {
      V times = wanted.v[p] * inverse;
      out.v[p] = (times < top ? times : top) + kRound - kRound;
    }
  }

  /// Each sub-block takes the best scale and minimum among those it has and their neighbours.
  void take_best_neighbours(Choice& choice) const {
    Lanes least;
    least.fill(kHuge);
    Lanes scale, minimum;
    const V top = V{} + static_cast<float>(kSteps);
    for (const auto& move : kNeighbours) {
      Choice tried;
      tried.d = choice.d;
      tried.dmin = choice.dmin;
      for (int p = 0; p < kParts; ++p) {
        V s = choice.scale.v[p] + move[0];
        V m = choice.minimum.v[p] + move[1];
        s = s > 0.0F ? s : V{};
        m = m > 0.0F ? m : V{};
        tried.scale.v[p] = s < top ? s : top;
        tried.minimum.v[p] = m < top ? m : top;
      }
      Grid grid;
      tried.grid(grid);
      Lanes error;
      errors(grid, error);
      for (int p = 0; p < kParts; ++p) {
        const auto better = error.v[p] < least.v[p];
        least.v[p] = better ? error.v[p] : least.v[p];
        scale.v[p] = better ? tried.scale.v[p] : scale.v[p];
        minimum.v[p] = better ? tried.minimum.v[p] : minimum.v[p];
      }
    }
    choice.scale = scale;
    choice.minimum = minimum;
    choice.error = 0;
    for (int j = 0; j < kSubs; ++j) choice.error += least.at(j);
  }

  /// d and dmin by least squares, everything else as it is. False if they were that already.
  bool solve_steps(Choice& choice) const {
    Grid grid;
    choice.grid(grid);
    Sums s;
    sums(grid, s);
    float dd = 0, dm = 0, mm = 0, xd = 0, xm = 0;
    for (int j = 0; j < kSubs; ++j) {
      const float scale = choice.scale.at(j);
      const float minimum = choice.minimum.at(j);
      dd += scale * scale * s.qq.at(j);
      dm += scale * minimum * s.q.at(j);
      mm += minimum * minimum * sum_w_.at(j);
      xd += scale * s.xq.at(j);
      xm += minimum * sum_x_.at(j);
    }
    const float determinant = mm * dd - dm * dm;
    float d = 0, dmin = 0;
    if (determinant > 1e-6F * mm * dd) {
      d = (mm * xd - dm * xm) / determinant;
      dmin = (dm * xd - dd * xm) / determinant;
    } else if (dd > 0) {
      d = (xd + choice.dmin * dm) / dd;
    } else if (mm > 0) {
      dmin = (0.0F - xm) / mm;
    }
    const float before = choice.d, minimum_before = choice.dmin;
    if (d > 0) choice.d = block_.rounded(d);
    if (dmin > 0) choice.dmin = block_.rounded(dmin);
    return choice.d != before || choice.dmin != minimum_before;
  }

  void store(const Choice& choice, KChoice& out) const {
    out.d = choice.d;
    out.dmin = choice.dmin;
    Grid grid;
    choice.grid(grid);
    for (int j = 0; j < kSubs; ++j) {
      out.scale[j] = static_cast<std::uint8_t>(choice.scale.at(j));
      out.minimum[j] = static_cast<std::uint8_t>(choice.minimum.at(j));
    }
    for (int i = 0; i < kLength; ++i) {
      Lanes codes;
      for (int p = 0; p < kParts; ++p) codes.v[p] = code(x_[i].v[p], grid.minimum.v[p], grid.inverse.v[p]);
      for (int j = 0; j < kSubs; ++j) out.code[j * kLength + i] = static_cast<std::uint8_t>(codes.at(j));
    }
  }

  // A range of more steps than there are codes clips its ends, one of fewer leaves codes unused.
  static constexpr float kTops[7] = {kTop,
                                     kTop == 3 ? 2.4F : 14.4F,
                                     kTop == 3 ? 2.7F : 15.6F,
                                     kTop == 3 ? 3.4F : 16.4F,
                                     kTop == 3 ? 3.9F : 17.4F,
                                     kTop == 3 ? 4.5F : 13.5F,
                                     kTop == 3 ? 2.0F : 12.0F};
  static constexpr int kRounds = 3;
  static constexpr int kStepCandidates = 14;
  static constexpr int kImprovements = 6;
  static constexpr float kNeighbours[9][2] = {{0, 0}, {1, 0},   {-1, 0}, {0, 1}, {0, -1},
                                              {1, 1}, {-1, -1}, {1, -1}, {-1, 1}};

  const ScaledBlock& block_;
  Lanes x_[kLength];
  Lanes w_[kLength];
  Lanes sum_w_;
  Lanes sum_x_;
};

void q2_k(const ScaledBlock& block, KChoice& choice) { KSearch<16, 16, 3, 15>(block).search(choice); }
void q4_k(const ScaledBlock& block, KChoice& choice) { KSearch<8, 32, 15, 63>(block).search(choice); }

// ---- IQ2_XXS
// ---------------------------------------------------------------------------------------------------------

typedef VectorOf<kWidth>::type Vector;
typedef VectorOf<kWidth>::integers Integers;

Vector load(const float* at) {
  Vector v;
  __builtin_memcpy(&v, at, sizeof v);
  return v;
}
void store(float* at, const Vector& v) { __builtin_memcpy(at, &v, sizeof v); }

void grid_fit(const float* weighted, const float* weights, bool odd, GridFit& out) {
  const float flip = odd ? 2.0F : 0.0F;
  for (int first = 0; first < kGridPoints; first += kWidth) {
    Vector a = {}, q = {};
    Vector least = Vector{} + kHuge;
    for (int i = 0; i < 8; ++i) {
      const Vector grid = load(kGridValues.at[i] + first);
      const Vector product = weighted[i] * grid;
      a += product;
      q += weights[i] * grid * grid;
      least = product < least ? product : least;
    }
    store(out.a + first, a - flip * least);
    store(out.q + first, q);
  }
}

/// The number of the point replaces the lowest bits of its error, so that the least of them brings its number along.
void grid_best(const GridFit& fit, const float* scales, int count, std::int32_t* points) {
  Integers lanes;
  for (int l = 0; l < kWidth; ++l) lanes[l] = l;
  for (int s = 0; s < count; ++s) {
    Vector least = Vector{} + kHuge;
    for (int first = 0; first < kGridPoints; first += kWidth) {
      const Vector error = scales[s] * load(fit.q + first) - 2.0F * load(fit.a + first);
      const Integers tagged = (reinterpret_cast<Integers>(error) & ~255) | (lanes + first);
      const Vector value = reinterpret_cast<Vector>(tagged);
      least = value < least ? value : least;
    }
    float winner = kHuge;
    for (int l = 0; l < kWidth; ++l) winner = least_of(least[l], winner);
    points[s] = __builtin_bit_cast(std::int32_t, winner) & 255;
  }
}

void grid_errors(const GridCandidates& candidates, const float* scales, float* errors) {
  for (int first = 0; first < kOctets; first += kWidth) {
    const Vector scale = load(scales + first);
    Vector least = Vector{} + kHuge;
    for (int p = 0; p < kProbes; ++p) {
      const Vector error = scale * load(candidates.q[p] + first) - 2.0F * load(candidates.a[p] + first);
      least = error < least ? error : least;
    }
    store(errors + first, scale * least);
  }
}
