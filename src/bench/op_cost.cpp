#include "bench/op_cost.h"

#include <algorithm>

namespace ds4::bench {

namespace {

double bytes_of(const Tensor& t) { return static_cast<double>(t.rows * t.cols) * sizeof(float); }
double bytes_of(const IntTensor& t) { return static_cast<double>(t.rows * t.cols) * sizeof(std::int32_t); }

/// One of the weight's matrices.
double matrix_bytes(const Weight& w) {
  return static_cast<double>(row_bytes(w.type, static_cast<std::size_t>(w.in))) * static_cast<double>(w.out);
}

bool is_quantised(DType type) { return type != DType::kF32 && type != DType::kF16 && type != DType::kBF16; }

/// y = W x for `rows` rows: the weight once, a multiply and an add for each weight and row.
Cost product(const Weight& w, std::int64_t rows) {
  Cost cost;
  cost.weight_bytes = matrix_bytes(w);
  const double flops = 2.0 * static_cast<double>(w.in) * static_cast<double>(w.out) * static_cast<double>(rows);
  (is_quantised(w.type) ? cost.quantised_flops : cost.float_flops) = flops;
  return cost;
}

Cost activations(double bytes, double flops = 0) { return {.activation_bytes = bytes, .float_flops = flops}; }

/// Compressed rows that a query at `position` sees.
std::int64_t visible(std::int64_t position, int ratio) { return ratio == 0 ? 0 : (position + 1) / ratio; }

/// Sums f(position) over the positions of a segment.
template <typename F>
double sum_positions(const Segment& s, F f) {
  double sum = 0;
  for (int r = 0; r < s.rows; ++r) sum += static_cast<double>(f(s.first_position + r));
  return sum;
}

}  // namespace

Cost& Cost::operator+=(const Cost& other) {
  weight_bytes += other.weight_bytes;
  kv_bytes += other.kv_bytes;
  activation_bytes += other.activation_bytes;
  quantised_flops += other.quantised_flops;
  float_flops += other.float_flops;
  return *this;
}

// One row of the table for each token, written to every stream.
Cost cost_of(const EmbedArgs& args, const StepView&) {
  Cost cost = activations(bytes_of(args.streams));
  cost.weight_bytes =
      matrix_bytes(args.table) / static_cast<double>(args.table.out) * static_cast<double>(args.streams.rows);
  return cost;
}

// Controls from all streams, and the streams mixed into one.
Cost cost_of(const HcPreArgs& args, const StepView&) {
  Cost cost = product(args.hc.fn, args.streams.rows);
  cost += activations(bytes_of(args.streams) + bytes_of(args.y) + bytes_of(args.post) + bytes_of(args.comb),
                      4.0 * static_cast<double>(args.streams.rows * args.streams.cols));
  return cost;
}

Cost cost_of(const RmsNormArgs& args, const StepView&) {
  Cost cost = activations(bytes_of(args.x) + bytes_of(args.y), 4.0 * static_cast<double>(args.x.rows * args.x.cols));
  cost.weight_bytes = matrix_bytes(args.weight);
  return cost;
}

Cost cost_of(const QueryHeadsArgs& args, const StepView&) {
  Cost cost = product(args.q_a, args.x.rows);
  cost += product(args.q_b, args.x.rows);
  cost += activations(bytes_of(args.x) + bytes_of(args.qr) + bytes_of(args.q));
  return cost;
}

Cost cost_of(const WindowKvArgs& args, const StepView& step) {
  Cost cost = product(args.kv, args.x.rows);
  cost += activations(bytes_of(args.x));
  cost.kv_bytes = static_cast<double>(args.x.rows) * static_cast<double>(step.layer(args.layer).window.row.total());
  return cost;
}

// (z, g) of each token go to the state; a block that is complete is pooled (with the one before it where they overlap)
// and becomes a row.
Cost cost_of(const CompressArgs& args, const StepView& step) {
  const LayerKvLayout& layer = step.layer(args.layer);
  const bool indexer = args.kind == CompressorKind::kIndexer;
  const StateRing& ring = indexer ? layer.index_state : layer.state;
  const RowStore& store = indexer ? layer.index : layer.compressed;
  Cost cost = product(args.weights.kv, args.x.rows);
  cost += product(args.weights.gate, args.x.rows);
  cost.weight_bytes += matrix_bytes(args.weights.ape);
  double blocks = 0;
  for (const Segment& s : step.segments)
    blocks +=
        static_cast<double>(visible(s.end_position() - 1, layer.ratio) - visible(s.first_position - 1, layer.ratio));
  const double pooled = blocks * layer.ratio * ring.width;  // a block of ratio 4 pools twice as many rows, half as wide
  cost.kv_bytes = 2.0 * sizeof(float) * (static_cast<double>(args.x.rows * ring.width) + pooled) +
                  blocks * static_cast<double>(store.row.total());
  cost += activations(bytes_of(args.x), 6.0 * pooled);
  return cost;
}

// Every query head against every visible index row; a token that sees no more rows than it may take has no choice to
// make, and needs neither.
Cost cost_of(const IndexTopkArgs& args, const StepView& step) {
  const LayerKvLayout& layer = step.layer(args.layer);
  const Dims& dims = step.config->dims;
  Cost cost = activations(bytes_of(args.selected));
  double scores = 0;
  double choosing = 0;
  for (const Segment& s : step.segments) {
    const std::int64_t all = visible(s.end_position() - 1, layer.ratio);
    if (all <= dims.index_topk) continue;
    const auto chooses = [&](std::int64_t p) { return visible(p, layer.ratio) > dims.index_topk; };
    choosing += sum_positions(s, [&](std::int64_t p) { return chooses(p) ? 1 : 0; });
    scores += sum_positions(s, [&](std::int64_t p) { return chooses(p) ? visible(p, layer.ratio) : 0; });
    cost.kv_bytes += static_cast<double>(all) * static_cast<double>(layer.index.row.total());
  }
  if (choosing == 0) return cost;
  cost += product(args.q_b, static_cast<std::int64_t>(choosing));
  cost += product(args.proj, static_cast<std::int64_t>(choosing));
  cost += activations(sizeof(float) * choosing * static_cast<double>(args.x.cols + args.qr.cols),
                      2.0 * scores * static_cast<double>(dims.index_heads) * static_cast<double>(dims.index_dim + 1));
  return cost;
}

// Window and compressed rows, each read once per sequence; a score and a weighted sum for each head and row.
Cost cost_of(const SparseAttentionArgs& args, const StepView& step) {
  const LayerKvLayout& layer = step.layer(args.layer);
  const Dims& dims = step.config->dims;
  const bool sparse = args.selected.data != nullptr;
  const auto attended = [&](std::int64_t p) {
    const std::int64_t rows = visible(p, layer.ratio);
    return sparse ? std::min<std::int64_t>(rows, dims.index_topk) : rows;
  };
  Cost cost;
  double pairs = 0;
  for (const Segment& s : step.segments) {
    const double compressed = sum_positions(s, attended);
    pairs += compressed + sum_positions(s, [&](std::int64_t p) { return std::min<std::int64_t>(p + 1, dims.window); });
    const std::int64_t window = std::min(s.end_position(), std::int64_t{dims.window} + s.rows - 1);
    const auto all = static_cast<double>(visible(s.end_position() - 1, layer.ratio));
    cost.kv_bytes += static_cast<double>(window) * static_cast<double>(layer.window.row.total()) +
                     std::min(compressed, all) * static_cast<double>(layer.compressed.row.total());
  }
  cost += activations(bytes_of(args.q) + bytes_of(args.o) + bytes_of(args.selected),
                      4.0 * pairs * static_cast<double>(dims.heads) * static_cast<double>(dims.head_dim));
  return cost;
}

Cost cost_of(const AttentionOutputArgs& args, const StepView&) {
  Cost cost = product(args.output_a, args.o.rows);
  cost += product(args.output_b, args.o.rows);
  cost += activations(bytes_of(args.o) + bytes_of(args.y));
  return cost;
}

// Every new stream is a sum over the old ones and the output of the sub-layer.
Cost cost_of(const HcPostArgs& args, const StepView& step) {
  return activations(bytes_of(args.o) + bytes_of(args.post) + bytes_of(args.comb) + 2 * bytes_of(args.streams),
                     2.0 * (step.config->dims.hc + 1) * static_cast<double>(args.streams.rows * args.streams.cols));
}

Cost cost_of(const RouteArgs& args, const StepView&) {
  Cost cost = product(args.gate, args.x.rows);
  cost += activations(bytes_of(args.x) + bytes_of(args.experts) + bytes_of(args.weights));
  if (args.bias.present()) cost.weight_bytes += matrix_bytes(args.bias);
  if (args.token_experts.present()) cost.weight_bytes += bytes_of(args.experts);
  return cost;
}

Cost cost_of(const ExpertsArgs& args, const StepView&, std::int64_t distinct) {
  const std::int64_t choices = args.experts.rows * args.experts.cols;
  Cost cost;
  for (const Weight* w : {&args.gate, &args.up, &args.down}) {
    Cost routed = product(*w, choices);
    routed.weight_bytes *= static_cast<double>(distinct);
    cost += routed;
  }
  for (const Weight* w : {&args.shared_gate, &args.shared_up, &args.shared_down}) cost += product(*w, args.x.rows);
  cost += activations(bytes_of(args.x) + bytes_of(args.experts) + bytes_of(args.weights) + bytes_of(args.y));
  return cost;
}

Cost cost_of(const HcHeadArgs& args, const StepView&) {
  Cost cost = product(args.hc.fn, args.h.rows);
  const double streams = static_cast<double>(args.h.rows * args.streams.cols);
  cost += activations(streams * sizeof(float) + bytes_of(args.h), 4.0 * streams);
  return cost;
}

Cost cost_of(const LogitsArgs& args, const StepView&) {
  Cost cost = product(args.output, args.h.rows);
  cost += activations(bytes_of(args.h) + bytes_of(args.logits));
  return cost;
}

}  // namespace ds4::bench
