// ds4: one-shot answers and chat. Flags in, cli::Options out.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/text.h"
#include "cli/help.h"
#include "cli/program.h"

namespace {

using ds4::cat;
using ds4::cli::Options;

int fail(const std::string& message) {
  std::fprintf(stderr, "ds4: error: %s\n  ds4 --help explains the flags.\n", message.c_str());
  return ds4::exit_status(ds4::ErrorCode::kUsage);
}

/// The arguments as CLI11 takes them: ds4's "-sys" has one dash and several letters, and a text may begin with a dash.
std::vector<std::string> arguments(int argc, char** argv) {
  std::vector<std::string> out;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    if (argument == "-sys") argument = "--system";
    if (argument == "-p") argument = "--prompt";
    const bool takes_text = argument == "--system" || argument == "--prompt";
    if (takes_text && i + 1 < argc && argv[i + 1][0] == '-') argument += cat("=", argv[++i]);
    out.push_back(std::move(argument));
  }
  return out;
}

void add_options(CLI::App& app, Options& options, std::string& kv) {
  ds4::EngineOptions& engine = options.engine;
  app.add_option("-m,--model", options.model);
  app.add_flag("--inspect", options.inspect);
  app.add_flag("--verify", options.verify);
  app.add_flag("--warm-weights", options.warm_weights);

  app.add_option("-p,--prompt", options.prompt);
  app.add_option("--prompt-file", options.prompt_file);
  app.add_option("--system", options.system);
  app.add_flag_callback("--think", [&] { options.thinking = ds4::chat::Thinking::kThinking; });
  app.add_flag_callback("--think-max", [&] { options.thinking = ds4::chat::Thinking::kMax; });
  app.add_flag_callback("--nothink", [&] { options.thinking = ds4::chat::Thinking::kChat; });
  app.add_flag("--raw-prompt", options.raw_prompt);
  app.add_option("--tokens-file", options.tokens_file);
  app.add_flag("--print-tokens", options.print_tokens);

  app.add_option("-n,--tokens", options.max_tokens)->check(CLI::NonNegativeNumber);
  app.add_option("--temp", options.sampling.temperature);
  app.add_option("--top-k", options.sampling.top_k);
  app.add_option("--top-p", options.sampling.top_p);
  app.add_option("--min-p", options.sampling.min_p);
  app.add_option("--seed", options.sampling.seed);

  app.add_option("-c,--ctx", engine.context)->check(CLI::PositiveNumber);
  app.add_option("-t,--threads", engine.backend.threads)->check(CLI::Range(1, 4096));
  app.add_option("--backend", engine.backend.device);
  for (const char* name : {"cpu", "metal", "cuda", "rocm"}) {
    app.add_flag_callback(cat("--", name), [&engine, name] { engine.backend.device = name; });
  }
  app.add_option("--isa", engine.backend.isa);
  app.add_option_function<std::string>(
         "--cpu-pin", [&engine](const std::string& name) { engine.backend.pinning = *ds4::pinning_from_name(name); })
      ->check(CLI::IsMember({"auto", "on", "off"}));
  app.add_flag("--quality", engine.backend.quality);
  app.add_option("--prefill-chunk", engine.prefill_chunk)->check(CLI::PositiveNumber);
  app.add_option("--kv", kv)->check(CLI::IsMember({"f32", "f16", "fp8"}));

  app.add_flag("--dump-tokens", options.dump_tokens);
  app.add_option("--dump-logits", options.dump_logits);
  app.add_option("--dump-logprobs", options.dump_logprobs);
  app.add_option("--logprobs-top-k", options.logprobs_top_k);
  app.add_option("--perplexity-file", options.perplexity_file);
  app.add_option("--imatrix-dataset", options.imatrix_dataset);
  app.add_option("--imatrix-out", options.imatrix_out);
  app.add_option("--imatrix-max-prompts", options.imatrix_max_prompts)->check(CLI::PositiveNumber);
  app.add_option("--imatrix-max-tokens", options.imatrix_max_tokens)->check(CLI::PositiveNumber);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> given = arguments(argc, argv);
  for (std::size_t i = 0; i < given.size(); ++i) {
    if (given[i] == "-h" || given[i] == "--help") {
      const std::string topic = i + 1 < given.size() && !given[i + 1].starts_with('-') ? given[i + 1] : "";
      const auto text = ds4::cli::help(topic);
      if (!text) return fail(cat("no help on \"", ds4::escaped(topic), "\""));
      std::fputs(text->c_str(), stdout);
      return 0;
    }
    if (given[i] == "--version") {
      std::puts("ds4 " DS4_VERSION);
      return 0;
    }
  }

  Options options;
  std::string kv = "fp8";
  CLI::App app("ds4");
  app.set_help_flag();
  add_options(app, options, kv);
  try {
    std::vector<std::string> reversed(given.rbegin(), given.rend());  // what CLI11 wants
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    return fail(error.what());
  }
  options.engine.kv = *ds4::kv_format_from_name(kv);
  options.seed_given = app.count("--seed") > 0;
  return ds4::cli::run(std::move(options));
}
