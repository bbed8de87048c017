// ds4-server under many clients at once, while it computes on all cores: who only asks how it is does not wait, who is
// slow is closed in time, and nobody who was let in is forgotten. These tests measure, so they are not part of `make
// test`.
#include <gtest/gtest.h>

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "base/text.h"
#include "http_client.h"
#include "models.h"

namespace ds4::e2e {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void allow_many_files() {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, 16384);
  setrlimit(RLIMIT_NOFILE, &files);
}

struct Latency {
  double median = 0, p99 = 0, worst = 0;
};

/// Each asked `count` times on a connection of its own.
Latency latency_of(int port, const std::string& request, int count) {
  std::vector<double> times;
  for (int i = 0; i < count; ++i) {
    const auto start = Clock::now();
    EXPECT_EQ(ask(port, request).status, 200);
    times.push_back(seconds_since(start));
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  std::sort(times.begin(), times.end());
  const auto at = [&](double share) {
    return times[static_cast<std::size_t>(share * static_cast<double>(times.size() - 1))];
  };
  return {at(0.5), at(0.99), times.back()};
}

void report(const char* what, const Latency& latency) {
  std::printf("load: %s: median %.1f ms, p99 %.1f ms, worst %.1f ms\n", what, latency.median * 1e3, latency.p99 * 1e3,
              latency.worst * 1e3);
}

/// Answers that keep all cores busy until it is destroyed.
class Busy {
 public:
  Busy(int port, int streams) {
    for (int i = 0; i < streams; ++i) {
      threads_.emplace_back([this, port, i] {
        while (!over_) {
          ask(port, http_post("/v1/completions", cat(R"({"prompt":"Once upon a time )", i,
                                                     R"(","max_tokens":200,"temperature":1,"stream":true})")));
        }
      });
    }
  }
  ~Busy() {
    over_ = true;
    for (auto& thread : threads_) thread.join();
  }

 private:
  std::atomic<bool> over_{false};
  std::vector<std::thread> threads_;
};

/// H1, H2: 1,000 idle and 500 slow clients.
TEST(ServerLoad, HealthIsQuickAmongIdleAndSlowClientsWhileAllCoresDecode) {
  allow_many_files();
  ServerProcess server({"-m", nano_model(), "-c", "1024", "--parallel", "3", "--max-connections", "2048"});
  ASSERT_TRUE(server.ready()) << server.log();
  ask(server.port(), http_post("/v1/completions", R"({"prompt":"x","max_tokens":4})"));
  const long memory = server.status("VmRSS:"), threads = server.status("Threads:");
  std::vector<std::unique_ptr<Connection>> idle;
  for (int i = 0; i < 1000; ++i) {
    idle.push_back(std::make_unique<Connection>(server.port()));
    idle.back()->send(http_get("/health"));
  }
  for (auto& connection : idle) ASSERT_EQ(connection->read_reply().status, 200);
  const long each = (server.status("VmRSS:") - memory) / 1000;
  std::printf("load: %ld KiB for each idle connection\n", each);
  EXPECT_LE(each, 32);
  EXPECT_EQ(server.status("Threads:"), threads);

  const Busy busy(server.port(), 3);
  report("1000 idle", latency_of(server.port(), http_get("/health"), 500));
  std::vector<std::unique_ptr<Connection>> slow;
  const auto start = Clock::now();
  for (int i = 0; i < 500; ++i) {
    slow.push_back(std::make_unique<Connection>(server.port(), 30));
    slow.back()->send(i % 2 == 0 ? std::string("G")
                                 : std::string("POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                                               "application/json\r\nContent-Length: 9999\r\n\r\n{"));
  }
  std::atomic<bool> over{false};
  std::thread dribble([&] {  // a byte a second from each: a deadline for every read would never pass
    while (!over) {
      for (auto& connection : slow) connection->send("x");
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  });
  const Latency health = latency_of(server.port(), http_get("/health"), 1500);
  report("1000 idle and 500 slow, health", health);
  const Latency models = latency_of(server.port(), http_get("/v1/models"), 500);
  report("1000 idle and 500 slow, models", models);
  EXPECT_LE(health.p99, 0.050);
  EXPECT_LE(models.p99, 0.050);
  while (ask(server.port(), http_get("/metrics")).body.find("ds4_timeouts_total 500\n") == std::string::npos) {
    ASSERT_LT(seconds_since(start), 12.5);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  std::printf("load: 500 slow clients closed after %.1f s\n", seconds_since(start));
  over = true;
  dribble.join();
  for (auto& connection : slow) EXPECT_TRUE(connection->at_end());
}

/// H14: many more requests than may wait.
TEST(ServerLoad, OfAThousandRequestsAtOnceEachIsAnsweredOrSentAway) {
  allow_many_files();
  write_file(work_dir() + "/load.json", R"({"rules":[{"when":"","reply":"a b c d","token_ms":2}]})");
  ServerProcess server({"-m", nano_model(), "--script", work_dir() + "/load.json", "--max-connections", "2048"});
  ASSERT_TRUE(server.ready()) << server.log();
  std::vector<std::unique_ptr<Connection>> all;
  for (int i = 0; i < 1000; ++i) all.push_back(std::make_unique<Connection>(server.port(), 60));
  for (auto& connection : all) {
    connection->send(http_post("/v1/chat/completions",
                               R"({"messages":[{"role":"user","content":"x"}],"thinking":false,"stream":true})"));
  }
  int answered = 0, busy = 0;
  for (auto& connection : all) {
    const Reply reply = connection->read_reply();
    EXPECT_TRUE(reply.whole);
    if (reply.status == 200) {
      ++answered;
      EXPECT_NE(reply.body.find("[DONE]"), std::string::npos);
    } else {
      ++busy;
      EXPECT_TRUE(reply.status == 429 || reply.status == 503) << reply.status;
      EXPECT_NE(reply.head.find("Retry-After: "), std::string::npos);
    }
  }
  std::printf("load: of 1000 at once %d answered, %d sent away\n", answered, busy);
  EXPECT_GE(answered, 64);
  EXPECT_EQ(ask(server.port(), http_get("/health")).status, 200);
}

/// C8: twice the history takes about twice the time.
TEST(ServerLoad, LongHistoriesOfCallsAreReadInLinearTime) {
  ServerProcess server({"-m", nano_model(), "-c", "1024"});
  ASSERT_TRUE(server.ready()) << server.log();
  const auto history = [](int pairs) {
    std::string messages = R"({"role":"user","content":"x"})";
    for (int i = 0; i < pairs; ++i) {
      messages +=
          cat(R"(,{"role":"assistant","content":[{"type":"tool_use","id":"toolu_)", i, R"(","name":"f","input":{"a":)",
              i, R"(}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_)", i,
              R"(","content":"some result"}]})");
    }
    return http_post("/v1/messages/count_tokens", cat(R"({"messages":[)", messages, "]}"));
  };
  const auto time_of = [&](int pairs) {
    const std::string request = history(pairs);
    double best = 1e9;
    for (int i = 0; i < 3; ++i) {
      const auto start = Clock::now();
      EXPECT_EQ(ask(server.port(), request).status, 200);
      best = std::min(best, seconds_since(start));
    }
    return best;
  };
  const double half = time_of(4096), whole = time_of(8191);
  std::printf("load: 4096 calls %.0f ms, 8191 calls %.0f ms\n", half * 1e3, whole * 1e3);
  EXPECT_LE(whole / half, 2.6);
  EXPECT_EQ(ask(server.port(), history(8193)).status, 400);
}

}  // namespace
}  // namespace ds4::e2e
