#include "gguf/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "base/text.h"
#include "gguf/test_file.h"

namespace ds4::gguf {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

template <typename T>
T found(Result<std::optional<T>> result) {
  EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message);
  if (!result.ok() || !result->has_value()) {
    ADD_FAILURE() << "no value";
    return T{};
  }
  return **result;
}

class SmallFile : public testing::Test {
 protected:
  const TestFile raw_ = small_test_file();
  const std::vector<std::byte> bytes_ = raw_.bytes();
  Result<File> parsed_ = File::parse(bytes_, "small.gguf");
  void SetUp() override { ASSERT_TRUE(parsed_.ok()) << parsed_.error().message; }
  const File& file() const { return *parsed_; }
};

TEST_F(SmallFile, Entries) {
  EXPECT_EQ(file().path(), "small.gguf");
  EXPECT_EQ(file().size(), bytes_.size());
  EXPECT_EQ(file().alignment(), 32u);
  EXPECT_EQ(file().values().size(), 17u);
  EXPECT_THAT(file().notes(), IsEmpty());
  EXPECT_EQ(file().values()[0].key, "general.architecture");
  const Value* strings = file().find_value("t.strings");
  ASSERT_NE(strings, nullptr);
  EXPECT_EQ(strings->type, ValueType::kArray);
  EXPECT_EQ(strings->element, ValueType::kString);
  EXPECT_EQ(strings->count, 4u);
  EXPECT_EQ(strings->offset, raw_.field("t.strings[0] length").offset);
  EXPECT_EQ(strings->raw.size(), 4 * 8 + 1 + 0 + 2 + 11u);
  EXPECT_EQ(file().find_value("t.string"), nullptr);
  EXPECT_EQ(file().find_value(""), nullptr);
}

TEST_F(SmallFile, Tensors) {
  ASSERT_EQ(file().tensors().size(), 4u);
  const TensorInfo* tensor = file().find_tensor("b.q8_0");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->type, DType::kQ8_0);
  EXPECT_EQ(tensor->n_dims, 3);
  EXPECT_THAT(tensor->dims, ElementsAre(64, 2, 2, 1));
  EXPECT_EQ(tensor->elements(), 256u);
  EXPECT_EQ(tensor->offset, raw_.data_start() + 64);
  EXPECT_EQ(tensor->entry, raw_.field("b.q8_0 length").offset);
  EXPECT_EQ(tensor->data.data(), bytes_.data() + raw_.data_start() + 64);
  EXPECT_EQ(tensor->data.size(), 272u);
  EXPECT_EQ(describe(*tensor), "[64, 2, 2] q8_0");
  EXPECT_EQ(file().find_tensor("b"), nullptr);
}

TEST_F(SmallFile, Scalars) {
  EXPECT_EQ(found(file().get_uint("t.u8")), 200u);
  EXPECT_EQ(found(file().get_uint("split.count")), 1u);
  EXPECT_EQ(found(file().get_uint("t.u64")), 1ull << 40);
  EXPECT_EQ(found(file().get_float("t.f32")), 1.5);
  EXPECT_EQ(found(file().get_float("t.f64")), 0.25);
  EXPECT_TRUE(found(file().get_bool("t.bool")));
  EXPECT_TRUE(found(file().get_bool("split.count")));
  EXPECT_EQ(found(file().get_string("general.architecture")), "deepseek4");
}

TEST_F(SmallFile, Arrays) {
  EXPECT_THAT(found(file().get_int_array("t.ints")), ElementsAre(0, 4, 128, -1));
  EXPECT_THAT(found(file().get_float_array("t.floats")), ElementsAre(10.0f, 0.5f));
  EXPECT_THAT(found(file().get_string_array("t.strings")), ElementsAre("a", "", "\xff\xfe", "long enough"));
  EXPECT_THAT(found(file().get_int_array("t.none")), IsEmpty());
}

TEST_F(SmallFile, MissingKeyIsNotAnError) {
  EXPECT_FALSE(file().get_uint("no").value().has_value());
  EXPECT_FALSE(file().get_float("no").value().has_value());
  EXPECT_FALSE(file().get_bool("no").value().has_value());
  EXPECT_FALSE(file().get_string("no").value().has_value());
  EXPECT_FALSE(file().get_int_array("no").value().has_value());
  EXPECT_FALSE(file().get_float_array("no").value().has_value());
  EXPECT_FALSE(file().get_string_array("no").value().has_value());
}

TEST_F(SmallFile, WrongTypeNamesKeyOffsetAndTypes) {
  const auto offset = std::to_string(raw_.field("t.i32").offset);
  const auto error = file().get_string("t.i32").error();
  EXPECT_EQ(error.code, ErrorCode::kBadModel);
  EXPECT_EQ(error.message,
            "small.gguf: key t.i32 at byte " + offset + ": expected a string, found a value of type i32");
  EXPECT_THAT(file().get_uint("t.i32").error().message, HasSubstr("at least 0, found -70000"));
  EXPECT_THAT(file().get_uint("t.f32").error().message, HasSubstr("expected an integer, found a value of type f32"));
  EXPECT_THAT(file().get_uint("t.bool").error().message, HasSubstr("found a value of type bool"));
  EXPECT_THAT(file().get_uint("t.ints").error().message, HasSubstr("found an array of i32"));
  EXPECT_THAT(file().get_float("t.u8").error().message, HasSubstr("expected f32 or f64, found a value of type u8"));
  EXPECT_THAT(file().get_bool("t.u8").error().message, HasSubstr("0 or 1, found 200"));
  EXPECT_THAT(file().get_bool("t.i8").error().message, HasSubstr("0 or 1, found -3"));
  EXPECT_THAT(file().get_bool("t.f32").error().message, HasSubstr("expected a bool"));
  EXPECT_THAT(file().get_string("t.strings").error().message, HasSubstr("found an array of string"));
  EXPECT_THAT(file().get_int_array("t.u8").error().message, HasSubstr("array of integers, found a value of type u8"));
  EXPECT_THAT(file().get_int_array("t.floats").error().message, HasSubstr("found an array of f32"));
  EXPECT_THAT(file().get_int_array("t.bools").error().message, HasSubstr("found an array of bool"));
  EXPECT_THAT(file().get_int_array("t.strings").error().message, HasSubstr("found an array of string"));
  EXPECT_THAT(file().get_float_array("t.ints").error().message, HasSubstr("found an array of i32"));
  EXPECT_THAT(file().get_float_array("t.f32").error().message, HasSubstr("found a value of type f32"));
  EXPECT_THAT(file().get_string_array("t.ints").error().message, HasSubstr("array of strings, found an array of i32"));
}

TEST_F(SmallFile, ErrorsOfOtherParts) {
  const auto offset = std::to_string(raw_.field("t.u8").offset);
  EXPECT_EQ(file().key_error("t.u8", "too big").message, "small.gguf: key t.u8 at byte " + offset + ": too big");
  EXPECT_EQ(file().key_error("x\n", "missing").message, "small.gguf: key x\\x0a: missing");
  const auto entry = std::to_string(raw_.field("d.f16 length").offset);
  EXPECT_EQ(file().tensor_error(file().tensors()[3], "no").message,
            "small.gguf: tensor d.f16 at byte " + entry + ": no");
}

TEST_F(SmallFile, ViewsSurviveAMove) {
  const File moved = std::move(parsed_).value();
  EXPECT_EQ(found(moved.get_string("general.architecture")), "deepseek4");
  EXPECT_NE(moved.find_tensor("a.f32"), nullptr);
}

template <typename T>
Result<std::optional<std::vector<std::int64_t>>> ints_of(ValueType type, std::vector<T> values) {
  const auto bytes = TestFile().header(0, 1).array("k", type, values).bytes();
  return File::parse(bytes, "m").value().get_int_array("k");
}

TEST(FileAccess, EveryIntegerWidthInArrays) {
  EXPECT_THAT(found(ints_of<std::uint8_t>(ValueType::kU8, {0, 255})), ElementsAre(0, 255));
  EXPECT_THAT(found(ints_of<std::int8_t>(ValueType::kI8, {-128, 127})), ElementsAre(-128, 127));
  EXPECT_THAT(found(ints_of<std::uint16_t>(ValueType::kU16, {0, 65535})), ElementsAre(0, 65535));
  EXPECT_THAT(found(ints_of<std::int16_t>(ValueType::kI16, {-32768, 5})), ElementsAre(-32768, 5));
  EXPECT_THAT(found(ints_of<std::uint32_t>(ValueType::kU32, {0, 4294967295u})), ElementsAre(0, 4294967295));
  EXPECT_THAT(found(ints_of<std::int64_t>(ValueType::kI64, {INT64_MIN, INT64_MAX})), ElementsAre(INT64_MIN, INT64_MAX));
  EXPECT_THAT(found(ints_of<std::uint64_t>(ValueType::kU64, {INT64_MAX})), ElementsAre(INT64_MAX));
  EXPECT_THAT(ints_of<std::uint64_t>(ValueType::kU64, {1, 1ull << 63}).error().message,
              HasSubstr("below 2^63, found 9223372036854775808 as element 1"));
}

TEST(FileAccess, DoubleArraysMustFitFloats) {
  const double inf = std::numeric_limits<double>::infinity();
  const auto good = TestFile().header(0, 1).array("k", ValueType::kF64, std::vector<double>{0.5, -inf}).bytes();
  EXPECT_THAT(found(File::parse(good, "m").value().get_float_array("k")), ElementsAre(0.5f, float(-inf)));
  const auto bad = TestFile().header(0, 1).array("k", ValueType::kF64, std::vector<double>{0.5, 1e300}).bytes();
  EXPECT_THAT(File::parse(bad, "m").value().get_float_array("k").error().message, HasSubstr("1e+300 as element 1"));
}

TEST(FileNotes, LongGapsAreNotedNotRefused) {
  constexpr std::uint64_t kMiB = 1 << 20;
  TestFile raw;
  raw.header(2, 0).tensor("b", {8}, 0, 3 * kMiB + 32).tensor("a", {8}, 0, kMiB + 32).data(5 * kMiB);
  const auto bytes = raw.bytes();
  const auto file = File::parse(bytes, "dir/m.gguf");
  ASSERT_TRUE(file.ok()) << file.error().message;
  const std::uint64_t start = raw.data_start();
  const auto note = [&](std::uint64_t begin, std::uint64_t end, const std::string& size) {
    return "dir/m.gguf: bytes " + std::to_string(begin) + " to " + std::to_string(end) + " belong to no tensor (" +
           size + ")";
  };
  EXPECT_THAT(file->notes(), ElementsAre(note(start, start + kMiB + 32, "1.00 MiB"),
                                         note(start + kMiB + 64, start + 3 * kMiB + 32, "2.00 MiB"),
                                         note(start + 3 * kMiB + 64, start + 5 * kMiB, "2.00 MiB")));
}

TEST(FileNotes, ManyGapsGiveFewNotes) {
  constexpr std::uint64_t kStep = (1 << 20) + 64;
  TestFile raw;
  raw.header(30, 0);
  for (std::uint64_t i = 0; i < 30; ++i) raw.tensor(cat("t", i), {8}, 0, i * kStep);
  const auto bytes = raw.data(30 * kStep).bytes();
  const auto file = File::parse(bytes, "m");
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->notes().size(), 17u);
  EXPECT_THAT(file->notes().back(), HasSubstr("more unused stretches"));
}

// --- the file as the operating system shows it --------------------------------------------------------------------

class Folder : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "gguf_file_XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  std::string path(const std::string& name) const { return root_ + "/" + name; }
  void write(const std::string& name, std::span<const std::byte> bytes) const {
    std::ofstream(path(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  std::string refusal(const std::string& name) const {
    const auto file = File::open(path(name));
    if (file.ok()) return "accepted";
    EXPECT_EQ(file.error().code, ErrorCode::kBadModel);
    EXPECT_THAT(file.error().message, testing::StartsWith(path(name) + ": "));
    return file.error().message;
  }
  std::string root_;
};

TEST_F(Folder, OpensAMappedFile) {
  write("m.gguf", small_test_file().bytes());
  auto opened = File::open(path("m.gguf"));
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const File file = std::move(opened).value();
  EXPECT_EQ(found(file.get_string("general.architecture")), "deepseek4");
  EXPECT_EQ(file.find_tensor("a.f32")->data[1], std::byte{8});
}

TEST_F(Folder, NotAModelFile) {
  EXPECT_THAT(refusal("missing"), HasSubstr("No such file"));
  std::filesystem::create_directory(path("folder"));
  EXPECT_THAT(refusal("folder"), HasSubstr("regular file"));
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(refusal("pipe"), HasSubstr("regular file"));
  std::filesystem::create_symlink("loop", path("loop"));
  EXPECT_THAT(refusal("loop"), HasSubstr("cannot open"));
  std::filesystem::create_symlink("/dev/zero", path("device"));
  EXPECT_THAT(refusal("device"), HasSubstr("regular file"));
  write("empty", {});
  EXPECT_THAT(refusal("empty"), HasSubstr("expected a GGUF file, found an empty file"));
  write("four", std::vector<std::byte>(4));
  EXPECT_THAT(refusal("four"), HasSubstr("expected magic \"GGUF\", found \"\\x00\\x00\\x00\\x00\""));
  write("three", std::vector<std::byte>(3));
  EXPECT_THAT(refusal("three"), HasSubstr("header at byte 0: expected 4 bytes of magic, found 3 bytes"));
  write("locked", small_test_file().bytes());
  std::filesystem::permissions(path("locked"), std::filesystem::perms::none);
  if (::geteuid() != 0) {  // root reads everything
    EXPECT_THAT(refusal("locked"), HasSubstr("Permission denied"));
  }
}

TEST_F(Folder, SparseTerabytes) {
  write("zeros", {});
  std::error_code failed;
  std::filesystem::resize_file(path("zeros"), 1ull << 40, failed);
  if (failed) GTEST_SKIP() << "no sparse files here";
  const std::string zeros = refusal("zeros");
  if (zeros.find("cannot map") != std::string::npos) GTEST_SKIP() << "too little address space here: " << zeros;
  EXPECT_THAT(zeros, HasSubstr("expected magic"));

  // A valid header in front of the hole: opened, and the hole is noted.
  write("small", small_test_file().bytes());
  std::filesystem::resize_file(path("small"), 1ull << 40);
  const auto file = File::open(path("small"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->notes().size(), 1u);

  // A header that claims the hole as an array of empty strings, or as names.
  TestFile strings;
  strings.header(0, 1).array("k", ValueType::kString, std::vector<std::string>(100));
  write("strings", strings.with(strings.field("k count"), 1ull << 36));
  std::filesystem::resize_file(path("strings"), 1ull << 40);
  EXPECT_THAT(refusal("strings"), HasSubstr("at most 2097152 array elements, found 68719476736"));
  TestFile string;
  string.header(0, 1).string("k", "");
  write("string", string.with(string.field("k length"), 1ull << 30));
  std::filesystem::resize_file(path("string"), 1ull << 40);
  EXPECT_THAT(refusal("string"),
              HasSubstr("expected a string of 1073741824 bytes, found 67108819 bytes before the size limit"));
  TestFile names;
  names.header(60000, 0);
  write("names", names.bytes());
  std::filesystem::resize_file(path("names"), 1ull << 40);
  EXPECT_THAT(refusal("names"), HasSubstr("tensor #0 at byte 24: expected a name of 1 to 65535 bytes, found 0 bytes"));
}

TEST_F(Folder, PathsPrintAsTheyWereTyped) {
  write("bad\n", std::vector<std::byte>(8));
  const auto error = File::open(path("bad\n")).error();
  EXPECT_THAT(error.message, testing::StartsWith(root_ + "/bad\\x0a: header at byte 0"));
  const std::filesystem::path here = std::filesystem::current_path();
  std::filesystem::current_path(root_);
  EXPECT_THAT(File::open("nothing").error().message, testing::StartsWith("nothing: "));
  std::filesystem::current_path(here);
}

}  // namespace
}  // namespace ds4::gguf
