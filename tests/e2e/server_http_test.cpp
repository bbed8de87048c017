// ds4-server against clients that are slow, wrong or hostile: limits, timeouts, hosts, origins, keys. After every table
// the same process still answers, with as many threads and files as before.
#include <gtest/gtest.h>

#include <sys/resource.h>

#include <chrono>
#include <thread>

#include "base/text.h"
#include "http_client.h"
#include "models.h"

namespace ds4::e2e {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kRules = R"({"rules":[{"when":"","reply":"hello"}]})";
constexpr const char* kQuestion = R"({"messages":[{"role":"user","content":"x"}],"thinking":false})";

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::vector<std::string> scripted(std::vector<std::string> more = {}) {
  write_file(work_dir() + "/http-script.json", kRules);
  more.insert(more.end(), {"-m", nano_model(), "--script", work_dir() + "/http-script.json"});
  return more;
}

class Http : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    rlimit files{8192, 8192};
    setrlimit(RLIMIT_NOFILE, &files);
    server_ = std::make_unique<ServerProcess>(scripted(
        {"--head-seconds", "1", "--body-seconds", "1", "--idle-seconds", "2", "--cors-origin", "https://app.example"}));
    ASSERT_TRUE(server_->ready()) << server_->log();
    check_alive();
    threads_ = server_->status("Threads:");
    files_ = server_->open_files();
  }
  static void TearDownTestSuite() { server_.reset(); }
  void TearDown() override {
    check_alive();
    EXPECT_EQ(server_->status("Threads:"), threads_);
    const auto start = Clock::now();  // the last connections close on their own time
    while (server_->open_files() > files_ + 1 && seconds_since(start) < 5) std::this_thread::yield();
    EXPECT_LE(server_->open_files(), files_ + 1);
  }
  /// The reference request.
  static void check_alive() {
    const Reply reply = ask(server_->port(), http_post("/v1/chat/completions", kQuestion));
    EXPECT_EQ(reply.status, 200) << reply.body;
    EXPECT_NE(reply.body.find("\"content\":\"hello\""), std::string::npos) << reply.body;
  }
  static int port() { return server_->port(); }
  static int status(const std::string& request) { return ask(port(), request).status; }
  static std::unique_ptr<ServerProcess> server_;
  static long threads_;
  static int files_;
};
std::unique_ptr<ServerProcess> Http::server_;
long Http::threads_ = 0;
int Http::files_ = 0;

TEST_F(Http, RoutesAndMethods) {
  const struct {
    const char* line;
    int status;
  } cases[] = {{"GET /", 200},
               {"HEAD /", 200},
               {"GET /health", 200},
               {"GET /nonsense", 404},
               {"GET //", 404},
               {"GET /v1/../health", 404},
               {"GET /%2e%2e/health", 404},
               {"GET /health%00", 404},
               {"GET /health/", 404},
               {"GET /v1/models/a/b", 404},
               {"GET /v1/models/", 404},
               {"GET /v1/chat/completions", 405},
               {"DELETE /v1/models", 405},
               {"PUT /health", 405},
               {"get /health", 405},
               {"PATCH /health", 405},
               {"TRACE /", 405},
               {"OPTIONS /v1/chat/completions", 204},
               {"OPTIONS *", 204},
               {"CONNECT a:1", 400}};
  for (const auto& one : cases) {
    EXPECT_EQ(status(cat(one.line, " HTTP/1.1\r\nHost: localhost\r\n\r\n")), one.status) << one.line;
  }
  std::string segments;
  for (int i = 0; i < 1000; ++i) segments += "/a";
  EXPECT_EQ(status(http_get(segments)), 404);
  EXPECT_EQ(status("GET /health?x=y HTTP/1.1\r\nHost: localhost\r\n\r\n"), 200);
  EXPECT_EQ(status("GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n"), 200);
}

TEST_F(Http, BodiesThatAreNoRequests) {
  EXPECT_EQ(status("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n"),
            411);
  for (const char* type : {"text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""}) {
    EXPECT_EQ(status(cat("POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: ", type,
                         "\r\nContent-Length: 2\r\n\r\n{}")),
              415)
        << type;
  }
  EXPECT_EQ(status(cat("POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: Application/JSON; "
                       "charset=utf-8\r\nContent-Length: 15\r\n\r\n{\"content\":\"x\"}")),
            200);
  for (const char* path : {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/tokenize",
                           "/detokenize", "/v1/messages/count_tokens"}) {
    for (const std::string& body : {std::string(), std::string("{"), std::string("[]"), std::string("null"),
                                    std::string("{}"), std::string("\xff"), std::string(100000, '[')}) {
      const Reply reply = ask(port(), http_post(path, body));
      EXPECT_EQ(reply.status, 400) << path << " " << body.substr(0, 10);
      EXPECT_NE(reply.body.find("\"error\""), std::string::npos) << reply.body;
    }
  }
  EXPECT_EQ(status("POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
                   "99999999\r\n\r\n"),
            413);
}

TEST_F(Http, ChunkedBodiesAndContinue) {
  const std::string body = kQuestion;
  char size[20];
  std::snprintf(size, sizeof size, "%zx", body.size());
  const std::string head =
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
  EXPECT_EQ(
      status(cat(head, "Transfer-Encoding: chunked\r\n\r\n", std::string_view(size), "\r\n", body, "\r\n0\r\n\r\n")),
      200);
  Connection patient(port());
  patient.send(cat(head, "Expect: 100-continue\r\nContent-Length: ", body.size(), "\r\n\r\n"));
  EXPECT_NE(patient.read_until("\r\n\r\n").find("100 Continue"), std::string::npos);
  patient.send(body);
  EXPECT_EQ(patient.read_reply().status, 200);
}

TEST_F(Http, ConnectionsAreKeptAndPipelined) {
  Connection connection(port());
  std::string many;
  for (int i = 0; i < 100; ++i) many += http_get("/health", cat("x-request-id: number-", i, "\r\n"));
  connection.send(many);
  for (int i = 0; i < 100; ++i) {
    const Reply reply = connection.read_reply();
    ASSERT_EQ(reply.status, 200) << i;
    EXPECT_NE(reply.head.find(cat("x-request-id: number-", i, "\r\n")), std::string::npos);
  }
  connection.send(http_post("/v1/chat/completions", kQuestion) + http_get("/health"));
  EXPECT_NE(connection.read_reply().body.find("hello"), std::string::npos);
  EXPECT_EQ(connection.read_reply().body, "{\"status\":\"ok\"}");
  connection.send(http_get("/health") + "garbage\r\n\r\n");
  EXPECT_EQ(connection.read_reply().status, 200);
  EXPECT_EQ(connection.read_reply().status, 400);
  EXPECT_TRUE(connection.at_end());
  Connection old(port());
  const std::string body = R"({"stream":true,"messages":[{"role":"user","content":"x"}],"thinking":false})";
  old.send(
      cat("POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ",
          body.size(), "\r\n\r\n", body));
  EXPECT_NE(old.read_until("[DONE]").find("[DONE]"), std::string::npos);
  EXPECT_TRUE(old.at_end());
}

TEST_F(Http, SlowClientsAreClosedAndOthersNotice) {
  std::vector<std::unique_ptr<Connection>> slow;
  for (int i = 0; i < 60; ++i) {
    slow.push_back(std::make_unique<Connection>(port(), 10));
    if (i % 3 == 0) slow.back()->send("GET /hea");
    else if (i % 3 == 1)
      slow.back()->send(
          "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
          "1000\r\n\r\n{");
  }
  const auto start = Clock::now();
  for (int round = 0; round < 8; ++round) {  // a byte now and then does not buy time
    for (std::size_t i = 0; i < slow.size(); i += 3) slow[i]->send("x");
    const auto asked = Clock::now();
    EXPECT_EQ(status(http_get("/health")), 200);
    EXPECT_LT(seconds_since(asked), 1.0);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
  for (auto& connection : slow) EXPECT_TRUE(connection->at_end());
  EXPECT_LT(seconds_since(start), 6.0);
}

TEST_F(Http, AThousandIdleConnectionsCostNoThread) {
  ServerProcess server(scripted());
  ASSERT_TRUE(server.ready());
  EXPECT_EQ(ask(server.port(), http_post("/v1/chat/completions", kQuestion)).status, 200);
  const long threads = server.status("Threads:"), before = server.status("VmRSS:");
  std::vector<std::unique_ptr<Connection>> idle;
  for (int i = 0; i < 1000; ++i) {
    idle.push_back(std::make_unique<Connection>(server.port()));
    idle.back()->send(http_get("/health"));
  }
  for (auto& connection : idle) ASSERT_EQ(connection->read_reply().status, 200);
  EXPECT_EQ(server.status("Threads:"), threads);
  EXPECT_LT(server.status("VmRSS:") - before, 64 * 1000);  // KiB: what is promised is 32 each
  EXPECT_EQ(ask(server.port(), http_get("/health")).status, 200);
  for (int i = 0; i < 200; ++i) idle.push_back(std::make_unique<Connection>(server.port(), 5));
  for (std::size_t i = 1100; i < idle.size(); ++i) EXPECT_EQ(idle[i]->read_reply().status, 503);
  idle.clear();
  for (int tries = 0; tries < 500 && ask(server.port(), http_get("/health")).status != 200; ++tries)
    std::this_thread::yield();
  EXPECT_EQ(ask(server.port(), http_get("/health")).status, 200);
}

TEST_F(Http, ClientsThatVanish) {
  for (int i = 0; i < 60; ++i) {
    Connection connection(port());
    const std::string request =
        http_post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"x"}],"stream":true})");
    connection.send(request.substr(0, request.size() * static_cast<std::size_t>(i % 6) / 5));
    if (i % 7 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (i % 2 == 0) connection.reset();
  }
}

TEST_F(Http, HostsAndOrigins) {
  const auto with = [&](const std::string& fields) {
    return status(cat("GET /v1/models HTTP/1.1\r\n", fields, "\r\n"));
  };
  EXPECT_EQ(with("Host: 127.0.0.1:1\r\n"), 200);
  EXPECT_EQ(with(""), 403);
  EXPECT_EQ(with("Host: evil.example\r\n"), 403);
  EXPECT_EQ(with("Host: localhost\r\nHost: localhost\r\n"), 400);
  EXPECT_EQ(with("Host: localhost\r\nOrigin: https://evil.example\r\n"), 403);
  EXPECT_EQ(with("Host: localhost\r\nOrigin: null\r\n"), 403);
  const Reply allowed = ask(port(), http_get("/v1/models", "Origin: https://app.example\r\n"));
  EXPECT_EQ(allowed.status, 200);
  EXPECT_NE(allowed.head.find("Access-Control-Allow-Origin: https://app.example\r\n"), std::string::npos);
  const Reply preflight =
      ask(port(), "OPTIONS /v1/messages HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example\r\n\r\n");
  EXPECT_EQ(preflight.status, 204);
  EXPECT_NE(preflight.head.find("x-stainless-lang"), std::string::npos);
  const Reply stranger =
      ask(port(), "OPTIONS /v1/messages HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n");
  EXPECT_EQ(stranger.status, 403);
  EXPECT_EQ(stranger.head.find("Access-Control"), std::string::npos);
}

TEST_F(Http, ReadersThatDoNotReadHarmNobody) {
  std::string script = R"({"rules":[{"when":"","reply":")";
  for (int i = 0; i < 3000; ++i) script += "words and words and ";
  write_file(work_dir() + "/long.json", script + "\"}]}");
  ServerProcess server({"-m", nano_model(), "--script", work_dir() + "/long.json"});
  ASSERT_TRUE(server.ready()) << server.log();
  Connection stuck(server.port());
  stuck.send(http_post(
      "/v1/chat/completions",
      R"({"messages":[{"role":"user","content":"x"}],"thinking":false,"stream":true,"logprobs":true,"top_logprobs":20})"));
  // Far more than socket buffers hold: the connection is dropped and its slot is free again.
  const auto start = Clock::now();
  while (ask(server.port(), http_get("/metrics")).body.find("ds4_answers_total{ending=\"") == std::string::npos) {
    ASSERT_LT(seconds_since(start), 60);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_LT(server.status("VmRSS:"), 400 * 1024);
}

TEST(ServerStart, RefusesWhatIsNotSafeOrNotThere) {
  const struct {
    std::vector<std::string> arguments;
    int status;
    const char* says;
  } cases[] = {{{"-m", nano_model(), "--host", "0.0.0.0"}, 2, "API key"},
               {{"-m", nano_model(), "--host", "::"}, 2, "API key"},
               {{"-m", nano_model(), "--host", "nonsense"}, 2, ""},
               {{"-m", "/nowhere.gguf"}, 3, "nowhere.gguf"},
               {{"--nonsense"}, 2, "nonsense"},
               {{"-m", nano_model(), "--api-key-file", "/nowhere"}, 2, "api-key-file"},
               {{"-m", nano_model(), "--script", "/nowhere"}, 2, "script"},
               {{"-m", nano_model(), "--temp", "-1"}, 2, "temperature"},
               {{"-m", nano_model(), "--kv-disk-dir", "/tmp"}, 2, "kv-disk-dir"},
               {{"-m", nano_model(), "-c", "100000000"}, 2, "context"}};
  for (const auto& one : cases) {
    ServerProcess server(one.arguments);
    EXPECT_EQ(server.wait(), one.status) << server.log();
    EXPECT_NE(server.log().find(one.says), std::string::npos) << server.log();
  }
}

TEST(ServerStart, KeysComeFromFilesAndTheEnvironment) {
  write_file(work_dir() + "/keys", "# ours\nfrom-file\n\n");
  ServerProcess server(scripted({"--api-key-file", work_dir() + "/keys"}), {"DS4_API_KEY=from-environment"});
  ASSERT_TRUE(server.ready()) << server.log();
  const auto with = [&](const std::string& fields) {
    return ask(server.port(), http_get("/v1/models", fields)).status;
  };
  EXPECT_EQ(with("Authorization: Bearer from-file\r\n"), 200);
  EXPECT_EQ(with("x-api-key: from-environment\r\n"), 200);
  EXPECT_EQ(with("x-api-key: # ours\r\n"), 401);
  EXPECT_EQ(with(""), 401);
  const Reply refused = ask(server.port(), http_post("/v1/messages", "{}"));
  EXPECT_EQ(refused.status, 401);
  EXPECT_NE(refused.body.find("authentication_error"), std::string::npos);
}

TEST(ServerStart, HelpAndConfiguration) {
  ServerProcess help({"--help", "network"});
  EXPECT_EQ(help.wait(), 0);
  EXPECT_NE(help.log().find("--api-key-file"), std::string::npos);
  ServerProcess config({"--print-config", "-c", "777", "--api-key", "canary"});
  EXPECT_EQ(config.wait(), 0);
  EXPECT_NE(config.log().find("777"), std::string::npos);
  EXPECT_EQ(config.log().find("canary"), std::string::npos);
}

}  // namespace
}  // namespace ds4::e2e
