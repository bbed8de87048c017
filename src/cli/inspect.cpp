#include "cli/inspect.h"

#include <algorithm>
#include <map>
#include <string>

#include "base/text.h"

namespace ds4::cli {

namespace {

std::string padded(std::string text, std::size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

void row(Console& console, std::string_view name, std::string_view value) {
  console.out(cat(padded(std::string(name), 12), value, "\n"));
}

std::string shown_value(const gguf::File& file, const gguf::Value& value) {
  if (value.type == gguf::ValueType::kArray) {
    return cat("[", value.count, " x ", gguf::value_type_name(value.element), "]");
  }
  if (const auto text = file.get_string(value.key); text.ok() && *text) return cat("\"", escaped(**text, 64), "\"");
  if (const auto flag = file.get_bool(value.key); value.type == gguf::ValueType::kBool && flag.ok() && *flag) {
    return cat(**flag);
  }
  if (const auto whole = file.get_uint(value.key); whole.ok() && *whole) return cat(**whole);
  if (const auto real = file.get_float(value.key); real.ok() && *real) return cat(**real);
  return std::string(gguf::value_type_name(value.type));
}

void print_metadata(Console& console, const gguf::File& file) {
  console.out("\nMetadata\n");
  for (const gguf::Value& value : file.values()) {
    console.out(cat("  ", padded(escaped(value.key), 44), " ", shown_value(file, value), "\n"));
  }
}

void print_shape(Console& console, const ModelFile& file) {
  const ModelShape& shape = file.shape;
  const Dims& dims = shape.dims;
  int window = 0, sparse = 0, heavy = 0, hashed = 0;
  for (const LayerShape& layer : shape.layers) {
    window += layer.kind == LayerKind::kWindow;
    sparse += layer.kind == LayerKind::kCompressedSparse;
    heavy += layer.kind == LayerKind::kHeavilyCompressed;
    hashed += layer.hash_routed;
  }
  row(console, "model", shape.name.empty() ? "(no name)" : escaped(shape.name));
  row(console, "file",
      cat(escaped(file.gguf.path(), 4096), ", ", human_bytes(file.gguf.size()), ", ", file.gguf.tensors().size(),
          " tensors"));
  row(console, "layers",
      cat(shape.layers.size(), ": ", window, " window, ", sparse, " compressed sparse, ", heavy,
          " heavily compressed; ", hashed, " routed by hash",
          shape.mtp_layers > 0 ? cat("; ", shape.mtp_layers, " for drafting") : std::string()));
  row(console, "width", cat("hidden ", dims.hidden, ", ", dims.hc, " streams, vocabulary ", dims.vocab));
  row(console, "attention",
      cat(dims.heads, " heads of ", dims.head_dim, " (", dims.rope_dim, " rotating), query rank ", dims.q_lora,
          ", output ", dims.o_groups, " groups of ", dims.o_lora, ", window ", dims.window));
  row(console, "indexer", cat(dims.index_heads, " heads of ", dims.index_dim, ", top ", dims.index_topk));
  row(console, "experts",
      cat(dims.experts, ", ", dims.experts_used, " used, inner ", dims.expert_ff, "; shared inner ", dims.shared_ff));
  row(console, "context", cat(shape.context_length, " tokens trained"));
  row(console, "tokenizer",
      file.tokenizer ? cat(file.tokenizer->vocab_size(), " tokens") : "none: works with token ids");
}

/// "blk.17.attn_kv.weight" -> "blk.N.attn_kv.weight".
std::string without_layer(std::string_view name) {
  const std::size_t dot = name.find('.', 4);
  if (!name.starts_with("blk.") || dot == std::string_view::npos) return std::string(name);
  return cat("blk.N", name.substr(dot));
}

void print_tensors(Console& console, const gguf::File& file) {
  struct Group {
    std::size_t order = 0;
    int count = 0;
    std::uint64_t bytes = 0;
  };
  std::map<std::pair<std::string, std::string>, Group> groups;  // by name without layer, and shape
  std::map<std::string_view, std::uint64_t> types;
  for (const gguf::TensorInfo& tensor : file.tensors()) {
    Group& group = groups[{without_layer(tensor.name), gguf::describe(tensor)}];
    if (group.count++ == 0) group.order = groups.size();
    group.bytes += tensor.data.size();
    types[dtype_info(tensor.type).name] += tensor.data.size();
  }
  std::vector<std::pair<std::pair<std::string, std::string>, Group>> sorted(groups.begin(), groups.end());
  std::ranges::sort(sorted, {}, [](const auto& entry) { return entry.second.order; });

  console.out("\nTensors\n");
  for (const auto& [key, group] : sorted) {
    console.out(cat("  ", padded(escaped(key.first), 40), " ", padded(cat(group.count, " x"), 6),
                    padded(key.second, 30), " ", human_bytes(group.bytes), "\n"));
  }
  console.out("  in all:");
  const char* comma = " ";
  for (const auto& [type, bytes] : types) {
    console.out(cat(comma, type, " ", human_bytes(bytes)));
    comma = ", ";
  }
  console.out("\n");
}

Status print_kv(Console& console, const ModelFile& file, EngineOptions options) {
  console.out("\nKV state of one conversation\n  ");
  console.out(padded("context", 12));
  constexpr KvFormat kFormats[] = {KvFormat::kPacked, KvFormat::kF16, KvFormat::kF32};
  for (const KvFormat format : kFormats) console.out(padded(std::string(kv_format_name(format)), 14));
  console.out("\n");
  const std::int64_t trained = file.shape.context_length;
  std::vector<std::int64_t> contexts = {4096, 32768, 131072, 1048576};
  std::erase_if(contexts, [&](std::int64_t context) { return context > trained; });
  if (contexts.empty()) contexts.push_back(trained);
  options.snapshots = 0;
  for (const std::int64_t context : contexts) {
    options.context = context;
    console.out(cat("  ", padded(cat(context), 12)));
    for (const KvFormat format : kFormats) {
      options.kv = format;
      DS4_ASSIGN_OR_RETURN(const EnginePlan plan, plan_engine(file, options));
      console.out(padded(human_bytes(plan.memory.kv_pages + plan.memory.kv_tails), 14));
    }
    console.out("\n");
  }
  return {};
}

}  // namespace

Status inspect(Console& console, const ModelFile& file, const EngineOptions& options) {
  print_shape(console, file);
  print_metadata(console, file.gguf);
  print_tensors(console, file.gguf);
  DS4_RETURN_IF_ERROR(print_kv(console, file, options));

  DS4_ASSIGN_OR_RETURN(const EnginePlan plan, plan_engine(file, options));
  console.out("\nMemory with these options\n");
  const auto line = [&](std::string_view name, std::string_view value) {
    console.out(cat("  ", padded(std::string(name), 20), value, "\n"));
  };
  line("backend", plan.backend);
  line("context", cat(plan.model.context, " tokens, KV rows as ", kv_format_name(plan.model.kv)));
  line("KV state", human_bytes(plan.memory.kv_pages + plan.memory.kv_tails));
  line("buffers", human_bytes(plan.memory.scratch));
  line("weights copied", human_bytes(plan.memory.weights));
  line("weights mapped", cat(human_bytes(plan.memory.weights_mapped), " (read from the file when needed)"));
  line("needed", human_bytes(plan.need()));
  line("available", plan.available ? human_bytes(*plan.available) : std::string("unknown"));
  if (!plan.fits()) console.warn(plan.refusal().message);
  else if (const std::string note = plan.note(); !note.empty()) console.warn(note);
  return {};
}

}  // namespace ds4::cli
