// `ds4` with text: one-shot answers, pipes, the chat on a terminal. The weights are random, so what is said means
// nothing; that it is said, how and where, is what is tested.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "models.h"
#include "process.h"

namespace ds4::e2e {
namespace {

std::vector<std::string> command(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {ds4_program(), "-m", chat_model(), "--seed", "1", "-t", "1"});
  return arguments;
}

Outcome ds4(std::vector<std::string> arguments, const std::string& input = "") {
  return run(command(std::move(arguments)), input);
}

std::size_t lines(const std::string& text) {
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

TEST(Ds4Prompt, TokensOfTheChatAreDumpedWithoutTheModel) {
  const Outcome outcome = ds4({"--dump-tokens", "-p", "Hi<think>", "--system", "S", "--nothink"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.out,
            "0\t<｜begin▁of▁sentence｜>\n85\tS\n258\t<｜User｜>\n74\tH\n107\ti\n62\t<"
            "\n118\tt\n106\th\n107\ti\n112\tn\n109\tk\n64\t>\n"
            "259\t<｜Assistant｜>\n261\t</think>\n");
  EXPECT_EQ(ds4({"--dump-tokens", "-p", "Hi", "-sys", ""}).out,
            "0\t<｜begin▁of▁sentence｜>\n258\t<｜User｜>\n74\tH\n107\ti\n259\t<｜Assistant｜>\n260\t<think>\n");
  EXPECT_EQ(ds4({"--dump-tokens", "--raw-prompt", "-p", "a<think>"}).out, "99\ta\n260\t<think>\n");
  EXPECT_EQ(ds4({"--dump-tokens", "--raw-prompt", "-p", "-x"}).out, "47\t-\n122\tx\n");
}

TEST(Ds4Prompt, ComesFromAFileOrAPipe) {
  write_file(work_dir() + "/prompt.txt", "two\nlines");
  const std::string direct = ds4({"--dump-tokens", "-p", "two\nlines"}).out;
  EXPECT_EQ(lines(direct), 40u) << direct;
  EXPECT_EQ(ds4({"--dump-tokens", "--prompt-file", work_dir() + "/prompt.txt"}).out, direct);
  EXPECT_EQ(ds4({"--dump-tokens", "-p", "-"}, "two\nlines").out, direct);
  EXPECT_EQ(ds4({"--dump-tokens", "--prompt-file", "-"}, "two\nlines").out, direct);
  EXPECT_EQ(ds4({"-p", ""}).status, 2);
}

TEST(Ds4Prompt, ThinkMaxNeedsItsContext) {
  const Outcome outcome = ds4({"-p", "Hi", "--think-max", "-n", "1"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_NE(outcome.err.find("393216"), std::string::npos) << outcome.err;
}

TEST(Ds4Prompt, APipeGetsTheAnswerAloneAndOneLineEndAtLeast) {
  const Outcome outcome = ds4({"-p", "Hi", "-n", "2", "--nothink"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_TRUE(outcome.out.ends_with("\n"));
  EXPECT_EQ(outcome.out.find("\x1b[2m"), std::string::npos);
  EXPECT_NE(outcome.err.find("ds4: prefill: "), std::string::npos);
  EXPECT_NE(outcome.err.find("stopped after 2 tokens"), std::string::npos);
  EXPECT_EQ(ds4({"-p", "Hi", "-n", "2", "--nothink"}).out, outcome.out);
}

TEST(Ds4Prompt, AFullContextIsSaid) {
  const Outcome outcome = ds4({"-p", "Hi", "-c", "60"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("context of 60 tokens is full"), std::string::npos) << outcome.err;
}

TEST(Ds4Prompt, PerplexityOfAText) {
  write_file(work_dir() + "/text.txt", std::string(200, 'a'));
  const Outcome outcome = ds4({"--perplexity-file", work_dir() + "/text.txt", "--prefill-chunk", "50"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_TRUE(outcome.out.starts_with("tokens=200 scored=168 nll=")) << outcome.out;
}

TEST(Ds4Chat, APipeIsOneTurnALine) {
  const Outcome outcome =
      ds4({"-n", "5", "--nothink"}, "first\nsecond \\\ngoes on\n/status\n/nonsense\n/quit\nnever\n");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  std::size_t turns = 0;
  for (std::size_t at = 0; (at = outcome.err.find("prefill: ", at)) != std::string::npos; ++at) ++turns;
  EXPECT_EQ(turns, 2u) << outcome.err;
  EXPECT_NE(outcome.err.find("kept"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("no command /nonsense"), std::string::npos);
  EXPECT_EQ(outcome.out.find("> "), std::string::npos);
}

TEST(Ds4Chat, TheSecondTurnKeepsTheFirst) {
  const Outcome outcome = ds4({"-n", "20", "--temp", "0"}, "Hello there\nAnd now\n");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const std::size_t kept = outcome.err.rfind(" kept");
  ASSERT_NE(kept, std::string::npos) << outcome.err;
  // At least the first prompt: BOS, 27 bytes of system text, three markers, 11 bytes of the question.
  EXPECT_GE(std::stoi(outcome.err.substr(outcome.err.rfind(' ', kept - 1))), 42) << outcome.err;
}

TEST(Ds4Chat, CommandsChangeTheNextTurns) {
  write_file(work_dir() + "/read.txt", "some text\nof two lines");
  const Outcome outcome = ds4(
      {"-n", "3"}, "/nothink\n/ctx 200\n/read " + work_dir() + "/read.txt\n/ctx 0\n/read\n/ctx 100000\nstill here\n");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("of 200 tokens"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("/ctx needs a number"), std::string::npos);
  EXPECT_NE(outcome.err.find("/read needs a file"), std::string::npos);
  EXPECT_NE(outcome.err.find("1 to 4096"), std::string::npos);
  EXPECT_NE(outcome.err.rfind("prefill: "), outcome.err.find("prefill: ")) << outcome.err;
}

class OnTerminal : public ::testing::Test {
 protected:
  std::vector<std::string> environment() const { return {"XDG_STATE_HOME=" + state(), "TERM=xterm"}; }
  std::string state() const { return work_dir() + "/state"; }
};

TEST_F(OnTerminal, AConversation) {
  std::filesystem::remove_all(state());
  Terminal terminal(command({"-n", "5"}), environment());
  ASSERT_TRUE(terminal.wait_for("> ")) << terminal.seen();
  terminal.type("Helloo\x7f\r");
  EXPECT_TRUE(terminal.wait_for("Hello\r")) << terminal.seen();
  EXPECT_TRUE(terminal.wait_for("\x1b[2m")) << terminal.seen();  // thinking is dimmed
  EXPECT_TRUE(terminal.wait_for("generation: ")) << terminal.seen();
  ASSERT_TRUE(terminal.wait_for("> ")) << terminal.seen();
  terminal.type("\x1b[200~pasted\rlines\x1b[201~");
  EXPECT_TRUE(terminal.wait_for("lines")) << terminal.seen();
  terminal.type("\x03/status\r");
  EXPECT_TRUE(terminal.wait_for("context")) << terminal.seen();
  terminal.type("\x1b[A\x1b[A");
  EXPECT_TRUE(terminal.wait_for("Hello")) << terminal.seen();
  terminal.type("\x15\x04");
  EXPECT_EQ(terminal.wait(), 0) << terminal.seen();
  EXPECT_EQ(read_file(state() + "/ds4/history"), "Hello\n/status\n");
}

TEST_F(OnTerminal, CtrlCStopsTheAnswerAndTheChatGoesOn) {
  Terminal terminal(command({"-n", "3000"}), environment());
  ASSERT_TRUE(terminal.wait_for("> ")) << terminal.seen();
  terminal.type("Hello\r");
  ASSERT_TRUE(terminal.wait_for("\x1b[2m")) << terminal.seen();  // the answer has begun
  terminal.type("\x03");
  EXPECT_TRUE(terminal.wait_for("generation: ")) << terminal.seen();
  ASSERT_TRUE(terminal.wait_for("> ")) << terminal.seen();
  terminal.type("/quit\r");
  EXPECT_EQ(terminal.wait(), 0) << terminal.seen();
}

TEST_F(OnTerminal, CtrlCInAOneShotRunIsStatus130) {
  Terminal terminal(command({"-p", "Hello", "-n", "4000"}), environment());
  ASSERT_TRUE(terminal.wait_for("\x1b[2m")) << terminal.seen();
  terminal.type("\x03");
  EXPECT_EQ(terminal.wait(), 130) << terminal.seen();
}

}  // namespace
}  // namespace ds4::e2e
