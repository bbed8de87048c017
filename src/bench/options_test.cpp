#include "bench/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Result<Options> parse(std::vector<std::string> arguments) { return parse_options(arguments); }

TEST(BenchOptions, DefaultsAreThoseOfDs4) {
  const auto o = parse({"-m", "a.gguf"});
  ASSERT_TRUE(o.ok()) << o.error().message;
  EXPECT_EQ(o->ctx_start, 2048);
  EXPECT_EQ(o->ctx_max, 32768);
  EXPECT_EQ(o->increment(), 2048);
  EXPECT_EQ(o->step_mul, 1);
  EXPECT_EQ(o->gen_tokens, 128);
  EXPECT_EQ(o->sequences, 1);
  EXPECT_THAT(o->devices, ElementsAre("cpu"));
  EXPECT_TRUE(o->on_host());
}

TEST(BenchOptions, EveryFlagArrives) {
  const auto o = parse({"--synthetic=pro:4",
                        "--mix",
                        "mxfp4",
                        "--backend",
                        "cuda:0,cuda:1",
                        "-t",
                        "3",
                        "--kv",
                        "f16",
                        "--ctx-start",
                        "1K",
                        "--ctx-max",
                        "1M",
                        "--step-mul",
                        "2.5",
                        "--gen-tokens",
                        "0",
                        "--repeat",
                        "5",
                        "--sequences",
                        "16",
                        "--greedy",
                        "--ops-csv",
                        "ops.csv",
                        "--roof-gbps",
                        "4300.5",
                        "--roof-tflops",
                        "790",
                        "--synthetic-pool",
                        "1.5G",
                        "--note",
                        "H200",
                        "--prefill-chunk",
                        "4096",
                        "--seed",
                        "9",
                        "--cpu-pin",
                        "on"});
  ASSERT_TRUE(o.ok()) << o.error().message;
  EXPECT_EQ(o->synthetic->name(), "synthetic pro:4 mxfp4");
  EXPECT_THAT(o->devices, ElementsAre("cuda:0", "cuda:1"));
  EXPECT_FALSE(o->on_host());
  EXPECT_EQ(o->backend.threads, 3);
  EXPECT_EQ(o->backend.pinning, Pinning::kOn);
  EXPECT_EQ(o->kv, KvFormat::kF16);
  EXPECT_EQ(o->ctx_start, 1024);
  EXPECT_EQ(o->ctx_max, 1048576);
  EXPECT_EQ(o->step_mul, 2.5);
  EXPECT_EQ(o->gen_tokens, 0);
  EXPECT_EQ(o->repeat, 5);
  EXPECT_EQ(o->sequences, 16);
  EXPECT_TRUE(o->greedy);
  EXPECT_TRUE(o->ops);
  EXPECT_EQ(o->ops_csv, "ops.csv");
  EXPECT_EQ(*o->roof_gbps, 4300.5);
  EXPECT_EQ(*o->roof_tflops, 790);
  EXPECT_EQ(o->synthetic_pool, std::uint64_t{3} << 29);
  EXPECT_EQ(o->note, "H200");
  EXPECT_EQ(o->prefill_chunk, 4096);
  EXPECT_EQ(o->seed, 9u);
}

TEST(BenchOptions, FilledFrontiersPrefillOnlyWhatIsAskedFor) {
  const auto bare = parse({"-m", "a", "--fill", "2K,64K"});
  ASSERT_TRUE(bare.ok());
  EXPECT_THAT(bare->fill, ElementsAre(2048, 65536));
  EXPECT_EQ(bare->increment(), 0);
  EXPECT_EQ(parse({"-m", "a", "--fill", "64K", "--step-incr", "512"})->increment(), 512);
}

TEST(BenchOptions, DeviceSwitches) { EXPECT_THAT(parse({"-m", "a", "--cuda"})->devices, ElementsAre("cuda")); }

TEST(BenchOptions, RefusalsNameTheFlag) {
  struct Bad {
    std::vector<std::string> arguments;
    const char* part;
  };
  const Bad cases[] = {
      {{}, "-m FILE"},
      {{"-m", "a", "--synthetic", "flash"}, "either"},
      {{"-m"}, "-m: expected FILE"},
      {{"-m", "a", "--nonsense"}, "--nonsense"},
      {{"-m", "a", "--ops=yes"}, "--ops: expected no value"},
      {{"-m", "a", "--cpu-pin", "maybe"}, "--cpu-pin: expected auto, on or off"},
      {{"-m", "a", "--ctx-max", "many"}, "--ctx-max"},
      {{"-m", "a", "--ctx-max", "12.5"}, "--ctx-max"},
      {{"-m", "a", "--ctx-max", "9999999999G"}, "--ctx-max"},
      {{"-m", "a", "--ctx-max", ""}, "--ctx-max"},
      {{"-m", "a", "--ctx-max", "K"}, "--ctx-max"},
      {{"-m", "a", "--ctx-max", "100"}, "--ctx-start is 2048"},
      {{"-m", "a", "--step-mul", "0.5"}, "--step-mul"},
      {{"-m", "a", "--step-mul", "nan"}, "--step-mul"},
      {{"-m", "a", "--step-incr", "0"}, "--step-incr"},
      {{"-m", "a", "--kv", "f64"}, "--kv"},
      {{"-m", "a", "--fill", "2K,,4K"}, "--fill"},
      {{"-m", "a", "--backend", "cuda,"}, "--backend"},
      {{"-m", "a", "--repeat", "0"}, "--repeat"},
      {{"-m", "a", "--roof-gbps", "-3"}, "--roof-gbps"},
      {{"--synthetic", "turbo:4"}, "flash:N or pro:N"},
      {{"--synthetic", "flash:0"}, "flash:N or pro:N"},
      {{"--synthetic", "flash:4x"}, "flash:N or pro:N"},
      {{"--synthetic", "flash:4", "--mix", "q3"}, "--mix"},
      {{"--synthetic", "flash:4", "--prompt-file", "p"}, "no tokenizer"},
      {{"-m", "a", "--prompt-file", "p", "--chat-prompt-file", "q"}, "one of"},
      {{"--synthetic", "flash:4", "--synthetic-cache", "f", "--synthetic-memory", "aliased"}, "--synthetic-cache"},
  };
  for (const Bad& bad : cases) {
    const auto o = parse(bad.arguments);
    ASSERT_FALSE(o.ok()) << bad.part;
    EXPECT_EQ(o.error().code, ErrorCode::kUsage);
    EXPECT_THAT(o.error().message, HasSubstr(bad.part));
  }
}

TEST(BenchOptions, HelpNamesEveryFlagInEightyColumnsOrSo) {
  const std::string help = help_text();
  for (const char* flag :
       {"--synthetic-cache", "--ctx-start", "--step-mul", "--teacher-forced-decode", "--ops-csv", "-sys"})
    EXPECT_THAT(help, HasSubstr(flag));
  EXPECT_TRUE(parse({"--help"})->help);
}

}  // namespace
}  // namespace ds4::bench
