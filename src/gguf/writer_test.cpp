#include "gguf/writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <limits>
#include <thread>

#include "base/faulty_file_system.h"
#include "base/text.h"
#include "gguf/test_file.h"

namespace ds4::gguf {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;
using Dims = std::vector<std::uint64_t>;

std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
  std::vector<std::byte> out(size);
  for (std::size_t i = 0; i < size; ++i) out[i] = static_cast<std::byte>((i * 31 + seed) % 251);
  return out;
}

class WriterFolder : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "gguf_writer_XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    path_ = root_ + "/m.gguf";
    part_ = path_ + ".part";
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  bool is_empty() const { return std::filesystem::is_empty(root_); }

  /// Writes one tensor of 64 floats to path_.
  Status write_small(FileSystem& disk, unsigned seed) const {
    Writer writer(path_, 32, disk);
    writer.add_string("general.architecture", "deepseek4");
    const std::size_t tensor = writer.add_tensor("t", DType::kF32, Dims{64});
    DS4_RETURN_IF_ERROR(writer.begin());
    const auto data = pattern(256, seed);
    DS4_RETURN_IF_ERROR(writer.write_data(tensor, 0, std::span(data).first(100)));
    DS4_RETURN_IF_ERROR(writer.write_data(tensor, 100, std::span(data).subspan(100)));
    return writer.finish();
  }
  std::string root_, path_, part_;
};

TEST_F(WriterFolder, EveryAddComesBack) {
  Writer writer(path_);
  writer.add_u32("u32", 7);
  writer.add_u64("u64", 1ull << 60);
  writer.add_f32("f32", -0.5f);
  writer.add_bool("bool", true);
  writer.add_string("string", "line\n｜\xff");
  writer.add_i32_array("i32s", std::vector<std::int32_t>{-1, 2});
  writer.add_u32_array("u32s", std::vector<std::uint32_t>{4, 128});
  writer.add_f32_array("f32s", std::vector<float>{10.0f});
  writer.add_string_array("strings", std::vector<std::string>{"a", "", "c"});
  writer.add_string_array("none", {});
  ASSERT_TRUE(writer.begin().ok());
  ASSERT_TRUE(writer.finish().ok());

  auto opened = File::open(path_);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const File file = std::move(opened).value();
  EXPECT_EQ(file.values().size(), 10u);
  EXPECT_EQ(file.get_uint("u32").value(), 7u);
  EXPECT_EQ(file.get_uint("u64").value(), 1ull << 60);
  EXPECT_EQ(file.get_float("f32").value(), -0.5);
  EXPECT_EQ(file.get_bool("bool").value(), true);
  EXPECT_EQ(file.get_string("string").value(), "line\n｜\xff");
  EXPECT_THAT(*file.get_int_array("i32s").value(), ElementsAre(-1, 2));
  EXPECT_THAT(*file.get_int_array("u32s").value(), ElementsAre(4, 128));
  EXPECT_THAT(*file.get_float_array("f32s").value(), ElementsAre(10.0f));
  EXPECT_THAT(*file.get_string_array("strings").value(), ElementsAre("a", "", "c"));
  EXPECT_THAT(*file.get_string_array("none").value(), ElementsAre());
  EXPECT_EQ(file.find_value("u32s")->element, ValueType::kU32);
  EXPECT_FALSE(std::filesystem::exists(part_));
}

TEST_F(WriterFolder, CopiedValuesOfEveryTypeAreTheSameBytes) {
  const auto bytes = small_test_file().bytes();
  const auto source = File::parse(bytes, "source");
  ASSERT_TRUE(source.ok());
  Writer writer(path_);
  for (const Value& value : source->values()) writer.add_value(value);
  ASSERT_TRUE(writer.begin().ok());
  ASSERT_TRUE(writer.finish().ok());
  const auto copy = File::open(path_);
  ASSERT_TRUE(copy.ok()) << copy.error().message;
  ASSERT_EQ(copy->values().size(), source->values().size());
  for (std::size_t i = 0; i < copy->values().size(); ++i) {
    const Value& a = source->values()[i];
    const Value& b = copy->values()[i];
    EXPECT_EQ(a.key, b.key);
    EXPECT_EQ(a.type, b.type) << a.key;
    EXPECT_EQ(a.element, b.element) << a.key;
    EXPECT_EQ(a.count, b.count) << a.key;
    EXPECT_THAT(b.raw, ElementsAreArray(a.raw)) << a.key;
  }
}

TEST_F(WriterFolder, TensorsOfEveryTypeInAnyOrderAndPieces) {
  struct Case {
    DType type;
    Dims dims;
    std::uint64_t bytes;
  };
  const std::vector<Case> cases = {
      {DType::kF32, {3}, 12},        {DType::kF16, {5, 7}, 70},        {DType::kQ8_0, {64, 3}, 204},
      {DType::kQ2_K, {256, 2}, 168}, {DType::kQ4_K, {512, 1, 2}, 576}, {DType::kIQ2_XXS, {256, 1, 1, 3}, 198},
      {DType::kI32, {6, 2}, 48},     {DType::kBF16, {9}, 18},          {DType::kMXFP4, {32, 2, 2}, 68},
  };
  for (const std::uint32_t alignment : {8u, 32u, 4096u}) {
    Writer writer(path_, alignment);
    for (const Case& c : cases) {
      const std::size_t index = writer.add_tensor(dtype_info(c.type).name, c.type, c.dims);
      EXPECT_EQ(writer.tensor_bytes(index), c.bytes);
    }
    const std::uint64_t expected_size = writer.file_bytes();
    ASSERT_TRUE(writer.begin().ok());
    for (std::size_t i = cases.size(); i-- > 0;) {
      const auto data = pattern(cases[i].bytes, static_cast<unsigned>(i));
      const std::size_t half = data.size() / 2;
      ASSERT_TRUE(writer.write_data(i, half, std::span(data).subspan(half)).ok());
      ASSERT_TRUE(writer.write_data(i, 0, std::span(data).first(half)).ok());
    }
    ASSERT_TRUE(writer.finish().ok());

    const auto file = File::open(path_);
    ASSERT_TRUE(file.ok()) << file.error().message;
    EXPECT_EQ(file->alignment(), alignment);
    EXPECT_EQ(file->size(), expected_size);
    ASSERT_EQ(file->tensors().size(), cases.size());
    for (std::size_t i = 0; i < cases.size(); ++i) {
      const TensorInfo& tensor = file->tensors()[i];
      EXPECT_EQ(tensor.type, cases[i].type);
      EXPECT_EQ(tensor.n_dims, static_cast<int>(cases[i].dims.size()));
      EXPECT_TRUE(std::equal(cases[i].dims.begin(), cases[i].dims.end(), tensor.dims));
      EXPECT_EQ(tensor.offset % alignment, 0u);
      EXPECT_THAT(tensor.data, ElementsAreArray(pattern(cases[i].bytes, static_cast<unsigned>(i))));
    }
  }
}

TEST_F(WriterFolder, ThreadsFillDifferentTensors) {
  Writer writer(path_);
  constexpr std::size_t kTensors = 4;
  constexpr std::size_t kBytes = 40000;
  for (std::size_t i = 0; i < kTensors; ++i) writer.add_tensor(cat("t", i), DType::kF32, Dims{kBytes / 4});
  ASSERT_TRUE(writer.begin().ok());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kTensors; ++i)
    threads.emplace_back([&, i] {
      const auto data = pattern(kBytes, static_cast<unsigned>(i));
      for (std::size_t at = 0; at < kBytes; at += 1000)
        EXPECT_TRUE(writer.write_data(i, at, std::span(data).subspan(at, 1000)).ok());
    });
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(writer.finish().ok());
  const auto file = File::open(path_);
  ASSERT_TRUE(file.ok());
  for (std::size_t i = 0; i < kTensors; ++i)
    EXPECT_THAT(file->tensors()[i].data, ElementsAreArray(pattern(kBytes, static_cast<unsigned>(i))));
}

TEST_F(WriterFolder, SkippedDataAreAHole) {
  Writer writer(path_);
  const std::size_t tensor = writer.add_tensor("huge", DType::kQ8_0, Dims{4096, 1 << 20});
  ASSERT_TRUE(writer.begin().ok());
  writer.skip_data(tensor);
  ASSERT_TRUE(writer.finish().ok());
  const auto file = File::open(path_);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->tensors()[0].data.size(), 4563402752u);
  EXPECT_EQ(file->tensors()[0].data.back(), std::byte{0});
}

TEST_F(WriterFolder, IncompleteTensorsAreNotFinished) {
  const auto data = pattern(256, 1);
  const auto written = [&](std::vector<std::pair<std::size_t, std::size_t>> pieces) {
    Writer writer(path_);
    const std::size_t tensor = writer.add_tensor("t", DType::kF32, Dims{64});
    EXPECT_TRUE(writer.begin().ok());
    for (const auto& [begin, end] : pieces)
      EXPECT_TRUE(writer.write_data(tensor, begin, std::span(data).subspan(begin, end - begin)).ok());
    const Status finished = writer.finish();
    return finished.ok() ? "complete" : finished.error().message;
  };
  const auto found = [&](int bytes) { return cat(path_, ": tensor t: expected 256 bytes, found ", bytes, " written"); };
  EXPECT_EQ(written({}), found(0));
  EXPECT_TRUE(is_empty());
  EXPECT_EQ(written({{0, 255}}), found(255));
  EXPECT_EQ(written({{0, 128}, {0, 128}}), found(128));  // twice the same bytes
  EXPECT_EQ(written({{0, 100}, {101, 256}}), found(255));
  EXPECT_EQ(written({{50, 200}, {0, 60}, {190, 255}}), found(255));
  EXPECT_TRUE(is_empty());
  EXPECT_EQ(written({{0, 256}}), "complete");
  EXPECT_EQ(written({{200, 256}, {0, 60}, {50, 100}, {99, 201}}), "complete");
  EXPECT_EQ(written({{10, 20}, {30, 40}, {0, 256}, {5, 5}}), "complete");
}

TEST_F(WriterFolder, WhatTheReaderRefusesIsNotWritten) {
  const auto refused = [&](auto declare, std::uint32_t alignment = 32) {
    Writer writer(path_, alignment);
    declare(writer);
    const Status begun = writer.begin();
    EXPECT_FALSE(begun.ok());
    EXPECT_TRUE(is_empty());
    return begun.ok() ? "accepted" : begun.error().message;
  };
  const auto nothing = [](Writer&) {};
  EXPECT_EQ(refused(nothing, 24),
            cat(path_, ": general.alignment: expected a power of two from 8 to 1048576, found 24"));
  EXPECT_THAT(refused(nothing, 4), HasSubstr("found 4"));
  EXPECT_EQ(refused([](Writer& w) {
              w.add_u32("k", 1);
              w.add_f32("k", 1);
            }),
            cat(path_, ": k: expected every key once, found it again"));
  EXPECT_THAT(refused([](Writer& w) { w.add_u32("general.alignment", 64); }, 64), HasSubstr("found it again"));
  EXPECT_THAT(refused([](Writer& w) { w.add_u32("", 1); }),
              HasSubstr("expected a name of 1 to 65535 printable bytes for a key"));
  EXPECT_THAT(refused([](Writer& w) { w.add_u32("a\nb", 1); }), HasSubstr(": a\\x0ab: expected a name"));
  EXPECT_THAT(refused([](Writer& w) { w.add_u32(std::string(65536, 'k'), 1); }), HasSubstr("kkk...: expected a name"));
  EXPECT_THAT(refused([](Writer& w) { w.add_i32_array("k", std::vector<std::int32_t>((1 << 21) + 1)); }),
              HasSubstr("at most 2097152"));
  const auto tensor = [&](const std::string& name, DType type, Dims dims) {
    return refused([&](Writer& w) { EXPECT_EQ(w.tensor_bytes(w.add_tensor(name, type, dims)), 0u); });
  };
  EXPECT_THAT(tensor("", DType::kF32, {1}), HasSubstr("for a tensor"));
  EXPECT_THAT(tensor("t", DType::kF32, {}), HasSubstr(": t: expected 1 to 4 dimensions"));
  EXPECT_THAT(tensor("t", DType::kF32, {1, 1, 1, 1, 1}), HasSubstr("1 to 4 dimensions"));
  EXPECT_THAT(tensor("t", DType::kF32, {1, 0}), HasSubstr("none of them 0"));
  EXPECT_THAT(tensor("t", DType::kQ8_0, {48, 2}), HasSubstr("blocks of 32 for q8_0, found 48"));
  EXPECT_THAT(tensor("t", DType::kF32, {1ull << 40, 1ull << 40}), HasSubstr("fits in 64 bits"));
  EXPECT_THAT(refused([](Writer& w) {
                w.add_tensor("t", DType::kF32, Dims{1});
                w.add_tensor("t", DType::kF32, Dims{1});
              }),
              HasSubstr(": t: expected every tensor once"));
}

// --- failing disks
// ------------------------------------------------------------------------------------------------------

TEST_F(WriterFolder, EveryFailureKeepsTheOldFileAndLeavesNothing) {
  using Call = FaultyFileSystem::Call;
  ASSERT_TRUE(write_small(FileSystem::real(), 1).ok());
  struct Case {
    Call call;
    int nth;
    bool renamed;
  };
  for (const Case& c : {Case{Call::kCreate, 1, false},
                        {Call::kTruncate, 1, false},
                        {Call::kWrite, 1, false},
                        {Call::kWrite, 2, false},
                        {Call::kWrite, 3, false},
                        {Call::kSync, 1, false},
                        {Call::kRename, 1, false},
                        {Call::kSyncParent, 1, true}}) {
    FaultyFileSystem disk(FileSystem::real());
    disk.fail(c.call, c.nth, "No space left on device");
    const Status status = write_small(disk, 2);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::kIo);
    EXPECT_THAT(status.error().message, HasSubstr("m.gguf"));
    EXPECT_THAT(status.error().message, HasSubstr("No space left on device"));
    EXPECT_FALSE(std::filesystem::exists(part_));
    const auto file = File::open(path_);
    ASSERT_TRUE(file.ok()) << file.error().message;
    EXPECT_THAT(file->tensors()[0].data, ElementsAreArray(pattern(256, c.renamed ? 2 : 1)));
  }
}

TEST_F(WriterFolder, SyncsTheFileBeforeTheRenameAndTheFolderAfter) {
  using Call = FaultyFileSystem::Call;
  FaultyFileSystem disk(FileSystem::real());
  ASSERT_TRUE(write_small(disk, 1).ok());
  EXPECT_EQ(disk.count(Call::kSync), 1);
  EXPECT_EQ(disk.count(Call::kRename), 1);
  EXPECT_EQ(disk.count(Call::kSyncParent), 1);
  EXPECT_EQ(disk.count(Call::kRemove), 0);
  FaultyFileSystem unsynced(FileSystem::real());
  unsynced.fail(Call::kSync, 1, "Input/output error");
  EXPECT_FALSE(write_small(unsynced, 2).ok());
  EXPECT_EQ(unsynced.count(Call::kRename), 0);
  EXPECT_EQ(unsynced.count(Call::kRemove), 1);
}

TEST_F(WriterFolder, AnAbandonedWriterRemovesItsPart) {
  {
    Writer writer(path_);
    writer.add_tensor("t", DType::kF32, Dims{64});
    ASSERT_TRUE(writer.begin().ok());
    EXPECT_TRUE(std::filesystem::exists(part_));
    Writer moved(std::move(writer));
    EXPECT_TRUE(std::filesystem::exists(part_));
  }
  EXPECT_TRUE(is_empty());
}

TEST_F(WriterFolder, TwoWritersOfOneFile) {
  Writer first(path_);
  ASSERT_TRUE(first.begin().ok());
  Writer second(path_);
  EXPECT_EQ(second.begin().error().message, part_ + ": another process is writing this file");
  ASSERT_TRUE(first.finish().ok());
  EXPECT_TRUE(File::open(path_).ok());
}

TEST_F(WriterFolder, AStalePartIsReplaced) {
  std::ofstream(part_) << std::string(100000, 'x');
  ASSERT_TRUE(write_small(FileSystem::real(), 3).ok());
  EXPECT_TRUE(File::open(path_).ok());
}

TEST_F(WriterFolder, MissingFolder) {
  Writer writer(root_ + "/no/m.gguf");
  EXPECT_EQ(writer.begin().error().message, root_ + "/no/m.gguf.part: cannot create: No such file or directory");
}

}  // namespace
}  // namespace ds4::gguf
