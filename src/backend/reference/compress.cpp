// The compressor (§2.6): pools the tokens of a block, channel by channel, into one row.
#include <algorithm>
#include <cmath>

#include "backend/reference/maths.h"
#include "backend/reference/reference_backend.h"
#include "backend/reference/rows.h"

namespace ds4 {

namespace {

/// (z, g) of every token the pooling may ask for: this batch's, and older ones from the ring in the tail.
struct TokenStates {
  const Segment& segment;
  const StateRing& ring;
  float* ring_base;             // z of slot 0
  const std::vector<float>& z;  // [batch rows, width]
  const std::vector<float>& g;

  std::pair<const float*, const float*> at(std::int64_t position) const {
    const auto width = static_cast<std::int64_t>(ring.width);
    if (position >= segment.first_position) {
      const std::int64_t r = segment.first_row + (position - segment.first_position);
      return {z.data() + r * width, g.data() + r * width};
    }
    const float* slot = ring_base + position % ring.slots * width;
    return {slot, slot + ring.slots * width};
  }
  void store(std::int64_t position) const {
    const auto [z_row, g_row] = at(position);
    float* slot = ring_base + position % ring.slots * ring.width;
    std::copy_n(z_row, ring.width, slot);
    std::copy_n(g_row, ring.width, slot + std::int64_t{ring.slots} * ring.width);
  }
};

struct Entry {
  double value;
  double score;
};

double softmax_pool(const std::vector<Entry>& entries) {
  double largest = entries[0].score;
  for (const Entry& e : entries) largest = std::max(largest, e.score);
  double sum = 0;
  double weights = 0;
  for (const Entry& e : entries) {
    const double w = std::exp(e.score - largest);
    sum += w * e.value;
    weights += w;
  }
  return sum / weights;
}

/// Row b before its norm. Ratio 4 overlaps: the previous block enters with the first half of its channels ("A"), the
/// current block with the second ("B"). Block 0 has no previous block.
std::vector<float> pool(const TokenStates& states, std::int64_t block, int ratio, int row_width) {
  const bool overlaps = states.ring.width == 2 * row_width;
  std::vector<float> row(static_cast<std::size_t>(row_width));
  std::vector<Entry> entries;
  for (int n = 0; n < row_width; ++n) {
    entries.clear();
    const auto add = [&](std::int64_t position, int channel) {
      const auto [z, g] = states.at(position);
      entries.push_back({z[channel], g[channel]});
    };
    if (overlaps && block > 0)
      for (int i = 0; i < ratio; ++i) add(ratio * (block - 1) + i, n);
    for (int i = 0; i < ratio; ++i) add(ratio * block + i, overlaps ? row_width + n : n);
    row[static_cast<std::size_t>(n)] = static_cast<float>(softmax_pool(entries));
  }
  return row;
}

}  // namespace

void ReferenceBackend::compress(const CompressArgs& args) {
  const auto& dims = config_.dims;
  const LayerKvLayout& layer = config_.kv.layers[static_cast<std::size_t>(args.layer)];
  const bool indexer = args.kind == CompressorKind::kIndexer;
  const StateRing& ring = indexer ? layer.index_state : layer.state;
  const RowStore& store = indexer ? layer.index : layer.compressed;
  const int row_width = indexer ? dims.index_dim : dims.head_dim;
  const auto norm = reference::weight_vector(args.weights.norm);
  const std::span<const float> frequencies{args.rope.data, static_cast<std::size_t>(args.rope.cols)};

  std::vector<float> z(static_cast<std::size_t>(batch_.rows) * ring.width);
  std::vector<float> g(z.size());
  reference::matmul(args.weights.kv, 0, args.x.data, batch_.rows, z.data());
  reference::matmul(args.weights.gate, 0, args.x.data, batch_.rows, g.data());
  for (int r = 0; r < batch_.rows; ++r) {
    const auto ape = reference::weight_row(args.weights.ape, batch_.positions[r] % layer.ratio);
    for (int n = 0; n < ring.width; ++n) g[static_cast<std::size_t>(r) * ring.width + n] += ape[n];
  }

  for (const Segment& segment : batch_.segments) {
    auto* base = reinterpret_cast<float*>(kv_.tail(segment.tail).data() + ring.offset);
    const TokenStates states{segment, ring, base, z, g};
    for (std::int64_t b = segment.first_position / layer.ratio; (b + 1) * layer.ratio <= segment.end_position(); ++b) {
      std::vector<float> row = pool(states, b, layer.ratio, row_width);
      reference::rms_normalise(row, norm, dims.rms_eps);
      reference::rotate(row, frequencies, layer.ratio * b);  // the position of the block's first token
      const auto place = reference::row_in_pages(kv_, segment, store, b);
      if (indexer) encode_index_row(config_.kv.format, row.data(), row_width, place.main, place.scale);
      else encode_kv_row(config_.kv.format, row.data(), row_width, dims.rope_dim, place.main, place.scale);
    }
    const std::int64_t end = segment.end_position();
    for (std::int64_t p = std::max(segment.first_position, end - ring.slots); p < end; ++p) states.store(p);
  }
}

}  // namespace ds4
