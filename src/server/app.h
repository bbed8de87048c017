// ds4-server as a whole: the routes, the life of the process (loading, serving, draining; a device that fails
// meanwhile), and who owns what. Made and driven by main; its own threads are those of HttpServer, TaskPool and Worker.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/result.h"
#include "engine/scripted_model.h"
#include "server/device_watch.h"
#include "server/options.h"
#include "server/task_pool.h"

namespace ds4::server {

class App {
 public:
  explicit App(ServerOptions options);
  ~App();

  /// Listens: from now on /health says "loading model".
  Status listen();
  /// Loads the model and begins to serve.
  Status load();
  /// Serves until drain() has ended. An error: the device has failed and is lost; every reply is finished.
  Status wait();
  /// The device is being set up again, on the worker's thread: destroying the app waits for that.
  bool rebuilding() const { return watch_.state() == DeviceWatch::State::kRebuilding; }
  /// No new work; returns when the running answers are done, or had to be ended after the drain time.
  void drain();
  /// Makes drain() end running answers at once.
  void hurry() { hurry_ = true; }

  /// Reads the certificate again; false when there is none. Any thread, after listen().
  bool reload_tls();

  std::uint16_t port() const;

 private:
  enum class State { kLoading, kServing, kDraining };
  struct Route;

  std::optional<HttpReply> check(HttpRequest& request);
  void handle(HttpRequest request, std::shared_ptr<Exchange> exchange);
  void run_task(const Route& route, const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  HttpReply answer(const Route& route, const HttpRequest& request);
  HttpReply health() const;
  void watch_device(WorkerOptions& worker);
  void finish_replies();
  HttpReply preflight(const HttpRequest& request) const;
  HttpReply refuse(const HttpRequest& request, const ErrorInfo& error) const;
  static const Route* find_route(std::string_view path);
  Status start_worker(ModelFile file);
  Status open_disk();

  ServerOptions options_;
  Gatekeeper gate_;
  Log log_;
  Metrics metrics_;
  DeviceWatch watch_;
  std::string device_;  // its name; set before anything is served
  std::unique_ptr<Trace> trace_;
  std::unique_ptr<Engine> engine_;
  std::optional<ModelFile> scripted_file_;  // of a script: only its tokenizer is used
  std::unique_ptr<ScriptedModel> scripted_;
  ReplayMap replay_;
  std::unique_ptr<DiskStates> disk_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<TaskPool> tasks_;
  std::unique_ptr<HttpServer> http_;
  std::atomic<State> state_{State::kLoading};
  std::atomic<bool> hurry_{false};
  std::atomic<std::size_t> waiting_bytes_{0};  // of bodies at the request threads
};

}  // namespace ds4::server
