// ds4-bench on the model that comes with the source: its CSV can be read by a program, and its page by a person.
#include <gtest/gtest.h>

#include <map>
#include <sstream>

#include "models.h"
#include "process.h"

namespace ds4::e2e {
namespace {

constexpr const char* kModel = DS4_SOURCE_DIR "/models/ds4-nano.gguf";

Outcome bench(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), DS4_BIN_DIR "/ds4-bench");
  return run(arguments);
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string piece; std::getline(in, piece, at);) out.push_back(piece);
  return out;
}

using Row = std::map<std::string, std::string>;

/// The rows by column; comment lines are dropped.
std::vector<Row> rows_of(const std::string& csv) {
  std::vector<Row> rows;
  std::vector<std::string> head;
  for (const std::string& line : split(csv, '\n')) {
    if (line.starts_with("#")) continue;
    const std::vector<std::string> cells = split(line, ',');
    if (head.empty()) head = cells;
    else
      for (std::size_t i = 0; i < cells.size(); ++i) (i == 0 ? rows.emplace_back() : rows.back())[head[i]] = cells[i];
  }
  return rows;
}

TEST(Bench, RowsAreSane) {
  const Outcome outcome = bench({"-m", kModel, "-t", "1", "--ctx-start", "64", "--ctx-max", "192", "--step-incr", "64",
                                 "--gen-tokens", "4", "--repeat", "2", "--roof-gbps", "20", "--roof-tflops", "1"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.out.find("# ds4-bench: "), 0u);
  for (const char* part :
       {"\n# flags: -m ", "\n# cpu: ", "\n# device: cpu/", "\n# roof: 20 GB/s", "\n# plan: ", "\n# peak resident: "})
    EXPECT_NE(outcome.out.find(part), std::string::npos) << part << outcome.out;
  for (const char* bad : {",nan", ",-nan", ",inf"}) EXPECT_EQ(outcome.out.find(bad), std::string::npos);
  const std::vector<Row> rows = rows_of(outcome.out);
  ASSERT_EQ(rows.size(), 3u) << outcome.out;
  double before = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Row row = rows[i];
    EXPECT_EQ(row["ctx_tokens"], std::to_string(64 * (i + 1)));
    EXPECT_EQ(row["prefill_tokens"], "64");
    EXPECT_EQ(row["gen_tokens"], "4");
    EXPECT_EQ(row["repeat"], "2");
    EXPECT_GT(std::stod(row["kvcache_bytes"]), 0);
    for (const std::string what : {"prefill_tps", "gen_tps"}) {
      EXPECT_GT(std::stod(row[what]), 0);
      EXPECT_LE(std::stod(row[what + "_min"]), std::stod(row[what]));
      EXPECT_GE(std::stod(row[what + "_max"]), std::stod(row[what]));
    }
    EXPECT_GT(std::stod(row["gen_roof_pct"]), 0);
    EXPECT_GT(std::stod(row["gen_step_bytes"]), before) << "the KV grows";
    before = std::stod(row["gen_step_bytes"]);
  }
}

TEST(Bench, FilledContextsOpsAndThePage) {
  const std::string csv = work_dir() + "/run.csv", ops = work_dir() + "/ops.csv";
  const Outcome outcome = bench(
      {"-m",    kModel, "-t",        "1", "--fill",      "1000,2K", "--gen-tokens",  "2", "--sequences", "2",
       "--csv", csv,    "--ops-csv", ops, "--roof-gbps", "20",      "--roof-tflops", "1", "--note",      "a <b>"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  std::vector<Row> rows = rows_of(read_file(csv));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1]["ctx_tokens"], "2048");
  EXPECT_EQ(rows[1]["filled"], "2048");
  EXPECT_EQ(rows[1]["prefill_tps"], "");
  EXPECT_EQ(rows[1]["sequences"], "2");
  double step = 0, sum = 0;
  for (Row& row : rows_of(read_file(ops))) {
    if (row["ctx_tokens"] != "2048") continue;
    EXPECT_EQ(row["rows"], "2");
    if (row["op"] == "step") step = std::stod(row["ms"]);
    else sum += std::stod(row["ms"]);
  }
  EXPECT_GT(step, 0);
  EXPECT_NEAR(sum / step, 1, 0.01);

  const Outcome page = run({DS4_SOURCE_DIR "/tools/plot_bench", csv, ops});
  if (page.status == 127) GTEST_SKIP() << "no python3";
  ASSERT_EQ(page.status, 0) << page.err;
  EXPECT_EQ(page.out.find("<!doctype html>"), 0u);
  for (const char* part : {"<svg", "<polyline", ">experts<", "a &lt;b&gt;"})
    EXPECT_NE(page.out.find(part), std::string::npos) << part;
  EXPECT_EQ(page.out.find("http"), std::string::npos) << "the page needs nothing from elsewhere";
}

TEST(Bench, PromptsAreTokenized) {
  const std::string prompt = work_dir() + "/prompt.txt";
  write_file(prompt, "A short prompt, but long enough for sixteen tokens of a small vocabulary, or so one hopes.");
  const std::vector<std::string> common = {"-m", kModel,          "-t", "1", "--gen-tokens", "1", "--roof-gbps",
                                           "1",  "--roof-tflops", "1"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), common.begin(), common.end());
    return bench(more);
  };
  for (const char* flag : {"--prompt-file", "--chat-prompt-file"}) {
    const Outcome outcome = with({flag, prompt, "--ctx-start", "16", "--ctx-max", "16"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(rows_of(outcome.out).size(), 1u);
  }
  const Outcome longer = with({"--prompt-file", prompt, "--ctx-start", "16", "--ctx-max", "3000"});
  EXPECT_EQ(longer.status, 2);
  EXPECT_NE(longer.err.find("the prompt has "), std::string::npos) << longer.err;
}

TEST(Bench, ErrorsSayWhatIsWrongAndHaveTheirStatus) {
  struct Bad {
    std::vector<std::string> arguments;
    int status;
    const char* message;
  };
  const Bad cases[] = {
      {{}, 2, "-m FILE"},
      {{"-m", kModel, "--ctx-max", "1"}, 2, "--ctx-start"},
      {{"-m", work_dir() + "/missing.gguf"}, 3, "missing.gguf"},
      {{"-m", kModel, "--backend", "abacus", "--ctx-start", "8", "--ctx-max", "8"}, 5, "abacus"},
      {{"-m", kModel, "--fill", "512M"}, 2, "context"},
      {{"-m", kModel, "--csv", "/nowhere/x.csv"}, 1, "/nowhere/x.csv"},
  };
  for (const Bad& bad : cases) {
    std::vector<std::string> arguments = bad.arguments;
    arguments.insert(arguments.end(), {"--roof-gbps", "1", "--roof-tflops", "1"});
    const Outcome outcome = bench(arguments);
    EXPECT_EQ(outcome.status, bad.status) << outcome.err;
    EXPECT_NE(outcome.err.find(bad.message), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }
  EXPECT_NE(bench({"--help"}).out.find("--synthetic"), std::string::npos);
}

}  // namespace
}  // namespace ds4::e2e
