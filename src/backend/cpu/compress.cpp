// The compressor (§2.6): pools the tokens of a block, channel by channel, into one row.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/rotation.h"
#include "quant/codec.h"

namespace ds4::cpu {

namespace {

constexpr int kMaxEntries = 128;

/// (z, g) of every token the pooling may ask for: this batch's, and older ones from the ring in the tail.
struct TokenStates {
  const Segment& segment;
  const StateRing& ring;
  float* slots;  // z of slot 0
  const float* z;
  const float* g;  // [batch rows, width]

  const float* values(std::int64_t position) const { return at(position, z, 0); }
  const float* scores(std::int64_t position) const { return at(position, g, std::int64_t{ring.slots} * ring.width); }
  float* slot(std::int64_t position) const { return slots + position % ring.slots * ring.width; }

 private:
  const float* at(std::int64_t position, const float* fresh, std::int64_t ring_offset) const {
    if (position < segment.first_position) return slot(position) + ring_offset;
    return fresh + (segment.first_row + (position - segment.first_position)) * ring.width;
  }
};

/// Row `block` before its norm. Ratio 4 overlaps: the previous block enters with the first half of its channels ("A"),
/// the current block with the second ("B"). Block 0 has no previous block.
void pool_block(const KernelTable& kernels, const TokenStates& states, std::int64_t block, int ratio, int width,
                float* row) {
  const float* values[kMaxEntries];
  const float* scores[kMaxEntries];
  int entries = 0;
  const auto add = [&](std::int64_t first, int offset) {
    for (int i = 0; i < ratio; ++i, ++entries) {
      values[entries] = states.values(first + i) + offset;
      scores[entries] = states.scores(first + i) + offset;
    }
  };
  const bool overlaps = states.ring.width == 2 * width;
  if (overlaps && block > 0) add(ratio * (block - 1), 0);
  add(ratio * block, overlaps ? width : 0);
  kernels.softmax_pool(values, scores, entries, row, width);
}

}  // namespace

void CpuBackend::compress(const CompressArgs& args) {
  const Dims& dims = config_.dims;
  const LayerKvLayout& kv = layer(args.layer);
  const bool indexer = args.kind == CompressorKind::kIndexer;
  const StateRing& ring = indexer ? kv.index_state : kv.state;
  const RowStore& store = indexer ? kv.index : kv.compressed;
  const int width = indexer ? dims.index_dim : dims.head_dim;
  const std::int64_t ratio = kv.ratio;
  DS4_CHECK(ratio * ring.width / width <= kMaxEntries);

  const auto scratch = lay_out<CompressScratch>();
  const Activations x{args.x.data, dims.hidden, batch_.rows, dims.hidden, scratch.x};
  const Product both[] = {product(args.weights.kv, x, scratch.z), product(args.weights.gate, x, scratch.g)};
  products_.quantise_and_run(pool_, both, scratch.products);

  const auto* ape = static_cast<const std::byte*>(args.weights.ape.data);
  const auto ape_width = static_cast<std::size_t>(ring.width);
  const auto* norm = static_cast<const float*>(args.weights.norm.data);
  const auto first_block = [&](const Segment& s) { return s.first_position / ratio; };
  const auto blocks_of = [&](const Segment& s) { return s.end_position() / ratio - first_block(s); };

  const auto add_ape = [&](std::int64_t r, float* room) {
    const auto phase = static_cast<std::size_t>(batch_.positions[static_cast<std::size_t>(r)] % ratio);
    decode_row(args.weights.ape.type, ape + phase * row_bytes(args.weights.ape.type, ape_width), room, ape_width);
    kernels_.add(room, scratch.g + r * ring.width, ring.width);
  };
  const auto states_of = [&](const Segment& segment) {
    auto* slots = reinterpret_cast<float*>(kv_.tail(segment.tail).data() + ring.offset);
    return TokenStates{segment, ring, slots, scratch.z, scratch.g};
  };
  const auto finish_block = [&](const Segment& segment, std::int64_t block, float* row) {
    pool_block(kernels_, states_of(segment), block, static_cast<int>(ratio), width, row);
    normalise(row, norm, row, width);
    Rotation(args.rope, ratio * block).apply(row, width);  // the position of the block's first token
    const RowPlace place = row_in_pages(kv_, segment, store, block);
    if (indexer) encode_index_row(config_.kv.format, row, width, place.main, place.scale);
    else encode_kv_row(config_.kv.format, row, width, dims.rope_dim, place.main, place.scale);
  };
  const auto keep_states = [&](const Segment& segment) {
    const TokenStates states = states_of(segment);
    const std::int64_t end = segment.end_position();
    const auto bytes = static_cast<std::size_t>(ring.width) * sizeof(float);
    for (std::int64_t p = std::max<std::int64_t>(segment.first_position, end - ring.slots); p < end; ++p) {
      std::memcpy(states.slot(p), states.values(p), bytes);
      std::memcpy(states.slot(p) + std::int64_t{ring.slots} * ring.width, states.scores(p), bytes);
    }
  };

  std::int64_t blocks = 0;
  for (const Segment& segment : batch_.segments) blocks += blocks_of(segment);
  const auto share = [&](int thread, int threads, auto sync) {
    float* room = scratch.thread_rows + thread * scratch.width;
    for (const auto r : share_of(batch_.rows, thread, threads)) add_ape(r, room);
    sync();
    const Share mine = share_of(blocks, thread, threads);
    std::int64_t number = 0;  // of the block in the batch
    for (const Segment& segment : batch_.segments)
      for (std::int64_t b = 0; b < blocks_of(segment); ++b, ++number)
        if (number >= mine.first && number < mine.last) finish_block(segment, first_block(segment) + b, room);
    sync();  // the ring is read before it is written
    for (const auto s : share_of(static_cast<std::int64_t>(batch_.segments.size()), thread, threads))
      keep_states(batch_.segments[static_cast<std::size_t>(s)]);
  };
  if (batch_.rows <= 2) share(0, 1, [] {});
  else pool_.run([&](int thread, int threads) { share(thread, threads, [&] { pool_.sync(); }); });
}

}  // namespace ds4::cpu
