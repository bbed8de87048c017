#include "cli/program.h"

#include "base/text.h"
#include "chat/render.h"
#include "cli/answer_printer.h"
#include "cli/chat_loop.h"
#include "cli/diagnostics.h"
#include "cli/inspect.h"
#include "cli/interrupt.h"
#include "cli/model_path.h"
#include "cli/prompt_source.h"
#include "cli/turn.h"
#include "engine/imatrix.h"

namespace ds4::cli {

namespace {

Error usage(std::string message) { return Error{ErrorCode::kUsage, std::move(message)}; }

/// Combinations that no single flag can refuse.
Status check(const Options& options) {
  const int sources = (options.prompt ? 1 : 0) + !options.prompt_file.empty() + !options.tokens_file.empty() +
                      !options.perplexity_file.empty() + !options.imatrix_dataset.empty();
  if (sources > 1)
    return usage("give one of --prompt, --prompt-file, --tokens-file, --perplexity-file and --imatrix-dataset");
  if (options.imatrix_dataset.empty() != options.imatrix_out.empty())
    return usage("--imatrix-dataset and --imatrix-out belong together");
  const bool needs_prompt =
      options.dump_tokens || !options.dump_logits.empty() || !options.dump_logprobs.empty() || options.print_tokens;
  if (needs_prompt && sources == 0)
    return usage("this needs a prompt: -p TEXT, --prompt-file FILE or --tokens-file IDS");
  if (options.logprobs_top_k < 1) return usage("--logprobs-top-k: expected at least 1");
  return check_sampling(options.sampling);
}

/// The tokens or the text that the flags name. Text becomes a chat unless it is to be taken as it is.
Result<PromptInput> read_prompt(Console& console, const Options& options, bool has_tokenizer, std::int64_t context) {
  if (!options.tokens_file.empty()) {
    DS4_ASSIGN_OR_RETURN(const std::string text, read_input(options.tokens_file));
    DS4_ASSIGN_OR_RETURN(std::vector<TokenId> tokens, parse_token_ids(text, options.tokens_file));
    return PromptInput(std::move(tokens));
  }
  if (!has_tokenizer) return usage("this model has no tokenizer: give token ids with --tokens-file");
  std::string text = options.prompt.value_or("");
  const bool from_file = !options.prompt_file.empty();
  if (from_file || text == "-") {
    DS4_ASSIGN_OR_RETURN(text, read_input(from_file ? options.prompt_file : "-"));
  }
  if (text.empty()) return usage("the prompt is empty");
  if (options.raw_prompt) return PromptInput(Prompt{{SegmentKind::kTrusted, std::move(text)}});
  chat::Conversation conversation = new_conversation(options.system);
  conversation.push_back(chat::text_message(chat::Role::kUser, std::move(text)));
  const chat::RenderOptions render{.thinking = allowed_thinking(console, options.thinking, context)};
  DS4_ASSIGN_OR_RETURN(Prompt prompt, chat::render(conversation, render));
  return PromptInput(std::move(prompt));
}

Result<std::vector<TokenId>> tokens_of(const PromptInput& input, const Tokenizer* tokenizer) {
  if (const auto* tokens = std::get_if<std::vector<TokenId>>(&input)) return *tokens;
  return tokenizer->encode(std::get<Prompt>(input));
}

Result<std::unique_ptr<Engine>> load_engine(Console& console, ModelFile file, const Options& options) {
  console.progress(cat("ds4: loading ", escaped(options.model, 200), " (", human_bytes(file.gguf.size()), ")"));
  EngineOptions engine_options = options.engine;
  engine_options.all_logits = !options.dump_logits.empty() || !options.perplexity_file.empty();
  if (!options.chats()) engine_options.snapshots = 0;  // nothing comes back to them
  Result<std::unique_ptr<Engine>> engine = Engine::load(std::move(file), engine_options);
  console.progress("");
  if (!engine.ok()) return engine;
  if (const std::string note = (*engine)->plan().note(); !note.empty()) console.warn(note);
  if (options.warm_weights) {
    Progress progress(console, "reading the weights");
    DS4_RETURN_IF_ERROR((*engine)->warm_weights(
        [&](std::uint64_t done, std::uint64_t total) { progress.update(done, total); }, &interrupted()));
  }
  return engine;
}

/// Answers one prompt. Token ids go out as ids when asked for, or when nothing can spell them.
Status answer(Console& console, const Engine& engine, Session& session, const PromptInput& prompt,
              const Options& options) {
  GenerateOptions generate;
  generate.sampling = options.sampling;
  generate.max_tokens = options.max_tokens;
  const Tokenizer* tokenizer = engine.tokenizer();
  if (tokenizer != nullptr) generate.stop = {tokenizer->eos()};

  std::optional<AnswerPrinter> printer;
  bool first = true;
  if (tokenizer != nullptr && !options.print_tokens) {
    const Prompt* text = std::get_if<Prompt>(&prompt);
    printer.emplace(console, *tokenizer, text != nullptr && !options.raw_prompt && chat::opens_thinking(*text));
    generate.on_token = [&](TokenId token) {
      printer->token(token);
      return true;
    };
  } else {
    generate.on_token = [&](TokenId token) {
      console.out(cat(first ? "" : " ", token));
      console.flush();
      first = false;
      return true;
    };
  }
  const Result<Turn> turn = run_turn(console, session, prompt, generate);
  if (printer) printer->finish();
  else if (!first) console.out("\n");
  console.flush();
  if (!turn.ok()) return turn.error();
  report_turn(console, *turn, generate, engine.context());
  if (turn->generate.stop == StopReason::kCancelled) return Error{ErrorCode::kCancelled, "interrupted"};
  return {};
}

Status run_perplexity(Console& console, Session& session, const Engine& engine, const Options& options) {
  if (engine.tokenizer() == nullptr) return usage("--perplexity-file: this model has no tokenizer");
  DS4_ASSIGN_OR_RETURN(const std::string text, read_input(options.perplexity_file));
  const std::vector<TokenId> tokens = engine.tokenizer()->encode_text(text, false);
  return perplexity(console, session, tokens, std::min(options.max_tokens, engine.context() - 31));
}

Status collect_imatrix(Console& console, ModelFile file, const Options& options) {
  DS4_ASSIGN_OR_RETURN(const std::string dataset, read_input(options.imatrix_dataset));
  ImatrixOptions collect;
  collect.dataset_name = options.imatrix_dataset;
  collect.max_prompts = options.imatrix_max_prompts;
  collect.max_tokens = options.imatrix_max_tokens;
  collect.cancel = &interrupted();
  ImatrixReport report;
  {
    Progress progress(console, "reading the data set");
    collect.progress = [&](std::uint64_t done, std::uint64_t total) { progress.update(done, total); };
    DS4_ASSIGN_OR_RETURN(report,
                         ds4::collect_imatrix(std::move(file), options.engine, dataset, options.imatrix_out, collect));
  }
  console.note(cat(escaped(options.imatrix_out, 4096), ": ", report.prompts, " prompts, ", report.tokens, " tokens, ",
                   report.experts - report.unseen, " of ", report.experts, " experts seen"));
  return {};
}

Status verify(Console& console, const ModelFile& file) {
  Progress progress(console, "verifying");
  DS4_ASSIGN_OR_RETURN(const VerifyReport report,
                       verify_model_file(file, &interrupted(), [&](std::uint64_t done, std::uint64_t total) {
                         progress.update(done, total);
                       }));
  console.out(cat("verified ", report.tensors, " tensors, ", human_bytes(report.bytes), ": every value is finite\n"));
  return {};
}

Status run_with(Console& console, Options& options) {
  DS4_RETURN_IF_ERROR(check(options));
  const bool searched = options.model.empty();
  DS4_ASSIGN_OR_RETURN(options.model, find_model(options.model, installed_model_folders(executable_path())));
  if (searched) console.note(cat("model ", escaped(options.model, 4096)));
  DS4_ASSIGN_OR_RETURN(ModelFile file, open_model_file(options.model));
  if (options.inspect) return inspect(console, file, options.engine);
  if (options.verify) return verify(console, file);

  const bool has_tokenizer = file.tokenizer.has_value();
  if (!has_tokenizer && !options.one_shot()) {
    return usage("this model has no tokenizer: it cannot chat, but takes token ids with --tokens-file");
  }
  if (options.dump_tokens) {
    const Tokenizer* tokenizer = has_tokenizer ? &*file.tokenizer : nullptr;
    DS4_ASSIGN_OR_RETURN(const PromptInput prompt, read_prompt(console, options, has_tokenizer, INT64_MAX));
    DS4_ASSIGN_OR_RETURN(const std::vector<TokenId> tokens, tokens_of(prompt, tokenizer));
    dump_tokens(console, tokenizer, tokens);
    return {};
  }

  if (!options.imatrix_dataset.empty()) return collect_imatrix(console, std::move(file), options);
  DS4_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, load_engine(console, std::move(file), options));
  if (!options.seed_given) options.sampling.seed = seed_from_clock();
  if (!options.one_shot() && options.perplexity_file.empty())
    return ChatLoop(console, std::move(engine), options).run();

  DS4_ASSIGN_OR_RETURN(Session session, engine->new_session());
  if (!options.perplexity_file.empty()) return run_perplexity(console, session, *engine, options);
  DS4_ASSIGN_OR_RETURN(const PromptInput prompt, read_prompt(console, options, has_tokenizer, engine->context()));
  if (!options.dump_logits.empty()) {
    DS4_ASSIGN_OR_RETURN(const std::vector<TokenId> tokens, tokens_of(prompt, engine->tokenizer()));
    return dump_logits(console, session, tokens, options.dump_logits);
  }
  if (!options.dump_logprobs.empty()) {
    DS4_RETURN_IF_ERROR([&]() -> Status {
      DS4_ASSIGN_OR_RETURN([[maybe_unused]] const SyncReport report, sync_with_progress(console, session, prompt));
      return {};
    }());
    return dump_logprobs(console, session, *engine, options.max_tokens, options.logprobs_top_k, options.dump_logprobs);
  }
  return answer(console, *engine, session, prompt, options);
}

}  // namespace

int run(Options options) {
  Console console;
  catch_interrupts();
  Status status = run_with(console, options);
  if (status.ok()) status = console.finish();
  if (status.ok()) return 0;
  if (status.error().code == ErrorCode::kCancelled) console.note(status.error().message);
  else console.error(status.error());
  return exit_status(status.error().code);
}

}  // namespace ds4::cli
