// `ds4-eval`: comparing files, asking the held-out items, and what it says when it cannot.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include <nlohmann/json.hpp>

#include "models.h"
#include "process.h"

namespace ds4::e2e {
namespace {

using Json = nlohmann::json;

Outcome eval(std::vector<std::string> arguments, const std::string& input = "") {
  arguments.insert(arguments.begin(), DS4_BIN_DIR "/ds4-eval");
  return run(arguments, input);
}

std::string text_file() {
  const std::string path = work_dir() + "/compare.txt";
  std::string text(300, 'a');
  text += "The quick brown fox jumps over the lazy dog, again and again.";
  write_file(path, text);
  return path;
}

TEST(Ds4Eval, AModelIsNotFarFromItself) {
  const Outcome outcome = eval({"compare", chat_model(), chat_model(), "--text", text_file(), "--json"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json report = Json::parse(outcome.out);
  EXPECT_EQ(report["tokens"], 361);
  EXPECT_EQ(report["kl"]["value"], 0);
  EXPECT_EQ(report["same_first"]["value"], 1);
  EXPECT_EQ(report["nll_change"]["high"], 0);
  EXPECT_EQ(report["nll_a"], report["nll_b"]);
}

TEST(Ds4Eval, TheLikelihoodIsThatOfTheDumpedLogits) {
  const std::vector<std::int32_t> tokens(golden().tokens.begin(), golden().tokens.begin() + 100);
  const std::string ids = tokens_file("compare.ids", tokens);
  const std::string dump = work_dir() + "/compare.f32";
  ASSERT_EQ(run({ds4_program(), "-m", token_model(), "--tokens-file", ids, "--dump-logits", dump}).status, 0);
  const std::string bytes = read_file(dump);
  std::vector<float> logits(bytes.size() / sizeof(float));
  std::memcpy(logits.data(), bytes.data(), bytes.size());
  ASSERT_EQ(logits.size(), tokens.size() * golden().vocab);
  double nll = 0;
  for (std::size_t at = 0; at + 1 < tokens.size(); ++at) {
    double sum = 0;
    for (std::size_t i = 0; i < golden().vocab; ++i) sum += std::exp(logits[at * golden().vocab + i]);
    nll += std::log(sum) - logits[at * golden().vocab + static_cast<std::size_t>(tokens[at + 1])];
  }
  const Outcome outcome = eval({"compare", token_model(), token_model(), "--tokens-file", ids, "--json"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json report = Json::parse(outcome.out);
  EXPECT_EQ(report["tokens"], 99);  // nothing comes before the first
  EXPECT_NEAR(report["nll_a"]["value"].get<double>(), nll / 99, 1e-4);
}

TEST(Ds4Eval, TheTextMayComeFromAPipe) {
  const Outcome outcome =
      eval({"compare", chat_model(), chat_model(), "--json", "--limit", "31"}, read_file(text_file()));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(Json::parse(outcome.out)["text"], "standard input");
  EXPECT_EQ(Json::parse(outcome.out)["tokens"], 31);
}

TEST(Ds4Eval, OnlyTheAnswersOfADataSet) {
  const std::string dataset = work_dir() + "/chats.txt";
  const std::string scores = work_dir() + "/chats.csv";
  write_file(dataset,
             "===== DS4_IMATRIX_PROMPT 1\nBe brief.<｜User｜>One?<｜Assistant｜></think>1<｜end▁of▁sentence｜>\n"
             "===== DS4_IMATRIX_PROMPT 2\n<｜User｜>Two?<｜Assistant｜></think>2<｜end▁of▁sentence｜>\n");
  const std::string nano = DS4_MODELS_DIR "/ds4-nano.gguf";
  const std::vector<std::string> compare = {"compare", nano, nano, "--dataset", dataset, "--json"};
  const Json whole = Json::parse(eval(compare).out);
  EXPECT_EQ(whole["documents"], 2);
  EXPECT_EQ(whole["tokens"], 20) << "markers are one token each";
  std::vector<std::string> answers = compare;
  answers.insert(answers.end(), {"--answers-only", "--scores", scores});
  const Outcome outcome = eval(answers);
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(Json::parse(outcome.out)["tokens"], 4) << "a digit and an end each";
  const std::string csv = read_file(scores);
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 5) << csv;
  EXPECT_EQ(csv.rfind("document,nll_a,nll_b,kl,same_first\n0,", 0), 0U) << csv;
  EXPECT_NE(csv.find("\n1,"), csv.npos) << csv;

  const Outcome both = eval({"compare", nano, nano, "--dataset", dataset, "--text", dataset});
  EXPECT_EQ(both.status, 2);
  const Outcome unmarked = eval({"compare", nano, nano, "--text", dataset, "--answers-only"});
  EXPECT_EQ(unmarked.status, 2);
  EXPECT_NE(unmarked.err.find("--dataset"), std::string::npos) << unmarked.err;
}

TEST(Ds4Eval, AnotherModelIsFar) {
  const std::string path = work_dir() + "/chat-q8_0.gguf";
  const std::string& exact = chat_model();
  const Outcome made = run({DS4_BIN_DIR "/ds4-quantize", "--hf", work_dir() + "/chat-checkpoint", "--out", path,
                            "--type", "q8_0", "--overwrite"});
  ASSERT_EQ(made.status, 0) << made.err;
  const Outcome outcome = eval({"compare", exact, path, "--text", text_file()});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("KL of B from A"), std::string::npos);
  EXPECT_NE(outcome.out.find("bootstrap over blocks of 64 tokens"), std::string::npos);
}

TEST(Ds4Eval, NanoAnswersItsHeldOutItems) {
  const Outcome outcome = eval({"nano", "-m", DS4_MODELS_DIR "/ds4-nano.gguf", "--skill", "name", "--json", "-t", "2"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json report = Json::parse(outcome.out);
  ASSERT_EQ(report["skills"].size(), 2u) << outcome.out;
  for (const Json& skill : report["skills"]) {
    EXPECT_EQ(skill["total"], 20);
    EXPECT_GE(skill["right"], 18) << outcome.out;
  }
}

TEST(Ds4Eval, ARandomModelIsRightAboutNothing) {
  const std::string items = work_dir() + "/items.jsonl";
  write_file(
      items,
      R"({"kind":"chat","skill":"fact","thinking":false,"tools":[],"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Paris"}],"checks":[{"at":1,"contains":["Paris"]}]})");
  const std::string transcript = work_dir() + "/transcript.jsonl";
  const Outcome outcome =
      eval({"nano", "-m", chat_model(), "--items", items, "-n", "5", "--failures", "--transcript", transcript});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("asked     Hi\nwanted    \"Paris\""), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("0 of 1"), std::string::npos) << outcome.out;
  const Json line = Json::parse(read_file(transcript));
  EXPECT_EQ(line["prompt"].size(), 6u);
  EXPECT_EQ(line["right"], false);
}

TEST(Ds4Eval, ErrorsSayWhatToDo) {
  EXPECT_EQ(eval({}).status, 2);
  EXPECT_EQ(eval({"compare", chat_model()}).status, 2);
  EXPECT_EQ(eval({"compare", chat_model(), work_dir() + "/none.gguf"}, "text").status, 3);

  const Outcome no_tokenizer = eval({"compare", token_model(), token_model()}, "text");
  EXPECT_EQ(no_tokenizer.status, 2);
  EXPECT_NE(no_tokenizer.err.find("--tokens-file"), std::string::npos) << no_tokenizer.err;
  const Outcome short_text = eval({"compare", chat_model(), chat_model()}, "");
  EXPECT_EQ(short_text.status, 2);
  EXPECT_NE(short_text.err.find("expected at least"), std::string::npos) << short_text.err;

  write_file(work_dir() + "/bad.jsonl", "{\"kind\":\"song\"}\n");
  const Outcome bad = eval({"nano", "-m", chat_model(), "--items", work_dir() + "/bad.jsonl"});
  EXPECT_EQ(bad.status, 1);
  EXPECT_NE(bad.err.find("bad.jsonl: line 1: kind"), std::string::npos) << bad.err;
  const Outcome skill = eval({"nano", "-m", chat_model(), "--skill", "cooking"});
  EXPECT_EQ(skill.status, 2);
  EXPECT_NE(skill.err.find("cooking"), std::string::npos) << skill.err;
  EXPECT_EQ(eval({"nano", "-m", token_model(), "--skill", "fact"}).status, 2);

  const Outcome help = eval({"compare", "--help"});
  EXPECT_EQ(help.status, 0);
  EXPECT_NE(help.out.find("--tokens-file"), std::string::npos);
}

}  // namespace
}  // namespace ds4::e2e
