// Routing and experts (§2.9). The tokens of a batch are grouped by expert, so that each expert's weights are read once;
// the contributions to one token are added in ascending expert id, the shared expert last.
#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_backend.h"

namespace ds4::cpu {

namespace {

/// sqrt(softplus(t)), stable on both sides.
float route_score(float t) { return std::sqrt(std::max(t, 0.0F) + std::log1p(std::exp(-std::fabs(t)))); }

/// The numbers of the `k` highest scores, highest first, ties to the lower number.
void select_experts(const float* scores, const float* bias, int experts, int k, std::int32_t* selected) {
  const auto biased = [&](int e) { return bias == nullptr ? scores[e] : scores[e] + bias[e]; };
  for (int i = 0; i < k; ++i) {
    int best = -1;
    for (int e = 0; e < experts; ++e) {
      if (std::find(selected, selected + i, e) != selected + i) continue;
      if (best < 0 || biased(e) > biased(best)) best = e;
    }
    selected[i] = best;
  }
}

}  // namespace

void CpuBackend::route(const RouteArgs& args) {
  const Dims& dims = config_.dims;
  const auto scratch = lay_out<RouteScratch>();
  const Activations x{args.x.data, dims.hidden, batch_.rows, dims.hidden, nullptr};
  const auto* table = static_cast<const std::int32_t*>(args.token_experts.data);
  const auto* bias = static_cast<const float*>(args.bias.data);

  if (table == nullptr) {
    const Product gate = product(args.gate, x, scratch.scores, true);
    products_.run(pool_, {&gate, 1}, scratch.products);
  } else {  // the table chooses: only those scores are needed
    pool_.run([&](int thread, int) {
      for (auto task = pool_.take_task(); task < batch_.rows; task = pool_.take_task()) {
        const std::int32_t row = iota_[task];
        for (int i = 0; i < dims.experts_used; ++i) {
          const std::int32_t expert =
              table[std::int64_t{batch_.tokens[static_cast<std::size_t>(task)]} * dims.experts_used + i];
          ProductScratch& own = scratch.products[thread];
          products_.compute({&args.gate, 0, expert, 1}, x, &row, 1, true, own, own.results);
          scratch.scores[task * dims.experts + expert] = own.results[0][0][0];
        }
      }
    });
  }

  for_rows(batch_.rows, [&](std::int64_t r) {
    float* scores = scratch.scores + r * dims.experts;
    std::int32_t* experts = args.experts.data + r * dims.experts_used;
    if (table == nullptr) {
      for (int e = 0; e < dims.experts; ++e) scores[e] = route_score(scores[e]);
      select_experts(scores, bias, dims.experts, dims.experts_used, experts);
    } else {
      std::copy_n(table + std::int64_t{batch_.tokens[static_cast<std::size_t>(r)]} * dims.experts_used,
                  dims.experts_used, experts);
    }
    float* weights = args.weights.data + r * dims.experts_used;
    float sum = 0;
    for (int i = 0; i < dims.experts_used; ++i) {
      weights[i] = table == nullptr ? scores[experts[i]] : route_score(scores[experts[i]]);
      sum += weights[i];
    }
    for (int i = 0; i < dims.experts_used; ++i) weights[i] = weights[i] / sum * dims.route_scale;
  });
}

namespace {

/// Groups the (row, slot) pairs by expert, rows ascending inside a group. Returns the number of experts in use.
int group_pairs(const ExpertsArgs& args, std::int64_t rows, const Dims& dims, const ExpertsScratch& s) {
  const std::int64_t pairs = rows * dims.experts_used;
  std::fill_n(s.first, dims.experts + 1, 0);
  for (std::int64_t i = 0; i < pairs; ++i) ++s.first[args.experts.data[i] + 1];
  int active = 0;
  for (int e = 0; e < dims.experts; ++e) {
    if (s.first[e + 1] > 0) s.active[active++] = e;
    s.first[e + 1] += s.first[e];
  }
  std::copy_n(s.first, dims.experts, s.next);
  for (std::int64_t i = 0; i < pairs; ++i) {
    const std::int32_t at = s.next[args.experts.data[i]]++;
    s.row[at] = static_cast<std::int32_t>(i / dims.experts_used);
    s.weight[at] = args.weights.data[i];
  }
  return active;
}

/// The inner activations back in the order of the (row, slot) pairs that group_pairs() went through.
void copy_inner(const ExpertsArgs& args, std::int64_t pairs, const Dims& dims, const ExpertsScratch& s) {
  std::copy_n(s.first, dims.experts, s.next);
  for (std::int64_t i = 0; i < pairs; ++i) {
    const std::int64_t at = s.next[args.experts.data[i]]++;
    std::copy_n(s.h + at * dims.expert_ff, dims.expert_ff, args.inner.data + i * dims.expert_ff);
  }
}

/// Rows of activations, by their numbers in them.
struct RowList {
  const Activations* x;
  const std::int32_t* index;  // [count]
};

/// One expert of a batch: which matrix, which rows it reads, and where its inner activations are.
struct ExpertGroup {
  const Weight* gate;
  const Weight* up;
  const Weight* down;
  std::int64_t matrix;
  RowList rows;          // of the batch
  RowList side_by_side;  // the same rows, for the int8 products
  const float* weights;  // [count], or null: 1
  std::int64_t count;
  std::int64_t width;  // inner size
  float limit;
  float* h;       // [count, width]
  RowList inner;  // of all groups of a kind together
};

/// Outputs in runs of `tiles` tiles, which are computed together.
std::int64_t runs(std::int64_t outputs, int tiles) {
  const std::int64_t width = std::int64_t{tiles} * kTileOutputs;
  return (outputs + width - 1) / width;
}
OutputRange run_of(const Weight* weight, std::int64_t matrix, std::int64_t outputs, int tiles, std::int64_t number) {
  const std::int64_t width = std::int64_t{tiles} * kTileOutputs;
  return {weight, matrix, number * width, static_cast<int>(std::min(width, outputs - number * width))};
}

/// A run of the inner activations: h = silu(W1 x) * (W3 x) * weight.
void inner_run(const Products& products, const KernelTable& kernels, const ExpertGroup& group, int tiles,
               std::int64_t number, ProductScratch& own) {
  const OutputRange gate = run_of(group.gate, group.matrix, group.width, tiles, number);
  const OutputRange up = run_of(group.up, group.matrix, group.width, tiles, number);
  const int block = std::min(products.row_block(*group.gate, false), products.row_block(*group.up, false));
  const auto compute = [&](const OutputRange& range, std::int64_t start, int count, TileResults& out) {
    const RowList& rows = products.uses_int8(*range.weight, false) ? group.side_by_side : group.rows;
    products.compute(range, *rows.x, rows.index + start, count, false, own, out);
  };
  for (std::int64_t start = 0; start < group.count; start += block) {
    const int count = static_cast<int>(std::min<std::int64_t>(block, group.count - start));
    compute(gate, start, count, own.results);
    compute(up, start, count, own.second_results);
    for (int i = 0; i < count; ++i)
      for (int t = 0; t < gate.tiles(); ++t)
        kernels.swiglu(own.results[t][i], own.second_results[t][i], group.limit,
                       group.weights == nullptr ? 1.0F : group.weights[start + i],
                       group.h + (start + i) * group.width + gate.first + t * kTileOutputs, gate.width(t));
  }
}

/// Adds a run of W2 h to the rows of y.
void add_outer_run(const Products& products, const ExpertGroup& group, int tiles, std::int64_t number, const Tensor& y,
                   ProductScratch& own) {
  const OutputRange down = run_of(group.down, group.matrix, y.cols, tiles, number);
  const int block = products.row_block(*group.down, false);
  for (std::int64_t start = 0; start < group.count; start += block) {
    const int count = static_cast<int>(std::min<std::int64_t>(block, group.count - start));
    products.compute(down, *group.inner.x, group.inner.index + start, count, false, own, own.results);
    for (int i = 0; i < count; ++i)
      for (int t = 0; t < down.tiles(); ++t) {
        float* row = y.data + group.rows.index[start + i] * y.cols + down.first + t * kTileOutputs;
        for (int o = 0; o < down.width(t); ++o) row[o] += own.results[t][i][o];
      }
  }
}

}  // namespace

void CpuBackend::experts(const ExpertsArgs& args) {
  const Dims& dims = config_.dims;
  const auto scratch = lay_out<ExpertsScratch>();
  const std::int64_t rows = batch_.rows;
  const int active = group_pairs(args, rows, dims, scratch);
  const std::int64_t pairs = rows * dims.experts_used;
  const Activations x{args.x.data, dims.hidden, rows, dims.hidden, scratch.x};
  const Activations pair_x{nullptr, 0, pairs, dims.hidden, scratch.pair_blocks};
  const Activations routed_h{scratch.h, dims.expert_ff, pairs, dims.expert_ff, scratch.h_blocks};
  const Activations shared_h{scratch.shared_h, dims.shared_ff, rows, dims.shared_ff, scratch.shared_blocks};

  // Group `active` is the shared expert.
  const auto group_of = [&](std::int64_t number) {
    if (number == active)
      return ExpertGroup{&args.shared_gate, &args.shared_up,   &args.shared_down, 0,
                         {&x, iota_},       {&x, iota_},       nullptr,           rows,
                         dims.shared_ff,    args.shared_limit, scratch.shared_h,  {&shared_h, iota_}};
    const std::int32_t e = scratch.active[number];
    const std::int32_t first = scratch.first[e];
    const RowList in_batch{&x, scratch.row + first};
    return ExpertGroup{&args.gate,
                       &args.up,
                       &args.down,
                       e,
                       in_batch,
                       rows == 1 ? in_batch : RowList{&pair_x, iota_ + first},
                       scratch.weight + first,
                       scratch.first[e + 1] - first,
                       dims.expert_ff,
                       args.limit,
                       scratch.h + std::int64_t{first} * dims.expert_ff,
                       {&routed_h, iota_ + first}};
  };
  // As long as there are enough of them to share.
  const int inner_tiles = Products::group(rows, dims.expert_ff);
  const int outer_tiles = static_cast<int>(
      std::clamp<std::int64_t>(runs(dims.hidden, 1) / (std::int64_t{8} * pool_.size()), 1, kTileGroup));
  // Of every expert a group of threads has the outputs that lie in its memory.
  const auto runs_of_group = [&](std::int64_t outputs, int tiles, int group) {
    const Share own = tiles_of_group((outputs + kTileOutputs - 1) / kTileOutputs, group, pool_.groups());
    return Share{(own.first + tiles - 1) / tiles, (own.last + tiles - 1) / tiles};
  };
  const auto int8 = [&](const Weight& w) { return products_.uses_int8(w, false); };
  const bool routed_int8 = int8(args.gate) || int8(args.up);

  pool_.run([&](int thread, int threads) {
    ProductScratch& own = scratch.products[thread];
    if (routed_int8 || int8(args.shared_gate) || int8(args.shared_up)) {
      products_.quantise(x, thread, threads);
      pool_.sync();
    }
    if (routed_int8 && rows > 1) {
      const std::int64_t blocks = (dims.hidden + kPanelDepth - 1) / kPanelDepth;
      for (std::int64_t b = 0; b < blocks; ++b)
        for (const auto i : share_of(pairs, thread, threads))
          scratch.pair_blocks[b * pairs + i] = scratch.x[b * rows + scratch.row[i]];
      pool_.sync();
    }
    const auto inner_tasks = [&](int memory) {
      const Share routed = runs_of_group(dims.expert_ff, inner_tiles, memory);
      const Share shared = runs_of_group(dims.shared_ff, inner_tiles, memory);
      return active * (routed.last - routed.first) + shared.last - shared.first;
    };
    pool_.take_tasks(thread, inner_tasks, [&](int memory, std::int64_t task) {
      const Share routed = runs_of_group(dims.expert_ff, inner_tiles, memory);
      const std::int64_t width = routed.last - routed.first;
      if (task < active * width)
        return inner_run(products_, kernels_, group_of(task / width), inner_tiles, routed.first + task % width, own);
      const std::int64_t first = runs_of_group(dims.shared_ff, inner_tiles, memory).first;
      inner_run(products_, kernels_, group_of(active), inner_tiles, first + task - active * width, own);
    });
    pool_.sync();
    if (int8(args.down)) products_.quantise(routed_h, thread, threads);
    if (int8(args.shared_down)) products_.quantise(shared_h, thread, threads);
    if (int8(args.down) || int8(args.shared_down)) pool_.sync();
    // One thread adds up all experts for its columns, in order.
    const auto outer_runs = [&](int memory) { return runs_of_group(dims.hidden, outer_tiles, memory); };
    const auto outer_tasks = [&](int memory) { return outer_runs(memory).last - outer_runs(memory).first; };
    pool_.take_tasks(thread, outer_tasks, [&](int memory, std::int64_t task) {
      const std::int64_t run = outer_runs(memory).first + task;
      const OutputRange columns = run_of(nullptr, 0, dims.hidden, outer_tiles, run);
      for (std::int64_t r = 0; r < rows; ++r)
        std::fill_n(args.y.data + r * args.y.cols + columns.first, columns.outputs, 0.0F);
      for (std::int64_t number = 0; number <= active; ++number)
        add_outer_run(products_, group_of(number), outer_tiles, run, args.y, own);
    });
  });
  if (args.inner.data != nullptr) copy_inner(args, pairs, dims, scratch);
}

}  // namespace ds4::cpu
