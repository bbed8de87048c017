#include "cli/help.h"

#include <utility>

namespace ds4::cli {

namespace {

constexpr std::string_view kOverview = R"(ds4: runs DeepSeek V4 (Flash, PRO) from one GGUF file, on this machine.

  ds4                                   chat with the model in ./ds4flash.gguf
  ds4 -m FILE -p "Why is the sky blue?" one question, one answer
  ds4 -m FILE --prompt-file notes.txt   the question is in a file
  git diff | ds4 -p - --nothink         ... or comes from a pipe ("-" is standard input)
  ds4 -m FILE --inspect                 what is in the file, and what it takes to run it

The answer goes to standard output; warnings, progress and speed go to standard error.
The model's thinking comes first, dimmed on a terminal, on a line of its own in a pipe;
--nothink goes without. Ctrl-C stops an answer, a second Ctrl-C the program.

More: ds4 --help TOPIC, with TOPIC one of
  model  prompt  sampling  runtime  commands  diagnostics  status  all
)";

constexpr std::string_view kModel = R"(Model
  -m, --model FILE     a DeepSeek V4 GGUF: the published q2, mixed, q4 and PRO files, llama.cpp's
                       deepseek4 files, or one made with ds4-quantize. Without -m: ds4flash.gguf
                       in this folder, then the model that was installed with ds4.
  --inspect            print metadata, tensors, sizes of the KV state and the memory plan
  --verify             read every weight once and look for NaN, infinity and bad routing tables
  --warm-weights       read all weights once before the first answer
)";

constexpr std::string_view kPrompt = R"(Prompt
  -p, --prompt TEXT    answer TEXT and leave; "-" reads standard input
  --prompt-file FILE   the same with the text of FILE; "-" as well
  -sys, --system TEXT  system prompt ["You are a helpful assistant"]; "" for none
  --think              think before answering [default]
  --think-max          think as long as it takes; needs -c 393216 or more, else as --think
  --nothink            answer at once
  --raw-prompt         the text alone, without chat markers; special tokens in it count
  --tokens-file FILE   decimal token ids in place of text, for models without a tokenizer
  --print-tokens       print the ids of the answer in place of its text
)";

constexpr std::string_view kSampling = R"(Sampling
  -n, --tokens N       most tokens of an answer [50000]
  --temp T             temperature [1]; 0 always takes the most probable token
  --top-k K            only the K most probable tokens [0: off]
  --top-p P            only the most probable tokens that together reach P [1: off]
  --min-p P            only tokens at least P times as probable as the best one [0.05]
  --seed N             the same seed, prompt and machine give the same answer [from the clock]
  The filters apply in this order: temperature, top-k, top-p, min-p.
)";

constexpr std::string_view kRuntime = R"(Runtime
  -c, --ctx N          tokens of context: prompt and answer together [32768, or the model's]
  -t, --threads N      threads that compute [one per core]
  --backend NAME       cpu, cuda, cuda:N or reference (slow, exact) [cpu]; --cpu is --backend cpu
                       Several share the layers: cuda:0,cuda:1; cuda:all is every card. Where the
                       first card is too small, cuda takes them all
  --isa NAME           instruction set of the cpu backend: scalar, avx2, avx512, neon [best]
  --cpu-pin auto|on|off
                       threads stay on a core each; auto: where all cores are free and used [auto]
  --quality            exact kernels in place of fast ones
  --prefill-chunk N    tokens of a prompt computed together [512; cuda: 4096 a card]
  --kv FORMAT          rows of the KV state: fp8 (the official rounding), f16, f32 [fp8]
  Memory is planned first: a context that does not fit is refused with what would.
)";

constexpr std::string_view kCommands = R"(Commands in the chat
  /help                this list
  /status              model, thinking, context in use
  /think /think-max /nothink
                       how the next answers are made
  /ctx N               a context of N tokens; the conversation stays
  /read FILE           send the text of FILE as your message
  /quit, /exit         leave; so does Ctrl-D on an empty line
Keys: arrows, Home, End, Ctrl-A/E/K/U/W as in a shell; Up and Down recall earlier lines.
Pasted text may have several lines; a line that ends in \ goes on in the next.
Ctrl-C clears the line, or stops the answer. History: $XDG_STATE_HOME/ds4/history
)";

constexpr std::string_view kDiagnostics = R"(Diagnostics
  --dump-tokens           print the tokens of the prompt, without running the model
  --dump-logits FILE      write the logits after every token of the prompt: float32,
                          little-endian, [tokens][vocabulary]
  --dump-logprobs FILE    write the greedy continuation (-n tokens) with the most probable
                          tokens of each step, as JSON
  --logprobs-top-k K      how many of them [20]
  --perplexity-file FILE  score the text of FILE
  --imatrix-dataset FILE  read the prompts of FILE (after lines "===== DS4_IMATRIX_PROMPT",
                          or all of it as one) and measure which columns of the experts matter
  --imatrix-out FILE      where to write that, for ds4-quantize --imatrix
  --imatrix-max-prompts N, --imatrix-max-tokens N
                          stop early
  --version               print the version
)";

constexpr std::string_view kStatus = R"(Exit status
  0 done   1 failure   2 bad usage   3 bad model file   4 not enough memory
  5 no such device, or it failed   130 interrupted
)";

constexpr std::pair<std::string_view, std::string_view> kTopics[] = {
    {"model", kModel},       {"prompt", kPrompt},           {"sampling", kSampling}, {"runtime", kRuntime},
    {"commands", kCommands}, {"diagnostics", kDiagnostics}, {"status", kStatus}};

}  // namespace

std::optional<std::string> help(std::string_view topic) {
  if (topic.empty()) return std::string(kOverview);
  std::string all(kOverview);
  for (const auto& [name, text] : kTopics) {
    if (name == topic) return std::string(text);
    all += "\n";
    all += text;
  }
  if (topic == "all") return all;
  return std::nullopt;
}

std::string_view chat_help() { return kCommands; }

}  // namespace ds4::cli
