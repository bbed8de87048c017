#include "convert/checkpoint_config.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>

#include <nlohmann/json.hpp>

#include "base/text.h"

namespace ds4 {
namespace {

using Json = nlohmann::json;

/// Reads fields of one object. The first problem is kept and ends up in the Error; later reads give zeros.
class FieldReader {
 public:
  FieldReader(const Json& object, const std::string& file, std::string prefix = "")
      : object_(object), file_(file), prefix_(std::move(prefix)) {}

  std::uint32_t integer(const char* key, std::uint64_t low, std::uint64_t high,
                        std::optional<std::uint32_t> fallback = std::nullopt) {
    const Json* field = find(key, fallback.has_value());
    if (field == nullptr) return fallback.value_or(0);
    if (!field->is_number_unsigned() || field->get<std::uint64_t>() < low || field->get<std::uint64_t>() > high) {
      fail(key, cat("expected a whole number from ", low, " to ", high, ", found ", shown(*field)));
      return 0;
    }
    return static_cast<std::uint32_t>(field->get<std::uint64_t>());
  }

  /// A finite number above `low`.
  float number(const char* key, double low, std::optional<float> fallback = std::nullopt) {
    const Json* field = find(key, fallback.has_value());
    if (field == nullptr) return fallback.value_or(0.0f);
    const double value = field->is_number() ? field->get<double>() : std::nan("");
    if (!(value > low) || !std::isfinite(static_cast<float>(value))) {
      fail(key, cat("expected a number above ", low, ", found ", shown(*field)));
      return 0;
    }
    return static_cast<float>(value);
  }

  bool boolean(const char* key, bool fallback) {
    const Json* field = find(key, true);
    if (field == nullptr) return fallback;
    if (!field->is_boolean()) fail(key, cat("expected true or false, found ", shown(*field)));
    return field->is_boolean() ? field->get<bool>() : fallback;
  }

  /// A field that, where present, has one value in this family.
  template <typename T>
  void expect(const char* key, const T& value) {
    const Json* field = find(key, true);
    if (field != nullptr && *field != Json(value))
      fail(key, cat("expected ", shown(Json(value)), ", found ", shown(*field)));
  }

  const Json* list(const char* key) {
    const Json* field = find(key, false);
    if (field != nullptr && !field->is_array()) fail(key, cat("expected a list, found ", shown(*field)));
    return field != nullptr && field->is_array() ? field : nullptr;
  }

  const Json* object(const char* key, bool optional) {
    const Json* field = find(key, optional);
    if (field != nullptr && !field->is_object()) fail(key, cat("expected an object, found ", shown(*field)));
    return field != nullptr && field->is_object() ? field : nullptr;
  }

  void fail(std::string_view key, std::string_view what) {
    if (!error_) error_ = Error{ErrorCode::kBadModel, cat(escaped(file_, 4096), ": ", prefix_, key, ": ", what)};
  }
  void adopt(const FieldReader& inner) {
    if (!error_) error_ = inner.error_;
  }
  const std::optional<Error>& error() const { return error_; }

 private:
  static std::string shown(const Json& value) {
    if (value.is_structured()) return cat("an ", value.type_name());  // printing one recurses as deep as the file says
    return escaped(value.dump(-1, ' ', true, Json::error_handler_t::replace), 64);
  }
  const Json* find(const char* key, bool optional) {
    const auto found = object_.find(key);
    if (found != object_.end() && !found->is_null()) return &*found;
    if (!optional) fail(key, "expected, but missing");
    return nullptr;
  }

  const Json& object_;
  const std::string& file_;
  std::string prefix_;
  std::optional<Error> error_;
};

constexpr std::uint64_t kMaxDim = 1 << 20;

void read_attention(FieldReader& fields, CheckpointConfig& config) {
  config.num_attention_heads = fields.integer("num_attention_heads", 1, 65536);
  config.num_key_value_heads = fields.integer("num_key_value_heads", 1, 1, 1);
  config.head_dim = fields.integer("head_dim", 1, 65536);
  config.qk_rope_head_dim = fields.integer("qk_rope_head_dim", 2, 65536);
  config.q_lora_rank = fields.integer("q_lora_rank", 1, kMaxDim);
  config.o_lora_rank = fields.integer("o_lora_rank", 1, kMaxDim);
  config.o_groups = fields.integer("o_groups", 1, 65536);
  config.sliding_window = fields.integer("sliding_window", 1, kMaxDim);
  config.index_n_heads = fields.integer("index_n_heads", 1, 65536);
  config.index_head_dim = fields.integer("index_head_dim", 1, 65536);
  config.index_topk = fields.integer("index_topk", 1, 1u << 24);
  if (fields.error()) return;
  const std::uint32_t rope = config.qk_rope_head_dim;
  if (rope % 2 != 0 || rope > config.head_dim || rope > config.index_head_dim)
    fields.fail("qk_rope_head_dim", cat("expected an even number, at most head_dim and index_head_dim (",
                                        config.head_dim, ", ", config.index_head_dim, "), found ", rope));
  if (config.num_attention_heads % config.o_groups != 0)
    fields.fail("o_groups", cat("expected a divisor of num_attention_heads (", config.num_attention_heads, "), found ",
                                config.o_groups));
  if (!std::has_single_bit(config.index_head_dim))
    fields.fail("index_head_dim", cat("expected a power of two, found ", config.index_head_dim));
}

void read_experts(FieldReader& fields, CheckpointConfig& config) {
  config.n_routed_experts = fields.integer("n_routed_experts", 1, 65536);
  config.num_experts_per_tok = fields.integer("num_experts_per_tok", 1, config.n_routed_experts);
  config.n_shared_experts = fields.integer("n_shared_experts", 1, 1);
  config.moe_intermediate_size = fields.integer("moe_intermediate_size", 1, kMaxDim);
  config.num_hash_layers = fields.integer("num_hash_layers", 0, config.num_hidden_layers);
  config.norm_topk_prob = fields.boolean("norm_topk_prob", true);
  config.routed_scaling_factor = fields.number("routed_scaling_factor", 0);
  config.swiglu_limit = fields.number("swiglu_limit", 0);
  fields.expect("scoring_func", "sqrtsoftplus");
  fields.expect("topk_method", "noaux_tc");
  fields.expect("hidden_act", "silu");
  fields.integer("n_group", 0, 1, 0);  // the family has no group-limited routing
  fields.integer("topk_group", 0, 1, 0);
}

void read_rope(FieldReader& fields, const std::string& file, CheckpointConfig& config) {
  config.rope_theta = fields.number("rope_theta", 0);
  config.compress_rope_theta = fields.number("compress_rope_theta", 0);
  const Json* scaling = fields.object("rope_scaling", false);
  if (scaling == nullptr) return;
  FieldReader inner(*scaling, file, "rope_scaling.");
  inner.expect("type", "yarn");
  inner.expect("rope_type", "yarn");
  config.rope_factor = inner.number("factor", 0);
  config.original_max_position_embeddings = inner.integer("original_max_position_embeddings", 1, 1u << 31);
  config.beta_fast = inner.number("beta_fast", 0);
  config.beta_slow = inner.number("beta_slow", 0);
  fields.adopt(inner);
}

void read_ratios(FieldReader& fields, CheckpointConfig& config) {
  const Json* ratios = fields.list("compress_ratios");
  if (ratios == nullptr) return;
  const std::size_t layers = config.num_hidden_layers;
  if (ratios->size() < layers || ratios->size() > layers + config.num_nextn_predict_layers + 1)
    return fields.fail("compress_ratios",
                       cat("expected ", layers, " entries, or one more for an MTP block, found ", ratios->size()));
  for (const Json& ratio : *ratios) {
    const bool known = ratio.is_number_unsigned() && (ratio == 0u || ratio == 4u || ratio == 128u);
    const std::size_t entry = config.compress_ratios.size();
    if (!known) return fields.fail("compress_ratios", cat("entry ", entry, ": expected 0, 4 or 128"));
    if (entry >= layers && ratio != 0u)
      return fields.fail("compress_ratios", cat("entry ", entry, ": expected 0 for an MTP block"));
    config.compress_ratios.push_back(ratio.get<std::int32_t>());
  }
}

void read_quantization(FieldReader& fields, const std::string& file) {
  const Json* quantization = fields.object("quantization_config", true);
  if (quantization == nullptr) return;
  FieldReader inner(*quantization, file, "quantization_config.");
  inner.expect("quant_method", "fp8");
  inner.expect("fmt", "e4m3");
  inner.expect("scale_fmt", "ue8m0");
  inner.expect("weight_block_size", std::vector<int>{128, 128});
  fields.adopt(inner);
}

}  // namespace

Result<CheckpointConfig> parse_checkpoint_config(std::string_view json, const std::string& name) {
  const Json document = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!document.is_object())
    return Error{ErrorCode::kBadModel, cat(escaped(name, 4096), ": expected a JSON object of ", json.size(), " bytes")};
  FieldReader fields(document, name);
  CheckpointConfig config;
  fields.expect("model_type", "deepseek_v4");
  fields.expect("tie_word_embeddings", false);
  config.num_hidden_layers = fields.integer("num_hidden_layers", 1, 4096);
  config.hidden_size = fields.integer("hidden_size", 1, kMaxDim);
  config.vocab_size = fields.integer("vocab_size", 1, 1u << 24);
  config.max_position_embeddings = fields.integer("max_position_embeddings", 1, 1u << 31);
  config.num_nextn_predict_layers = fields.integer("num_nextn_predict_layers", 0, 16, 0);
  config.hc_mult = fields.integer("hc_mult", 1, 64);
  config.hc_sinkhorn_iters = fields.integer("hc_sinkhorn_iters", 1, 1000);
  config.hc_eps = fields.number("hc_eps", 0);
  config.rms_norm_eps = fields.number("rms_norm_eps", 0);
  read_attention(fields, config);
  read_experts(fields, config);
  read_rope(fields, name, config);
  read_ratios(fields, config);
  read_quantization(fields, name);
  const std::uint64_t last_token = std::max(config.vocab_size, 1u) - 1;
  config.bos_token_id = fields.integer("bos_token_id", 0, last_token, 0);
  config.eos_token_id = fields.integer("eos_token_id", 0, last_token, 1);
  if (fields.error()) return *fields.error();
  return config;
}

}  // namespace ds4
