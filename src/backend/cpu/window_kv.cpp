// Window rows (§2.5 steps 5 to 7) and where they live: short segments go straight to the ring, which has room for them
// beside all the old rows their queries need; the rows of a long segment wait in scratch until its attention is done.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/rotation.h"

namespace ds4::cpu {

namespace {
bool is_long(const Segment& segment) { return segment.rows > kRewindSlack; }

RowPlace ring_row(const HostKv& kv, const Segment& segment, const RowStore& ring, std::int64_t position) {
  return row_in_store(kv.tail(segment.tail).data(), ring, position % ring.rows);
}
}  // namespace

RowPlace CpuBackend::window_row(const Segment& segment, const LayerKvLayout& kv, std::int64_t position) const {
  if (is_long(segment) && position >= segment.first_position)
    return row_in_store(fresh_rows_, fresh_store(kv), segment.first_row + (position - segment.first_position));
  return ring_row(kv_, segment, kv.window, position);
}

void CpuBackend::window_kv(const WindowKvArgs& args) {
  const Dims& dims = config_.dims;
  const LayerKvLayout& kv = layer(args.layer);
  const auto scratch = lay_out<WindowKvScratch>();
  const Activations x{args.x.data, dims.hidden, batch_.rows, dims.hidden, scratch.x};
  const Product down = product(args.kv, x, scratch.kv);
  products_.quantise_and_run(pool_, {&down, 1}, scratch.products);

  const auto* norm = static_cast<const float*>(args.kv_norm.data);
  for_rows(batch_.rows, [&](std::int64_t r) {
    float* row = scratch.kv + r * dims.head_dim;
    const std::int64_t position = batch_.positions[static_cast<std::size_t>(r)];
    normalise(row, norm, row, dims.head_dim);
    Rotation(args.rope, position).apply(row, dims.head_dim);
    const RowPlace place = window_row(segment_of(r), kv, position);
    encode_kv_row(config_.kv.format, row, dims.head_dim, dims.rope_dim, place.main, place.scale);
  });
}

void CpuBackend::keep_window_rows(const LayerKvLayout& kv) {
  for (const Segment& segment : batch_.segments) {
    if (!is_long(segment)) continue;
    const std::int64_t end = segment.end_position();
    for (std::int64_t p = std::max<std::int64_t>(segment.first_position, end - kv.window.rows); p < end; ++p) {
      const RowPlace from = window_row(segment, kv, p);
      const RowPlace to = ring_row(kv_, segment, kv.window, p);
      std::memcpy(to.main, from.main, kv.window.row.main_bytes);
      std::memcpy(to.scale, from.scale, kv.window.row.scale_bytes);
    }
  }
}

}  // namespace ds4::cpu
