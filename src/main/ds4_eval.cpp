// ds4-eval: how good a model is. Flags in, reports out.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "base/text.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/model_path.h"
#include "cli/prompt_source.h"
#include "eval/compare.h"
#include "eval/nano.h"
#include "eval/report.h"

namespace {

using namespace ds4;  // a program of its own

constexpr const char* kItemsName = "ds4-nano.eval.jsonl";

constexpr const char* kDescription = "Measures models: the skills of the small one, and how far two files are apart.";

constexpr const char* kFooter = R"(
Examples:
  ds4-eval nano                                     the held-out skills of the model in the box
  ds4-eval nano --skill recall --failures           long-context recall alone, wrong answers shown
  ds4-eval compare f16.gguf q2.gguf --text book.txt how much the smaller file has lost
  ds4-eval compare a.gguf b.gguf --text - --json    the same for a program, the text from a pipe
  ds4-eval compare f16.gguf q2.gguf --dataset chats.txt --answers-only --chunk 8192
                                                    what it has lost where it is used: in its answers

Exit status: 0 done, 1 failure, 2 bad usage, 3 bad model file, 4 not enough memory, 5 no such
device, or it failed, 130 interrupted.)";

constexpr const char* kNanoFooter = R"(
Every request is rendered as a chat, answered greedily, and checked: tool calls against the schemas and
the right arguments, answers for what they must contain. None of it was trained on. Each share stands
with its 95 % interval (Wilson) and the share that the model in the box aims at.)";

constexpr const char* kCompareFooter = R"(
The text is cut into chunks, each computed by both models from a fresh start behind a BOS. Per token:
the negative log likelihood of both, the Kullback-Leibler divergence of B from A, and whether both have
the same first choice. Intervals are 95 % bootstrap intervals over blocks of tokens. Both files need the
same vocabulary. Without --text, --tokens-file and --dataset the text is standard input.

A data set is a text as `ds4 --imatrix-dataset` reads it: lines that begin with
===== DS4_IMATRIX_PROMPT separate documents, and special tokens in them count as such. Each document is
a fresh start, and is cut only where it is longer than --chunk. With --answers-only the rest of a
conversation is read, but only what the assistant writes is scored.)";

struct Common {
  EngineOptions engine;
  std::string kv = "fp8";
  bool json = false;
};

struct NanoFlags {
  std::string model;
  std::string items;
  std::string transcript;
  bool failures = false;
  eval::NanoOptions options;
};

struct CompareFlags {
  std::string a, b;
  std::string text;
  std::string tokens_file;
  std::string dataset;
  std::string scores;
  bool answers_only = false;
  std::int64_t limit = 0;
  eval::CompareOptions options;

  std::string input() const {
    for (const std::string* path : {&tokens_file, &dataset, &text})
      if (!path->empty()) return *path;
    return "-";
  }
};

void add_common(CLI::App& app, Common& common) {
  app.add_flag("--json", common.json, "Print the report as JSON");
  app.add_option("-t,--threads", common.engine.backend.threads, "Threads that compute")
      ->check(CLI::Range(1, 4096))
      ->option_text("N [one per core]");
  app.add_option("--backend", common.engine.backend.device, "cpu or reference (slow, exact)")
      ->option_text("NAME [cpu]");
  app.add_option("--kv", common.kv, "Rows of the KV state: fp8, f16 or f32")
      ->check(CLI::IsMember({"f32", "f16", "fp8"}))
      ->option_text("FORMAT [fp8]");
  app.add_flag("--quality", common.engine.backend.quality, "Exact kernels in place of fast ones");
}

void add_nano(CLI::App& app, NanoFlags& flags) {
  app.footer(kNanoFooter);
  app.add_option("-m,--model", flags.model, "The model; without it, the one that `ds4` would open")
      ->option_text("FILE");
  app.add_option("--items", flags.items, "What to ask; without it, the file beside the model in the box")
      ->option_text("FILE.jsonl");
  app.add_option("--skill", flags.options.only, "Only items whose skill begins like this: fact, tool, recall 1K, ...")
      ->option_text("NAME");
  app.add_option("-n,--tokens", flags.options.max_tokens, "Most tokens of an answer")
      ->check(CLI::Range(1, 100000))
      ->option_text("N [400]");
  app.add_flag("--failures", flags.failures, "Show what was answered wrong, before the report");
  app.add_option("--transcript", flags.transcript, "Write the token ids of all prompts and answers, as JSON lines")
      ->option_text("FILE");
}

void add_compare(CLI::App& app, CompareFlags& flags) {
  app.footer(kCompareFooter);
  app.add_option("A", flags.a, "The model to compare with")->required()->type_name("");
  app.add_option("B", flags.b, "The model that is judged")->required()->type_name("");
  auto* text = app.add_option("--text", flags.text, "The text; \"-\" is standard input")->option_text("FILE [-]");
  auto* tokens = app.add_option("--tokens-file", flags.tokens_file, "Decimal token ids in place of text")
                     ->option_text("FILE")
                     ->excludes(text);
  auto* dataset = app.add_option("--dataset", flags.dataset, "Documents in place of one text, each from a fresh start")
                      ->option_text("FILE")
                      ->excludes(text)
                      ->excludes(tokens);
  app.add_flag("--answers-only", flags.answers_only, "Score only what the assistant writes in the data set")
      ->needs(dataset);
  app.add_option("--scores", flags.scores, "Write the scores of every token, as CSV")->option_text("FILE");
  app.add_option("--limit", flags.limit, "Use only the first N tokens")->check(CLI::PositiveNumber)->option_text("N");
  app.add_option("--chunk", flags.options.chunk, "Tokens computed together")
      ->check(CLI::Range(2, 1 << 20))
      ->option_text("N [512]");
  app.add_option("--block", flags.options.block, "Tokens that the bootstrap draws together")
      ->check(CLI::Range(1, 1 << 20))
      ->option_text("N [64]");
}

Result<std::string> items_path(const std::string& asked) {
  if (!asked.empty()) return asked;
  for (const std::string& folder : cli::installed_model_folders(cli::executable_path())) {
    const std::filesystem::path path = std::filesystem::path(folder) / kItemsName;
    std::error_code error;
    if (std::filesystem::exists(path, error)) return path.string();
  }
  return Error{ErrorCode::kUsage, cat("there is no ", kItemsName, " beside this program: name one with --items")};
}

Result<std::unique_ptr<Engine>> load(cli::Console& console, const std::string& path, const EngineOptions& options) {
  console.progress(cat("loading ", escaped(path, 200)));
  DS4_ASSIGN_OR_RETURN(ModelFile file, open_model_file(path));
  auto engine = Engine::load(std::move(file), options);
  console.progress("");
  return engine;
}

Status write_text(const std::string& path, std::string_view text) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "wb"), std::fclose);
  if (file != nullptr && std::fwrite(text.data(), 1, text.size(), file.get()) == text.size() &&
      std::fclose(file.release()) == 0)
    return {};
  return Error{ErrorCode::kIo, cat(escaped(path, 4096), ": cannot write")};
}

Status nano(cli::Console& console, Common& common, NanoFlags& flags) {
  const bool searched = flags.model.empty();
  DS4_ASSIGN_OR_RETURN(const std::string model,
                       cli::find_model(flags.model, cli::installed_model_folders(cli::executable_path())));
  if (searched) std::fprintf(stderr, "ds4-eval: model %s\n", escaped(model, 4096).c_str());
  DS4_ASSIGN_OR_RETURN(const std::string path, items_path(flags.items));
  DS4_ASSIGN_OR_RETURN(const std::string text, cli::read_input(path));
  DS4_ASSIGN_OR_RETURN(const std::vector<eval::Item> items, eval::parse_items(text, escaped(path, 4096)));
  DS4_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, load(console, model, common.engine));

  std::string transcript;
  std::string failures;
  flags.options.cancel = &cli::interrupted();
  flags.options.on_exchange = [&](const eval::Exchange& exchange) {
    if (!flags.transcript.empty()) transcript += eval::exchange_json(exchange);
    if (flags.failures && !exchange.right) failures += eval::exchange_text(exchange);
  };
  cli::Progress progress(console, "asking");
  flags.options.progress = [&](std::int64_t done, std::int64_t total) {
    progress.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
  };
  DS4_ASSIGN_OR_RETURN(const eval::NanoReport report, eval::run_nano(*engine, items, flags.options));
  console.progress("");
  if (!flags.transcript.empty()) DS4_RETURN_IF_ERROR(write_text(flags.transcript, transcript));
  if (common.json) std::fputs(failures.c_str(), stderr);
  console.out(common.json ? eval::nano_json(report, model) : failures + eval::nano_text(report));
  return {};
}

Result<std::vector<eval::Document>> documents_of(const CompareFlags& flags, const Engine& engine) {
  DS4_ASSIGN_OR_RETURN(const std::string text, cli::read_input(flags.input()));
  std::vector<eval::Document> documents(1);
  if (!flags.tokens_file.empty()) {
    DS4_ASSIGN_OR_RETURN(documents[0].tokens, cli::parse_token_ids(text, escaped(flags.tokens_file, 4096)));
  } else if (engine.tokenizer() == nullptr) {
    return Error{ErrorCode::kUsage, "the first model has no tokenizer: give token ids with --tokens-file"};
  } else if (!flags.dataset.empty()) {
    DS4_ASSIGN_OR_RETURN(documents, eval::parse_dataset(text, *engine.tokenizer(), flags.answers_only, flags.dataset));
  } else {
    documents[0].tokens = engine.tokenizer()->encode_text(text, /*match_added=*/false);
  }
  if (flags.limit > 0) eval::limit_documents(documents, flags.limit);
  return documents;
}

Status same_vocabulary(const Engine& a, const Engine& b) {
  if (a.shape().dims.vocab != b.shape().dims.vocab) {
    return Error{ErrorCode::kUsage,
                 cat("the vocabularies differ: ", a.shape().dims.vocab, " and ", b.shape().dims.vocab, " tokens")};
  }
  if (a.tokenizer() == nullptr || b.tokenizer() == nullptr) return {};
  for (TokenId id = 0; id < a.tokenizer()->vocab_size(); ++id) {
    if (a.tokenizer()->token_bytes(id) != b.tokenizer()->token_bytes(id)) {
      return Error{ErrorCode::kUsage,
                   cat("the vocabularies differ: token ", id, " is \"", escaped(a.tokenizer()->token_bytes(id)),
                       "\" and \"", escaped(b.tokenizer()->token_bytes(id)), "\"")};
    }
  }
  return {};
}

Status compare(cli::Console& console, Common& common, CompareFlags& flags) {
  common.engine.all_logits = true;
  common.engine.context = flags.options.chunk;
  common.engine.snapshots = 0;
  DS4_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> a, load(console, flags.a, common.engine));
  DS4_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> b, load(console, flags.b, common.engine));
  DS4_RETURN_IF_ERROR(same_vocabulary(*a, *b));
  DS4_ASSIGN_OR_RETURN(const std::vector<eval::Document> documents, documents_of(flags, *a));
  if (a->tokenizer() != nullptr) flags.options.bos = a->tokenizer()->bos();
  DS4_ASSIGN_OR_RETURN(Session session_a, a->new_session());
  DS4_ASSIGN_OR_RETURN(Session session_b, b->new_session());
  cli::Progress progress(console, "scoring");
  flags.options.cancel = &cli::interrupted();
  flags.options.progress = [&](std::int64_t done, std::int64_t total) {
    progress.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
  };
  DS4_ASSIGN_OR_RETURN(const eval::TokenScores scores,
                       eval::score_documents(session_a, session_b, documents, flags.options));
  console.progress("");
  if (!flags.scores.empty()) DS4_RETURN_IF_ERROR(write_text(flags.scores, eval::scores_csv(scores)));
  const eval::Comparison result = eval::summarise(scores, flags.options.block);
  const eval::CompareNames names{flags.a, flags.b, flags.input() == "-" ? "standard input" : flags.input()};
  console.out(common.json ? eval::compare_json(result, names) : eval::compare_text(result, names));
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  Common common;
  NanoFlags nano_flags;
  CompareFlags compare_flags;
  CLI::App app(kDescription, "ds4-eval");
  app.footer(kFooter);
  app.require_subcommand(1);
  app.set_version_flag("--version", "ds4-eval " DS4_VERSION);
  CLI::App* nano_app = app.add_subcommand("nano", "Ask the held-out requests, and count what was right");
  CLI::App* compare_app = app.add_subcommand("compare", "Compare two model files, token by token");
  add_nano(*nano_app, nano_flags);
  add_compare(*compare_app, compare_flags);
  add_common(*nano_app, common);
  add_common(*compare_app, common);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  common.engine.kv = *kv_format_from_name(common.kv);
  cli::catch_interrupts();
  cli::Console console;
  Status status = nano_app->parsed() ? nano(console, common, nano_flags) : compare(console, common, compare_flags);
  console.progress("");
  if (status.ok()) status = console.finish();
  if (status.ok()) return 0;
  std::fprintf(stderr, "ds4-eval: error: %s\n", status.error().message.c_str());
  return exit_status(status.error().code);
}
