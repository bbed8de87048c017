// ds4-server: flags in, server::ServerOptions out; signals; the order of starting and stopping.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/text.h"
#include "cli/model_path.h"
#include "kvstore/inspect.h"
#include "server/app.h"
#include "server/help.h"
#include "server/system_service.h"

namespace {

using ds4::cat;
using ds4::server::ServerOptions;

int fail(const std::string& message, int status = ds4::exit_status(ds4::ErrorCode::kUsage)) {
  std::fprintf(stderr, "ds4-server: error: %s\n", message.c_str());
  if (status == 2) std::fputs("  ds4-server --help explains the flags.\n", stderr);
  return status;
}

/// What the flags say before it is put together.
struct Flags {
  ServerOptions options;
  std::string kv = "fp8";
  std::string key_file;
  std::string environment_key;
  bool cors = false;
  std::string chdir;
  std::int64_t max_body_mb = 16;
  bool replay_off = false;
  bool print_config = false;
  std::uint64_t kv_disk_mb = 4096;
};

void add_model_options(CLI::App& app, Flags& flags) {
  ds4::EngineOptions& engine = flags.options.engine;
  app.add_option("-m,--model", flags.options.model);
  app.add_option("--model-id", flags.options.service.model_id);
  app.add_option("-c,--ctx", engine.context)->check(CLI::PositiveNumber);
  app.add_option("--parallel,--batched-session", flags.options.parallel)->check(CLI::Range(1, 1024));
  app.add_option("--resume-points", flags.options.resume_points)->check(CLI::Range(0, 1024));
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
  app.add_option("--mixed-prefill-quantum", flags.options.mixed_rows)->check(CLI::PositiveNumber);
  app.add_option("--kv", flags.kv)->check(CLI::IsMember({"f32", "f16", "fp8"}));
  app.add_flag("--warm-weights", flags.options.warm_weights);
  app.add_option("--script", flags.options.script);
}

void add_network_options(CLI::App& app, Flags& flags) {
  auto& http = flags.options.http;
  app.add_option("--host", http.host);
  app.add_option("--port", http.port);
  app.add_option("--tls-cert,--ssl-cert-file", http.tls_certificate);
  app.add_option("--tls-key,--ssl-key-file", http.tls_key);
  app.add_option("--api-key", flags.options.gate.keys);
  app.add_option("--api-key-file", flags.key_file);
  app.add_flag("--no-api-key", flags.options.allow_keyless);
  app.add_option("--allow-host", flags.options.gate.hosts);
  app.add_option("--cors-origin", flags.options.gate.origins);
  app.add_flag("--cors", flags.cors);
  app.add_option("--max-connections", http.max_connections)->check(CLI::Range(1, 1 << 20));
  app.add_option("--max-body-mb", flags.max_body_mb)->check(CLI::Range(1, 1024));
  app.add_option("--keepalive-seconds", http.keepalive_seconds)->check(CLI::Range(0.1, 3600.0));
  app.add_option("--head-seconds", http.head_seconds)->check(CLI::Range(0.1, 3600.0));
  app.add_option("--body-seconds", http.body_seconds)->check(CLI::Range(0.1, 3600.0));
  app.add_option("--idle-seconds", http.idle_seconds)->check(CLI::Range(0.1, 86400.0));
}

void add_service_options(CLI::App& app, Flags& flags) {
  auto& service = flags.options.service;
  app.add_option("-n,--tokens", service.max_tokens)->check(CLI::PositiveNumber);
  app.add_option("--temp", service.sampling.temperature);
  app.add_option("--top-k", service.sampling.top_k);
  app.add_option("--top-p", service.sampling.top_p);
  app.add_option("--min-p", service.sampling.min_p);
  app.add_flag_callback("--think", [&] { service.thinking = ds4::chat::Thinking::kThinking; });
  app.add_flag_callback("--think-max", [&] { service.thinking = ds4::chat::Thinking::kMax; });
  app.add_flag_callback("--nothink", [&] { service.thinking = ds4::chat::Thinking::kChat; });
  app.add_option("--max-queue", service.queue)->check(CLI::Range(1, 1 << 20));
  app.add_option("--drain-seconds", flags.options.drain_seconds)->check(CLI::NonNegativeNumber);
  app.add_option("--trace", flags.options.trace);
  app.add_flag("--quiet", flags.options.quiet);
  app.add_flag("--disable-exact-dsml-tool-replay", flags.replay_off);
  app.add_option("--tool-memory-max-ids", service.replay_ids)->check(CLI::PositiveNumber);
  app.add_option("--chdir", flags.chdir);
}

/// Was this option among the arguments, or did it come from a file?
bool is_argument(const CLI::Option& option, const std::vector<std::string>& arguments) {
  const auto named = [&](const std::string& argument) {
    const std::string name = argument.substr(0, argument.find('='));
    return (name.starts_with("--") && option.check_lname(name.substr(2))) ||
           (name.size() > 1 && name[0] == '-' && name[1] != '-' && option.check_sname(name.substr(1, 1)));
  };
  return std::ranges::any_of(arguments, named);
}

void add_disk_options(CLI::App& app, Flags& flags) {
  auto& disk = flags.options.disk;
  app.add_option("--kv-disk-dir", disk.folder);
  app.add_option("--kv-disk-space-mb", flags.kv_disk_mb)->check(CLI::Range(1, 1 << 30));
  app.add_option("--kv-cache-min-tokens", disk.min_tokens)->check(CLI::Range(1, 1 << 30));
  app.add_option("--kv-cache-continued-interval-tokens", disk.interval)->check(CLI::Range(128, 1 << 30));
}

/// Every option, its value and where it came from; keys are not shown.
void print_config(const CLI::App& app, const std::vector<std::string>& arguments) {
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_lnames().empty() ? option->get_name() : option->get_lnames().front();
    if (name == "print-config" || name == "config") continue;
    std::string value = option->get_default_str();
    if (option->count() > 0) {
      value.clear();
      for (const std::string& one : option->results()) value += cat(value.empty() ? "" : " ", one);
    }
    if (name == "api-key" && !value.empty()) value = "(hidden)";
    std::printf("%-34s %-24s %s\n", name.c_str(), value.empty() ? "-" : value.c_str(),
                option->count() == 0              ? "default"
                : is_argument(*option, arguments) ? "argument"
                                                  : "config file");
  }
  const char* key = std::getenv("DS4_API_KEY");
  if (key != nullptr && *key != '\0') std::printf("%-34s %-24s %s\n", "DS4_API_KEY", "(hidden)", "environment");
}

ds4::Status read_keys(const std::string& path, std::vector<std::string>& keys) {
  std::ifstream file(path);
  if (!file) return ds4::Error{ds4::ErrorCode::kUsage, cat("--api-key-file: cannot read ", ds4::escaped(path, 4096))};
  for (std::string line; std::getline(file, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty() && line[0] != '#') keys.push_back(line);
  }
  if (keys.empty()) {
    return ds4::Error{ds4::ErrorCode::kUsage, cat("--api-key-file: no key in ", ds4::escaped(path, 4096))};
  }
  return {};
}

ds4::Status complete(Flags& flags, bool named) {
  ServerOptions& options = flags.options;
  if (!flags.chdir.empty()) {
    std::error_code error;
    std::filesystem::current_path(flags.chdir, error);
    if (error) return ds4::Error{ds4::ErrorCode::kUsage, cat("--chdir: ", error.message())};
  }
  options.engine.kv = *ds4::kv_format_from_name(flags.kv);
  options.http.limits.body = static_cast<std::uint64_t>(flags.max_body_mb) << 20;
  options.service.exact_replay = !flags.replay_off;
  options.disk.budget = flags.kv_disk_mb << 20;
  options.disk.interval = options.disk.interval / 128 * 128;  // points lie at multiples of 128
  if (flags.cors) options.gate.origins.emplace_back("*");
  if (options.http.tls_certificate.empty() != options.http.tls_key.empty()) {
    return ds4::Error{ds4::ErrorCode::kUsage, cat(options.http.tls_key.empty() ? "--tls-cert" : "--tls-key",
                                                  ": expected both --tls-cert and --tls-key, found one of them")};
  }
  DS4_ASSIGN_OR_RETURN(const auto inherited, ds4::server::inherited_socket());
  if (inherited) {
    options.http.inherited_socket = inherited->socket;
    options.http.host = inherited->host;
    options.http.port = inherited->port;
  }
  options.gate.loopback = ds4::server::is_loopback(options.http.host);
  if (!flags.key_file.empty()) DS4_RETURN_IF_ERROR(read_keys(flags.key_file, options.gate.keys));
  if (const char* key = std::getenv("DS4_API_KEY"); key != nullptr && *key != '\0') options.gate.keys.emplace_back(key);
  DS4_RETURN_IF_ERROR(ds4::check_sampling(options.service.sampling));
  const auto folders = ds4::cli::installed_model_folders(ds4::cli::executable_path());
  DS4_ASSIGN_OR_RETURN(options.model, ds4::cli::find_model(options.model, folders));
  if (!named) options.service.model_id = std::filesystem::path(options.model).stem().string();
  if (options.disk.folder.empty()) return {};
  // Before the model is loaded, which may take minutes.
  if (const auto folder = ds4::kvstore::Folder::open(options.disk.folder); !folder.ok())
    return ds4::Error{ds4::ErrorCode::kUsage, cat("--kv-disk-dir: ", folder.error().message)};
  return {};
}

sigset_t our_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  return set;
}

/// Waits for a signal that asks us to stop. SIGHUP does not, where there is a certificate to be read again.
void wait_for_stop(const sigset_t& signals, ds4::server::App& app) {
  int signal = 0;
  do sigwait(&signals, &signal);
  while (signal == SIGHUP && app.reload_tls());
}

/// Serves until a signal comes, or the device is lost.
int serve(ServerOptions options) {
  // All threads inherit the mask: only the waiting below sees these signals.
  const sigset_t signals = our_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  ds4::server::App app(std::move(options));
  if (const ds4::Status status = app.listen(); !status.ok()) {
    return fail(status.error().message, ds4::exit_status(status.error().code));
  }
  std::atomic<bool> serving{false};
  std::thread waiter([&] {
    wait_for_stop(signals, app);
    if (!serving) _exit(0);  // still loading: there is nothing to finish
    ds4::server::notify_system("STOPPING=1");
    std::thread([&app, signals] {
      wait_for_stop(signals, app);
      app.hurry();
      wait_for_stop(signals, app);
      _exit(130);
    }).detach();
    app.drain();
  });
  const auto end = [](const ds4::Error& error) {
    fail(error.message, ds4::exit_status(error.code));
    std::fflush(nullptr);
    _exit(ds4::exit_status(error.code));  // the waiter still waits
  };
  if (const ds4::Status status = app.load(); !status.ok()) end(status.error());
  serving = true;
  ds4::server::notify_system("READY=1");
  if (const ds4::Status lost = app.wait(); !lost.ok()) end(lost.error());
  waiter.join();
  std::fflush(nullptr);
  if (app.rebuilding()) _exit(0);  // nobody will use what that reads, and it may take minutes
  return 0;
}

/// Keys among the arguments: every user of the machine can read those of a process.
void hide_keys(int argc, char** argv) {
  constexpr std::string_view kFlag = "--api-key";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const bool joined = argument.starts_with("--api-key=");
    if (!joined && (argument != kFlag || i + 1 == argc)) continue;
    char* key = joined ? argv[i] + kFlag.size() + 1 : argv[++i];
    std::memset(key, '*', std::strlen(key));
  }
}

/// `ds4-server kv ls|verify|rm`.
int kv_command(std::vector<std::string> given) {
  std::string folder, action;
  std::vector<std::string> ids;
  bool all = false;
  CLI::App app("ds4-server kv");
  app.set_help_flag();
  app.add_option("action", action)->required()->check(CLI::IsMember({"ls", "verify", "rm"}));
  app.add_option("ids", ids);
  app.add_option("--kv-disk-dir", folder)->required();
  app.add_flag("--all", all);
  std::ranges::reverse(given);  // what CLI11 wants
  try {
    app.parse(given);
  } catch (const CLI::ParseError& error) {
    return fail(cat("kv: ", error.what()));
  }
  if (action != "rm" && (!ids.empty() || all)) return fail(cat("kv ", action, ": takes no ids and no --all"));
  if (action == "rm" && ids.empty() != all) return fail("kv rm: expected ids, as kv ls shows them, or --all");
  if (!std::filesystem::is_directory(folder)) return fail(cat("kv: there is no folder ", ds4::escaped(folder, 4096)));
  const auto failed = [](const ds4::Error& error) { return fail(error.message, ds4::exit_status(error.code)); };
  const auto use = action == "rm" ? ds4::kvstore::Folder::Use::kReadAndWrite : ds4::kvstore::Folder::Use::kRead;
  auto opened = ds4::kvstore::Folder::open(folder, use);
  if (!opened.ok()) return failed(opened.error());
  ds4::kvstore::Folder& store = **opened;
  if (action == "verify") {
    const bool watched = isatty(STDERR_FILENO) == 1;
    const auto verified = ds4::kvstore::verify_states(store, [&](std::uint64_t done, std::uint64_t bytes) {
      if (watched)
        std::fprintf(stderr, "\r%3d %%%s", static_cast<int>(100 * done / bytes), done == bytes ? "\r     \r" : "");
    });
    if (!verified.ok()) return failed(verified.error());
    std::fputs(verified->text.c_str(), stdout);
    return verified->clean ? 0 : 1;
  }
  const auto text = action == "ls" ? ds4::kvstore::list_states(store)
                    : all          ? ds4::kvstore::remove_all(store)
                                   : ds4::kvstore::remove_states(store, ids);
  if (!text.ok()) return failed(text.error());
  std::fputs(text->c_str(), stdout);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> given(argv + 1, argv + argc);
  hide_keys(argc, argv);
  for (std::size_t i = 0; i < given.size(); ++i) {
    if (given[i] == "-h" || given[i] == "--help") {
      const std::string topic = i + 1 < given.size() && !given[i + 1].starts_with('-') ? given[i + 1] : "";
      const auto text = ds4::server::help(topic);
      if (!text) return fail(cat("no help on \"", ds4::escaped(topic), "\""));
      std::fputs(text->c_str(), stdout);
      return 0;
    }
    if (given[i] == "--version") {
      std::puts("ds4-server " DS4_VERSION);
      return 0;
    }
  }
  if (!given.empty() && given[0] == "kv") return kv_command({given.begin() + 1, given.end()});
  Flags flags;
  CLI::App app("ds4-server");
  app.set_help_flag();
  app.option_defaults()->always_capture_default();
  add_model_options(app, flags);
  add_network_options(app, flags);
  add_service_options(app, flags);
  add_disk_options(app, flags);
  app.add_flag("--print-config", flags.print_config);
  app.set_config("--config");
  try {
    std::vector<std::string> reversed(given.rbegin(), given.rend());  // what CLI11 wants
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    return fail(error.what());
  }
  if (flags.print_config) {
    print_config(app, given);
    return 0;
  }
  if (const ds4::Status status = complete(flags, app.count("--model-id") > 0); !status.ok()) {
    return fail(status.error().message, ds4::exit_status(status.error().code));
  }
  return serve(std::move(flags.options));
}
