// ds4-quantize on the model that ships with the project, and what comes of its files.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "models.h"
#include "process.h"

namespace ds4::e2e {
namespace {

namespace fs = std::filesystem;

const std::string kNano = DS4_GOLDEN_DIR "/../../../models/ds4-nano.gguf";

std::string quantize_program() { return DS4_BIN_DIR "/ds4-quantize"; }
std::string path(const std::string& name) { return work_dir() + "/" + name; }

Outcome quantize(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), quantize_program());
  return run(arguments);
}

/// Nano by recipe q2, made once.
const std::string& q2() {
  static const std::string file = [] {
    const Outcome outcome = quantize({"--in", kNano, "--out", path("q2.gguf"), "--recipe", "q2", "--overwrite"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return path("q2.gguf");
  }();
  return file;
}

TEST(QuantizeProgram, AModelOfTwoBitsAnswers) {
  const Outcome outcome = run({ds4_program(), "-m", q2(), "-t", "2", "--temp", "0", "--nothink", "-n", "40", "-p",
                               "What is the capital of France?"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.out.substr(0, 25), "The capital of France is ") << "what it says of it is another matter";
}

TEST(QuantizeProgram, DryRunWritesNothing) {
  const Outcome outcome = quantize({"--in", kNano, "--recipe", "q2-q4", "--q4-layers", "0-2", "--dry-run"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  for (const char* text : {"routed gate and up", "q4_k, iq2_xxs", "MTP block", "file"})
    EXPECT_NE(outcome.out.find(text), std::string::npos) << text << "\n" << outcome.out;
  const Outcome named = quantize({"--in", kNano, "--out", path("dry.gguf"), "--recipe", "q4", "--dry-run"});
  EXPECT_EQ(named.status, 0) << named.err;
  EXPECT_FALSE(fs::exists(path("dry.gguf")) || fs::exists(path("dry.gguf.part")));
}

TEST(QuantizeProgram, Compare) {
  const Outcome outcome = quantize({"--compare", kNano, q2()});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.out.substr(outcome.out.find('\n') + 1, 17), "mxfp4    iq2_xxs ") << outcome.out;
}

/// Starts the conversion on a terminal and kills it when `lines` tensors are complete.
void kill_when_complete(const std::vector<std::string>& command, const std::string& journal, std::ptrdiff_t lines) {
  Terminal program(command);
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  while (std::chrono::steady_clock::now() < end) {
    const std::string text = fs::exists(journal) ? read_file(journal) : "";
    if (std::count(text.begin(), text.end(), '\n') > lines) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  ::kill(program.pid(), SIGKILL);
  program.wait();
}

TEST(QuantizeProgram, GoesOnAfterBeingKilled) {
  const std::string file = path("killed.gguf");
  for (const char* end : {"", ".part", ".journal"}) fs::remove(file + end);
  const std::vector<std::string> command = {quantize_program(), "--in", kNano, "--out", file,
                                            "--recipe",         "q2",   "-t",  "1"};
  kill_when_complete(command, file + ".journal", 30);
  ASSERT_FALSE(fs::exists(file)) << "complete, or not there";
  ASSERT_TRUE(fs::exists(file + ".part"));
  const Outcome outcome = run(command);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("going on with an interrupted run"), std::string::npos) << outcome.err;
  EXPECT_EQ(read_file(file), read_file(q2()));
  EXPECT_FALSE(fs::exists(file + ".part") || fs::exists(file + ".journal"));
}

TEST(QuantizeProgram, ImportanceMatrixFromTextToModel) {
  std::string text;
  for (int i = 0; i < 20; ++i)
    text +=
        "===== DS4_IMATRIX_PROMPT\n<｜begin▁of▁sentence｜><｜User｜>What is the capital of France?"
        "<｜Assistant｜></think>The capital of France is Paris.<｜end▁of▁sentence｜>\n";
  write_file(path("calibration.txt"), text);
  const Outcome collected = run({ds4_program(), "-m", kNano, "-t", "2", "-c", "2048", "--imatrix-dataset",
                                 path("calibration.txt"), "--imatrix-out", path("nano.dat")});
  ASSERT_EQ(collected.status, 0) << collected.err;
  EXPECT_EQ(collected.out, "");
  EXPECT_NE(collected.err.find("20 prompts"), std::string::npos) << collected.err;
  const Outcome converted = quantize({"--in", kNano, "--out", path("q2-imatrix.gguf"), "--recipe", "q2", "--imatrix",
                                      path("nano.dat"), "--overwrite"});
  ASSERT_EQ(converted.status, 0) << converted.err;
  EXPECT_EQ(fs::file_size(q2()) / 4096, fs::file_size(path("q2-imatrix.gguf")) / 4096) << "only the choices differ";
  EXPECT_NE(read_file(q2()), read_file(path("q2-imatrix.gguf")));
}

TEST(QuantizeProgram, UsageErrors) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "--in is required"},
      {{"--in", kNano}, "--out is required"},
      {{"--in", kNano, "--out", path("x"), "--recipe", "q3"}, "expected q2, q2-q4, q4, mxfp4 or q8"},
      {{"--in", kNano, "--out", path("x"), "--recipe", "q2", "--type", "f16"}, "exceptions with --tensor"},
      {{"--in", kNano, "--out", path("x"), "--recipe", "q2", "--q4-layers", "1"}, "belong to the recipe q2-q4"},
      {{"--in", kNano, "--out", path("x"), "--recipe", "q2-q4", "--q4-layers", "5-9"}, "expected numbers from 0 to 5"},
      {{"--in", kNano, "--out", path("x"), "--recipe", "q2", "--tensor", "nothing"}, "expected PATTERN=TYPE"},
      {{"--in", kNano, "--out", path("x"), "--tensor", "nope*=f16"}, "matches none of the"},
      {{"--compare", kNano, kNano, "--in", kNano}, "--compare takes two model files"}};
  for (const auto& [arguments, text] : cases) {
    const Outcome outcome = quantize(arguments);
    EXPECT_EQ(outcome.status, 2) << text;
    EXPECT_NE(outcome.err.find(text), std::string::npos) << text << "\n" << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }
  EXPECT_EQ(quantize({"--in", kNano, "--out", path("x"), "--imatrix", kNano}).status, 3);
  const Outcome alone = run({ds4_program(), "-m", kNano, "--imatrix-out", path("x.dat")});
  EXPECT_EQ(alone.status, 2);
  EXPECT_NE(alone.err.find("belong together"), std::string::npos) << alone.err;
  EXPECT_FALSE(fs::exists(path("x")) || fs::exists(path("x.part")) || fs::exists(path("x.dat")));
}

}  // namespace
}  // namespace ds4::e2e
