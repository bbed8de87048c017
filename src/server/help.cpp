#include "server/help.h"

#include <utility>

namespace ds4::server {

namespace {

constexpr std::string_view kOverview =
    R"(ds4-server: DeepSeek V4 behind the APIs that agents and chat programs speak.

  ds4-server                        serve ./ds4flash.gguf on http://127.0.0.1:8000
  ds4-server -m FILE -c 131072      another model, a longer context
  http://127.0.0.1:8000             in a browser: a chat, and how the server is doing
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \
       -d '{"messages":[{"role":"user","content":"Why is the sky blue?"}]}'

Point a client at it:
  OpenAI SDKs, opencode, Pi   OPENAI_BASE_URL=http://127.0.0.1:8000/v1  (any key)
  Codex                       base_url = "http://127.0.0.1:8000/v1", wire_api = "responses"
  Claude Code                 ANTHROPIC_BASE_URL=http://127.0.0.1:8000  ANTHROPIC_AUTH_TOKEN=any

Many conversations are answered at once, and what two prompts have in common is computed once: clients
simply send the whole conversation every time. Beyond this machine a key is needed (--api-key-file).
SIGTERM or Ctrl-C finishes running answers first; the second one does not.

More: ds4-server --help TOPIC, with TOPIC one of
  api  network  model  sampling  requests  tools  disk  testing  status  all
)";

constexpr std::string_view kApi = R"(What is served
  POST /v1/chat/completions     OpenAI chat: text, thinking (reasoning_content), tools, streams, logprobs
  POST /v1/completions          a text or token ids, continued
  POST /v1/responses            OpenAI responses, without state: the whole input every time
  POST /v1/messages             Anthropic messages; /v1/messages/count_tokens
  GET  /v1/models, /v1/models/NAME
  GET  /health                  200, or 503 while loading, stopping, or after a fault of the device (with
                                the device and the fault); needs no key
  GET  /metrics                 for Prometheus
  GET  /props  POST /tokenize  POST /detokenize
  GET  /                        a web page: chat, and the server's numbers as graphs
Any model name is accepted; "deepseek-chat" answers without thinking, "deepseek-reasoner" with it.
A field that would change the answer and is not served is an error that names it; others are
ignored and logged once.
)";

constexpr std::string_view kNetwork = R"(Network
  --host ADDRESS        address to listen on [127.0.0.1]
  --port N              [8000]; 0 takes a free one and logs it
  --api-key KEY         accept this key, as bearer token or x-api-key; may be given several times.
                        Your shell remembers it: prefer the next two
  --api-key-file FILE   keys, one a line          DS4_API_KEY   a key in the environment
  --no-api-key          listen beyond loopback without any key
  --tls-cert FILE       speak HTTPS with this certificate and its chain (PEM), TLS 1.2 or newer
  --tls-key FILE        its key (PEM, no passphrase); SIGHUP reads both again
                        (--ssl-cert-file and --ssl-key-file are llama-server's names for them)
  --allow-host NAME     serve requests for this Host, besides localhost and 127.0.0.1; "*" for any
  --cors-origin ORIGIN  pages of this origin may call; --cors for any
  --max-connections N   [1024]   --max-body-mb N   [16]
  --keepalive-seconds S a stream never stays silent longer [5]
  --head-seconds S  --body-seconds S  --idle-seconds S
                        how long a request's head and body may take [10, 10 and a second more for
                        each 64 KiB], and how long a connection may wait for the next one [75]
A socket from systemd (a .socket unit with ListenStream=ADDRESS:PORT) takes the place of --host and
--port, and the same rules hold for its address.
)";

constexpr std::string_view kModel = R"(Model and memory
  -m, --model FILE      without it ds4flash.gguf in this folder, then the one installed with ds4
  --model-id NAME       its name in /v1/models [the file's]
  -c, --ctx N           tokens of context, prompt and answer together [32768, or the model's]
  --parallel N          answers in work at once [4, or as many as memory has room for]
                        (--batched-session is ds4's name for it)
  --resume-points N     KV states kept for prompts to come, for each of these [3]
  -t, --threads N       threads that compute [one per core]
  --backend NAME        cpu, cuda, cuda:N, cuda:all or reference [cpu]; --cpu, --cuda, --metal, --rocm
                        for short. Several, with commas, share the layers
  --isa NAME  --cpu-pin WHEN  --quality as in ds4
  --prefill-chunk N     most tokens of a prompt computed together [512; cuda: 4096 a card]
  --mixed-prefill-quantum N  the same while other answers are being written [128]
  --kv FORMAT           rows of the KV state: fp8, f16, f32 [fp8]
  --warm-weights        read all weights before serving
)";

constexpr std::string_view kSampling = R"(Where a request says nothing
  -n, --tokens N        most tokens of an answer [393216]; never more than the context has room for
  --temp T  --top-k K  --top-p P  --min-p P     [1, 0, 1, 0.05], as in ds4 --help sampling
  --think --think-max --nothink                 [--think]
A request's own values count in thinking as well. Tags and names of tool calls are always sampled
greedily, their text as the request says.
)";

constexpr std::string_view kRequests = R"(Requests
  --max-queue N         requests that may wait [64]; one more gets a 429
  --drain-seconds S     time for running answers after SIGTERM [30]
  --trace FILE          append requests, settings, prompts, sampled text and answers, readable
  --quiet               no log lines
  --chdir DIR           work in this folder
)";

constexpr std::string_view kTools = R"(Tools
Calls come back from clients as JSON. The bytes that the model wrote are kept by the ids of the
calls, so that the prompt of the next turn is what was already computed.
  --disable-exact-dsml-tool-replay   write them anew from the JSON
  --tool-memory-max-ids N            ids that are kept [100000]
)";

constexpr std::string_view kDisk = R"(States on disk
What has been computed of conversations is kept in a folder, so that a server that was stopped or killed
goes on where it was. It is a cache: it may be deleted at any time. Several servers may share it.
  --kv-disk-dir DIR         keep states and tool calls here; made if it is missing [nothing is kept]
  --kv-disk-space-mb N      most space they take; the least useful go first [4096]
  --kv-cache-min-tokens N   shorter beginnings are neither kept nor looked for [128]
  --kv-cache-continued-interval-tokens N  tokens between resume points of long prompts [8192]
States are only used by the same model, KV format, backend and instruction set that wrote them.
  ds4-server kv ls --kv-disk-dir DIR         what is there, a line for every conversation
  ds4-server kv verify --kv-disk-dir DIR     reads every byte; exit status 1 when something is broken
  ds4-server kv rm --kv-disk-dir DIR ID...   removes conversations, or everything with --all
)";

constexpr std::string_view kTesting = R"(Testing clients
  --script FILE         answers come from FILE, tokenized, streamed and parsed as those of the model:
                        {"rules": [{"when": "text of the last turn", "reasoning": "...", "reply": "...",
                                    "token_ms": 0, "prompt_ms": 0, "fail_at": 10}]}
                        The first rule whose "when" occurs in the last turn is taken. "down_at" in place of
                        "fail_at" is a fault of the device: "rebuild_ms" is how long it takes to set it up
                        again, and with "stays_down" that fails.
  --help man            this help as a manual page
  --print-config        every option, its value and where it came from
  --config FILE         options from a file, one "name=value" a line
)";

constexpr std::string_view kStatus = R"(Exit status
  0 stopped   1 failure   2 bad usage   3 bad model file   4 not enough memory
  5 no such device, or it failed for good   130 stopped twice
When the device fails (a GPU's fault), whatever runs or waits gets a 503 or an error in its stream, /health
and requests get a 503, and the model is loaded again in the same process. A second fault within ten minutes
after that, or a model that cannot be loaded, ends the process with status 5: a supervisor may start anew.
States on disk outlive all of this, but for one that had just been loaded.
)";

constexpr std::pair<std::string_view, std::string_view> kTopics[] = {
    {"api", kApi},     {"network", kNetwork}, {"model", kModel},     {"sampling", kSampling}, {"requests", kRequests},
    {"tools", kTools}, {"disk", kDisk},       {"testing", kTesting}, {"status", kStatus}};

/// A text as it is, for a manual page.
std::string verbatim(std::string_view text) {
  std::string out = ".nf\n";
  bool begins = true;
  for (const char c : text) {
    if (begins && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\') out += "\\e";
    else if (c == '-') out += "\\-";
    else out += c;
    begins = c == '\n';
  }
  return out + ".fi\n";
}

std::string upper(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c);
  return out;
}

/// The manual page is the help: a section per topic, under the heading that its first line is.
std::string manual_page() {
  std::string page =
      ".TH DS4\\-SERVER 1\n.SH NAME\nds4\\-server \\- DeepSeek V4 behind the APIs of OpenAI and Anthropic\n"
      ".SH SYNOPSIS\n.B ds4\\-server\n[\\fIOPTION\\fR]...\n.SH DESCRIPTION\n";
  page += verbatim(kOverview.substr(kOverview.find("\n\n") + 2));
  for (const auto& [name, text] : kTopics) {
    const std::size_t end = text.find('\n');
    page += ".SH " + upper(text.substr(0, end)) + "\n" + verbatim(text.substr(end + 1));
  }
  return page;
}

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
  if (topic == "man") return manual_page();
  return std::nullopt;
}

}  // namespace ds4::server
