#include "engine/imatrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <numeric>

#include "base/mapped_file.h"
#include "base/text.h"
#include "quant/imatrix.h"

namespace ds4 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(ImatrixDataset, Split) {
  EXPECT_THAT(split_imatrix_dataset(""), IsEmpty());
  EXPECT_THAT(split_imatrix_dataset(" \n\t"), IsEmpty());
  EXPECT_THAT(split_imatrix_dataset("  all of it\nis one \n"), ElementsAre("all of it\nis one"));
  EXPECT_THAT(split_imatrix_dataset("about this file\n===== DS4_IMATRIX_PROMPT 1 =====\n a\nb \n"
                                    "===== DS4_IMATRIX_PROMPT 2 =====\n\n===== DS4_IMATRIX_PROMPT 3\nc"),
              ElementsAre("a\nb", "c"))
      << "what stands before the first is no prompt, and an empty one is none";
  EXPECT_THAT(split_imatrix_dataset("===== DS4_IMATRIX_PROMPT"), IsEmpty());
  EXPECT_THAT(split_imatrix_dataset("x ===== DS4_IMATRIX_PROMPT\ny"), ElementsAre("x ===== DS4_IMATRIX_PROMPT\ny"))
      << "markers begin a line";
}

class CollectImatrix : public ::testing::Test {
 protected:
  ~CollectImatrix() override {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  Result<ImatrixReport> collect(std::string_view text, const ImatrixOptions& options = {}) {
    EngineOptions engine;
    engine.context = 256;
    engine.prefill_chunk = 64;
    engine.backend.threads = 2;
    auto file = open_model_file(cat(DS4_SOURCE_DIR, "/models/ds4-nano.gguf"));
    EXPECT_TRUE(file.ok());
    return collect_imatrix(std::move(*file), engine, text, path_, options);
  }
  std::string read_all() const {
    const auto file = MappedFile::open(path_);
    const auto bytes = file->bytes();
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  const std::string path_ = (std::filesystem::temp_directory_path() / cat("ds4-collect-", ::getpid(), ".dat")).string();
};

std::string some_text(int sentences) {
  std::string text;
  for (int i = 0; i < sentences; ++i) text += cat("The river number ", i, " flows to the sea. ");
  return text;
}

TEST_F(CollectImatrix, EveryExpertOfEveryLayer) {
  ImatrixOptions options;
  options.dataset_name = "rivers.txt";
  std::uint64_t last = 0, total = 0;
  options.progress = [&](std::uint64_t done, std::uint64_t all) {
    EXPECT_GT(done, last);
    last = done;
    total = all;
  };
  const auto report = collect(some_text(60), options);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->prompts, 1);
  EXPECT_GT(report->tokens, 256) << "longer than the context: goes on in a new one";
  EXPECT_EQ(last, static_cast<std::uint64_t>(report->tokens));
  EXPECT_EQ(total, last);
  EXPECT_EQ(report->experts, 48);
  const auto file = Imatrix::open(path_);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->dataset(), "rivers.txt");
  EXPECT_EQ(file->chunks(), (report->tokens + 63) / 64) << "256 is a multiple of the chunk";
  ASSERT_EQ(file->entries().size(), 18U);
  for (int layer = 0; layer < 6; ++layer) {
    const auto* gate = file->find(cat("blk.", layer, ".ffn_gate_exps.weight"));
    const auto* up = file->find(cat("blk.", layer, ".ffn_up_exps.weight"));
    const auto* down = file->find(cat("blk.", layer, ".ffn_down_exps.weight"));
    ASSERT_TRUE(gate != nullptr && up != nullptr && down != nullptr);
    EXPECT_TRUE(std::ranges::equal(gate->raw, up->raw)) << "both read the same vector";
    for (const auto* entry : {gate, down}) {
      ASSERT_EQ(entry->size(), 8U * 256);
      std::vector<float> means(entry->size());
      Imatrix::read(*entry, 0, means);
      double sum = 0;
      for (const float mean : means) {
        ASSERT_GT(mean, 0);
        sum += static_cast<double>(mean);
      }
      EXPECT_GT(sum, 0);
      if (entry == gate) continue;
      for (int expert = 0; expert < 8; ++expert) {
        const auto mine = std::span(means).subspan(static_cast<std::size_t>(expert) * 256, 256);
        EXPECT_NEAR(std::accumulate(mine.begin(), mine.end(), 0.0), 1, 1e-4) << "relative to the token's own size";
      }
    }
  }
}

TEST_F(CollectImatrix, Limits) {
  const std::string text =
      cat("===== DS4_IMATRIX_PROMPT 1\n", some_text(3), "\n===== DS4_IMATRIX_PROMPT 2\n", some_text(3));
  const auto all = collect(text);
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->prompts, 2);
  ImatrixOptions options;
  options.max_prompts = 1;
  EXPECT_EQ(collect(text, options)->tokens, all->tokens / 2);
  options = {};
  options.max_tokens = 7;
  const auto few = collect(text, options);
  EXPECT_EQ(few->tokens, 7);
  EXPECT_GT(few->unseen, 0) << "seven tokens cannot choose all experts";
  EXPECT_TRUE(Imatrix::open(path_).ok()) << "which still have means: those of their layer";
}

TEST_F(CollectImatrix, EveryPieceBeginsWithABos) {
  const auto plain = collect(some_text(3));
  ASSERT_TRUE(plain.ok());
  const std::string bytes = read_all();
  const auto marked = collect(cat("<｜begin▁of▁sentence｜>", some_text(3)));
  ASSERT_TRUE(marked.ok());
  EXPECT_EQ(plain->tokens, marked->tokens);
  EXPECT_EQ(bytes, read_all()) << "one that the text brings along is not doubled";
  // In pieces of at most 256 tokens: of n tokens of text there are n / 255 pieces, rounded up, each with a BOS.
  const auto text = open_model_file(cat(DS4_SOURCE_DIR, "/models/ds4-nano.gguf"));
  const auto tokens = std::ssize(text->tokenizer->encode_text(split_imatrix_dataset(some_text(60))[0], true));
  EXPECT_EQ(collect(some_text(60))->tokens, tokens + (tokens + 254) / 255);
}

TEST_F(CollectImatrix, NothingIsWrittenWithoutAResult) {
  EXPECT_THAT(collect(" \n ").error().message, HasSubstr("no text to read"));
  const std::atomic<bool> cancel{true};
  ImatrixOptions options;
  options.cancel = &cancel;
  EXPECT_EQ(collect(some_text(10), options).error().code, ErrorCode::kCancelled);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

}  // namespace
}  // namespace ds4
