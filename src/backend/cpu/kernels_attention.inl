// Kernel bodies of attention and of the indexer, and the readers of stored rows. Included by table_*.cpp after
// kernels_float.inl. One latent row is key and value of every head, so a block of keys serves all heads of a query.
namespace ds4::cpu {
namespace {

/// out[h][n] = q[h] · keys[n]
inline void key_products(const float* q, int heads, int dim, const float* const* keys, int count, float* out) {
  const auto tile = [&]<int O, int R>(int h, int n) {
    const float* x[R];
    for (int r = 0; r < R; ++r) x[r] = q + static_cast<int64_t>(h + r) * dim;
    float products[R][O];
    dot_tile<OfF32, O, R>(keys + n, x, dim, products);
    for (int r = 0; r < R; ++r)
      for (int o = 0; o < O; ++o) out[(h + r) * kKeyBlock + n + o] = products[r][o];
  };
  int n = 0;
  for (; n + kDotOutputs <= count; n += kDotOutputs) {
    int h = 0;
    for (; h + kDotRows <= heads; h += kDotRows) tile.template operator()<kDotOutputs, kDotRows>(h, n);
    for (; h < heads; ++h) tile.template operator()<kDotOutputs, 1>(h, n);
  }
  for (; n < count; ++n)
    for (int h = 0; h < heads; ++h) tile.template operator()<1, 1>(h, n);
}

inline float largest_of(const float* x, int count) {
  F32 top = splat(x[0]);
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) top = larger(top, load(x + i));
  float result = largest(top);
  for (; i < count; ++i) result = result > x[i] ? result : x[i];
  return result;
}

/// Scores of one head to exp(score - largest), and the factor by which what was summed before shrinks.
inline float softmax_step(const AttentionArgs& a, int h) {
  float* s = a.scores + h * kKeyBlock;
  const F32 scale = splat(a.scale);
  const float top = a.scale * largest_of(s, a.count);
  const float largest_now = a.largest[h] > top ? a.largest[h] : top;
  float shrink[kLanes];
  store(shrink, exponential(splat(a.largest[h] - largest_now)));
  F32 total = zero();
  over(
      a.count,
      [&](int64_t n) {
        const F32 p = exponential(sub(mul(load(s + n), scale), splat(largest_now)));
        store(s + n, p);
        total = add(total, p);
      },
      [&](int64_t n, int rest) {
        store_some(s + n, exponential(sub(mul(load_some(s + n, rest), scale), splat(largest_now))), rest);
        total = add(total, load_some(s + n, rest));
      });
  a.largest[h] = largest_now;
  a.total[h] = a.total[h] * shrink[0] + sum(total);
  return shrink[0];
}

/// out[h] = out[h] * shrink + Σ_n p[h][n] * keys[n], for the H heads from h and V vectors from dimension d.
template <int H, int V, typename Load, typename Store>
inline void value_tile(const AttentionArgs& a, const float* shrink, int h, int d, Load at, Store put) {
  F32 acc[H][V];
  for (int i = 0; i < H; ++i)
    for (int v = 0; v < V; ++v)
      acc[i][v] = mul(at(a.out + static_cast<int64_t>(h + i) * a.dim + d + v * kLanes), splat(shrink[i]));
  for (int n = 0; n < a.count; ++n) {
    F32 key[V];
    for (int v = 0; v < V; ++v) key[v] = at(a.keys[n] + d + v * kLanes);
    for (int i = 0; i < H; ++i) {
      const F32 p = splat(a.scores[(h + i) * kKeyBlock + n]);
      for (int v = 0; v < V; ++v) acc[i][v] = madd(p, key[v], acc[i][v]);
    }
  }
  for (int i = 0; i < H; ++i)
    for (int v = 0; v < V; ++v) put(a.out + static_cast<int64_t>(h + i) * a.dim + d + v * kLanes, acc[i][v]);
}

template <int H>
inline void values_of_heads(const AttentionArgs& a, const float* shrink, int h) {
  constexpr int V = kDotRows;
  const auto whole = [](const float* p) { return load(p); };
  const auto put = [](float* p, F32 x) { store(p, x); };
  int d = 0;
  for (; d + V * kLanes <= a.dim; d += V * kLanes) value_tile<H, V>(a, shrink, h, d, whole, put);
  for (; d + kLanes <= a.dim; d += kLanes) value_tile<H, 1>(a, shrink, h, d, whole, put);
  if (d < a.dim) {
    const int rest = a.dim - d;
    value_tile<H, 1>(
        a, shrink, h, d, [=](const float* p) { return load_some(p, rest); },
        [=](float* p, F32 x) { store_some(p, x, rest); });
  }
}

void attend(const AttentionArgs& a) {
  key_products(a.q, a.heads, a.dim, a.keys, a.count, a.scores);
  constexpr int H = kDotOutputs;
  float shrink[H];
  int h = 0;
  for (; h + H <= a.heads; h += H) {
    for (int i = 0; i < H; ++i) shrink[i] = softmax_step(a, h + i);
    values_of_heads<H>(a, shrink, h);
  }
  for (; h < a.heads; ++h) {
    shrink[0] = softmax_step(a, h);
    values_of_heads<1>(a, shrink, h);
  }
}

void index_scores(const IndexArgs& a) {
  key_products(a.q, a.heads, a.dim, a.keys, a.count, a.products);
  map(a.scores, a.count, [&](auto at) {
    F32 s = zero();
    for (int h = 0; h < a.heads; ++h)
      s = madd(splat(a.weights[h]), larger(zero(), at(a.products + h * kKeyBlock)), s);
    return s;
  });
}

// ---- stored rows ---------------------------------------------------------------------------------------------------

inline float power_scale(uint8_t e) {
  const uint32_t bits = e == 255 ? 0x7fc00000U : e == 0 ? 0x00400000U : static_cast<uint32_t>(e) << 23;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

void read_f16(const uint8_t* row, float* y, int count) {
  const auto* halves = reinterpret_cast<const uint16_t*>(row);
  over(
      count, [&](int64_t i) { store(y + i, load_f16(halves + i)); },
      [&](int64_t i, int n) { store_some(y + i, load_some_f16(halves + i, n), n); });
}

void read_packed(const uint8_t* row, const uint8_t* scales, const RowFormat& format, float* y) {
  for (int start = 0; start < format.rounded; start += 64) {
    const int count = format.rounded - start < 64 ? format.rounded - start : 64;
    const F32 scale = splat(power_scale(scales[start / 64]));
    over(
        count, [&](int64_t i) { store(y + start + i, mul(load_e4m3(row + start + i), scale)); },
        [&](int64_t i, int n) {
          uint8_t part[kLanes] = {};
          memcpy(part, row + start + i, static_cast<size_t>(n));
          store_some(y + start + i, mul(load_e4m3(part), scale), n);
        });
  }
  const auto* rest = reinterpret_cast<const uint16_t*>(row + format.rounded);
  float* z = y + format.rounded;
  over(
      format.dim - format.rounded, [&](int64_t i) { store(z + i, load_bf16(rest + i)); },
      [&](int64_t i, int n) { store_some(z + i, load_some_bf16(rest + i, n), n); });
}

void read_packed_index(const uint8_t* row, const uint8_t* scales, int dim, float* y) {
  for (int start = 0; start < dim; start += 32) {
    const int count = dim - start < 32 ? dim - start : 32;
    const F32 scale = splat(power_scale(scales[start / 32]));
    over(
        count, [&](int64_t i) { store(y + start + i, mul(load_e2m1(row + (start + i) / 2), scale)); },
        [&](int64_t i, int n) {
          uint8_t part[kLanes] = {};
          memcpy(part, row + (start + i) / 2, static_cast<size_t>((n + 1) / 2));
          store_some(y + start + i, mul(load_e2m1(part), scale), n);
        });
  }
}

}  // namespace

}  // namespace ds4::cpu
