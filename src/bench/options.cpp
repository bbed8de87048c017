#include "bench/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>

#include "base/text.h"

namespace ds4::bench {

namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 30;

using Take = std::function<Status(const std::string& flag, const std::string& value)>;

/// One flag: its names, the word for its value ("" for a switch), what it does, and a line of help.
struct Flag {
  std::vector<std::string> names;
  std::string value;
  std::string help;
  Take take;
};
struct Group {
  std::string title;
  std::vector<Flag> flags;
};

Error refuse(const std::string& flag, std::string_view expected, std::string_view found) {
  return Error{ErrorCode::kUsage, cat(flag, ": expected ", expected, ", found \"", escaped(found), "\"")};
}

Take text(std::string& to) {
  return [&to](const std::string&, const std::string& value) -> Status {
    to = value;
    return {};
  };
}
Take off(bool& to) {
  return [&to](const std::string&, const std::string&) -> Status {
    to = false;
    return {};
  };
}
Take on(bool& to) {
  return [&to](const std::string&, const std::string&) -> Status {
    to = true;
    return {};
  };
}
template <typename T>
Take count(T& to, std::int64_t low, std::int64_t high = kMostTokens) {
  return [&to, low, high](const std::string& flag, const std::string& value) -> Status {
    DS4_ASSIGN_OR_RETURN(const std::int64_t number, parse_count(flag, value, low, high));
    to = static_cast<T>(number);
    return {};
  };
}
Result<double> parse_positive(const std::string& flag, const std::string& value) {
  double number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || !(number > 0) || !std::isfinite(number))
    return refuse(flag, "a number above 0", value);
  return number;
}
Take positive(std::optional<double>& to) {
  return [&to](const std::string& flag, const std::string& value) -> Status {
    DS4_ASSIGN_OR_RETURN(to, parse_positive(flag, value));
    return {};
  };
}

/// "a,b,c" -> a b c; empty pieces stay.
std::vector<std::string> split(const std::string& value) {
  std::vector<std::string> pieces(1);
  for (const char c : value) {
    if (c == ',') pieces.emplace_back();
    else pieces.back() += c;
  }
  return pieces;
}

Take devices(std::vector<std::string>& to) {
  return [&to](const std::string& flag, const std::string& value) -> Status {
    to = split(value);
    if (std::ranges::find(to, "") != to.end()) return refuse(flag, "names of devices, with commas between them", value);
    return {};
  };
}

Take fill(std::vector<std::int64_t>& to) {
  return [&to](const std::string& flag, const std::string& value) -> Status {
    for (const std::string& piece : split(value)) {
      DS4_ASSIGN_OR_RETURN(const std::int64_t number, parse_count(flag, piece, 1, kMostTokens));
      to.push_back(number);
    }
    return {};
  };
}

std::vector<Flag> model_flags(Options& o) {
  return {
      {{"-m", "--model"}, "FILE", "a model file", text(o.model)},
      {{"--synthetic"},
       "MODEL:N",
       "random weights in place of a file: flash:N or pro:N, N layers of the real shapes",
       [&o](const std::string&, const std::string& value) -> Status {
         DS4_ASSIGN_OR_RETURN(o.synthetic, parse_synthetic(value));
         return {};
       }},
      {{"--mix"},
       "q2|q4|mxfp4",
       "formats of its experts [q2]",
       [&o](const std::string&, const std::string& value) -> Status {
         DS4_ASSIGN_OR_RETURN(o.mix, parse_mix(value));
         return {};
       }},
      {{"--synthetic-memory"},
       "distinct|aliased",
       "every weight its own bytes, or views of a pool; aliased where devices copy them",
       [&o](const std::string& flag, const std::string& value) -> Status {
         if (value == "distinct") o.synthetic_memory = SyntheticMemory::kDistinct;
         else if (value == "aliased") o.synthetic_memory = SyntheticMemory::kAliased;
         else return refuse(flag, "distinct or aliased", value);
         return {};
       }},
      {{"--synthetic-pool"}, "BYTES", "size of the pool [1G]", count(o.synthetic_pool, 1 << 20, std::int64_t{1} << 40)},
      {{"--synthetic-cache"},
       "FILE",
       "keep the synthetic model in FILE, and use it when it is there",
       text(o.synthetic_cache)},
      {{"--warm-weights"}, "", "read the whole model file before anything is timed", on(o.warm_weights)},
      {{"--prompt-file"}, "FILE", "prefill the tokens of this text; without it, random ids", text(o.prompt_file)},
      {{"--chat-prompt-file"}, "FILE", "the same, as a user's message", text(o.chat_prompt_file)},
      {{"-sys", "--system"}, "TEXT", "system prompt of that conversation", text(o.system)},
  };
}

std::vector<Flag> device_flags(Options& o) {
  std::vector<Flag> flags = {
      {{"--backend", "--device"},
       "NAME[,NAME...]",
       "where to compute [cpu]; several split the layers between them",
       devices(o.devices)},
      {{"-t", "--threads"}, "N", "threads [one per core]", count(o.backend.threads, 1, 4096)},
      {{"--isa"}, "NAME", "instruction set of the cpu backend [the best]", text(o.backend.isa)},
      {{"--cpu-pin"},
       "auto|on|off",
       "threads stay on a core each; auto: where all cores are free to use and used [auto]",
       [&o](const std::string& flag, const std::string& value) -> Status {
         const auto pinning = pinning_from_name(value);
         if (!pinning) return refuse(flag, "auto, on or off", value);
         o.backend.pinning = *pinning;
         return {};
       }},
      {{"--quality"}, "", "exact kernels", on(o.backend.quality)},
      {{"--no-repack"}, "", "cpu: read quantised weights as the file has them", off(o.backend.repack)},
      {{"--kv"},
       "f32|f16|fp8",
       "how KV rows are stored [fp8]",
       [&o](const std::string& flag, const std::string& value) -> Status {
         const auto format = kv_format_from_name(value);
         if (!format) return refuse(flag, "f32, f16 or fp8", value);
         o.kv = *format;
         return {};
       }},
      {{"--prefill-chunk"},
       "N",
       "tokens computed together [512 on a cpu, otherwise 4096]",
       count(o.prefill_chunk, 1, 1 << 20)},
  };
  for (const std::string name : {"cpu", "cuda", "metal", "rocm"})
    flags.push_back({{cat("--", name)},
                     "",
                     cat("the same as --backend ", name),
                     [&o, name](const std::string&, const std::string&) -> Status {
                       o.devices = {name};
                       return {};
                     }});
  return flags;
}

std::vector<Flag> frontier_flags(Options& o) {
  return {
      {{"--ctx-start"}, "N", "first context frontier [2048]", count(o.ctx_start, 1)},
      {{"--ctx-max"}, "N", "last one [32768]", count(o.ctx_max, 1)},
      {{"--ctx-alloc"}, "N", "context to allocate [what the frontiers need]", count(o.ctx_alloc, 0)},
      {{"--step-incr"},
       "N",
       "from one to the next [2048]",
       [&o](const std::string& flag, const std::string& value) -> Status {
         DS4_ASSIGN_OR_RETURN(o.step_incr, parse_count(flag, value, 0, kMostTokens));
         return {};
       }},
      {{"--step-mul"},
       "X",
       "factor from one to the next, in place of --step-incr when above 1 [1]",
       [&o](const std::string& flag, const std::string& value) -> Status {
         DS4_ASSIGN_OR_RETURN(o.step_mul, parse_positive(flag, value));
         return o.step_mul >= 1 ? Status() : refuse(flag, "at least 1", value);
       }},
      {{"--gen-tokens"}, "N", "tokens decoded at each [128]; 0: prefill only", count(o.gen_tokens, 0)},
      {{"--fill"},
       "N[,N...]",
       "these frontiers instead, filled with random KV rows; --step-incr N prefills the last N tokens",
       fill(o.fill)},
  };
}

std::vector<Flag> measure_flags(Options& o) {
  return {
      {{"--repeat"}, "N", "measurements of each; medians and spread are reported [1]", count(o.repeat, 1, 1000)},
      {{"--sequences"},
       "N",
       "decode N sequences in one batch; gen_tps is of all together [1]",
       count(o.sequences, 1, 4096)},
      {{"--teacher-forced-decode"},
       "",
       "decode random ids, different for each sequence (the default)",
       [&o](const std::string&, const std::string&) -> Status {
         o.greedy = false;
         return {};
       }},
      {{"--greedy"}, "", "decode the model's own answers", on(o.greedy)},
      {{"--seed"}, "N", "of the random ids, weights and rows [1]", count(o.seed, 0, INT64_MAX)},
      {{"--warmup"},
       "N",
       "tokens prefilled before anything is timed [32 on a cpu, otherwise a chunk]",
       count(o.warmup, 0)},
  };
}

std::vector<Flag> report_flags(Options& o) {
  return {
      {{"--csv"}, "FILE", "where the rows go [stdout]", text(o.csv)},
      {{"--ops"}, "", "also a table of the ops: time, bytes, flops, % of the roof", on(o.ops)},
      {{"--ops-csv"},
       "FILE",
       "the same as rows",
       [&o](const std::string&, const std::string& value) -> Status {
         o.ops = true;
         o.ops_csv = value;
         return {};
       }},
      {{"--roof-gbps"}, "X", "read bandwidth of the device; measured on a cpu", positive(o.roof_gbps)},
      {{"--roof-tflops"}, "X", "its arithmetic; measured on a cpu", positive(o.roof_tflops)},
      {{"--note"}, "TEXT", "a line for the header of the CSV: card, driver, what was tried", text(o.note)},
      {{"-h", "--help"}, "", "this text", on(o.help)},
      {{"--version"}, "", "the version", on(o.version)},
  };
}

std::vector<Group> groups(Options& o) {
  return {{"Model", model_flags(o)},
          {"Device", device_flags(o)},
          {"Context frontiers", frontier_flags(o)},
          {"Measurement", measure_flags(o)},
          {"Report", report_flags(o)}};
}

Status check(const Options& o) {
  const auto refuse_all = [](std::string message) { return Error{ErrorCode::kUsage, std::move(message)}; };
  if (o.help || o.version) return {};
  if (o.model.empty() == !o.synthetic) return refuse_all("give either a model with -m FILE, or --synthetic flash:N");
  if (!o.synthetic_cache.empty() && o.synthetic_memory == SyntheticMemory::kAliased)
    return refuse_all("--synthetic-cache: a file has bytes of its own; leave --synthetic-memory aliased out");
  if (!o.prompt_file.empty() && !o.chat_prompt_file.empty())
    return refuse_all("give one of --prompt-file and --chat-prompt-file");
  if (o.synthetic && !(o.prompt_file.empty() && o.chat_prompt_file.empty()))
    return refuse_all("a synthetic model has no tokenizer: it takes random ids only");
  if (o.fill.empty()) {
    if (o.ctx_start > o.ctx_max)
      return refuse_all(cat("--ctx-start is ", o.ctx_start, ", but --ctx-max is ", o.ctx_max));
    if (o.increment() < 1 && o.step_mul <= 1) return refuse_all("--step-incr: expected at least 1, found 0");
  }
  return {};
}

}  // namespace

Result<std::int64_t> parse_count(const std::string& flag, const std::string& text, std::int64_t low,
                                 std::int64_t high) {
  const auto wrong = [&] { return refuse(flag, cat("a number from ", low, " to ", high), text); };
  std::string_view digits = text;
  std::int64_t unit = 1;
  if (!digits.empty()) {
    const std::size_t power = std::string_view("KMG").find(digits.back());
    if (power != std::string_view::npos) {
      unit = std::int64_t{1} << (10 * (power + 1));
      digits.remove_suffix(1);
    }
  }
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error == std::errc() && end == digits.data() + digits.size()) {
    if (__builtin_mul_overflow(number, unit, &number) || number < low || number > high) return wrong();
    return number;
  }
  double fraction = 0;  // "1.5G"
  const auto [last, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), fraction);
  if (unit == 1 || failed != std::errc() || last != digits.data() + digits.size()) return wrong();
  const double scaled = fraction * static_cast<double>(unit);
  if (!(scaled >= static_cast<double>(low) && scaled <= static_cast<double>(high))) return wrong();
  return static_cast<std::int64_t>(scaled);
}

bool Options::on_host() const {
  return std::ranges::all_of(devices, [](const std::string& d) { return d == "cpu" || d == "reference"; });
}

bool Options::copies_weights() const {
  const bool cpu_copies = backend.repack && !backend.quality;
  return std::ranges::all_of(devices, [&](const std::string& d) { return d == "cpu" ? cpu_copies : d != "reference"; });
}

Result<Options> parse_options(std::span<const std::string> arguments) {
  Options options;
  const std::vector<Group> all = groups(options);
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string name = arguments[i];
    std::optional<std::string> value;  // "--flag=value"
    if (const std::size_t equals = name.find('='); name.starts_with("--") && equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    const Flag* found = nullptr;
    for (const Group& group : all)
      for (const Flag& flag : group.flags)
        if (std::ranges::find(flag.names, name) != flag.names.end()) found = &flag;
    if (found == nullptr) return Error{ErrorCode::kUsage, cat("unknown flag \"", escaped(arguments[i]), "\"")};
    if (found->value.empty() && value) return Error{ErrorCode::kUsage, cat(name, ": expected no value")};
    if (!found->value.empty() && !value) {
      if (i + 1 == arguments.size())
        return Error{ErrorCode::kUsage, cat(name, ": expected ", found->value, " behind it")};
      value = arguments[++i];
    }
    DS4_RETURN_IF_ERROR(found->take(name, value.value_or("")));
  }
  if (options.synthetic) options.synthetic->mix = options.mix;
  DS4_RETURN_IF_ERROR(check(options));
  return options;
}

std::string help_text() {
  Options ignored;
  std::string out =
      "ds4-bench: how fast a model runs, at growing context.\n\n"
      "  ds4-bench -m FILE [flags]            a model file\n"
      "  ds4-bench --synthetic flash:4        random weights with the shapes of V4 Flash, 4 layers\n\n"
      "Prefills to each context frontier, then decodes there, and writes one CSV row for each.\n"
      "Counts take K, M and G: 64K is 65536.\n";
  for (const Group& group : groups(ignored)) {
    out += cat("\n", group.title, "\n");
    for (const Flag& flag : group.flags) {
      std::string left;
      for (const std::string& name : flag.names) left += cat(left.empty() ? "  " : ", ", name);
      if (!flag.value.empty()) left += cat(" ", flag.value);
      if (left.size() > 31) left += cat("\n", std::string(32, ' '));
      else left.resize(32, ' ');
      out += cat(left, flag.help, "\n");
    }
  }
  out +=
      "\nExamples\n"
      "  ds4-bench --synthetic flash:4 -t 2 --ctx-max 2048 --repeat 5 --ops\n"
      "  ds4-bench --synthetic flash:43 --cuda --fill 2K,64K,256K --sequences 16 --csv run.csv\n"
      "  tools/plot_bench run.csv > run.html\n";
  return out;
}

}  // namespace ds4::bench
