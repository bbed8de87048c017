// ds4-synth-model: a model file with Flash's shapes and random weights, for benchmarks and tests.
#include <atomic>
#include <csignal>
#include <cstdio>
#include <string>

#include <CLI/CLI.hpp>

#include "base/cpus.h"
#include "base/text.h"
#include "convert/synth_model.h"

namespace {
std::atomic<bool> g_interrupted{false};
}  // namespace

int main(int argc, char** argv) {
  ds4::SynthOptions options;
  options.threads = ds4::available_cpus();
  options.cancel = &g_interrupted;
  std::string mix = "q2";

  CLI::App app("Writes a model file of random weights with the shapes of DeepSeek V4 Flash, for benchmarks and tests.",
               "ds4-synth-model");
  app.footer(
      "Every dimension but the layers and the experts is Flash's own, so one layer costs what it costs\n"
      "in the real model. Tokens are single bytes.\n\n"
      "Examples:\n"
      "  ds4-synth-model four-layers.gguf --layers 4     9.5 GB, runs on a laptop\n"
      "  ds4-synth-model flash.gguf --sparse             81 GiB in a directory listing, 3 MB on disk");
  app.add_option("OUT", options.output, "The file to write")->required()->type_name("");
  app.add_option("--layers", options.layers, "Layers")->option_text("N [43]");
  app.add_option("--experts", options.experts, "Routed experts of a layer")->option_text("N [256]");
  app.add_option("--mix", mix, "Experts as in the published q2 or q4 files")
      ->check(CLI::IsMember({"q2", "q4"}))
      ->option_text("q2|q4 [q2]");
  app.add_option("--seed", options.seed, "Seed of the weights")->option_text("N [1]");
  app.add_flag("--sparse", options.sparse, "Write the header and a hole of the right size");
  app.add_flag("--overwrite", options.overwrite, "Replace the file if it exists");
  app.add_option("-t,--threads", options.threads, "Threads")->check(CLI::Range(1, 1024))->option_text("N");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  options.mix = mix == "q2" ? ds4::SynthOptions::Mix::kQ2 : ds4::SynthOptions::Mix::kQ4;

  std::signal(SIGINT, [](int) { g_interrupted.store(true, std::memory_order_relaxed); });
  const auto report = ds4::write_synth_model(options);
  if (!report.ok()) {
    std::fprintf(stderr, "ds4-synth-model: %s\n", report.error().message.c_str());
    return ds4::exit_status(report.error().code);
  }
  std::fprintf(stderr, "%s: %zu tensors, %s\n", options.output.c_str(), report->tensors,
               ds4::human_bytes(report->bytes).c_str());
  return 0;
}
