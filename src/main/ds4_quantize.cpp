// ds4-quantize: a checkpoint folder or a model file in, a model file out; and how two model files differ.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/cpus.h"
#include "base/text.h"
#include "convert/compare.h"
#include "convert/convert.h"

namespace {

using ds4::cat;

std::atomic<bool> g_interrupted{false};

constexpr const char* kDescription =
    "Turns an official DeepSeek V4 checkpoint (config.json and safetensors), or a GGUF model file, into one GGUF "
    "model file in another precision.";

constexpr const char* kFooter = R"(
The checkpoint folder holds config.json and either model.safetensors or shards with
model.safetensors.index.json. BF16, F32, FP8 (128x128 blocks) and FP4 weights are read;
tokenizer.json is taken along when it is there.

Recipes: routed experts as named, everything else as in the published files (attention, shared
experts and output matrix q8_0; embedding, router, compressors, indexers and hyper-connections f16;
norms, biases and other vectors f32).
  q2     gate and up iq2_xxs, down q2_k: 2.2 bits a weight       81 GiB for Flash
  q2-q4  the same, but some layers q4_k (--q4-layers)            91 GiB
  q4     q4_k: 4.5 bits                                         153 GiB
  mxfp4  4.25 bits, lossless from the official FP4              145 GiB
  q8     q8_0: 8.5 bits
Without a recipe, --type is that of all matrices and --experts that of the routed experts:
  f32 f16 bf16 q8_0 q4_k q2_k iq2_xxs mxfp4

Examples:
  ds4-quantize --in DeepSeek-V4-Flash --out flash-q2.gguf --recipe q2 --imatrix flash.dat
  ds4-quantize --in DeepSeek-V4-Flash --recipe q2-q4 --q4-layers 37-42 --dry-run
  ds4-quantize --in model-f16.gguf --out m.gguf --recipe q4 --tensor 'blk.*.attn_kv.weight=f16'
  ds4-quantize --compare model-f16.gguf m.gguf

The input is checked completely before anything is written, and the file gets its name only when it
is complete. An interrupted run leaves FILE.part and FILE.journal: the same command goes on from
there. `ds4 --imatrix-dataset` makes importance matrices. Exit status: 0 done, 1 failure, 2 bad
usage, 3 bad input, 130 interrupted.)";

std::string duration(double seconds) {
  const auto whole = static_cast<long>(seconds + 0.5);
  if (whole >= 3600) return cat(whole / 3600, " h ", whole % 3600 / 60, " min");
  if (whole >= 60) return cat(whole / 60, " min ", whole % 60, " s");
  return cat(whole, " s");
}

/// One line on a terminal, redrawn at most ten times a second; nothing when stderr is a file.
class ProgressLine {
 public:
  ~ProgressLine() { clear(); }
  /// `work` goes from 0 to 1; `what` is said besides.
  void show(double work, const std::string& what) {
    if (!terminal_) return;
    const auto now = std::chrono::steady_clock::now();
    if (work < 1 && now - shown_ < std::chrono::milliseconds(100)) return;
    shown_ = now;
    visible_ = true;
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    const bool tells = elapsed > 2 && work > 0;  // the first seconds promise nothing
    const std::string left = tells ? cat("  ", duration(elapsed * (1 - work) / work), " left") : "";
    std::fprintf(stderr, "\r\033[K%5.1f %%  %s%s", 100 * work, what.c_str(), left.c_str());
    std::fflush(stderr);
  }
  void clear() {
    if (visible_) std::fputs("\r\033[K", stderr);
    visible_ = false;
  }

 private:
  const bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  bool visible_ = false;
  std::chrono::steady_clock::time_point shown_{};
};

int fail(const ds4::Error& error) {
  std::fprintf(stderr, "ds4-quantize: %s\n", error.message.c_str());
  return ds4::exit_status(error.code);
}

struct Flags {
  ds4::ConvertOptions convert;
  std::string type = "q8_0";
  std::string experts;
  std::string q4_layers;
  std::vector<std::string> overrides;
  std::vector<std::string> compare;
  bool dry_run = false;
};

void add_options(CLI::App& app, Flags& flags) {
  constexpr const char* kTypes = "f32, f16, bf16, q8_0, q4_k, q2_k, iq2_xxs or mxfp4";
  const auto types = CLI::IsMember({"f32", "f16", "bf16", "q8_0", "q4_k", "q2_k", "iq2_xxs", "mxfp4"});
  ds4::ConvertOptions& convert = flags.convert;
  app.add_option("--in,--hf", convert.input, "A checkpoint folder, or a GGUF file")->option_text("PATH");
  app.add_option("--out", convert.output, "The model file to write")->option_text("FILE");
  app.add_option("--recipe", convert.recipe.name, "q2, q2-q4, q4, mxfp4 or q8, see below")->option_text("NAME");
  app.add_option("--q4-layers", flags.q4_layers, "The layers of q2-q4 with 4 bits, as 37-42,5")
      ->option_text("LAYERS [the last 6]");
  app.add_option("--type", flags.type, cat("Without a recipe: how matrices are stored: ", kTypes))
      ->check(types)
      ->option_text("TYPE [q8_0]");
  app.add_option("--experts", flags.experts, "The same for the routed experts alone")
      ->check(types)
      ->option_text("TYPE [as --type]");
  app.add_option("--tensor", flags.overrides, "A type for the matrices whose names match (* and ?); may be repeated")
      ->option_text("PATTERN=TYPE")
      ->allow_extra_args(false);
  app.add_option("--imatrix", convert.imatrix, "An importance matrix: which columns matter most")->option_text("FILE");
  app.add_flag("--dry-run", flags.dry_run, "Check everything and print the sizes; write nothing");
  app.add_option("--compare", flags.compare, "How far the weights of B are from those of A, worst first")
      ->expected(2)
      ->option_text("A B");
  app.add_option("-t,--threads", convert.threads, "Threads")
      ->check(CLI::Range(1, 1024))
      ->option_text(cat("N [", convert.threads, "]"));
  app.add_flag("--overwrite", convert.overwrite, "Replace the file if it exists");
}

/// What CLI11 cannot check.
ds4::Status finish(const CLI::App& app, Flags& flags) {
  const auto usage = [](std::string message) { return ds4::Error{ds4::ErrorCode::kUsage, std::move(message)}; };
  ds4::RecipeOptions& recipe = flags.convert.recipe;
  if (!flags.compare.empty()) {
    if (!flags.convert.input.empty() || !flags.convert.output.empty())
      return usage("--compare takes two model files and no --in or --out");
    return {};
  }
  if (flags.convert.input.empty()) return usage("--in is required: a checkpoint folder or a GGUF file");
  if (flags.convert.output.empty() && !flags.dry_run) return usage("--out is required: the model file to write");
  if (!recipe.name.empty() && (app.count("--type") > 0 || app.count("--experts") > 0))
    return usage("--recipe chooses the types: use it without --type and --experts, exceptions with --tensor");
  recipe.type = *ds4::dtype_from_name(flags.type);
  if (!flags.experts.empty()) recipe.experts = ds4::dtype_from_name(flags.experts);
  if (!flags.q4_layers.empty()) {
    DS4_ASSIGN_OR_RETURN(recipe.q4_layers, ds4::parse_layer_ranges(flags.q4_layers));
  }
  for (const std::string& text : flags.overrides) {
    DS4_ASSIGN_OR_RETURN(ds4::TypeOverride rule, ds4::parse_type_override(text));
    recipe.overrides.push_back(std::move(rule));
  }
  return {};
}

int print_plan(const Flags& flags, const ds4::ConvertEvents& events) {
  const auto plan = ds4::plan_conversion(flags.convert, events);
  if (!plan.ok()) return fail(plan.error());
  std::printf("%-20s %-16s %8s %18s %18s %12s\n", "group", "types", "tensors", "elements", "bytes", "");
  for (const ds4::PlanLine& line : *plan)
    std::printf("%-20s %-16s %8zu %18llu %18llu %12s\n", line.group.c_str(), line.types.c_str(), line.tensors,
                static_cast<unsigned long long>(line.elements), static_cast<unsigned long long>(line.bytes),
                ds4::human_bytes(line.bytes).c_str());
  return 0;
}

void print_names(const char* what, const std::vector<std::string>& names) {
  for (const std::string& name : names) std::printf("%s: %s\n", what, ds4::escaped(name).c_str());
}

int print_comparison(const Flags& flags, ProgressLine& line) {
  ds4::CompareOptions options;
  options.threads = flags.convert.threads;
  options.cancel = &g_interrupted;
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    line.show(total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total), "compared");
  };
  const auto result = ds4::compare_models(flags.compare[0], flags.compare[1], options);
  line.clear();
  if (!result.ok()) return fail(result.error());
  std::printf("%-8s %-8s %14s %12s  %s\n", "A", "B", "relative RMS", "cosine", "tensor");
  for (const ds4::TensorDifference& tensor : result->tensors)
    std::printf("%-8s %-8s %14.6f %12.8f  %s\n", std::string(ds4::dtype_info(tensor.type_a).name).c_str(),
                std::string(ds4::dtype_info(tensor.type_b).name).c_str(), tensor.relative_rms, tensor.cosine,
                ds4::escaped(tensor.name).c_str());
  print_names("only in A", result->only_a);
  print_names("only in B", result->only_b);
  print_names("another shape", result->other_shape);
  return 0;
}

int convert(const Flags& flags, const ds4::ConvertEvents& events, ProgressLine& line) {
  const auto start = std::chrono::steady_clock::now();
  const auto report = ds4::convert_model(flags.convert, events);
  line.clear();
  if (!report.ok()) return fail(report.error());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string resumed = report->resumed > 0 ? cat(" (", report->resumed, " were there)") : "";
  std::fprintf(stderr, "%s: %zu tensors%s, %s from %s in %.1f s\n", flags.convert.output.c_str(), report->tensors,
               resumed.c_str(), ds4::human_bytes(report->output_bytes).c_str(),
               ds4::human_bytes(report->input_bytes).c_str(), seconds);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  flags.convert.threads = ds4::available_cpus();
  flags.convert.cancel = &g_interrupted;
  CLI::App app(kDescription, "ds4-quantize");
  app.footer(kFooter);
  add_options(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (const ds4::Status status = finish(app, flags); !status.ok()) return fail(status.error());

  for (const int signal : {SIGINT, SIGTERM})
    std::signal(signal, [](int) { g_interrupted.store(true, std::memory_order_relaxed); });
  ProgressLine line;
  ds4::ConvertEvents events;
  events.note = [&](std::string_view text) {
    line.clear();
    std::fprintf(stderr, "note: %.*s\n", static_cast<int>(text.size()), text.data());
  };
  events.progress = [&](const ds4::ConvertProgress& progress) {
    line.show(progress.work, cat(ds4::human_bytes(progress.bytes), " of ", ds4::human_bytes(progress.total_bytes)));
  };
  if (!flags.compare.empty()) return print_comparison(flags, line);
  return flags.dry_run ? print_plan(flags, events) : convert(flags, events, line);
}
