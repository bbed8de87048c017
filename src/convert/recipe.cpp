#include "convert/recipe.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "base/text.h"
#include "quant/codec.h"

namespace ds4 {
namespace {

constexpr std::array kRecipes = {"q2", "q2-q4", "q4", "mxfp4", "q8"};
constexpr int kPublishedQ4Layers = 6;

/// The name without "blk.N." or "mtp.N.".
std::string_view suffix_of(std::string_view name) {
  for (const std::string_view prefix : {"blk.", "mtp."}) {
    if (!name.starts_with(prefix)) continue;
    const std::size_t dot = name.find('.', prefix.size());
    if (dot != name.npos) return name.substr(dot + 1);
  }
  return name;
}

std::optional<int> layer_of(std::string_view name) {
  if (!name.starts_with("blk.")) return std::nullopt;
  int layer = 0;
  const auto [end, error] = std::from_chars(name.data() + 4, name.data() + name.size(), layer);
  if (error != std::errc() || end == name.data() + name.size() || *end != '.') return std::nullopt;
  return layer;
}

Error usage(std::string message) { return Error{ErrorCode::kUsage, std::move(message)}; }

std::optional<int> whole_number(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

}  // namespace

TensorGroup tensor_group(std::string_view name, TensorKind kind) {
  if (kind == TensorKind::kVector) return TensorGroup::kVector;
  if (kind == TensorKind::kTokenTable) return TensorGroup::kRouter;
  const std::string_view suffix = suffix_of(name);
  const auto any = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), suffix) != names.end();
  };
  if (any({"token_embd.weight"})) return TensorGroup::kEmbedding;
  if (any({"output.weight"})) return TensorGroup::kOutput;
  if (any({"hc_attn_fn.weight", "hc_ffn_fn.weight", "output_hc_fn.weight", "hc_head_fn.weight"}))
    return TensorGroup::kHyperConnection;
  if (any({"attn_q_a.weight", "attn_q_b.weight", "attn_kv.weight", "attn_output_a.weight", "attn_output_b.weight"}))
    return TensorGroup::kAttention;
  if (suffix.starts_with("attn_compressor_")) return TensorGroup::kCompressor;
  if (suffix.starts_with("indexer")) return TensorGroup::kIndexer;
  if (any({"ffn_gate_inp.weight"})) return TensorGroup::kRouter;
  if (any({"ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight"}))
    return TensorGroup::kSharedExperts;
  if (any({"ffn_gate_exps.weight", "ffn_up_exps.weight"})) return TensorGroup::kGateUp;
  if (any({"ffn_down_exps.weight"})) return TensorGroup::kDown;
  if (any({"e_proj.weight", "h_proj.weight", "nextn.e_proj.weight", "nextn.h_proj.weight", "nextn.eh_proj.weight"}))
    return TensorGroup::kMtpProjection;
  return TensorGroup::kOther;
}

std::string_view tensor_group_name(TensorGroup group) {
  constexpr std::array<std::string_view, kTensorGroups> kNames = {
      "embedding", "output matrix",  "hyper-connections",  "vectors",     "attention",       "compressors", "indexers",
      "router",    "shared experts", "routed gate and up", "routed down", "MTP projections", "other"};
  return kNames[static_cast<std::size_t>(group)];
}

bool is_mtp(std::string_view name) { return name.starts_with("mtp."); }

Result<std::vector<LayerRange>> parse_layer_ranges(std::string_view text) {
  std::vector<LayerRange> ranges;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    const std::string_view piece = text.substr(at, end - at);
    const std::size_t dash = piece.find('-');
    const auto first = whole_number(piece.substr(0, dash));
    const auto last = dash == piece.npos ? first : whole_number(piece.substr(dash + 1));
    if (!first || !last || *first > *last)
      return usage(cat("layers: expected numbers and ranges such as 37-42,5, found \"", escaped(text), "\""));
    ranges.push_back({*first, *last});
    at = end + 1;
  }
  return ranges;
}

Result<TypeOverride> parse_type_override(std::string_view text) {
  const std::size_t equals = text.rfind('=');
  const auto type = equals == text.npos ? std::nullopt : dtype_from_name(text.substr(equals + 1));
  if (!type || *type == DType::kI32 || equals == 0)
    return usage(cat("expected PATTERN=TYPE such as blk.*.attn_kv.weight=f16, found \"", escaped(text), "\""));
  return TypeOverride{std::string(text.substr(0, equals)), *type};
}

bool matches_pattern(std::string_view pattern, std::string_view name) {
  // On a mismatch the last * takes one more character: no other one has to be reconsidered.
  std::size_t p = 0, n = 0;
  std::size_t star = pattern.npos, taken = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      taken = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != pattern.npos) {
      p = star + 1;
      n = ++taken;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == pattern.npos;
}

Result<Recipe> Recipe::make(const RecipeOptions& options, int layers) {
  Recipe recipe;
  recipe.options_ = options;
  const std::string& name = options.name;
  if (!name.empty() && std::find(kRecipes.begin(), kRecipes.end(), name) == kRecipes.end())
    return usage(cat("recipe: expected q2, q2-q4, q4, mxfp4 or q8, found \"", escaped(name), "\""));
  for (const DType type : {options.type, options.experts.value_or(options.type)})
    if (!can_encode(type)) return usage(cat("cannot write type ", dtype_info(type).name));
  if (!options.q4_layers.empty() && name != "q2-q4") return usage("the layers of 4 bits belong to the recipe q2-q4");
  for (const LayerRange& range : options.q4_layers)
    if (range.last >= layers)
      return usage(cat("layers: expected numbers from 0 to ", layers - 1, ", found ", range.last));
  if (name == "q2-q4" && options.q4_layers.empty())
    recipe.options_.q4_layers = {{std::max(0, layers - kPublishedQ4Layers), layers - 1}};
  return recipe;
}

Recipe::Choice Recipe::choose(std::string_view name, TensorKind kind) const {
  if (kind == TensorKind::kVector) return {DType::kF32};
  if (kind == TensorKind::kTokenTable) return {DType::kI32};
  for (auto rule = options_.overrides.rbegin(); rule != options_.overrides.rend(); ++rule)
    if (matches_pattern(rule->pattern, name)) return {rule->type, true};
  if (!options_.name.empty()) return {published(name, kind)};
  const TensorGroup group = tensor_group(name, kind);
  const bool routed = group == TensorGroup::kGateUp || group == TensorGroup::kDown;
  return {routed ? options_.experts.value_or(options_.type) : options_.type};
}

DType Recipe::published(std::string_view name, TensorKind kind) const {
  switch (tensor_group(name, kind)) {
    case TensorGroup::kOutput:
    case TensorGroup::kAttention:
    case TensorGroup::kSharedExperts:
    case TensorGroup::kMtpProjection: return DType::kQ8_0;
    case TensorGroup::kGateUp: return routed(name, false);
    case TensorGroup::kDown: return routed(name, true);
    default: return DType::kF16;
  }
}

DType Recipe::routed(std::string_view name, bool down) const {
  if (options_.name == "q8") return DType::kQ8_0;
  if (options_.name == "mxfp4") return DType::kMXFP4;
  // The published draft block is Q4_K beside every model: it is small, and a draft that misses costs more than it
  // saves.
  if (options_.name == "q4" || is_mtp(name)) return DType::kQ4_K;
  const int layer = layer_of(name).value_or(-1);
  for (const LayerRange& range : options_.q4_layers)
    if (range.first <= layer && layer <= range.last) return DType::kQ4_K;
  return down ? DType::kQ2_K : DType::kIQ2_XXS;
}

DType Recipe::main_type() const {
  if (options_.name.empty()) return options_.type;
  if (options_.name == "q8") return DType::kQ8_0;
  if (options_.name == "mxfp4") return DType::kMXFP4;
  return options_.name == "q4" ? DType::kQ4_K : DType::kIQ2_XXS;
}

std::optional<std::string> Recipe::unused_override(const std::vector<std::string>& matrices) const {
  for (const TypeOverride& rule : options_.overrides) {
    const auto matched = [&](const std::string& name) { return matches_pattern(rule.pattern, name); };
    if (std::none_of(matrices.begin(), matrices.end(), matched)) return rule.pattern;
  }
  return std::nullopt;
}

}  // namespace ds4
