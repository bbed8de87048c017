// ds4-server with states on disk: restarts, kill -9 at any time, several servers on one folder, a full and a read-only
// disk, `kv ls|verify|rm`, and an agent's loop.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "agent_loop.h"
#include "base/text.h"
#include "http_client.h"
#include "models.h"
#include "process.h"

namespace ds4::e2e {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

bool deep() { return std::getenv("DS4_DEEP") != nullptr; }

std::string fresh_folder(const std::string& name) {
  const std::string path = cat(work_dir(), "/", name);
  fs::remove_all(path);
  return path;
}

std::unique_ptr<ServerProcess> serve(const std::string& folder, const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments = {"-m", nano_model(), "-c", "4096", "--parallel", "2", "-t", "1", "--temp", "0"};
  if (!folder.empty()) arguments.insert(arguments.end(), {"--kv-disk-dir", folder});
  arguments.insert(arguments.end(), more.begin(), more.end());
  auto server = std::make_unique<ServerProcess>(arguments);
  EXPECT_TRUE(server->ready()) << server->log();
  return server;
}

std::int64_t metric(const ServerProcess& server, const std::string& name) {
  const std::string text = ask(server.port(), http_get("/metrics")).body;
  const std::size_t at = text.find(cat("\nds4_kv_disk_", name, " "));
  return at == std::string::npos ? -1 : std::atol(text.c_str() + text.find(' ', at));
}

void wait_for_disk(const ServerProcess& server) {
  for (int i = 0; i < 1000 && metric(server, "queued_bytes") > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

/// Lines of facts, and a question about one of them.
std::string question(int seed, int lines) {
  std::string text = cat("List ", seed, ".");
  for (int i = 0; i < lines; ++i)
    text += cat(" Item ", i, " of list ", seed, " costs ", (i * 37 + seed * 101) % 997, ".");
  return text + " What does item 3 cost?";
}

std::string body_of(const Json& messages, bool logprobs = true) {
  return Json{{"messages", messages}, {"max_tokens", 12}, {"thinking", false}, {"logprobs", logprobs}}.dump();
}

struct Said {
  std::string text;
  std::vector<double> logprobs;
  std::int64_t cached = 0, prompt = 0;
  bool operator==(const Said& other) const { return text == other.text && logprobs == other.logprobs; }
};

Said say(const ServerProcess& server, const Json& messages) {
  const Reply reply = ask(server.port(), http_post("/v1/chat/completions", body_of(messages)));
  const Json json = Json::parse(reply.body, nullptr, false);
  EXPECT_EQ(reply.status, 200) << reply.body << server.log();
  if (reply.status != 200) return {};
  Said said;
  said.text = json["choices"][0]["message"]["content"];
  for (const Json& token : json["choices"][0]["logprobs"]["content"]) said.logprobs.push_back(token["logprob"]);
  said.cached = json["usage"]["prompt_tokens_details"]["cached_tokens"];
  said.prompt = json["usage"]["prompt_tokens"];
  return said;
}

Json user(const std::string& text) { return Json::array({{{"role", "user"}, {"content", text}}}); }

TEST(ServerKv, ARestartGoesOnBitForBit) {
  const std::string folder = fresh_folder("kv_restart");
  Json messages = user(question(1, 60));
  auto server = serve(folder);
  const Said first = say(*server, messages);
  messages.push_back({{"role", "assistant"}, {"content", first.text}});
  messages.push_back({{"role", "user"}, {"content", "And item 4?"}});
  const Said second = say(*server, messages);
  const std::int64_t known = first.prompt + static_cast<std::int64_t>(first.logprobs.size());
  EXPECT_EQ(server->stop(), 0);
  EXPECT_NE(server->log().find("event=kv_saved"), std::string::npos);

  server = serve(folder);
  const Said again = say(*server, messages);
  EXPECT_EQ(again, second);
  EXPECT_GE(again.cached, known - 128);
  EXPECT_EQ(metric(*server, "restores_total"), 1);
  EXPECT_NE(server->log().find(cat("loaded=", again.cached)), std::string::npos) << server->log();
  // Another format of rows: nothing fits, and nothing is wrong.
  EXPECT_EQ(server->stop(), 0);
  server = serve(folder, {"--kv", "f32"});
  EXPECT_EQ(say(*server, messages).cached, 0);
}

TEST(ServerKv, KilledAtAnyTimeItNeverAnswersWrong) {
  const std::string folder = fresh_folder("kv_kill");
  constexpr int kConversations = 6;
  std::vector<Json> conversations;
  std::vector<Said> expected;
  {
    const auto server = serve("");
    for (int i = 0; i < kConversations; ++i) {
      Json messages = user(question(i % 3, 30 + 10 * i));
      if (i % 2 == 1) {
        messages.push_back({{"role", "assistant"}, {"content", say(*server, messages).text}});
        messages.push_back({{"role", "user"}, {"content", question(i, 10)}});
      }
      expected.push_back(say(*server, messages));
      conversations.push_back(std::move(messages));
    }
  }
  std::mt19937 random(7);
  const int cycles = deep() ? 1000 : 8;
  std::int64_t restored = 0;
  for (int cycle = 0; cycle < cycles; ++cycle) {
    // A small budget: files are removed all the time as well.
    auto server = serve(folder, {"--kv-disk-space-mb", "2"});
    const std::size_t which = random() % kConversations;
    const Said said = say(*server, conversations[which]);
    ASSERT_EQ(said, expected[which]) << "cycle " << cycle << ", conversation " << which << "\n" << server->log();
    restored += metric(*server, "restores_total");
    EXPECT_EQ(metric(*server, "rejected_total"), 0) << server->log();
    // In the middle of the next answer, of its saving, or of nothing.
    Connection connection(server->port());
    connection.send(http_post("/v1/chat/completions", body_of(conversations[random() % kConversations])));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 400000));
    EXPECT_EQ(server->stop(SIGKILL), 128 + SIGKILL);
  }
  EXPECT_GT(restored, 0);
  const Outcome verified = run({server_program(), "kv", "verify", "--kv-disk-dir", folder});
  EXPECT_EQ(verified.status, 0) << verified.out;
}

TEST(ServerKv, SeveralServersShareAFolder) {
  const std::string folder = fresh_folder("kv_shared");
  const Json messages = user(question(5, 60));
  const auto one = serve(folder);
  const auto other = serve(folder);
  const Said said = say(*one, messages);
  wait_for_disk(*one);
  EXPECT_EQ(say(*other, messages), said);
  wait_for_disk(*other);
  // Written twice or once, it is there once.
  const Outcome listed = run({server_program(), "kv", "ls", "--kv-disk-dir", folder});
  EXPECT_NE(listed.out.find("1 conversations, 2 points, 8 blocks"), std::string::npos) << listed.out;
  EXPECT_EQ(one->stop(), 0);
  EXPECT_EQ(other->stop(), 0);
  const auto third = serve(folder);
  const Said again = say(*third, messages);
  EXPECT_EQ(again, said);
  EXPECT_GT(again.cached, said.prompt - 200) << third->log();
}

Json weather_request(const Json& messages, const std::string& filler) {
  const Json city = {{"type", "string"}, {"description", "Name of the city" + filler}};
  const Json parameters = {{"type", "object"}, {"properties", {{"city", city}}}, {"required", {"city"}}};
  const Json function = {
      {"name", "get_weather"}, {"description", "Get the current weather of a city"}, {"parameters", parameters}};
  return {{"messages", messages},
          {"max_tokens", 200},
          {"logprobs", true},
          {"tools", {{{"type", "function"}, {"function", function}}}}};
}

TEST(ServerKv, CallsComeBackAfterARestartAsTheModelWroteThem) {
  const std::string folder = fresh_folder("kv_calls"), kept = fresh_folder("kv_calls_kept"),
                    flipped = fresh_folder("kv_calls_flipped");
  std::string filler;
  const auto answer = [&](const ServerProcess& server, const Json& messages) {
    const std::string body = weather_request(messages, filler).dump();
    const Reply reply = ask(server.port(), http_post("/v1/chat/completions", body));
    EXPECT_EQ(reply.status, 200) << reply.body;
    return Json::parse(reply.body, nullptr, false);
  };
  const auto facts = [](const Json& reply) {
    return Json::array({reply["choices"], reply["usage"]["prompt_tokens"]}).dump();
  };
  const auto cached = [](const Json& reply) -> std::int64_t {
    return reply["usage"]["prompt_tokens_details"]["cached_tokens"];
  };
  auto server = serve(folder);
  Json messages = user("What is the weather in Paris?"), first;
  std::int64_t asked = 0, known = 0;
  // Until the call reaches over a multiple of 128 tokens: then a state has been left in it.
  for (; asked < 8; filler += ", as it is written on maps of the country") {
    first = answer(*server, messages);
    ASSERT_EQ(first["choices"][0]["finish_reason"], "tool_calls") << first;
    ++asked;
    known = first["usage"]["total_tokens"];
    if ((known - 1) / 128 > first["usage"]["prompt_tokens"].get<std::int64_t>() / 128) break;
  }
  Json turn = first["choices"][0]["message"];
  ASSERT_EQ(turn["tool_calls"].size(), 1u) << first;
  // The client brings the call back without the thoughts before it, and with spaces of its own.
  Json call = turn["tool_calls"][0];
  ASSERT_FALSE(turn["reasoning_content"].get<std::string>().empty());
  call["function"]["arguments"] = Json::parse(call["function"]["arguments"].get<std::string>()).dump(3);
  messages.push_back({{"role", "assistant"}, {"content", nullptr}, {"tool_calls", {call}}});
  messages.push_back({{"role", "tool"}, {"tool_call_id", call["id"]}, {"content", R"({"temperature": 18})"}});
  wait_for_disk(*server);
  EXPECT_EQ(metric(*server, "records_kept_total"), asked);
  for (const std::string& copy : {kept, flipped}) fs::copy(folder, copy);
  const Json second = answer(*server, messages);
  EXPECT_GE(cached(second), known - 1);
  EXPECT_EQ(server->stop(), 0);

  server = serve(kept);
  const Json again = answer(*server, messages);
  EXPECT_EQ(facts(again), facts(second));
  EXPECT_GE(cached(again), known - 128);
  EXPECT_GT(cached(again), first["usage"]["prompt_tokens"].get<std::int64_t>());  // into the call
  EXPECT_NE(server->log().find(cat(" calls=", asked, " ")), std::string::npos) << server->log();
  EXPECT_EQ(server->stop(), 0);

  std::string bytes = read_file(flipped + "/calls.log");
  bytes[bytes.size() - 9] ^= 4;
  write_file(flipped + "/calls.log", bytes);
  server = serve(flipped);
  EXPECT_NE(server->log().find("calls.log: 1 not used: record at byte "), std::string::npos) << server->log();
  const Json without = answer(*server, messages);
  EXPECT_LT(without["usage"]["prompt_tokens"], second["usage"]["prompt_tokens"]);  // the thoughts are lost
  EXPECT_EQ(run({server_program(), "kv", "verify", "--kv-disk-dir", flipped}).status, 0);
}

TEST(ServerKv, AFolderThatCannotBeUsedEndsTheStart) {
  const std::string open = fresh_folder("kv_open"), file = fresh_folder("kv_file");
  fs::create_directory(open);
  fs::permissions(open, fs::perms::all);
  write_file(file, "x");
  const std::vector<std::pair<std::string, std::string>> refused = {
      {open, ": expected a directory that only its owner writes to, found mode 777"},
      {file, ": expected a directory that can be read, found Not a directory"},
      {file + "/below", ": expected a directory, or one that can be made, found Not a directory"},
      {open + "/no/such", ": expected a directory, or one that can be made, found No such file or directory"}};
  for (const auto& [path, why] : refused) {
    ServerProcess server({"-m", nano_model(), "--kv-disk-dir", path});
    EXPECT_EQ(server.wait(), 2) << path;
    EXPECT_NE(server.log().find(cat("error: --kv-disk-dir: ", path, why)), std::string::npos) << server.log();
  }
}

TEST(ServerKv, ABudgetThatHoldsNothingIsKept) {
  const auto tight = serve(fresh_folder("kv_tight"), {"--kv-disk-space-mb", "1"});
  const Json messages = user(question(8, 150));
  for (int i = 0; i < 2; ++i) EXPECT_FALSE(say(*tight, messages).text.empty());
  wait_for_disk(*tight);
  EXPECT_LE(metric(*tight, "bytes"), 1 << 20);
}

TEST(ServerKv, TheFolderCanBeListedVerifiedAndEmptied) {
  const std::string folder = fresh_folder("kv_tool");
  {
    const auto server = serve(folder);
    say(*server, user(question(1, 40)));
    say(*server, user(question(2, 40)));
    EXPECT_EQ(server->stop(), 0);
  }
  const auto tool = [&](std::vector<std::string> what) {
    what.insert(what.begin(), {server_program(), "kv"});
    what.insert(what.end(), {"--kv-disk-dir", folder});
    return run(what);
  };
  const Outcome listed = tool({"ls"});
  EXPECT_EQ(listed.status, 0) << listed.err;
  EXPECT_NE(listed.out.find("2 conversations, 2 points"), std::string::npos) << listed.out;
  EXPECT_EQ(listed.out.find('\r'), std::string::npos);
  const std::size_t row = listed.out.find('\n') + 1;
  const std::string id = listed.out.substr(row, 12);
  EXPECT_EQ(tool({"rm", id}).status, 0);
  EXPECT_EQ(tool({"rm", id}).status, 2);
  EXPECT_NE(tool({"ls"}).out.find("1 conversations, 1 points"), std::string::npos);
  EXPECT_EQ(tool({"verify"}).status, 0);
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (!entry.path().filename().string().starts_with("p-")) continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(1000);
    file.put('!');
  }
  const Outcome broken = tool({"verify"});
  EXPECT_EQ(broken.status, 1);
  EXPECT_NE(broken.out.find("bad: p-"), std::string::npos) << broken.out;
  EXPECT_EQ(tool({"rm"}).status, 2);
  EXPECT_EQ(tool({"rm", "--all"}).status, 0);
  EXPECT_TRUE(tool({"ls"}).out.find("0 conversations, 0 points, 0 blocks, 0 B") != std::string::npos);
  int left = 0;
  for (const auto& entry : fs::directory_iterator(folder)) left += entry.path().extension() == ".kv" ? 1 : 0;
  EXPECT_EQ(left, 0);
  EXPECT_EQ(run({server_program(), "kv", "ls", "--kv-disk-dir", cat(folder, "/none")}).status, 2);
  EXPECT_EQ(run({server_program(), "kv", "ls"}).status, 2);
}

TEST(ServerKv, AnAgentsLoopCostsWhatIsNew) {
  for (const bool kill_it : {false, true}) {
    AgentLoopOptions options;
    options.turns = deep() ? 40 : 10;
    options.tokens = deep() ? 16384 : 3000;
    options.restart_at = options.turns / 2;
    options.kill_it = kill_it;
    options.folder = fresh_folder("kv_agent");
    const AgentLoopReport report = run_agent_loop(options);
    ASSERT_EQ(report.problem, "");
    EXPECT_EQ(report.turns, options.turns);
    EXPECT_GT(report.last_prompt, options.tokens * 3 / 4);
    EXPECT_LE(static_cast<double>(report.prefilled), 1.15 * static_cast<double>(report.fresh) + 128.0 * report.turns);
    EXPECT_LE(report.worst_turn, 128);
    EXPECT_LE(static_cast<double>(report.written),
              1.2 * static_cast<double>(report.row_bytes + report.turns * report.point_bytes));
    EXPECT_GT(report.points, report.turns / 2);
  }
}

}  // namespace
}  // namespace ds4::e2e
