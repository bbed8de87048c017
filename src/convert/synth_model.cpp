#include "convert/synth_model.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <vector>

#include "base/rng.h"
#include "base/text.h"
#include "convert/checkpoint_config.h"
#include "convert/jobs.h"
#include "convert/model_input.h"
#include "convert/model_metadata.h"
#include "convert/recipe.h"
#include "convert/tensor_names.h"
#include "gguf/writer.h"
#include "quant/random_weights.h"
#include "tokenizer/byte_map.h"

namespace ds4 {
namespace {

using Mix = SynthOptions::Mix;

CheckpointConfig flash_config(const SynthOptions& options) {
  CheckpointConfig c;
  c.num_hidden_layers = static_cast<std::uint32_t>(options.layers);
  c.hidden_size = 4096;
  c.vocab_size = 129280;
  c.max_position_embeddings = 1048576;
  c.num_attention_heads = 64;
  c.head_dim = 512;
  c.qk_rope_head_dim = 64;
  c.q_lora_rank = 1024;
  c.o_lora_rank = 1024;
  c.o_groups = 8;
  c.sliding_window = 128;
  c.index_n_heads = 64;
  c.index_head_dim = 128;
  c.index_topk = 512;
  c.n_routed_experts = static_cast<std::uint32_t>(options.experts);
  c.num_experts_per_tok = 6;
  c.n_shared_experts = 1;
  c.moe_intermediate_size = 2048;
  c.num_hash_layers = std::min(3u, c.num_hidden_layers);
  c.routed_scaling_factor = 1.5f;
  c.swiglu_limit = 10.0f;
  c.hc_mult = 4;
  c.hc_sinkhorn_iters = 20;
  c.hc_eps = c.rms_norm_eps = 1e-6f;
  c.rope_theta = 10000.0f;
  c.compress_rope_theta = 160000.0f;
  c.rope_factor = 16.0f;
  c.original_max_position_embeddings = 65536;
  c.beta_fast = 32.0f;
  c.beta_slow = 1.0f;
  c.bos_token_id = 128000;
  c.eos_token_id = 128001;
  for (int layer = 0; layer < options.layers; ++layer)
    c.compress_ratios.push_back(layer < 2 ? 0 : layer % 2 == 0 ? 4 : 128);
  return c;
}

/// A token for each byte and the markers that a chat needs, at ids beyond the base vocabulary as in the real one.
Tokenizer::Tables byte_tokenizer(const CheckpointConfig& config) {
  Tokenizer::Tables tables;
  tables.types.assign(config.vocab_size, 1);
  for (int byte = 0; byte < 256; ++byte) tables.tokens.push_back(byte_symbol(static_cast<std::uint8_t>(byte)));
  while (tables.tokens.size() < config.vocab_size) tables.tokens.push_back(cat("tok", tables.tokens.size()));
  constexpr std::array kMarkers = {"<｜begin▁of▁sentence｜>",
                                   "<｜end▁of▁sentence｜>",
                                   "<｜User｜>",
                                   "<｜Assistant｜>",
                                   "<think>",
                                   "</think>",
                                   "｜DSML｜"};
  for (std::size_t i = 0; i < kMarkers.size(); ++i) {
    tables.tokens[config.bos_token_id + i] = kMarkers[i];
    tables.types[config.bos_token_id + i] = 3;
  }
  tables.bos = static_cast<TokenId>(config.bos_token_id);
  tables.eos = static_cast<TokenId>(config.eos_token_id);
  return tables;
}

class SynthTensor {
 public:
  SynthTensor(TensorPlan plan, DType type, gguf::Writer& writer)
      : plan_(std::move(plan)), type_(type), index_(writer.add_tensor(plan_.name, type, plan_.dims)) {}

  std::size_t index() const { return index_; }

  Status write(gguf::Writer& writer, std::uint64_t seed, std::uint32_t experts, const JobStep& step) const {
    const std::uint64_t bytes = writer.tensor_bytes(index_);
    // A matrix goes in pieces of whole blocks, a few megabytes each; vectors and tables are small enough to go at once.
    const std::uint64_t piece =
        plan_.kind == TensorKind::kMatrix ? std::uint64_t{dtype_info(type_).block_bytes} * 32768 : bytes;
    std::vector<std::byte> buffer;
    for (std::uint64_t offset = 0, part = 0; offset < bytes; offset += buffer.size(), ++part) {
      buffer.resize(std::min(piece, bytes - offset));
      fill(random_bits(seed, part, index_), experts, buffer);
      DS4_RETURN_IF_ERROR(writer.write_data(index_, offset, buffer));
      DS4_RETURN_IF_ERROR(step(buffer.size()));
    }
    return {};
  }

 private:
  void fill(std::uint64_t seed, std::uint32_t experts, std::span<std::byte> out) const {
    if (plan_.kind == TensorKind::kMatrix) return fill_random_weights(type_, seed, out);
    if (plan_.kind == TensorKind::kTokenTable) {
      std::vector<std::int32_t> ids(out.size() / sizeof(std::int32_t));
      fill_random_experts(seed, experts, static_cast<std::uint32_t>(plan_.dims[0]), ids);
      std::ranges::copy(std::as_bytes(std::span(ids)), out.begin());
      return;
    }
    std::vector<float> values(out.size() / sizeof(float), 1.0f);  // norms and scales
    const bool neutral = plan_.name.ends_with("norm.weight") || plan_.name.ends_with("scale.weight");
    if (!neutral) fill_random_vector(seed, 0.05f, values);
    std::ranges::copy(std::as_bytes(std::span(values)), out.begin());
  }

  TensorPlan plan_;
  DType type_;
  std::size_t index_;
};

Status check_options(const SynthOptions& options) {
  const auto refuse = [](std::string message) { return Error{ErrorCode::kUsage, std::move(message)}; };
  if (options.layers < 1 || options.layers > 1000) return refuse("layers: expected 1 to 1000");
  if (options.experts < 6 || options.experts > 4096) return refuse("experts: expected 6 (those of one token) to 4096");
  std::error_code ignored;
  if (std::filesystem::exists(options.output, ignored) && !options.overwrite)
    return refuse(cat(escaped(options.output, 4096), ": the file exists; give another name, or allow overwriting"));
  return {};
}

}  // namespace

Result<SynthReport> write_synth_model(const SynthOptions& options) {
  DS4_RETURN_IF_ERROR(check_options(options));
  const CheckpointConfig config = flash_config(options);
  gguf::Writer writer(options.output);
  RecipeOptions published;
  published.name = options.mix == Mix::kQ2 ? "q2" : "q4";
  DS4_ASSIGN_OR_RETURN(const Recipe recipe, Recipe::make(published, options.layers));
  add_model_metadata(config, "synthetic DeepSeek V4 Flash shapes", file_type_id(recipe.main_type()), writer);
  add_tokenizer_metadata(byte_tokenizer(config), writer);
  std::vector<SynthTensor> tensors;
  std::uint64_t total = 0;
  for (TensorPlan& plan : plan_tensors(config)) {
    const DType type = recipe.choose(plan.name, plan.kind).type;
    tensors.emplace_back(std::move(plan), type, writer);
    total += writer.tensor_bytes(tensors.back().index());
  }
  DS4_RETURN_IF_ERROR(writer.begin());
  if (options.sparse) {
    for (const SynthTensor& tensor : tensors) writer.skip_data(tensor.index());
  } else {
    DS4_RETURN_IF_ERROR(run_jobs(tensors.size(), total, {options.threads, options.cancel, options.progress},
                                 [&](std::size_t i, const JobStep& step) {
                                   return tensors[i].write(writer, options.seed, config.n_routed_experts, step);
                                 }));
  }
  DS4_RETURN_IF_ERROR(writer.finish());
  return SynthReport{tensors.size(), writer.file_bytes()};
}

}  // namespace ds4
