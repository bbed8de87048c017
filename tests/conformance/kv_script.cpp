#include "kv_script.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "quant/codec.h"

namespace ds4::conformance {

namespace {

int layer_of(int ratio) { return ratio == 0 ? 0 : ratio == 4 ? 1 : 2; }

std::uint64_t token_seed(int sequence, std::int64_t position, std::uint64_t purpose) {
  return splitmix64(splitmix64(static_cast<std::uint64_t>(sequence) * 1000003 + purpose) ^
                    static_cast<std::uint64_t>(position));
}

KvWeights::Compressor compressor(std::uint64_t seed, DType type, int hidden, int ratio, int width) {
  const std::int64_t channels = (ratio == 4 ? 2 : 1) * width;
  KvWeights::Compressor made{random_weight(seed, type, hidden, channels),
                             random_weight(seed + 1, type, hidden, channels),
                             random_weight(seed + 2, type == DType::kF32 ? DType::kF32 : DType::kF16, channels, ratio),
                             random_vector(seed + 3, width, 1.0F, 0.2F)};
  made.ape.lookup = true;
  return made;
}

/// One sequence as its owner sees it.
struct Timeline {
  std::int64_t length = 0;
  std::vector<std::int32_t> pages;
  std::int32_t tail = -1;
};

/// The ops of one layer over the batches of a script.
class LayerRun {
 public:
  LayerRun(Rig& rig, const KvWeights& w, int ratio) : rig_(rig), dims_(rig.dims()), w_(w), ratio_(ratio) {
    kv_ = rig.weight(w.kv), kv_norm_ = rig.weight(w.kv_norm), sinks_ = rig.weight(w.sinks);
    index_q_b_ = rig.weight(w.index_q_b), index_proj_ = rig.weight(w.index_proj);
    main_ = (ratio == 4 ? w.main4 : w.main128).load(rig);
    index_ = w.index.load(rig);
  }
  ~LayerRun() {
    for (auto& [id, t] : timelines_) {
      for (const std::int32_t page : t.pages) rig_.backend().free_page(page);
      rig_.backend().free_tail(t.tail);
    }
  }
  LayerRun(const LayerRun&) = delete;
  LayerRun& operator=(const LayerRun&) = delete;

  const LayerKvLayout& layout() const { return rig_.config().kv.layers[static_cast<std::size_t>(layer_of(ratio_))]; }
  Timeline& timeline(int sequence, std::int64_t start) {
    Timeline& t = timelines_[sequence];
    if (t.tail >= 0) return t;
    auto tail = rig_.backend().new_tail();
    DS4_CHECK(tail.ok());
    t.tail = *tail;
    if (start > 0) fill(t, sequence, start);
    return t;
  }
  const std::map<int, Timeline>& timelines() const { return timelines_; }

  /// The inputs of a batch, on the device.
  struct Batch {
    std::vector<std::int32_t> tokens, positions;
    std::vector<int> sequences;
    std::vector<Segment> segments;
    Tensor x, qr, q, rope, heads;
    IntTensor selected, count;
  };
  Batch prepare(const Step& step, std::int64_t start);
  void begin(const Batch& b) {
    rig_.backend().begin({static_cast<int>(b.tokens.size()), b.tokens, b.positions, b.segments, {}});
  }
  void window_kv(const Batch& b) { rig_.backend().window_kv({layer_of(ratio_), b.x, kv_, kv_norm_, b.rope}); }
  void compress(const Batch& b) {
    if (ratio_ == 0) return;
    rig_.backend().compress({layer_of(ratio_), CompressorKind::kMain, b.x, main_, b.rope});
    if (ratio_ == 4) rig_.backend().compress({layer_of(ratio_), CompressorKind::kIndexer, b.x, index_, b.rope});
  }
  void index_topk(const Batch& b) {
    if (ratio_ != 4) return;
    rig_.backend().index_topk({layer_of(ratio_), b.x, b.qr, index_q_b_, index_proj_, b.rope, b.selected, b.count});
  }
  void attention(const Batch& b) {
    const bool sparse = ratio_ == 4;
    rig_.backend().sparse_attention({layer_of(ratio_), b.q, sinks_, b.rope, sparse ? b.selected : IntTensor{},
                                     sparse ? b.count : IntTensor{}, b.heads});
  }
  void finish(const Batch& b) {
    DS4_CHECK(rig_.backend().wait().ok());
    for (std::size_t r = 0; r < b.sequences.size(); ++r) timelines_[b.sequences[r]].length = b.positions[r] + 1;
  }

 private:
  void fill(Timeline& t, int sequence, std::int64_t tokens);
  void reserve(Timeline& t, std::int64_t tokens);

  Rig& rig_;
  const Dims& dims_;
  const KvWeights& w_;
  int ratio_;
  Weight kv_, kv_norm_, sinks_, index_q_b_, index_proj_;
  CompressorWeights main_, index_;
  std::map<int, Timeline> timelines_;
};

std::byte* main_of(std::byte* base, const RowStore& store, std::int64_t row) {
  return base + store.offset + row * store.row.main_bytes;
}
std::byte* scale_of(std::byte* base, const RowStore& store, std::int64_t row) {
  return base + store.offset + std::int64_t{store.rows} * store.row.main_bytes + row * store.row.scale_bytes;
}

void LayerRun::reserve(Timeline& t, std::int64_t tokens) {
  while (static_cast<std::int64_t>(t.pages.size()) * kPageTokens < tokens) {
    auto page = rig_.backend().new_page();
    DS4_CHECK(page.ok());
    t.pages.push_back(*page);
  }
}

/// Random but valid history of `tokens` tokens.
void LayerRun::fill(Timeline& t, int sequence, std::int64_t tokens) {
  const LayerKvLayout& layer = layout();
  const KvFormat format = rig_.config().kv.format;
  reserve(t, tokens);
  std::vector<std::byte> page(rig_.config().kv.page_bytes);
  for (std::size_t i = 0; i < t.pages.size() && ratio_ != 0; ++i) {
    for (int b = 0; b < layer.compressed.rows; ++b) {
      const std::int64_t row = static_cast<std::int64_t>(i) * layer.compressed.rows + b;
      const auto values = random_floats(token_seed(sequence, row, 1), dims_.head_dim);
      encode_kv_row(format, values.data(), dims_.head_dim, dims_.rope_dim, main_of(page.data(), layer.compressed, b),
                    scale_of(page.data(), layer.compressed, b));
      if (layer.index.rows == 0) continue;
      const auto index = random_floats(token_seed(sequence, row, 2), dims_.index_dim);
      encode_index_row(format, index.data(), dims_.index_dim, main_of(page.data(), layer.index, b),
                       scale_of(page.data(), layer.index, b));
    }
    rig_.backend().write_page(t.pages[i], page);
  }
  std::vector<std::byte> tail(rig_.config().kv.tail_bytes);
  for (std::int64_t row = 0; row < layer.window.rows; ++row) {
    const auto values = random_floats(token_seed(sequence, row, 3), dims_.head_dim);
    encode_kv_row(format, values.data(), dims_.head_dim, dims_.rope_dim, main_of(tail.data(), layer.window, row),
                  scale_of(tail.data(), layer.window, row));
  }
  for (const StateRing& ring : {layer.state, layer.index_state}) {
    const auto values = random_floats(token_seed(sequence, ring.width, 4), std::int64_t{2} * ring.slots * ring.width);
    if (ring.slots > 0) std::memcpy(tail.data() + ring.offset, values.data(), values.size() * sizeof(float));
  }
  rig_.backend().write_tail(t.tail, tail);
  t.length = tokens;
}

LayerRun::Batch LayerRun::prepare(const Step& step, std::int64_t start) {
  Batch b;
  std::vector<float> x, qr, q;
  const auto append = [](std::vector<float>& to, const std::vector<float>& values) {
    to.insert(to.end(), values.begin(), values.end());
  };
  for (const Portion& portion : step) {
    Timeline& t = timeline(portion.sequence, start);
    reserve(t, t.length + portion.rows);
    b.segments.push_back({static_cast<int>(b.tokens.size()), portion.rows, t.length, t.tail, t.pages});
    for (int i = 0; i < portion.rows; ++i) {
      const std::int64_t p = t.length + i;
      b.tokens.push_back(0);
      b.positions.push_back(static_cast<std::int32_t>(p));
      b.sequences.push_back(portion.sequence);
      append(x, random_floats(token_seed(portion.sequence, p, 5), dims_.hidden));
      append(qr, random_floats(token_seed(portion.sequence, p, 6), dims_.q_lora));
      append(q, random_floats(token_seed(portion.sequence, p, 7), std::int64_t{dims_.heads} * dims_.head_dim));
    }
  }
  const auto rows = static_cast<std::int64_t>(b.tokens.size());
  b.x = rig_.input(x, rows);
  b.qr = rig_.input(qr, rows);
  b.q = rig_.input(q, rows);
  b.rope = rig_.input(w_.frequencies, 1);
  b.heads = rig_.output(rows, std::int64_t{dims_.heads} * dims_.head_dim);
  b.selected = rig_.int_output(rows, dims_.index_topk);
  b.count = rig_.int_output(rows, 1);
  return b;
}

std::vector<std::int32_t> selection_of(const std::vector<std::int32_t>& selected, std::int64_t row, std::int64_t cols,
                                       std::int32_t count) {
  const auto first = selected.begin() + row * cols;
  return {first, first + std::clamp<std::int64_t>(count, 0, cols)};
}

/// Decodes what the sequence has stored: visible compressed rows and the window.
void collect_rows(Rig& rig, const LayerKvLayout& layer, const Timeline& t, int ratio, int sequence, KvResult& result) {
  const Dims& dims = rig.dims();
  const KvFormat format = rig.config().kv.format;
  std::vector<float>& rows = result.rows[sequence];
  std::vector<std::byte>& bytes = result.bytes[sequence];
  std::vector<float> row(static_cast<std::size_t>(std::max(dims.head_dim, dims.index_dim)));
  const auto append = [&](int count) { rows.insert(rows.end(), row.begin(), row.begin() + count); };
  std::vector<std::byte> page(rig.config().kv.page_bytes);
  for (std::size_t i = 0; i < t.pages.size() && ratio != 0; ++i) {
    DS4_CHECK(rig.backend().read_page(t.pages[i], page).ok());
    const std::int64_t first = static_cast<std::int64_t>(i) * layer.compressed.rows;
    const std::int64_t visible = std::min<std::int64_t>(layer.compressed.rows, t.length / ratio - first);
    for (std::int64_t b = 0; b < visible; ++b) {
      decode_kv_row(format, main_of(page.data(), layer.compressed, b), scale_of(page.data(), layer.compressed, b),
                    dims.head_dim, dims.rope_dim, row.data());
      append(dims.head_dim);
      if (layer.index.rows == 0) continue;
      decode_index_row(format, main_of(page.data(), layer.index, b), scale_of(page.data(), layer.index, b),
                       dims.index_dim, row.data());
      append(dims.index_dim);
    }
    bytes.insert(bytes.end(), page.begin(), page.end());
  }
  std::vector<std::byte> tail(rig.config().kv.tail_bytes);
  DS4_CHECK(rig.backend().read_tail(t.tail, tail).ok());
  for (std::int64_t p = std::max<std::int64_t>(0, t.length - dims.window); p < t.length; ++p) {
    const std::int64_t slot = p % layer.window.rows;
    decode_kv_row(format, main_of(tail.data(), layer.window, slot), scale_of(tail.data(), layer.window, slot),
                  dims.head_dim, dims.rope_dim, row.data());
    append(dims.head_dim);
  }
  std::vector<float>& states = result.states[sequence];
  for (const StateRing& ring : {layer.state, layer.index_state}) {
    const std::size_t at = states.size();
    states.resize(at + static_cast<std::size_t>(2) * ring.slots * ring.width);
    if (ring.slots > 0) std::memcpy(states.data() + at, tail.data() + ring.offset, ring.bytes());
  }
  bytes.insert(bytes.end(), tail.begin(), tail.end());
}

}  // namespace

KvWeights::KvWeights(const Shape& shape, DType type)
    : kv(random_weight(51, type, shape.dims.hidden, shape.dims.head_dim)),
      kv_norm(random_vector(52, shape.dims.head_dim, 1.0F, 0.2F)),
      sinks(random_vector(53, shape.dims.heads, 0.0F, 2.0F)),
      index_q_b(
          random_weight(54, type, shape.dims.q_lora, std::int64_t{shape.dims.index_heads} * shape.dims.index_dim)),
      index_proj(random_weight(55, type, shape.dims.hidden, shape.dims.index_heads)),
      main4(compressor(60, type, shape.dims.hidden, 4, shape.dims.head_dim)),
      main128(compressor(70, type, shape.dims.hidden, 128, shape.dims.head_dim)),
      index(compressor(80, type, shape.dims.hidden, 4, shape.dims.index_dim)) {
  for (int i = 0; i < shape.dims.rope_dim / 2; ++i) frequencies.push_back(1.0F / static_cast<float>(1 + 3 * i * i));
}

KvResult run_script(Rig& rig, const KvWeights& weights, int ratio, const Script& script, const KvResult* forced) {
  KvResult result;
  LayerRun run(rig, weights, ratio);
  for (const Step& step : script.steps) {
    LayerRun::Batch b = run.prepare(step, script.start);
    run.begin(b);
    run.window_kv(b);
    run.compress(b);
    run.index_topk(b);
    const std::vector<std::int32_t> selected = rig.read(b.selected);
    const std::vector<std::int32_t> counts = rig.read(b.count);
    if (forced != nullptr && ratio == 4) {
      std::vector<std::int32_t> other(selected.size());
      std::vector<std::int32_t> other_count;
      for (std::size_t r = 0; r < b.sequences.size(); ++r) {
        const auto& chosen = forced->tokens.at({b.sequences[r], b.positions[r]}).selected;
        std::copy(chosen.begin(), chosen.end(), other.begin() + static_cast<std::ptrdiff_t>(r) * b.selected.cols);
        other_count.push_back(static_cast<std::int32_t>(chosen.size()));
      }
      rig.backend().upload(b.selected.data, other.data(), other.size() * sizeof(std::int32_t));
      rig.backend().upload(b.count.data, other_count.data(), other_count.size() * sizeof(std::int32_t));
    }
    run.attention(b);
    run.finish(b);
    const std::vector<float> heads = rig.read(b.heads);
    for (std::size_t r = 0; r < b.sequences.size(); ++r) {
      TokenResult& token = result.tokens[{b.sequences[r], b.positions[r]}];
      const auto first = heads.begin() + static_cast<std::ptrdiff_t>(r) * b.heads.cols;
      token.heads.assign(first, first + b.heads.cols);
      if (ratio == 4) token.selected = selection_of(selected, static_cast<std::int64_t>(r), b.selected.cols, counts[r]);
    }
  }
  for (const auto& [sequence, timeline] : run.timelines())
    collect_rows(rig, run.layout(), timeline, ratio, sequence, result);
  return result;
}

StepTimes time_step(Rig& rig, const KvWeights& weights, int ratio, std::int64_t start, int rows, int repeats) {
  LayerRun run(rig, weights, ratio);
  LayerRun::Batch b = run.prepare({{0, rows}}, start);
  StepTimes best{1e9, 1e9, 1e9, 1e9};
  const auto measure = [&](double& time, auto op) {
    rig.time([&](Backend&) { op(); });
    time = std::min(time, rig.seconds());
  };
  for (int i = 0; i < repeats; ++i) {
    run.begin(b);
    measure(best.window_kv, [&] { run.window_kv(b); });
    measure(best.compress, [&] { run.compress(b); });
    measure(best.index_topk, [&] { run.index_topk(b); });
    measure(best.attention, [&] { run.attention(b); });
  }
  return best;
}

}  // namespace ds4::conformance
