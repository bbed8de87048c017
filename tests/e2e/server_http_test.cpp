// ds4-server against clients that are slow, wrong or hostile: limits, timeouts, hosts, origins, keys. After every table
// the same process still answers, with as many threads and files as before.
#include <gtest/gtest.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <sstream>
#include <thread>

#include "base/text.h"
#include "http_client.h"
#include "models.h"
#include "tls_client.h"

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
  // `curl -d` and its like name another type, or none. A page can do that too, but not without saying that it is one.
  const auto typed = [&](const std::string& fields) {
    return status(
        cat("POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15\r\n", fields, "\r\n{\"content\":\"x\"}"));
  };
  for (const std::string& type : {std::string("Content-Type: text/plain\r\n"),
                                  std::string("Content-Type: application/x-www-form-urlencoded\r\n"), std::string()}) {
    EXPECT_EQ(typed(type + "User-Agent: curl/7.88.1\r\n"), 200) << type;
    EXPECT_EQ(typed(type + "User-Agent: Mozilla/5.0\r\n"), 415) << type;
    EXPECT_EQ(typed(type + "Sec-Fetch-Site: cross-site\r\n"), 415) << type;
    EXPECT_EQ(typed(type + "Referer: https://evil.example/\r\n"), 415) << type;
    EXPECT_EQ(typed(type + "Cookie: a=b\r\n"), 415) << type;
    EXPECT_EQ(typed(type + "Origin: null\r\n"), 403) << type;
    EXPECT_EQ(typed(type + "Origin: https://evil.example\r\n"), 403) << type;
    EXPECT_EQ(typed(type + "Origin: https://app.example\r\n"), 415) << type;
  }
  for (const char* type : {"multipart/form-data; boundary=x", "application/xml", "application/jsonp", "text/html"}) {
    EXPECT_EQ(typed(cat("Content-Type: ", type, "\r\n")), 415) << type;
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

TEST_F(Http, ThePageIsPartOfTheProgram) {
  const Reply page = ask(port(), http_get("/"));
  EXPECT_EQ(page.status, 200);
  for (const char* field :
       {"Content-Type: text/html", "default-src 'none'", "script-src 'self'", "frame-ancestors 'none'",
        "X-Content-Type-Options: nosniff", "Referrer-Policy: no-referrer"}) {
    EXPECT_NE(page.head.find(field), std::string::npos) << field << "\n" << page.head;
  }
  EXPECT_EQ(page.head.find("unsafe"), std::string::npos);
  // Everything that it names is there, and nothing is elsewhere or inline.
  int named = 0;
  for (const char* mark : {"src=\"", "href=\""}) {
    for (std::size_t at = page.body.find(mark); at != std::string::npos; at = page.body.find(mark, at + 1)) {
      const std::size_t from = at + std::string_view(mark).size();
      const std::string target = page.body.substr(from, page.body.find('"', from) - from);
      if (target.starts_with('#')) continue;
      ++named;
      EXPECT_EQ(status(http_get(target)), 200) << target;
    }
  }
  EXPECT_EQ(named, 4);
  EXPECT_EQ(page.body.find("<script>"), std::string::npos);
  EXPECT_EQ(page.body.find("style=\""), std::string::npos);
  const std::size_t tag = page.head.find("ETag: ") + 6;
  const std::string etag = page.head.substr(tag, page.head.find("\r\n", tag) - tag);
  Connection connection(port());
  connection.send(http_get("/", cat("If-None-Match: ", etag, "\r\n")) + http_get("/health"));
  EXPECT_EQ(connection.read_reply(false).status, 304);
  EXPECT_EQ(connection.read_reply().status, 200);  // a 304 has no body, and the connection goes on
  EXPECT_EQ(status(http_get("/", "If-None-Match: \"other\"\r\n")), 200);
  for (const char* path : {"/web", "/web/", "/web/nothing", "/web/../index.html", "/web/index.html", "/web/a/app.js"}) {
    EXPECT_EQ(status(http_get(path)), 404) << path;
  }
}

TEST_F(Http, RequestsThatTwoReadersMayReadDifferently) {
  const auto chat = [](const std::string& fields, const std::string& body) {
    return cat("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n", fields,
               "\r\n", body);
  };
  const std::string hidden = http_get("/health", "x-request-id: smuggled\r\n");
  for (const std::string& request :
       {chat("Content-Length: 2\r\nContent-Length: 40\r\n", "{}" + hidden),
        chat("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + hidden),
        chat("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", "0\r\n\r\n" + hidden),
        chat("Transfer-Encoding: chunked\r\n", "2\n{}\n0\n\n" + hidden),
        chat("Transfer-Encoding: chunked\r\n", "-2\r\n{}\r\n0\r\n\r\n" + hidden),
        chat("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n{}\r\n0\r\n\r\n" + hidden),
        chat("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n" + hidden),
        chat("Content-Length : 2\r\n", "{}" + hidden), chat("Content-Length: +2\r\n", "{}" + hidden),
        chat("Content-Length: 2,2\r\n", "{}" + hidden), cat("GET /health HTTP/1.1\nHost: localhost\n\n", hidden),
        cat("GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n", hidden),
        std::string("GET /health\r\n\r\n"), std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")}) {
    Connection connection(port());
    connection.send(request);
    const Reply reply = connection.read_reply();
    EXPECT_GE(reply.status, 400) << request;
    EXPECT_NE(reply.head.find("Connection: close"), std::string::npos) << request;
    EXPECT_EQ((reply.head + connection.read_until("never")).find("smuggled"), std::string::npos) << request;
  }
  // A body where none is expected is read, and not taken for a request.
  Connection odd(port());
  odd.send(cat("GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: ", hidden.size(), "\r\n\r\n", hidden,
               http_get("/nonsense")));
  EXPECT_EQ(odd.read_reply().status, 200);
  EXPECT_EQ(odd.read_reply().status, 404);
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

/// Half of a connection is no client any more: what it asked for is cancelled, as when all of it is gone.
TEST_F(Http, ClientsThatStopSendingAreGone) {
  for (const char* more : {"}", ",\"stream\":true}"}) {
    Connection connection(port(), 10);
    const std::string question = kQuestion;
    connection.send(http_post("/v1/chat/completions", question.substr(0, question.size() - 1) + more));
    connection.finish_sending();
    EXPECT_TRUE(connection.at_end());
  }
  Connection empty(port(), 10);
  empty.finish_sending();
  EXPECT_TRUE(empty.at_end());
}

/// H3: no descriptor left for another connection.
TEST_F(Http, WithoutDescriptorsItWaits) {
  ServerProcess server(scripted());
  ASSERT_TRUE(server.ready()) << server.log();
  const rlimit few{static_cast<rlim_t>(server.open_files() + 16), 8192};
  ASSERT_EQ(prlimit(server.pid(), RLIMIT_NOFILE, &few, nullptr), 0);
  std::vector<std::unique_ptr<Connection>> many;
  for (int i = 0; i < 60; ++i) many.push_back(std::make_unique<Connection>(server.port(), 1));
  const long before = server.processor_ticks();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  EXPECT_LT(server.processor_ticks() - before, 30);  // of 100: starved is not busy
  many.clear();
  const auto start = Clock::now();
  while (ask(server.port(), http_get("/health")).status != 200) ASSERT_LT(seconds_since(start), 5);
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
  EXPECT_EQ(with("Host: localhost\r\nOrigin: http://localhost\r\n"), 200);  // our own page
  EXPECT_EQ(with("Host: localhost\r\nOrigin: http://localhost.evil.example\r\n"), 403);
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
  for (int i = 0; i < 1200; ++i) script += "words and words and ";
  write_file(work_dir() + "/long.json", script + "\"}]}");
  ServerProcess server({"-m", nano_model(), "--script", work_dir() + "/long.json"});
  ASSERT_TRUE(server.ready()) << server.log();
  Connection stuck(server.port());
  stuck.send(http_post(
      "/v1/chat/completions",
      R"({"messages":[{"role":"user","content":"x"}],"thinking":false,"stream":true,"logprobs":true,"top_logprobs":20})"));
  // Far more than socket buffers hold: the connection is dropped and its slot is free again.
  const auto start = Clock::now();
  while (ask(server.port(), http_get("/metrics")).body.find("ds4_answers_total{ending=\"cancelled") ==
         std::string::npos) {
    ASSERT_LT(seconds_since(start), 60);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
#ifndef __SANITIZE_ADDRESS__  // which keeps what was freed
  EXPECT_LT(server.status("VmRSS:"), 400 * 1024);
#endif
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
               {{"-m", nano_model(), "--tls-cert", "/nowhere.pem"}, 2, "--tls-key"},
               {{"-m", nano_model(), "--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.key"}, 2, "/nowhere.pem"},
               {{"-m", nano_model(), "--tls-cert", nano_model(), "--tls-key", nano_model()}, 2, "ds4-nano.gguf"},
               {{"-m", nano_model(), "--kv-cache-cold-max-tokens", "9"}, 2, "kv-cache-cold-max-tokens"},
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
  write_file(work_dir() + "/ds4.conf", "temp=0.25\nparallel=3\n");
  ServerProcess mixed({"--print-config", "--config", work_dir() + "/ds4.conf", "--parallel=2"}, {"DS4_API_KEY=canary"});
  EXPECT_EQ(mixed.wait(), 0);
  const auto line = [&](const std::string& name) {
    const std::string log = "\n" + mixed.log();
    const std::size_t at = log.find("\n" + name + " ");
    return at == std::string::npos ? "" : log.substr(at + 1, log.find('\n', at + 1) - at - 1);
  };
  EXPECT_TRUE(line("temp").find("0.25") != std::string::npos && line("temp").ends_with("config file")) << mixed.log();
  EXPECT_TRUE(line("parallel").find(" 2 ") != std::string::npos && line("parallel").ends_with("argument"));
  EXPECT_TRUE(line("top-p").ends_with("default"));
  EXPECT_TRUE(line("DS4_API_KEY").ends_with("environment"));
  EXPECT_EQ(mixed.log().find("canary"), std::string::npos);
}

TEST(ServerStart, EveryFlagIsInTheHelpAndInTheManual) {
  ServerProcess config({"--print-config"}), help({"--help", "all"}), manual({"--help", "man"});
  EXPECT_EQ(config.wait() + help.wait() + manual.wait(), 0);
  EXPECT_TRUE(manual.log().starts_with(".TH DS4\\-SERVER 1\n.SH NAME\n"));
  std::istringstream lines(config.log());
  int flags = 0;
  for (std::string line; std::getline(lines, line);) {
    std::string name = line.substr(0, line.find(' '));
    if (name == "DS4_API_KEY") continue;
    ++flags;
    EXPECT_NE(help.log().find("--" + name), std::string::npos) << name;
    for (std::size_t at = name.find('-'); at != std::string::npos; at = name.find('-', at + 2)) name.insert(at, "\\");
    EXPECT_NE(manual.log().find("\\-\\-" + name), std::string::npos) << name;
  }
  EXPECT_GT(flags, 40);
}

/// O4: a key shows up nowhere.
TEST(ServerStart, KeysLeaveTheProcessList) {
  for (const std::vector<std::string>& flag :
       {std::vector<std::string>{"--api-key", "canary-key"}, std::vector<std::string>{"--api-key=canary-key"}}) {
    ServerProcess server(scripted(flag));
    ASSERT_TRUE(server.ready()) << server.log();
    EXPECT_EQ(read_file(cat("/proc/", server.pid(), "/cmdline")).find("canary"), std::string::npos);
    EXPECT_EQ(ask(server.port(), http_get("/v1/models", "x-api-key: canary-key\r\n")).status, 200);
    EXPECT_EQ(ask(server.port(), http_get("/v1/models", "x-api-key: **********\r\n")).status, 401);
  }
}

TEST(ServerStart, SpeaksTlsWhenItHasACertificate) {
  const std::string certificate = work_dir() + "/tls.pem", key = work_dir() + "/tls.key";
  make_certificate(certificate, key, "first");
  make_certificate(work_dir() + "/other.pem", work_dir() + "/other.key", "other");
  ServerProcess mixed({"-m", nano_model(), "--tls-cert", certificate, "--tls-key", work_dir() + "/other.key"});
  EXPECT_EQ(mixed.wait(), 2);
  EXPECT_NE(mixed.log().find("other.key"), std::string::npos) << mixed.log();

  ServerProcess server(scripted({"--tls-cert", certificate, "--tls-key", key, "--head-seconds", "1"}));
  ASSERT_GT(server.port(), 0) << server.log();
  TlsConnection client(server.port());
  ASSERT_TRUE(client.open());
  for (int tries = 0; client.ask(http_get("/health")).status == 503 && tries < 500; ++tries) std::this_thread::yield();
  EXPECT_EQ(client.name(), "first");
  for (int i = 0; i < 3; ++i) {
    const Reply reply = client.ask(http_post("/v1/chat/completions", kQuestion));
    EXPECT_EQ(reply.status, 200) << reply.body;
    EXPECT_NE(reply.body.find("hello"), std::string::npos);
  }
  const Reply stream = client.ask(http_post(
      "/v1/chat/completions", R"({"stream":true,"messages":[{"role":"user","content":"x"}],"thinking":false})"));
  EXPECT_NE(stream.body.find("[DONE]"), std::string::npos);
  // The end of an answer that has no length is a proper end, not a cut.
  TlsConnection old(server.port());
  EXPECT_EQ(old.ask("GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n").status, 200);
  EXPECT_TRUE(old.ended_properly());

  EXPECT_FALSE(TlsConnection(server.port(), 0x0302).open());  // TLS 1.1
  EXPECT_TRUE(TlsConnection(server.port(), 0x0303).open());
  Connection plain(server.port(), 10);
  plain.send(http_get("/health"));
  EXPECT_TRUE(plain.at_end());
  Connection silent(server.port(), 10);  // a handshake that never comes
  EXPECT_TRUE(silent.at_end());

  // A new certificate, without a break for who is connected; a wrong one changes nothing.
  make_certificate(certificate, key, "second");
  kill(server.pid(), SIGHUP);
  const auto now_named = [&] {
    TlsConnection fresh(server.port());
    return fresh.open() ? fresh.name() : "";
  };
  for (int tries = 0; now_named() != "second" && tries < 200; ++tries) std::this_thread::yield();
  EXPECT_EQ(now_named(), "second");
  EXPECT_EQ(client.ask(http_get("/health")).status, 200);
  write_file(key, "nonsense");
  kill(server.pid(), SIGHUP);
  while (server.log().find("level=warn event=certificate") == std::string::npos) std::this_thread::yield();
  EXPECT_EQ(now_named(), "second");
  EXPECT_EQ(server.stop(), 0) << server.log();
}

TEST(ServerStart, ASocketOfSystemdIsTaken) {
  const int listening = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(listening, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listening, 8), 0);
  socklen_t size = sizeof address;
  getsockname(listening, reinterpret_cast<sockaddr*>(&address), &size);
  const std::string notices = work_dir() + "/notify";
  const int told = socket(AF_UNIX, SOCK_DGRAM, 0);
  sockaddr_un path{};
  path.sun_family = AF_UNIX;
  std::snprintf(path.sun_path, sizeof path.sun_path, "%s", notices.c_str());
  ASSERT_EQ(bind(told, reinterpret_cast<sockaddr*>(&path), sizeof path), 0);

  Connection early(ntohs(address.sin_port));  // before there is a server
  early.send(http_get("/health"));
  ServerProcess server(scripted(), {"NOTIFY_SOCKET=" + notices, "LISTEN_FDS=1"}, listening);
  EXPECT_EQ(server.port(), ntohs(address.sin_port)) << server.log();
  ASSERT_TRUE(server.ready()) << server.log();
  EXPECT_GT(early.read_reply().status, 0);
  char notice[64] = {};
  EXPECT_GT(recv(told, notice, sizeof notice - 1, 0), 0);
  EXPECT_STREQ(notice, "READY=1");
  EXPECT_EQ(server.stop(), 0);
  EXPECT_GT(recv(told, notice, sizeof notice - 1, 0), 0);
  EXPECT_STREQ(notice, "STOPPING=1");
  close(listening);

  const int open_to_all = socket(AF_INET, SOCK_STREAM, 0);
  address.sin_port = 0;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  ASSERT_EQ(bind(open_to_all, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ServerProcess deaf(scripted(), {"LISTEN_FDS=1"}, open_to_all);  // does not listen
  EXPECT_EQ(deaf.wait(), 2);
  EXPECT_NE(deaf.log().find("socket activation"), std::string::npos) << deaf.log();
  ASSERT_EQ(listen(open_to_all, 8), 0);
  ServerProcess keyless(scripted(), {"LISTEN_FDS=1"}, open_to_all);
  EXPECT_EQ(keyless.wait(), 2);
  EXPECT_NE(keyless.log().find("API key"), std::string::npos) << keyless.log();
  close(open_to_all);
  close(told);
}

}  // namespace
}  // namespace ds4::e2e
