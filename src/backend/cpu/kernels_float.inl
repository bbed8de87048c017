// Kernel bodies over f32, f16 and bf16 weights: dot products, norms, mixing, SwiGLU, pooling. Included by table_*.cpp
// after the primitives of one instruction set.
namespace ds4::cpu {
namespace {

// ---- element types -------------------------------------------------------------------------------------------------

struct OfF32 {
  using Stored = float;
  static F32 whole(const float* p) { return load(p); }
  static F32 part(const float* p, int n) { return load_some(p, n); }
};
struct OfF16 {
  using Stored = uint16_t;
  static F32 whole(const uint16_t* p) { return load_f16(p); }
  static F32 part(const uint16_t* p, int n) { return load_some_f16(p, n); }
};
struct OfBf16 {
  using Stored = uint16_t;
  static F32 whole(const uint16_t* p) { return load_bf16(p); }
  static F32 part(const uint16_t* p, int n) { return load_some_bf16(p, n); }
};

// ---- dot products --------------------------------------------------------------------------------------------------

/// The dot products of every one of O weight rows with every one of R activation rows. Each has its own vector of
/// partial sums, filled in ascending k: O and R do not show in the result.
template <typename Of, int O, int R>
inline void dot_tile(const typename Of::Stored* const* w, const float* const* x, int64_t depth, float (&out)[R][O]) {
  F32 acc[R][O];
  for (int r = 0; r < R; ++r)
    for (int o = 0; o < O; ++o) acc[r][o] = zero();
  int64_t k = 0;
  for (; k + kLanes <= depth; k += kLanes) {
    F32 xs[R];
    for (int r = 0; r < R; ++r) xs[r] = load(x[r] + k);
    for (int o = 0; o < O; ++o) {
      const F32 ws = Of::whole(w[o] + k);
      for (int r = 0; r < R; ++r) acc[r][o] = madd(ws, xs[r], acc[r][o]);
    }
  }
  if (k < depth) {
    const int rest = static_cast<int>(depth - k);
    for (int o = 0; o < O; ++o) {
      const F32 ws = Of::part(w[o] + k, rest);
      for (int r = 0; r < R; ++r) acc[r][o] = madd(ws, load_some(x[r] + k, rest), acc[r][o]);
    }
  }
  for (int r = 0; r < R; ++r) {
    int o = 0;
    for (; o + 4 <= O; o += 4) sum_four(acc[r] + o, out[r] + o);
    for (; o < O; ++o) out[r][o] = sum(acc[r][o]);
  }
}

template <typename Of, int O, int R>
inline void dot_store(const FloatDotArgs& a, int output, int row) {
  const typename Of::Stored* w[O];
  const float* x[R];
  for (int o = 0; o < O; ++o)
    w[o] = reinterpret_cast<const typename Of::Stored*>(static_cast<const char*>(a.weights) +
                                                        (output + o) * a.weight_stride);
  for (int r = 0; r < R; ++r) x[r] = a.x + a.index[row + r] * a.x_stride;
  float products[R][O];
  dot_tile<Of, O, R>(w, x, a.depth, products);
  for (int r = 0; r < R; ++r) {
    float* out = a.out + (row + r) * kTileOutputs + output;
    for (int o = 0; o < O; ++o) out[o] = a.add ? out[o] + products[r][o] : products[r][o];
  }
}

template <typename Of>
void dot_rows(const FloatDotArgs& a) {
  int row = 0;
  for (; row + kDotRows <= a.count; row += kDotRows) {
    int o = 0;
    for (; o + kDotOutputs <= a.outputs; o += kDotOutputs) dot_store<Of, kDotOutputs, kDotRows>(a, o, row);
    for (; o < a.outputs; ++o) dot_store<Of, 1, kDotRows>(a, o, row);
  }
  for (; row < a.count; ++row) {  // one row: more outputs side by side hide the latency of the additions
    int o = 0;
    for (; o + 2 * kDotOutputs <= a.outputs; o += 2 * kDotOutputs) dot_store<Of, 2 * kDotOutputs, 1>(a, o, row);
    for (; o < a.outputs; ++o) dot_store<Of, 1, 1>(a, o, row);
  }
}

// ---- exponentials --------------------------------------------------------------------------------------------------

/// e^x within 2 ulp; x below -87.3 gives about 1e-38, x above 88.3 about 3e38, a NaN stays one.
inline F32 exponential(F32 x) {
  x = smaller(splat(88.37626F), larger(splat(-87.33654F), x));
  const F32 magic = splat(12582912.0F);  // 1.5 * 2^23: adding it rounds to an integer
  const F32 shifted = madd(x, splat(1.44269504F), magic);
  const F32 n = sub(shifted, magic);
  F32 r = nmadd(n, splat(0.693359375F), x);  // ln 2 in two parts, the first exact in a few bits
  r = nmadd(n, splat(-2.12194440e-4F), r);
  F32 p = splat(1.9875691500e-4F);
  p = madd(p, r, splat(1.3981999507e-3F));
  p = madd(p, r, splat(8.3334519073e-3F));
  p = madd(p, r, splat(4.1665795894e-2F));
  p = madd(p, r, splat(1.6666665459e-1F));
  p = madd(p, r, splat(5.0000001201e-1F));
  p = add(madd(mul(r, r), p, r), splat(1.0F));
  return mul(p, shift_to_power(shifted));
}

// ---- vectors -------------------------------------------------------------------------------------------------------

/// Calls whole(i) for every full vector of [0, count) and part(i, n) for the rest.
template <typename Whole, typename Part>
inline void over(int64_t count, Whole whole, Part part) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) whole(i);
  if (i < count) part(i, static_cast<int>(count - i));
}

/// y[i] = f(vector at i), where f takes a loader of its inputs.
template <typename F>
inline void map(float* y, int64_t count, F f) {
  over(
      count, [&](int64_t i) { store(y + i, f([=](const float* p) { return load(p + i); })); },
      [&](int64_t i, int n) { store_some(y + i, f([=](const float* p) { return load_some(p + i, n); }), n); });
}

float sum_squares(const float* x, int64_t count) {
  F32 a = zero();
  F32 b = zero();
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const F32 first = load(x + i);
    const F32 second = load(x + i + kLanes);
    a = madd(first, first, a);
    b = madd(second, second, b);
  }
  for (; i < count; i += kLanes) {
    const F32 rest = count - i >= kLanes ? load(x + i) : load_some(x + i, static_cast<int>(count - i));
    a = madd(rest, rest, a);
  }
  return sum(add(a, b));
}

void scale_vector(const float* x, float factor, const float* weight, float* y, int64_t count) {
  const F32 f = splat(factor);
  if (weight == nullptr) map(y, count, [&](auto at) { return mul(at(x), f); });
  else map(y, count, [&](auto at) { return mul(mul(at(x), f), at(weight)); });
}

void add_vector(const float* x, float* y, int64_t count) {
  map(y, count, [&](auto at) { return add(at(y), at(x)); });
}

void mix_vectors(const float* const* x, const float* weights, int inputs, float* y, int64_t count) {
  map(y, count, [&](auto at) {
    F32 s = mul(splat(weights[0]), at(x[0]));
    for (int j = 1; j < inputs; ++j) s = madd(splat(weights[j]), at(x[j]), s);
    return s;
  });
}

void mix_streams(const float* o, const float* post, const float* comb, int streams, float* x, int64_t stream_stride,
                 int64_t count) {
  const auto step = [&](auto at, auto put) {
    F32 old[kMaxStreams];
    for (int j = 0; j < streams; ++j) old[j] = at(x + j * stream_stride);
    const F32 output = at(o);
    for (int k = 0; k < streams; ++k) {
      F32 s = mul(splat(post[k]), output);
      for (int j = 0; j < streams; ++j) s = madd(splat(comb[j * streams + k]), old[j], s);
      put(x + k * stream_stride, s);
    }
  };
  over(
      count,
      [&](int64_t i) {
        step([=](const float* p) { return load(p + i); }, [=](float* p, F32 v) { store(p + i, v); });
      },
      [&](int64_t i, int n) {
        step([=](const float* p) { return load_some(p + i, n); }, [=](float* p, F32 v) { store_some(p + i, v, n); });
      });
}

void swiglu(const float* gate, const float* up, float limit, float weight, float* h, int64_t count) {
  const F32 high = splat(limit);
  const F32 low = splat(-limit);
  map(h, count, [&](auto at) {
    const F32 g = smaller(high, at(gate));
    const F32 u = smaller(high, larger(low, at(up)));
    const F32 silu = div(g, add(splat(1.0F), exponential(sub(zero(), g))));
    return mul(mul(silu, u), splat(weight));
  });
}

void softmax_pool(const float* const* values, const float* const* scores, int entries, float* y, int64_t count) {
  map(y, count, [&](auto at) {
    F32 top = at(scores[0]);
    for (int i = 1; i < entries; ++i) top = larger(top, at(scores[i]));
    F32 total = zero();
    F32 weighted = zero();
    for (int i = 0; i < entries; ++i) {
      const F32 w = exponential(sub(at(scores[i]), top));
      total = add(total, w);
      weighted = madd(w, at(values[i]), weighted);
    }
    return div(weighted, total);
  });
}

}  // namespace
}  // namespace ds4::cpu
