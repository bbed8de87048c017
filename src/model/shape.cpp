#include "model/shape.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/text.h"

namespace ds4 {

namespace {

constexpr std::string_view kPrefix = "deepseek4.";

/// Reads and range-checks keys; the first failure sticks and later reads return their lower bound.
class KeyReader {
 public:
  explicit KeyReader(const gguf::File& file) : file_(file) {}

  const gguf::File& file() const { return file_; }
  const Status& status() const { return status_; }
  void fail(Error error) {
    if (status_.ok()) status_ = std::move(error);
  }

  /// `fallback` < 0 makes the key required.
  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high, std::int64_t fallback = -1) {
    const std::string name = cat(kPrefix, key);
    auto found = file_.get_uint(name);
    if (!found.ok()) return fail(std::move(found).error()), low;
    if (!*found) {
      if (fallback < 0) fail(missing(name, "an integer"));
      return fallback < 0 ? low : fallback;
    }
    const std::uint64_t value = **found;
    if (value < static_cast<std::uint64_t>(low) || value > static_cast<std::uint64_t>(high)) {
      fail(file_.key_error(name, cat("expected an integer in ", low, "..", high, ", found ", value)));
      return low;
    }
    return static_cast<std::int64_t>(value);
  }
  int small(std::string_view key, int low, int high, int fallback = -1) {
    return static_cast<int>(integer(key, low, high, fallback));
  }

  /// A finite number in (low, high]; `fallback` NaN makes the key required.
  float number(std::string_view key, double low, double high, double fallback = std::nan("")) {
    const std::string name = cat(kPrefix, key);
    auto found = file_.get_float(name);
    if (!found.ok()) return fail(std::move(found).error()), static_cast<float>(high);
    if (!*found) {
      if (std::isnan(fallback)) fail(missing(name, "a number"));
      return static_cast<float>(std::isnan(fallback) ? high : fallback);
    }
    const double value = **found;
    if (!(value > low && value <= high)) {
      fail(file_.key_error(name, cat("expected a number above ", low, " and at most ", high, ", found ", value)));
      return static_cast<float>(high);
    }
    return static_cast<float>(value);
  }

  bool has(std::string_view key) const { return file_.find_value(cat(kPrefix, key)) != nullptr; }

  Error missing(std::string_view name, std::string_view what) const {
    return Error{ErrorCode::kBadModel,
                 cat(escaped(file_.path(), 4096), ": key ", name, ": expected ", what, ", found no such key")};
  }

 private:
  const gguf::File& file_;
  Status status_;
};

const gguf::TensorInfo* find_any(const gguf::File& file, std::initializer_list<std::string> names) {
  for (const std::string& name : names)
    if (const auto* tensor = file.find_tensor(name)) return tensor;
  return nullptr;
}

void check_architecture(KeyReader& keys) {
  auto found = keys.file().get_string("general.architecture");
  if (!found.ok()) return keys.fail(std::move(found).error());
  if (!*found) return keys.fail(keys.missing("general.architecture", "\"deepseek4\""));
  if (**found != "deepseek4")
    keys.fail(keys.file().key_error(
        "general.architecture",
        cat("expected \"deepseek4\" (DeepSeek V4 Flash or PRO), found \"", escaped(**found), "\"")));
}

void check_fixed_choices(KeyReader& keys) {
  // Features of other families that would change the result if they were on.
  keys.integer("expert_group_count", 0, 0, 0);
  keys.integer("expert_group_used_count", 0, 0, 0);
  keys.integer("expert_gating_func", 4, 4, 4);
  keys.integer("attention.head_count_kv", 1, 1);
  auto norm = keys.file().get_bool(cat(kPrefix, "expert_weights_norm"));
  if (!norm.ok()) return keys.fail(std::move(norm).error());
  if (*norm && !**norm)
    keys.fail(keys.file().key_error(cat(kPrefix, "expert_weights_norm"), "expected true, found false"));
}

/// Compression ratios of the blocks: the array, or (a dialect without it) the rows of each compressor's ape tensor.
std::vector<std::int64_t> read_ratios(KeyReader& keys, int blocks) {
  const std::string name = cat(kPrefix, "attention.compress_ratios");
  auto found = keys.file().get_int_array(name);
  if (!found.ok()) return keys.fail(std::move(found).error()), std::vector<std::int64_t>{};
  if (*found) {
    if ((**found).size() < static_cast<std::size_t>(blocks)) {
      keys.fail(keys.file().key_error(name, cat("expected at least ", blocks, " entries, found ", (**found).size())));
      return {};
    }
    for (int i = 0; i < blocks; ++i)
      if (const auto r = (**found)[static_cast<std::size_t>(i)]; r != 0 && r != 4 && r != 128)
        keys.fail(keys.file().key_error(name, cat("entry ", i, ": expected 0, 4 or 128, found ", r)));
    return **found;
  }
  std::vector<std::int64_t> ratios;
  for (int i = 0; i < blocks; ++i) {
    const auto* ape =
        find_any(keys.file(), {cat("blk.", i, ".attn_compressor_ape.weight"),
                               cat("blk.", i, ".attn_compress_ape.weight"), cat("blk.", i, ".attn_compress_ape")});
    const std::uint64_t rows = ape == nullptr ? 0 : ape->dims[1];
    if (rows != 0 && rows != 4 && rows != 128)
      keys.fail(keys.file().tensor_error(*ape, cat("expected 4 or 128 rows, found ", rows)));
    ratios.push_back(static_cast<std::int64_t>(rows));
  }
  return ratios;
}

/// A per-layer array of clamps; `fallback` (one per layer) when the key is absent.
std::vector<float> read_limits(KeyReader& keys, std::string_view key, std::size_t layers, std::vector<float> fallback) {
  const std::string name = cat(kPrefix, key);
  auto found = keys.file().get_float_array(name);
  if (!found.ok()) return keys.fail(std::move(found).error()), std::vector<float>(layers, 1.0F);
  if (!*found) {
    if (fallback.empty()) keys.fail(keys.missing(name, cat("an array of ", layers, " numbers")));
    return fallback.empty() ? std::vector<float>(layers, 1.0F) : fallback;
  }
  if ((**found).size() < layers) {
    keys.fail(keys.file().key_error(name, cat("expected at least ", layers, " entries, found ", (**found).size())));
    return std::vector<float>(layers, 1.0F);
  }
  for (std::size_t i = 0; i < layers; ++i)
    if (const float v = (**found)[i]; !(v > 0.0F && std::isfinite(v)))
      keys.fail(keys.file().key_error(name, cat("entry ", i, ": expected a positive number, found ", v)));
  return **found;
}

void read_attention(KeyReader& keys, Dims& dims) {
  dims.heads = keys.small("attention.head_count", 1, 4096);
  dims.head_dim = keys.small("attention.key_length", 2, 4096);
  const int value_length = keys.small("attention.value_length", 2, 4096, dims.head_dim);
  if (value_length != dims.head_dim)
    keys.fail(keys.file().key_error(cat(kPrefix, "attention.value_length"),
                                    cat("expected attention.key_length = ", dims.head_dim, ", found ", value_length)));
  dims.rope_dim = keys.small("rope.dimension_count", 2, dims.head_dim);
  if (dims.rope_dim % 2 != 0)
    keys.fail(keys.file().key_error(cat(kPrefix, "rope.dimension_count"),
                                    cat("expected an even number, found ", dims.rope_dim)));
  dims.q_lora = keys.small("attention.q_lora_rank", 1, 65536);
  dims.window = keys.small("attention.sliding_window", 1, 65536);
  // Absent in one dialect: then the shapes of the output projection say it.
  int groups = -1;
  int low_rank = -1;
  if (const auto* a = keys.file().find_tensor("blk.0.attn_output_a.weight"); a != nullptr && a->dims[0] != 0) {
    const auto width = std::uint64_t(dims.heads) * std::uint64_t(dims.head_dim);
    if (width % a->dims[0] == 0 && width / a->dims[0] <= std::uint64_t(dims.heads))
      groups = static_cast<int>(width / a->dims[0]);
    if (groups > 0 && a->dims[1] % std::uint64_t(groups) == 0 && a->dims[1] / std::uint64_t(groups) <= 65536)
      low_rank = static_cast<int>(a->dims[1] / std::uint64_t(groups));
  }
  dims.o_groups = keys.small("attention.output_group_count", 1, 4096, groups);
  dims.o_lora = keys.small("attention.output_lora_rank", 1, 65536, low_rank);
  if (dims.heads % dims.o_groups != 0)
    keys.fail(keys.file().key_error(
        cat(kPrefix, "attention.output_group_count"),
        cat("expected a divisor of attention.head_count = ", dims.heads, ", found ", dims.o_groups)));
}

void read_indexer(KeyReader& keys, Dims& dims) {
  dims.index_heads = keys.small("attention.indexer.head_count", 1, 4096);
  dims.index_dim = keys.small("attention.indexer.key_length", dims.rope_dim, 4096);
  dims.index_topk = keys.small("attention.indexer.top_k", 1, 1 << 20);
  if ((dims.index_dim & (dims.index_dim - 1)) != 0)
    keys.fail(keys.file().key_error(cat(kPrefix, "attention.indexer.key_length"),
                                    cat("expected a power of two (Hadamard rotation), found ", dims.index_dim)));
}

void read_experts(KeyReader& keys, Dims& dims) {
  dims.experts = keys.small("expert_count", 1, 65536);
  dims.experts_used = keys.small("expert_used_count", 1, dims.experts);
  dims.expert_ff = keys.small("expert_feed_forward_length", 1, 1 << 20);
  const int shared = keys.small("expert_shared_count", 1, 16);
  dims.shared_ff = dims.expert_ff * shared;
  dims.route_scale = keys.number("expert_weights_scale", 0, 1e6);
}

void read_hyper_connections(KeyReader& keys, Dims& dims) {
  int streams = -1;  // from the shape of fn where the key is absent
  if (const auto* fn = find_any(keys.file(), {"blk.0.hc_attn_fn.weight", "blk.0.hc_attn_fn"});
      fn != nullptr && fn->dims[0] % std::uint64_t(dims.hidden) == 0 && fn->dims[0] / std::uint64_t(dims.hidden) <= 16)
    streams = static_cast<int>(fn->dims[0] / std::uint64_t(dims.hidden));
  dims.hc = keys.small("hyper_connection.count", 1, 16, streams);
  dims.sinkhorn_iterations = keys.small("hyper_connection.sinkhorn_iterations", 1, 1000, 20);
  dims.hc_eps = keys.number("hyper_connection.epsilon", 0, 1, 1e-6);
}

RopeShape read_rope(KeyReader& keys) {
  RopeShape rope;
  rope.base = keys.number("rope.freq_base", 1, 1e12);
  // One dialect calls the compressed base freq_base_swa.
  const double other = keys.has("rope.freq_base_swa") ? keys.number("rope.freq_base_swa", 1, 1e12) : std::nan("");
  rope.compressed_base = keys.number("attention.compress_rope_freq_base", 1, 1e12, other);
  rope.yarn_factor = keys.number("rope.scaling.factor", 0, 1e6);
  rope.original_context = keys.integer("rope.scaling.original_context_length", 1, std::int64_t{1} << 30);
  rope.beta_fast = keys.number("rope.scaling.yarn_beta_fast", 0, 1e6);
  rope.beta_slow = keys.number("rope.scaling.yarn_beta_slow", 0, 1e6);
  return rope;
}

}  // namespace

Result<ModelShape> read_shape(const gguf::File& file) {
  KeyReader keys(file);
  ModelShape shape;
  check_architecture(keys);
  if (!keys.status().ok()) return keys.status().error();

  const int blocks = keys.small("block_count", 1, 1024);
  shape.mtp_layers = keys.small("nextn_predict_layers", 0, 16, 0);
  // llama.cpp counts appended MTP blocks in block_count; other files keep them elsewhere. Their tensors tell.
  const bool appended = shape.mtp_layers > 0 && shape.mtp_layers < blocks &&
                        (file.find_tensor(cat("blk.", blocks - 1, ".nextn.enorm.weight")) != nullptr);
  if (!appended) shape.mtp_layers = 0;
  const int trunk = blocks - shape.mtp_layers;

  shape.dims.hidden = keys.small("embedding_length", 1, 1 << 20);
  shape.dims.vocab = keys.small("vocab_size", 1, 1 << 24);
  shape.context_length = keys.integer("context_length", 1, std::int64_t{1} << 30, std::int64_t{1} << 20);
  shape.dims.rms_eps = keys.number("attention.layer_norm_rms_epsilon", 0, 1);
  check_fixed_choices(keys);
  read_attention(keys, shape.dims);
  read_indexer(keys, shape.dims);
  read_experts(keys, shape.dims);
  read_hyper_connections(keys, shape.dims);
  shape.rope = read_rope(keys);
  const auto ratios = read_ratios(keys, trunk);
  const auto layers = static_cast<std::size_t>(trunk);
  const auto limits = read_limits(keys, "swiglu_clamp_exp", layers, {});
  const auto shared_limits = read_limits(keys, "swiglu_clamp_shexp", layers, limits);

  int hashed = 0;  // hash-routed layers come first; without the key, those that have the table
  while (hashed < trunk && find_any(file, {cat("blk.", hashed, ".ffn_gate_tid2eid.weight"),
                                           cat("blk.", hashed, ".ffn_gate_tid2eid")}) != nullptr)
    ++hashed;
  hashed = keys.small("hash_layer_count", 0, trunk, hashed);
  if (!keys.status().ok()) return keys.status().error();

  if (auto name = file.get_string("general.name"); name.ok() && *name) shape.name = std::string(**name);
  for (std::size_t i = 0; i < layers; ++i) {
    const int ratio = static_cast<int>(ratios[i]);
    const LayerKind kind = ratio == 0   ? LayerKind::kWindow
                           : ratio == 4 ? LayerKind::kCompressedSparse
                                        : LayerKind::kHeavilyCompressed;
    shape.layers.push_back({kind, ratio, static_cast<int>(i) < hashed, limits[i], shared_limits[i]});
  }
  return shape;
}

std::vector<float> rope_frequencies(const RopeShape& rope, int rope_dim, int ratio) {
  const int pairs = rope_dim / 2;
  std::vector<float> frequencies;
  if (ratio == 0) {
    for (int i = 0; i < pairs; ++i)
      frequencies.push_back(static_cast<float>(std::pow(static_cast<double>(rope.base), -2.0 * i / rope_dim)));
    return frequencies;
  }
  const double base = rope.compressed_base;
  const auto correction = [&](double rotations) {
    return rope_dim * std::log(static_cast<double>(rope.original_context) / (2.0 * std::numbers::pi * rotations)) /
           (2.0 * std::log(base));
  };
  const double low = std::max(0.0, std::floor(correction(rope.beta_fast)));
  const double high = std::min(static_cast<double>(rope_dim - 1), std::ceil(correction(rope.beta_slow)));
  const double span = low == high ? 0.001 : high - low;
  for (int i = 0; i < pairs; ++i) {
    const double plain = std::pow(base, -2.0 * i / rope_dim);
    const double keep = 1.0 - std::clamp((i - low) / span, 0.0, 1.0);
    frequencies.push_back(
        static_cast<float>(plain * keep + plain / static_cast<double>(rope.yarn_factor) * (1.0 - keep)));
  }
  return frequencies;
}

}  // namespace ds4
