// `ds4` without a conversation: token ids, dumps, errors and their exit statuses.
#include <gtest/gtest.h>

#include <fstream>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "models.h"
#include "process.h"

namespace ds4::e2e {
namespace {

Outcome ds4(std::vector<std::string> arguments, const std::string& input = "") {
  arguments.insert(arguments.begin(), ds4_program());
  return run(arguments, input);
}

/// `ds4` on the model without a tokenizer.
Outcome on_tokens(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"-m", token_model(), "--kv", "f32", "-t", "1"});
  return ds4(std::move(arguments));
}

std::vector<std::int32_t> first_tokens(std::size_t count) {
  return {golden().tokens.begin(), golden().tokens.begin() + static_cast<std::ptrdiff_t>(count)};
}

std::string greedy_text() {
  std::ostringstream text;
  for (std::size_t i = 0; i < golden().greedy.size(); ++i) text << (i == 0 ? "" : " ") << golden().greedy[i];
  return text.str() + "\n";
}

class Backends : public ::testing::TestWithParam<const char*> {};

TEST_P(Backends, GreedyTokensAreTheGoldenOnesAndNothingElseIsOnStdout) {
  const Outcome outcome =
      on_tokens({"--backend", GetParam(), "--tokens-file", tokens_file("greedy.txt", first_tokens(kGreedyPrompt)),
                 "--print-tokens", "--temp", "0", "-n", std::to_string(golden().greedy.size())});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.out, greedy_text());
  EXPECT_NE(outcome.err.find("generation: "), std::string::npos);
  EXPECT_EQ(outcome.err.find('\x1b'), std::string::npos);
  EXPECT_EQ(outcome.err.find('\r'), std::string::npos);
}

TEST_P(Backends, DumpedLogitsAreTheGoldenOnes) {
  const std::string ids = tokens_file("all.txt", golden().tokens);
  for (const char* chunk : {"3", "129", "100000"}) {
    const std::string path = work_dir() + "/logits.bin";
    const Outcome outcome =
        on_tokens({"--backend", GetParam(), "--tokens-file", ids, "--dump-logits", path, "--prefill-chunk", chunk});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    const std::string bytes = read_file(path);
    ASSERT_EQ(bytes.size(), golden().tokens.size() * golden().vocab * sizeof(float));
    double worst = 0;
    for (std::size_t r = 0; r < golden().rows.size(); ++r) {
      for (std::size_t i = 0; i < golden().vocab; ++i) {
        float value;
        std::memcpy(&value,
                    bytes.data() + (static_cast<std::size_t>(golden().rows[r]) * golden().vocab + i) * sizeof value,
                    sizeof value);
        worst = std::max(worst, std::abs(static_cast<double>(value) - golden().logits[r * golden().vocab + i]));
      }
    }
    EXPECT_LT(worst, 1e-3) << "chunk " << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Backends, ::testing::Values("reference", "cpu"),
                         [](const auto& backend) { return std::string(backend.param); });

TEST(Ds4, TheSameSeedGivesTheSameAnswerAndTheSeedIsReported) {
  const std::string ids = tokens_file("seed.txt", first_tokens(20));
  const auto sampled = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"--tokens-file", ids, "-n", "20", "--min-p", "0"});
    return on_tokens(more);
  };
  const Outcome a = sampled({"--seed", "7"});
  EXPECT_EQ(a.out, sampled({"--seed", "7"}).out);
  EXPECT_NE(a.out, sampled({"--seed", "8"}).out);
  EXPECT_NE(a.err.find("seed 7)"), std::string::npos) << a.err;
  const Outcome unseeded = sampled({});
  EXPECT_NE(unseeded.err.find("seed "), std::string::npos);
}

TEST(Ds4, LogprobsAreJsonWithTheGreedyTokens) {
  const std::string path = work_dir() + "/logprobs.json";
  const Outcome outcome = on_tokens({"--tokens-file", tokens_file("lp.txt", first_tokens(kGreedyPrompt)),
                                     "--dump-logprobs", path, "-n", "3", "--logprobs-top-k", "2"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const std::string json = read_file(path);
  EXPECT_NE(json.find("\"prompt_tokens\":150"), std::string::npos) << json;
  for (int step = 0; step < 3; ++step) {
    std::ostringstream want;
    want << "{\"step\":" << step << ",\"selected\":{\"id\":" << golden().greedy[static_cast<std::size_t>(step)] << "}";
    EXPECT_NE(json.find(want.str()), std::string::npos) << json;
  }
}

TEST(Ds4, InspectPrintsWhatIsInTheFile) {
  const Outcome outcome = ds4({"-m", token_model(), "--inspect"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  for (const char* part :
       {"4: 1 window, 2 compressed sparse, 1 heavily compressed; 1 routed by hash", "none: works with token ids",
        "blk.N.attn_kv.weight", "KV state of one conversation", "available"}) {
    EXPECT_NE(outcome.out.find(part), std::string::npos) << part << "\n" << outcome.out;
  }
}

TEST(Ds4, VerifyFindsAPoisonedWeight) {
  const Outcome clean = ds4({"-m", token_model(), "--verify"});
  ASSERT_EQ(clean.status, 0) << clean.err;
  EXPECT_NE(clean.out.find("every value is finite"), std::string::npos) << clean.out;

  const std::string poisoned = work_dir() + "/poisoned.gguf";
  std::filesystem::copy_file(token_model(), poisoned, std::filesystem::copy_options::overwrite_existing);
  std::fstream file(poisoned, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-16, std::ios::end);  // in the last tensor
  const std::string infinity("\0\0\x80\x7f", 4);
  for (int i = 0; i < 4; ++i) file << infinity;
  file.close();
  const Outcome bad = ds4({"-m", poisoned, "--verify"});
  EXPECT_EQ(bad.status, 3) << bad.err;
  EXPECT_EQ(bad.out, "");
  EXPECT_NE(bad.err.find("poisoned.gguf"), std::string::npos) << bad.err;
  EXPECT_NE(bad.err.find("NaN or infinity"), std::string::npos) << bad.err;
}

TEST(Ds4, HelpAndVersion) {
  EXPECT_NE(ds4({"--help"}).out.find("ds4 -m FILE -p"), std::string::npos);
  EXPECT_NE(ds4({"--help", "sampling"}).out.find("--min-p"), std::string::npos);
  EXPECT_EQ(ds4({"--help", "nonsense"}).status, 2);
  EXPECT_TRUE(ds4({"--version"}).out.starts_with("ds4 "));
}

struct Bad {
  std::vector<std::string> arguments;
  int status;
  const char* message;
};

TEST(Ds4, ErrorsSayWhatIsWrongAndHaveTheirStatus) {
  const std::string model = token_model();
  const std::string ids = tokens_file("bad.txt", first_tokens(10));
  const std::string broken = work_dir() + "/broken.gguf";
  write_file(broken, read_file(model).substr(0, 1000));
  write_file(work_dir() + "/no-ids.txt", "1 2 three");
  const Bad cases[] = {
      {{"--nonsense"}, 2, "nonsense"},
      {{"-m", model, "--kv", "f64"}, 2, "kv"},
      {{"-m", model, "-n", "many"}, 2, "many"},
      {{"-m", model, "--tokens-file", ids, "--temp", "-1"}, 2, "temperature is -1"},
      {{"-m", model, "--tokens-file", ids, "--top-p", "2"}, 2, "top-p is 2"},
      {{"-m", model, "--tokens-file", ids, "-p", "hello"}, 2, "one of"},
      {{"-m", model, "-p", "hello"}, 2, "no tokenizer"},
      {{"-m", model}, 2, "no tokenizer"},
      {{"-m", model, "--dump-tokens"}, 2, "needs a prompt"},
      {{"-m", model, "--tokens-file", work_dir() + "/missing.txt"}, 2, "missing.txt"},
      {{"-m", model, "--tokens-file", work_dir() + "/no-ids.txt"}, 2, "at byte 4"},
      {{"-m", model, "--tokens-file", tokens_file("large.txt", {5, 320})}, 2, "expected 0 to 319"},
      {{"-m", model, "--tokens-file", ids, "-c", "5"}, 2, "10 tokens, but the context holds 5"},
      {{"-m", model, "--tokens-file", ids, "-c", "5000"}, 2, "1 to 4096"},
      {{"-m", work_dir() + "/missing.gguf", "-p", "x"}, 3, "missing.gguf"},
      {{"-m", broken, "-p", "x"}, 3, "broken.gguf"},
      {{"-m", model, "--tokens-file", ids, "--cuda"}, 5, "cuda"},
      {{"-m", model, "--tokens-file", ids, "--backend", "abacus"}, 5, "abacus"},
      {{"-m", model, "--tokens-file", ids, "--dump-logits", "/nowhere/logits"}, 1, "/nowhere/logits"},
  };
  for (const Bad& bad : cases) {
    const Outcome outcome = ds4(bad.arguments);
    EXPECT_EQ(outcome.status, bad.status) << outcome.err;
    EXPECT_NE(outcome.err.find(bad.message), std::string::npos) << bad.message << "\n" << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }
}

TEST(Ds4, WithoutAModelItTeaches) {
  const Outcome outcome = run({"/usr/bin/env", "-C", work_dir(), ds4_program(), "-p", "x"});
  // A model that came with the program would be found; this tree may have one.
  if (outcome.status == 0) GTEST_SKIP();
  EXPECT_NE(outcome.err.find("-m"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace ds4::e2e
