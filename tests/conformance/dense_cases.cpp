#include "dense_cases.h"

#include <algorithm>
#include <numeric>

#include "base/text.h"

namespace ds4::conformance {

namespace {

constexpr double kFloatBound = 1e-5;

/// The rows `rows` of a matrix with `cols` columns.
template <typename T>
std::vector<T> pick(const std::vector<T>& values, const std::vector<int>& rows, std::int64_t cols) {
  std::vector<T> picked;
  for (const int r : rows) picked.insert(picked.end(), values.begin() + r * cols, values.begin() + (r + 1) * cols);
  return picked;
}

/// A batch of single rows, as far as ops without KV state can tell.
class Rows {
 public:
  Rows(Rig& rig, const std::vector<int>& rows, const std::vector<std::int32_t>& tokens,
       const std::vector<std::int32_t>& positions)
      : tokens_(pick(tokens, rows, 1)), positions_(pick(positions, rows, 1)), logit_rows_(rows.size()) {
    std::iota(logit_rows_.begin(), logit_rows_.end(), 0);
    for (std::size_t i = 0; i < rows.size(); ++i) segments_.push_back({static_cast<int>(i), 1, positions_[i], 0, {}});
    rig.backend().begin({static_cast<int>(rows.size()), tokens_, positions_, segments_, logit_rows_});
  }

 private:
  std::vector<std::int32_t> tokens_, positions_, logit_rows_;
  std::vector<Segment> segments_;
};

/// Everything the cases of one shape, format and batch size share.
struct Inputs {
  Dims d;
  DType type;
  int rows;
  std::vector<std::int32_t> tokens, positions;
  std::vector<float> x, streams, heads, frequencies, post, comb, expert_weights;
  std::vector<std::int32_t> experts;

  Inputs(const Shape& shape, DType t, int n) : d(shape.dims), type(t), rows(n) {
    Random random(11);
    for (int r = 0; r < n; ++r) {
      tokens.push_back(static_cast<std::int32_t>(random.below(d.vocab)));
      positions.push_back(static_cast<std::int32_t>(random.below(1'000'000)));
    }
    x = random_floats(12, std::int64_t{n} * d.hidden);
    streams = random_floats(13, std::int64_t{n} * d.hc * d.hidden, 3.0F);
    heads = random_floats(14, std::int64_t{n} * d.heads * d.head_dim);
    post = random_floats(15, std::int64_t{n} * d.hc, 0.3F, 1.0F);
    comb = random_floats(16, std::int64_t{n} * d.hc * d.hc, 0.2F, 0.25F);
    for (int i = 0; i < d.rope_dim / 2; ++i) frequencies.push_back(1.0F / static_cast<float>(1 + 3 * i * i));
    // Distinct experts per row; low ids crowd together, so that group sizes differ.
    for (int r = 0; r < n; ++r) {
      std::vector<std::int32_t> chosen;
      while (static_cast<int>(chosen.size()) < d.experts_used) {
        const auto e = static_cast<std::int32_t>(std::min(random.below(d.experts), random.below(d.experts)));
        if (std::find(chosen.begin(), chosen.end(), e) == chosen.end()) chosen.push_back(e);
      }
      experts.insert(experts.end(), chosen.begin(), chosen.end());
    }
    expert_weights = random_floats(17, std::int64_t{n} * d.experts_used, 0.1F, 0.3F);
  }
};

using Shared = std::shared_ptr<const Inputs>;

std::int64_t size_of(const std::vector<int>& rows) { return static_cast<std::int64_t>(rows.size()); }

/// A weight that is made when a case first runs.
class Lazy {
 public:
  Lazy(HostWeight shape, std::function<WeightData()> make) : shape_(shape), make_(std::move(make)) {}
  const WeightData& operator*() const {
    if (data_.bytes.empty()) data_ = make_();
    return data_;
  }
  double bytes() const { return static_cast<double>(shape_.bytes()); }
  double macs() const { return static_cast<double>(shape_.in) * static_cast<double>(shape_.out); }

 private:
  HostWeight shape_;
  std::function<WeightData()> make_;
  mutable WeightData data_;
};
using Matrix = std::shared_ptr<const Lazy>;

Matrix matrix(std::uint64_t seed, DType type, std::int64_t in, std::int64_t out, std::int64_t count = 1) {
  return std::make_shared<Lazy>(HostWeight{type, in, out, count, nullptr},
                                [=] { return random_weight(seed, type, in, out, count); });
}
Matrix vector(std::uint64_t seed, std::int64_t count, float mean, float scale) {
  return std::make_shared<Lazy>(HostWeight{DType::kF32, count, 1, 1, nullptr},
                                [=] { return random_vector(seed, count, mean, scale); });
}

DenseCase embed_case(const Shared& in) {
  const DType type = in->type;
  const Dims dims = in->d;
  const auto table = std::make_shared<const Lazy>(HostWeight{type, dims.hidden, dims.vocab, 1, nullptr}, [=] {
    WeightData data = random_weight(21, type, dims.hidden, dims.vocab);
    data.lookup = true;
    return data;
  });
  return {.op = "embed", .bound = 0.0, .run = [=](Rig& rig, const std::vector<int>& rows) {
            const Rows batch(rig, rows, in->tokens, in->positions);
            const Weight w = rig.weight(**table);
            const Tensor streams = rig.output(size_of(rows), std::int64_t{in->d.hc} * in->d.hidden);
            rig.time([&](Backend& device) { device.embed({w, streams}); });
            return std::vector<Output>{{"streams", streams.cols, rig.read(streams), {}}};
          }};
}

DenseCase rms_norm_case(const Shared& in) {
  const auto weight = vector(22, in->d.hidden, 1.0F, 0.2F);
  return {.op = "rms_norm", .bound = 2e-6, .run = [=](Rig& rig, const std::vector<int>& rows) {
            const Rows batch(rig, rows, in->tokens, in->positions);
            const Weight w = rig.weight(**weight);
            const Tensor x = rig.input(pick(in->x, rows, in->d.hidden), size_of(rows));
            rig.time([&](Backend& device) { device.rms_norm({x, w, x}); });
            return std::vector<Output>{{"y", x.cols, rig.read(x), {}}};
          }};
}

struct HcWeights {
  Matrix fn, base, scale;
  HcWeights(const Inputs& in, int controls, int scales)
      : fn(matrix(23, in.type, std::int64_t{in.d.hc} * in.d.hidden, controls)),
        base(vector(24, controls, 0.0F, 1.0F)),
        scale(vector(25, scales, 1.0F, 0.3F)) {}
  HyperConnectionWeights load(Rig& rig) const { return {rig.weight(**fn), rig.weight(**base), rig.weight(**scale)}; }
};

DenseCase hc_pre_case(const Shared& in) {
  const HcWeights weights(*in, in->d.hc_controls(), 3);
  return {.op = "hc_pre",
          .bound = kFloatBound,
          .weight_bytes = weights.fn->bytes(),
          .macs_per_row = weights.fn->macs(),
          .run = [=](Rig& rig, const std::vector<int>& rows) {
            const Rows batch(rig, rows, in->tokens, in->positions);
            const HyperConnectionWeights hc = weights.load(rig);
            const Tensor streams =
                rig.input(pick(in->streams, rows, std::int64_t{in->d.hc} * in->d.hidden), size_of(rows));
            const Tensor y = rig.output(size_of(rows), in->d.hidden);
            const Tensor post = rig.output(size_of(rows), in->d.hc);
            const Tensor comb = rig.output(size_of(rows), std::int64_t{in->d.hc} * in->d.hc);
            rig.time([&](Backend& device) { device.hc_pre({streams, hc, y, post, comb}); });
            return std::vector<Output>{{"y", y.cols, rig.read(y), {}},
                                       {"post", post.cols, rig.read(post), {}},
                                       {"comb", comb.cols, rig.read(comb), {}}};
          }};
}

DenseCase hc_head_case(const Shared& in) {
  const HcWeights weights(*in, in->d.hc, 1);
  return {.op = "hc_head",
          .bound = kFloatBound,
          .weight_bytes = weights.fn->bytes(),
          .macs_per_row = weights.fn->macs(),
          .run = [=](Rig& rig, const std::vector<int>& rows) {
            const Rows batch(rig, rows, in->tokens, in->positions);
            const HyperConnectionWeights hc = weights.load(rig);
            const Tensor streams =
                rig.input(pick(in->streams, rows, std::int64_t{in->d.hc} * in->d.hidden), size_of(rows));
            const Tensor h = rig.output(size_of(rows), in->d.hidden);
            rig.time([&](Backend& device) { device.hc_head({streams, hc, h}); });
            return std::vector<Output>{{"h", h.cols, rig.read(h), {}}};
          }};
}

DenseCase hc_post_case(const Shared& in) {
  return {.op = "hc_post", .bound = 2e-6, .run = [=](Rig& rig, const std::vector<int>& rows) {
            const Rows batch(rig, rows, in->tokens, in->positions);
            const Tensor o = rig.input(pick(in->x, rows, in->d.hidden), size_of(rows));
            const Tensor post = rig.input(pick(in->post, rows, in->d.hc), size_of(rows));
            const Tensor comb = rig.input(pick(in->comb, rows, std::int64_t{in->d.hc} * in->d.hc), size_of(rows));
            const Tensor streams =
                rig.input(pick(in->streams, rows, std::int64_t{in->d.hc} * in->d.hidden), size_of(rows));
            rig.time([&](Backend& device) { device.hc_post({o, post, comb, streams}); });
            return std::vector<Output>{{"streams", streams.cols, rig.read(streams), {}}};
          }};
}

DenseCase query_heads_case(const Shared& in) {
  const auto q_a = matrix(26, in->type, in->d.hidden, in->d.q_lora);
  const auto q_b = matrix(27, in->type, in->d.q_lora, std::int64_t{in->d.heads} * in->d.head_dim);
  const auto norm = vector(28, in->d.q_lora, 1.0F, 0.2F);
  return {.op = "query_heads",
          .bound = kFloatBound,
          .int8_bound = 0.012,
          .weight_bytes = q_a->bytes() + q_b->bytes(),
          .macs_per_row = q_a->macs() + q_b->macs(),
          .run = [=](Rig& rig, const std::vector<int>& rows) {
            const Rows batch(rig, rows, in->tokens, in->positions);
            const Weight a = rig.weight(**q_a);
            const Weight b = rig.weight(**q_b);
            const Weight n = rig.weight(**norm);
            const Tensor x = rig.input(pick(in->x, rows, in->d.hidden), size_of(rows));
            const Tensor rope = rig.input(in->frequencies, 1);
            const Tensor qr = rig.output(size_of(rows), in->d.q_lora);
            const Tensor q = rig.output(size_of(rows), std::int64_t{in->d.heads} * in->d.head_dim);
            rig.time([&](Backend& device) { device.query_heads({x, a, n, b, rope, qr, q}); });
            return std::vector<Output>{{"qr", qr.cols, rig.read(qr), {}}, {"q", q.cols, rig.read(q), {}}};
          }};
}

DenseCase attention_output_case(const Shared& in) {
  const std::int64_t group_in = std::int64_t{in->d.heads} / in->d.o_groups * in->d.head_dim;
  const auto a = matrix(29, in->type, group_in, std::int64_t{in->d.o_groups} * in->d.o_lora);
  const auto b = matrix(30, in->type, std::int64_t{in->d.o_groups} * in->d.o_lora, in->d.hidden);
  return {.op = "attention_output",
          .bound = kFloatBound,
          .int8_bound = 0.012,
          .weight_bytes = a->bytes() + b->bytes(),
          .macs_per_row = a->macs() + b->macs(),
          .run = [=](Rig& rig, const std::vector<int>& rows) {
            const Rows batch(rig, rows, in->tokens, in->positions);
            const Weight wa = rig.weight(**a);
            const Weight wb = rig.weight(**b);
            const Tensor o =
                rig.input(pick(in->heads, rows, std::int64_t{in->d.heads} * in->d.head_dim), size_of(rows));
            const Tensor y = rig.output(size_of(rows), in->d.hidden);
            rig.time([&](Backend& device) { device.attention_output({o, wa, wb, y}); });
            return std::vector<Output>{{"y", y.cols, rig.read(y), {}}};
          }};
}

/// Which experts a token uses: different ones, starting anywhere.
Matrix expert_table(const Dims& d) {
  const auto make = [=] {
    WeightData table{DType::kI32, d.experts_used, d.vocab, 1, {}};
    Random random(33);
    std::vector<std::int32_t> ids;
    for (int t = 0; t < d.vocab; ++t) {
      const auto start = random.below(d.experts);
      for (int i = 0; i < d.experts_used; ++i) ids.push_back(static_cast<std::int32_t>((start + i) % d.experts));
    }
    const auto* bytes = reinterpret_cast<const std::byte*>(ids.data());
    table.bytes.assign(bytes, bytes + ids.size() * sizeof(std::int32_t));
    return table;
  };
  return std::make_shared<Lazy>(HostWeight{DType::kI32, d.experts_used, d.vocab, 1, nullptr}, make);
}

DenseCase route_case(const Shared& in, bool hashed) {
  const auto gate = matrix(31, in->type, in->d.hidden, in->d.experts);
  const Matrix bias = hashed ? nullptr : vector(32, in->d.experts, 0.0F, 0.3F);
  const Matrix table = hashed ? expert_table(in->d) : nullptr;
  return {.op = hashed ? "route(hash)" : "route",
          .bound = kFloatBound,
          .weight_bytes = gate->bytes(),
          .macs_per_row = gate->macs(),
          .run = [=](Rig& rig, const std::vector<int>& rows) {
            const Rows batch(rig, rows, in->tokens, in->positions);
            const Weight g = rig.weight(**gate);
            const Weight b = bias == nullptr ? Weight{} : rig.weight(**bias);
            const Weight t = table == nullptr ? Weight{} : rig.weight(**table);
            const Tensor x = rig.input(pick(in->x, rows, in->d.hidden), size_of(rows));
            const IntTensor experts = rig.int_output(size_of(rows), in->d.experts_used);
            const Tensor weights = rig.output(size_of(rows), in->d.experts_used);
            rig.time([&](Backend& device) { device.route({x, g, b, t, experts, weights}); });
            return std::vector<Output>{{"experts", experts.cols, {}, rig.read(experts)},
                                       {"weights", weights.cols, rig.read(weights), {}}};
          }};
}

DenseCase experts_case(const Shared& in, DType down_type, float limit) {
  const Dims& d = in->d;
  const auto gate = matrix(34, in->type, d.hidden, d.expert_ff, d.experts);
  const auto up = matrix(35, in->type, d.hidden, d.expert_ff, d.experts);
  const auto down = matrix(36, down_type, d.expert_ff, d.hidden, d.experts);
  const auto shared_gate = matrix(37, in->type, d.hidden, d.shared_ff);
  const auto shared_up = matrix(38, in->type, d.hidden, d.shared_ff);
  const auto shared_down = matrix(39, in->type, d.shared_ff, d.hidden);
  const double per_expert = (gate->bytes() + up->bytes() + down->bytes()) / d.experts;
  return {
      .op = "experts",
      .detail = cat("down ", dtype_info(down_type).name, " limit ", static_cast<double>(limit)),
      .bound = kFloatBound,
      .int8_bound = 0.02,
      .weight_bytes = per_expert * d.experts_used + shared_gate->bytes() + shared_up->bytes() + shared_down->bytes(),
      .macs_per_row = 3.0 * d.hidden * (static_cast<double>(d.expert_ff) * d.experts_used + d.shared_ff),
      .run = [=](Rig& rig, const std::vector<int>& rows) {
        const Rows batch(rig, rows, in->tokens, in->positions);
        const Weight g = rig.weight(**gate), u = rig.weight(**up), o = rig.weight(**down);
        const Weight sg = rig.weight(**shared_gate), su = rig.weight(**shared_up), so = rig.weight(**shared_down);
        const Tensor x = rig.input(pick(in->x, rows, in->d.hidden), size_of(rows));
        const IntTensor experts = rig.input(pick(in->experts, rows, in->d.experts_used), size_of(rows));
        const Tensor weights = rig.input(pick(in->expert_weights, rows, in->d.experts_used), size_of(rows));
        const Tensor y = rig.output(size_of(rows), in->d.hidden);
        rig.time([&](Backend& device) { device.experts({x, experts, weights, g, u, o, sg, su, so, limit, limit, y}); });
        return std::vector<Output>{{"y", y.cols, rig.read(y), {}}};
      }};
}

DenseCase logits_case(const Shared& in) {
  const auto output = matrix(40, in->type, in->d.hidden, in->d.vocab);
  return {.op = "logits",
          .bound = kFloatBound,
          .int8_bound = 0.008,
          .weight_bytes = output->bytes(),
          .macs_per_row = output->macs(),
          .run = [=](Rig& rig, const std::vector<int>& rows) {
            const Rows batch(rig, rows, in->tokens, in->positions);
            const Weight w = rig.weight(**output);
            const Tensor h = rig.input(pick(in->x, rows, in->d.hidden), size_of(rows));
            const Tensor logits = rig.output(size_of(rows), in->d.vocab);
            rig.time([&](Backend& device) { device.logits({h, w, logits}); });
            return std::vector<Output>{{"logits", logits.cols, rig.read(logits), {}}};
          }};
}

}  // namespace

std::vector<DenseCase> dense_cases(const Shape& shape, DType type, int rows) {
  const auto in = std::make_shared<const Inputs>(shape, type, rows);
  std::vector<DenseCase> cases;
  if (type == shape.types.front()) {  // no matrices
    cases.push_back(rms_norm_case(in));
    cases.push_back(hc_post_case(in));
  }
  cases.push_back(embed_case(in));
  cases.push_back(hc_pre_case(in));
  cases.push_back(hc_head_case(in));
  cases.push_back(query_heads_case(in));
  cases.push_back(attention_output_case(in));
  cases.push_back(route_case(in, false));
  cases.push_back(route_case(in, true));
  cases.push_back(experts_case(in, type == DType::kIQ2_XXS ? DType::kQ2_K : type, 10.0F));
  if (type == DType::kF32) cases.push_back(experts_case(in, type, 0.7F));  // the clamp at work
  cases.push_back(logits_case(in));
  for (DenseCase& c : cases) {
    c.rows = rows;
    c.detail = cat(shape.name, " ", dtype_info(type).name, " rows ", rows, c.detail.empty() ? "" : " ", c.detail);
  }
  return cases;
}

}  // namespace ds4::conformance
