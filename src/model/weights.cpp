#include "model/weights.h"

#include <string>

#include "base/text.h"

namespace ds4 {

namespace {

using Role = WeightRole;

/// Looks tensors up under every name they go by and checks what it finds. The first failure sticks. Without a file it
/// only writes down what it was asked for.
class Binder {
 public:
  Binder(const gguf::File& file, const LoadWeight& load) : file_(&file), load_(&load) {}
  explicit Binder(std::vector<WeightSpec>& list) : list_(&list) {}

  const Status& status() const { return status_; }
  void enter(std::string prefix, int layer) {
    prefix_ = std::move(prefix);
    layer_ = layer;
  }

  Weight matrix(std::string_view name, std::int64_t in, std::int64_t out, std::int64_t count = 1) {
    return bind(name, Role::kMatrix, in, out, count);
  }
  Weight vector(std::string_view name, std::int64_t in) { return bind(name, Role::kVector, in, 1, 1); }
  Weight table(std::string_view name, std::int64_t in, std::int64_t out) {
    return bind(name, Role::kTable, in, out, 1);
  }

 private:
  const gguf::TensorInfo* find(std::string_view name) const;
  Weight bind(std::string_view name, Role role, std::int64_t in, std::int64_t out, std::int64_t count);
  void fail(Error error) {
    if (status_.ok()) status_ = std::move(error);
  }

  const gguf::File* file_ = nullptr;
  const LoadWeight* load_ = nullptr;
  std::vector<WeightSpec>* list_ = nullptr;
  Status status_;
  std::string prefix_;
  int layer_ = 0;
};

/// The names of one community dialect (§5.9) beside the usual ones.
std::string dialect_name(std::string_view name) {
  const auto replaced = [&](std::string_view from, std::string_view to) { return cat(to, name.substr(from.size())); };
  if (name.starts_with("attn_kv.")) return replaced("attn_kv", "attn_kv_latent");
  if (name.starts_with("attn_compressor_")) return replaced("attn_compressor_", "attn_compress_");
  if (name.starts_with("indexer_compressor_")) return replaced("indexer_compressor_", "indexer.compress_");
  return std::string(name);
}

std::string without_suffix(std::string_view name) { return std::string(name.substr(0, name.rfind('.'))); }

const gguf::TensorInfo* Binder::find(std::string_view name) const {
  const std::string other = dialect_name(name);
  for (const std::string& candidate : {std::string(name), other, without_suffix(name), without_suffix(other)})
    if (const auto* tensor = file_->find_tensor(cat(prefix_, candidate))) return tensor;
  return nullptr;
}

Weight Binder::bind(std::string_view name, Role role, std::int64_t in, std::int64_t out, std::int64_t count) {
  if (!status_.ok()) return {};
  if (list_ != nullptr) {
    list_->push_back({cat(prefix_, name), role, in, out, count});
    return {};
  }
  std::string dims = cat("[", in, role == Role::kVector ? "" : cat(", ", out));
  if (count != 1) dims += cat(", ", count);
  dims += "]";
  const gguf::TensorInfo* tensor = find(name);
  if (tensor == nullptr) {
    fail(Error{ErrorCode::kBadModel, cat(escaped(file_->path(), 4096), ": tensor ", prefix_, name, ": expected ", dims,
                                         ", found no such tensor")});
    return {};
  }
  const std::uint64_t expected[4] = {std::uint64_t(in), std::uint64_t(out), std::uint64_t(count), 1};
  for (int i = 0; i < 4; ++i) {
    if (tensor->dims[i] == expected[i]) continue;
    fail(file_->tensor_error(*tensor, cat("expected ", dims, ", found ", gguf::describe(*tensor))));
    return {};
  }
  if ((tensor->type == DType::kI32) != (role == Role::kTable)) {
    fail(file_->tensor_error(*tensor, cat("expected ", role == Role::kTable ? "type i32" : "a float type", ", found ",
                                          gguf::describe(*tensor))));
    return {};
  }
  auto loaded = (*load_)(HostWeight{tensor->type, in, out, count, tensor->data.data()}, layer_);
  if (!loaded.ok()) {
    fail(std::move(loaded).error());
    return {};
  }
  return *loaded;
}

HyperConnectionWeights bind_hyper_connection(Binder& binder, std::string_view name, const Dims& dims, int controls,
                                             int scales) {
  return {binder.matrix(cat(name, "_fn.weight"), std::int64_t{dims.hc} * dims.hidden, controls),
          binder.vector(cat(name, "_base.weight"), controls), binder.vector(cat(name, "_scale.weight"), scales)};
}

CompressorWeights bind_compressor(Binder& binder, std::string_view name, const Dims& dims, int ratio, int row_width) {
  const int width = ratio == 4 ? 2 * row_width : row_width;  // ratio 4 overlaps
  return {binder.matrix(cat(name, "_kv.weight"), dims.hidden, width),
          binder.matrix(cat(name, "_gate.weight"), dims.hidden, width),
          binder.matrix(cat(name, "_ape.weight"), width, ratio), binder.vector(cat(name, "_norm.weight"), row_width)};
}

void bind_attention(Binder& binder, const Dims& dims, const LayerShape& layer, LayerWeights& w) {
  const std::int64_t heads_width = std::int64_t{dims.heads} * dims.head_dim;
  const std::int64_t low_rank = std::int64_t{dims.o_groups} * dims.o_lora;
  w.hc_attn = bind_hyper_connection(binder, "hc_attn", dims, dims.hc_controls(), 3);
  w.attn_norm = binder.vector("attn_norm.weight", dims.hidden);
  w.q_a = binder.matrix("attn_q_a.weight", dims.hidden, dims.q_lora);
  w.q_a_norm = binder.vector("attn_q_a_norm.weight", dims.q_lora);
  w.q_b = binder.matrix("attn_q_b.weight", dims.q_lora, heads_width);
  w.kv = binder.matrix("attn_kv.weight", dims.hidden, dims.head_dim);
  w.kv_norm = binder.vector("attn_kv_a_norm.weight", dims.head_dim);
  w.sinks = binder.vector("attn_sinks.weight", dims.heads);
  w.output_a = binder.matrix("attn_output_a.weight", heads_width / dims.o_groups, low_rank);
  w.output_b = binder.matrix("attn_output_b.weight", low_rank, dims.hidden);
  if (layer.ratio == 0) return;
  w.compressor = bind_compressor(binder, "attn_compressor", dims, layer.ratio, dims.head_dim);
  if (layer.kind != LayerKind::kCompressedSparse) return;
  w.index_q_b = binder.matrix("indexer.attn_q_b.weight", dims.q_lora, std::int64_t{dims.index_heads} * dims.index_dim);
  w.index_proj = binder.matrix("indexer.proj.weight", dims.hidden, dims.index_heads);
  w.index_compressor = bind_compressor(binder, "indexer_compressor", dims, layer.ratio, dims.index_dim);
}

void bind_experts(Binder& binder, const Dims& dims, const LayerShape& layer, LayerWeights& w) {
  w.hc_ffn = bind_hyper_connection(binder, "hc_ffn", dims, dims.hc_controls(), 3);
  w.ffn_norm = binder.vector("ffn_norm.weight", dims.hidden);
  w.router = binder.matrix("ffn_gate_inp.weight", dims.hidden, dims.experts);
  if (layer.hash_routed) w.token_experts = binder.table("ffn_gate_tid2eid.weight", dims.experts_used, dims.vocab);
  else w.router_bias = binder.vector("exp_probs_b.bias", dims.experts);
  w.gate = binder.matrix("ffn_gate_exps.weight", dims.hidden, dims.expert_ff, dims.experts);
  w.up = binder.matrix("ffn_up_exps.weight", dims.hidden, dims.expert_ff, dims.experts);
  w.down = binder.matrix("ffn_down_exps.weight", dims.expert_ff, dims.hidden, dims.experts);
  w.shared_gate = binder.matrix("ffn_gate_shexp.weight", dims.hidden, dims.shared_ff);
  w.shared_up = binder.matrix("ffn_up_shexp.weight", dims.hidden, dims.shared_ff);
  w.shared_down = binder.matrix("ffn_down_shexp.weight", dims.shared_ff, dims.hidden);
}

ModelWeights bind_trunk(Binder& binder, const ModelShape& shape) {
  const Dims& dims = shape.dims;
  const int last = static_cast<int>(shape.layers.size()) - 1;
  ModelWeights weights;
  binder.enter("", 0);
  weights.embedding = binder.matrix("token_embd.weight", dims.hidden, dims.vocab);
  for (int layer = 0; layer <= last; ++layer) {
    binder.enter(cat("blk.", layer, "."), layer);
    LayerWeights& w = weights.layers.emplace_back();
    bind_attention(binder, dims, shape.layers[static_cast<std::size_t>(layer)], w);
    bind_experts(binder, dims, shape.layers[static_cast<std::size_t>(layer)], w);
  }
  binder.enter("", last);
  weights.hc_head = bind_hyper_connection(binder, "output_hc", dims, dims.hc, 1);
  weights.norm = binder.vector("output_norm.weight", dims.hidden);
  weights.output = binder.matrix("output.weight", dims.hidden, dims.vocab);
  return weights;
}

}  // namespace

Result<ModelWeights> bind_weights(const gguf::File& file, const ModelShape& shape, const LoadWeight& load) {
  Binder binder(file, load);
  ModelWeights weights = bind_trunk(binder, shape);
  if (!binder.status().ok()) return binder.status().error();
  return weights;
}

std::vector<WeightSpec> list_weights(const ModelShape& shape) {
  std::vector<WeightSpec> list;
  Binder binder(list);
  bind_trunk(binder, shape);
  return list;
}

Result<std::optional<MtpWeights>> bind_mtp_weights(const gguf::File& file, const ModelShape& shape,
                                                   const LoadWeight& load) {
  const Dims& dims = shape.dims;
  const int layer = static_cast<int>(shape.layers.size());
  const bool separate = file.find_tensor("mtp.0.attn_norm.weight") != nullptr;
  if (!separate && shape.mtp_layers == 0) return std::optional<MtpWeights>();
  const LayerShape kind{LayerKind::kWindow, 0, false, shape.layers.back().swiglu_limit,
                        shape.layers.back().shared_swiglu_limit};
  Binder binder(file, load);
  MtpWeights mtp;
  const std::string prefix = separate ? "mtp.0." : cat("blk.", layer, ".");
  binder.enter(prefix, layer);
  bind_attention(binder, dims, kind, mtp.block);
  bind_experts(binder, dims, kind, mtp.block);
  const std::string extra = separate ? "" : "nextn.";
  mtp.e_norm = binder.vector(cat(extra, "enorm.weight"), dims.hidden);
  mtp.h_norm = binder.vector(cat(extra, "hnorm.weight"), dims.hidden);
  if (file.find_tensor(cat(prefix, extra, "eh_proj.weight")) != nullptr) {
    mtp.eh_proj = binder.matrix(cat(extra, "eh_proj.weight"), std::int64_t{2} * dims.hidden, dims.hidden);
  } else {
    mtp.e_proj = binder.matrix(cat(extra, "e_proj.weight"), dims.hidden, dims.hidden);
    mtp.h_proj = binder.matrix(cat(extra, "h_proj.weight"), dims.hidden, dims.hidden);
  }
  mtp.hc_head = bind_hyper_connection(binder, cat(extra, "hc_head"), dims, dims.hc, 1);
  mtp.norm = binder.vector(separate ? "norm.weight" : "nextn.shared_head_norm.weight", dims.hidden);
  if (!binder.status().ok()) return binder.status().error();
  return std::optional<MtpWeights>(mtp);
}

Status check_token_experts(const gguf::File& file, const ModelShape& shape) {
  for (std::size_t layer = 0; layer < shape.layers.size(); ++layer) {
    if (!shape.layers[layer].hash_routed) continue;
    const auto* tensor = file.find_tensor(cat("blk.", layer, ".ffn_gate_tid2eid.weight"));
    if (tensor == nullptr) tensor = file.find_tensor(cat("blk.", layer, ".ffn_gate_tid2eid"));
    if (tensor == nullptr) continue;  // bind_weights reports it
    const auto* ids = reinterpret_cast<const std::int32_t*>(tensor->data.data());
    for (std::uint64_t i = 0; i < tensor->elements(); ++i)
      if (ids[i] < 0 || ids[i] >= shape.dims.experts)
        return file.tensor_error(
            *tensor, cat("entry ", i, ": expected an expert in 0..", shape.dims.experts - 1, ", found ", ids[i]));
  }
  return {};
}

}  // namespace ds4
