// The ops without state: embedding (§2.1), RMSNorm (§2.3), query heads (§2.5), grouped output projection, logits
// (§2.10).
#include <algorithm>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/rotation.h"
#include "quant/codec.h"

namespace ds4::cpu {

void CpuBackend::embed(const EmbedArgs& args) {
  const auto hidden = static_cast<std::size_t>(config_.dims.hidden);
  const std::size_t bytes = row_bytes(args.table.type, hidden);
  for_rows(batch_.rows, [&](std::int64_t r) {
    float* streams = args.streams.data + r * args.streams.cols;
    const auto token = static_cast<std::size_t>(batch_.tokens[static_cast<std::size_t>(r)]);
    decode_row(args.table.type, static_cast<const std::byte*>(args.table.data) + token * bytes, streams, hidden);
    for (int k = 1; k < config_.dims.hc; ++k)
      std::copy_n(streams, hidden, streams + static_cast<std::size_t>(k) * hidden);
  });
}

void CpuBackend::rms_norm(const RmsNormArgs& args) {
  const auto* weight = static_cast<const float*>(args.weight.data);
  for_rows(args.x.rows, [&](std::int64_t r) {
    normalise(args.x.data + r * args.x.cols, weight, args.y.data + r * args.y.cols, args.x.cols);
  });
}

void CpuBackend::query_heads(const QueryHeadsArgs& args) {
  const Dims& dims = config_.dims;
  const auto scratch = lay_out<QueryHeadsScratch>();
  const Activations x{args.x.data, dims.hidden, batch_.rows, dims.hidden, scratch.x};
  const Product down = product(args.q_a, x, args.qr.data);
  products_.quantise_and_run(pool_, {&down, 1}, scratch.products);

  const auto* norm = static_cast<const float*>(args.q_a_norm.data);
  for_rows(batch_.rows, [&](std::int64_t r) {
    float* qr = args.qr.data + r * dims.q_lora;
    normalise(qr, norm, qr, dims.q_lora);
  });
  const Activations qr{args.qr.data, dims.q_lora, batch_.rows, dims.q_lora, scratch.qr};
  const Product up = product(args.q_b, qr, args.q.data);
  products_.quantise_and_run(pool_, {&up, 1}, scratch.products);

  for_row_parts(batch_.rows, dims.heads, [&](int, std::int64_t r, std::int64_t part, std::int64_t parts) {
    const Rotation rotation(args.rope, batch_.positions[static_cast<std::size_t>(r)]);
    for (const auto h : share_of(dims.heads, static_cast<int>(part), static_cast<int>(parts))) {
      float* head = args.q.data + (r * dims.heads + h) * dims.head_dim;
      normalise(head, nullptr, head, dims.head_dim);
      rotation.apply(head, dims.head_dim);
    }
  });
}

void CpuBackend::attention_output(const AttentionOutputArgs& args) {
  const Dims& dims = config_.dims;
  const auto scratch = lay_out<AttentionOutputScratch>();
  const std::int64_t groups = dims.o_groups;
  const std::int64_t width = groups * dims.o_lora;
  // Seen as [rows * groups, in]: row r * groups + g is what group g of row r reads.
  const Activations o{args.o.data, args.output_a.in, batch_.rows * groups, args.output_a.in, scratch.o};
  Product products[64];
  for (std::int64_t done = 0; done < groups; done += 64) {
    const std::int64_t some = std::min<std::int64_t>(64, groups - done);
    for (std::int64_t i = 0; i < some; ++i) {
      const std::int64_t g = done + i;
      std::int32_t* index = scratch.index + g * batch_.rows;
      for (std::int64_t r = 0; r < batch_.rows; ++r) index[r] = static_cast<std::int32_t>(r * groups + g);
      products[i] = product(args.output_a, o, scratch.u + g * dims.o_lora);
      products[i].first_output = g * dims.o_lora;
      products[i].outputs = dims.o_lora;
      products[i].index = index;
      products[i].count = batch_.rows;
      products[i].y_stride = width;
    }
    products_.quantise_and_run(pool_, {products, static_cast<std::size_t>(some)}, scratch.products);
  }
  const Activations u{scratch.u, width, batch_.rows, width, scratch.u_blocks};
  const Product up = product(args.output_b, u, args.y.data);
  products_.quantise_and_run(pool_, {&up, 1}, scratch.products);
}

void CpuBackend::logits(const LogitsArgs& args) {
  const auto scratch = lay_out<LogitsScratch>();
  const Activations h{args.h.data, args.h.cols, args.h.rows, args.h.cols, scratch.h};
  const Product head = product(args.output, h, args.logits.data);
  products_.quantise_and_run(pool_, {&head, 1}, scratch.products);
}

}  // namespace ds4::cpu
