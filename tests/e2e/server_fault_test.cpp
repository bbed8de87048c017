// ds4-server when its device fails: what is running is told, the server says so and goes on answering, the device is
// set up again once, and what cannot be saved ends with the exit status of a device.
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/text.h"
#include "http_client.h"
#include "models.h"

namespace ds4::e2e {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFault = "the script says that this token takes the device down";
constexpr const char* kRules = R"({"rules":[
  {"when":"breaks","reply":"half an answer and","down_at":3,"rebuild_ms":2500},
  {"when":"dies","reply":"half an answer and","down_at":3,"rebuild_ms":500,"stays_down":true},
  {"when":"slow","reply":"one two three four five six seven eight nine ten eleven twelve thirteen","token_ms":400},
  {"when":"","reply":"hello"}]})";

std::unique_ptr<ServerProcess> serve(const std::vector<std::string>& more = {}) {
  write_file(work_dir() + "/fault-script.json", kRules);
  std::vector<std::string> arguments = {"-m", nano_model(), "--script", work_dir() + "/fault-script.json"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  auto server = std::make_unique<ServerProcess>(arguments);
  EXPECT_TRUE(server->ready()) << server->log();
  return server;
}

std::string chat(const std::string& text, bool stream = false) {
  return http_post(
      "/v1/chat/completions",
      Json{{"messages", {{{"role", "user"}, {"content", text}}}}, {"thinking", false}, {"stream", stream}}.dump());
}

Reply health(const ServerProcess& server) { return ask(server.port(), http_get("/health")); }

double metric(const ServerProcess& server, const std::string& name) {
  const std::string text = ask(server.port(), http_get("/metrics")).body;
  const std::size_t at = text.find(cat("\n", name, " "));
  return at == std::string::npos ? -1 : std::atof(text.c_str() + at + name.size() + 2);
}

void expect_unavailable(const Reply& reply, const std::string& what) {
  EXPECT_EQ(reply.status, 503) << reply.head << reply.body;
  EXPECT_NE(reply.head.find("Retry-After: "), std::string::npos) << reply.head;
  EXPECT_NE(reply.body.find(what), std::string::npos) << reply.body;
  EXPECT_TRUE(Json::parse(reply.body, nullptr, false).contains("error")) << reply.body;
}

/// A stream that was under way: an error at its end, and nothing that looks like success.
void expect_broken_stream(const Reply& reply) {
  EXPECT_EQ(reply.status, 200) << reply.head;
  EXPECT_TRUE(reply.whole) << reply.body;
  EXPECT_NE(reply.body.find("\"content\":\"one\""), std::string::npos) << reply.body;
  const std::size_t error = reply.body.find("\"error\"");
  EXPECT_NE(error, std::string::npos) << reply.body;
  EXPECT_NE(reply.body.find(kFault, error), std::string::npos) << reply.body;
  EXPECT_EQ(reply.body.find("[DONE]"), std::string::npos) << reply.body;
}

TEST(DeviceFault, EverybodyIsToldAndARebuildCuresIt) {
  const auto server = serve({"--parallel", "2"});
  EXPECT_EQ(metric(*server, "ds4_device_up"), 1);
  EXPECT_EQ(metric(*server, "ds4_device_faults_total"), 0);
  const long threads = server->status("Threads:");
  Connection slow(server->port());
  slow.send(chat("slow", true));
  EXPECT_NE(slow.read_until("one").find("one"), std::string::npos);
  // One at work beside it, one in the queue.
  Connection breaking(server->port()), waiting(server->port());
  breaking.send(chat("breaks"));
  waiting.send(chat("breaks"));
  expect_unavailable(breaking.read_reply(), kFault);
  expect_unavailable(waiting.read_reply(), kFault);

  // The one that was told may look at once.
  const Reply down = health(*server);
  EXPECT_EQ(down.status, 503);
  EXPECT_NE(down.head.find("Retry-After: "), std::string::npos) << down.head;
  const Json said = Json::parse(down.body, nullptr, false);
  EXPECT_EQ(said, (Json{{"status", "device down"}, {"device", "script"}, {"fault", kFault}, {"rebuilding", true}}));
  expect_unavailable(ask(server->port(), chat("hi")), "set up again");
  EXPECT_EQ(metric(*server, "ds4_device_up"), 0);
  EXPECT_EQ(metric(*server, "ds4_ready"), 0);
  EXPECT_EQ(metric(*server, "ds4_device_faults_total"), 1);
  EXPECT_EQ(metric(*server, "ds4_requests_running"), 0);
  EXPECT_EQ(ask(server->port(), http_get("/")).status, 200);
  EXPECT_NE(slow.read_until("error").find("error"), std::string::npos);

  EXPECT_TRUE(server->ready()) << server->log();
  EXPECT_EQ(metric(*server, "ds4_device_up"), 1);
  EXPECT_EQ(metric(*server, "ds4_ready"), 1);
  const Reply answer = ask(server->port(), chat("hi"));
  EXPECT_EQ(answer.status, 200) << answer.body;
  EXPECT_NE(answer.body.find("\"content\":\"hello\""), std::string::npos) << answer.body;
  EXPECT_EQ(server->status("Threads:"), threads);
  EXPECT_NE(server->log().find(cat("level=error event=device_fault device=script fault=\"", kFault, "\" rebuild=yes")),
            std::string::npos)
      << server->log();
  EXPECT_NE(server->log().find("event=device_rebuilt"), std::string::npos) << server->log();
  EXPECT_EQ(server->stop(), 0) << server->log();
}

TEST(DeviceFault, ASecondOneEndsTheProcessWhenTheRepliesAreFinished) {
  const auto server = serve();
  expect_unavailable(ask(server->port(), chat("breaks")), kFault);
  EXPECT_TRUE(server->ready()) << server->log();
  Connection slow(server->port());
  slow.send(chat("slow", true));
  Reply streamed;
  std::thread reader([&] { streamed = slow.read_reply(); });
  while (metric(*server, "ds4_answer_tokens_total") < 4 + 1) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  expect_unavailable(ask(server->port(), chat("breaks")), kFault);
  EXPECT_EQ(server->wait(), 5);
  reader.join();
  expect_broken_stream(streamed);
  EXPECT_NE(server->log().find("error: the device failed again, "), std::string::npos) << server->log();
}

TEST(DeviceFault, ADeviceThatCannotBeSetUpAgainEndsTheProcess) {
  const auto server = serve();
  expect_unavailable(ask(server->port(), chat("dies")), kFault);
  EXPECT_EQ(health(*server).status, 503);
  EXPECT_EQ(server->wait(), 5);
  EXPECT_NE(server->log().find(cat("error: the device failed: ", kFault,
                                   "; it cannot be set up anew: the script says that it stays down")),
            std::string::npos)
      << server->log();
}

TEST(DeviceFault, AServerThatIsStoppedMeanwhileStops) {
  const auto server = serve();
  expect_unavailable(ask(server->port(), chat("breaks")), kFault);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(server->stop(), 0) << server->log();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::minutes(1));
}

}  // namespace
}  // namespace ds4::e2e
