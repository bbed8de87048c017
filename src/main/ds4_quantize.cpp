// ds4-quantize: an official checkpoint folder in, a model file out.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>

#include <CLI/CLI.hpp>

#include "base/cpus.h"
#include "base/text.h"
#include "convert/convert.h"

namespace {

std::atomic<bool> g_interrupted{false};

constexpr const char* kDescription =
    "Turns an official DeepSeek V4 checkpoint (config.json and safetensors) into one GGUF model file.";

constexpr const char* kFooter = R"(
The checkpoint folder holds config.json and either model.safetensors or shards with
model.safetensors.index.json. BF16, F32, FP8 (128x128 blocks) and FP4 weights are read;
tokenizer.json is taken along when it is there.

--type is that of the matrices. Norms, biases and other vectors stay f32 in every file.
  q8_0   8.5 bits a weight, hardly distinguishable from the original (default)
  bf16   16 bits, exact for weights published as BF16
  f16    16 bits, more mantissa and less range than bf16
  f32    32 bits, exact for every weight; for small models and for tests

Examples:
  ds4-quantize --hf DeepSeek-V4-Flash --out flash-q8_0.gguf
  ds4-quantize --hf tests/golden/data/tiny-bf16 --out tiny.gguf --type f32

The checkpoint is checked completely before anything is written, and the file gets its name
only when it is complete. Exit status: 0 done, 1 failure, 2 bad usage, 3 bad checkpoint,
130 interrupted.)";

/// One line on a terminal, redrawn at most ten times a second; nothing when stderr is a file.
class ProgressLine {
 public:
  ~ProgressLine() { clear(); }
  void show(std::uint64_t done, std::uint64_t total) {
    if (!terminal_) return;
    const auto now = std::chrono::steady_clock::now();
    if (done != total && now - shown_ < std::chrono::milliseconds(100)) return;
    shown_ = now;
    visible_ = true;
    const double percent = total == 0 ? 100.0 : 100.0 * static_cast<double>(done) / static_cast<double>(total);
    std::fprintf(stderr, "\r\033[K%5.1f %%  %s of %s", percent, ds4::human_bytes(done).c_str(),
                 ds4::human_bytes(total).c_str());
    std::fflush(stderr);
  }
  void clear() {
    if (visible_) std::fputs("\r\033[K", stderr);
    visible_ = false;
  }

 private:
  const bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  bool visible_ = false;
  std::chrono::steady_clock::time_point shown_{};
};

}  // namespace

int main(int argc, char** argv) {
  ds4::ConvertOptions options;
  options.threads = ds4::available_cpus();
  options.cancel = &g_interrupted;
  std::string type = "q8_0";
  std::string experts;

  CLI::App app(kDescription, "ds4-quantize");
  app.footer(kFooter);
  app.add_option("--hf", options.checkpoint, "The checkpoint folder")->required()->option_text("DIR");
  app.add_option("--out", options.output, "The model file to write")->required()->option_text("FILE");
  app.add_option("--type", type, "How matrices are stored: f32, f16, bf16 or q8_0")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0"}))
      ->option_text("TYPE [q8_0]");
  app.add_option("--experts", experts, "The same for the routed experts alone; also mxfp4 (4.25 bits, lossless from FP4)")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0", "mxfp4"}))
      ->option_text("TYPE [as --type]");
  app.add_option("-t,--threads", options.threads, "Threads that convert tensors")
      ->check(CLI::Range(1, 1024))
      ->option_text(ds4::cat("N [", options.threads, "]"));
  app.add_flag("--overwrite", options.overwrite, "Replace the file if it exists");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  options.type = *ds4::dtype_from_name(type);
  if (!experts.empty()) options.experts = ds4::dtype_from_name(experts);

  std::signal(SIGINT, [](int) { g_interrupted.store(true, std::memory_order_relaxed); });
  const auto start = std::chrono::steady_clock::now();
  ProgressLine line;
  ds4::ConvertEvents events;
  events.note = [&](std::string_view text) {
    std::fprintf(stderr, "note: %.*s\n", static_cast<int>(text.size()), text.data());
  };
  events.progress = [&](std::uint64_t done, std::uint64_t total) { line.show(done, total); };
  const auto report = ds4::convert_checkpoint(options, events);
  line.clear();
  if (!report.ok()) {
    std::fprintf(stderr, "ds4-quantize: %s\n", report.error().message.c_str());
    return ds4::exit_status(report.error().code);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::fprintf(stderr, "%s: %zu tensors, %s from %s in %.1f s\n", options.output.c_str(), report->tensors,
               ds4::human_bytes(report->output_bytes).c_str(), ds4::human_bytes(report->input_bytes).c_str(), seconds);
  return 0;
}
