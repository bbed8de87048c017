// A bad file is refused, and a good one opened, without allocating more than 16 MiB and four times its header. The
// counter below sees every operator new of the program, so the bound covers messages, tables and everything between.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "base/text.h"
#include "gguf/file.h"
#include "gguf/test_file.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define DS4_SANITIZER_OWNS_NEW 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DS4_SANITIZER_OWNS_NEW 1
#endif

namespace {
std::atomic<std::uint64_t> allocated_bytes{0};  // ever, freed or not: an upper bound of the peak
}

#ifndef DS4_SANITIZER_OWNS_NEW
// The other forms of new and delete end in these. Not inlined: g++ would see malloc()ed memory given to free() "of
// new".
[[gnu::noinline]] void* operator new(std::size_t size) {
  allocated_bytes += size;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace ds4::gguf {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

class Allocation : public testing::Test {
 protected:
  void SetUp() override {
#ifdef DS4_SANITIZER_OWNS_NEW
    GTEST_SKIP() << "the sanitizer owns operator new";
#endif
  }
  /// Bytes allocated while opening, checked against the promise.
  static std::uint64_t cost(const std::vector<std::byte>& bytes, std::uint64_t header_bytes, bool good) {
    const std::uint64_t before = allocated_bytes;
    const auto file = File::parse(bytes, "m.gguf");
    const std::uint64_t used = allocated_bytes - before;
    EXPECT_EQ(file.ok(), good) << (file.ok() ? "" : file.error().message);
    EXPECT_LE(used, 16 * kMiB + 4 * header_bytes);
    return used;
  }
};

TEST_F(Allocation, TheCounterCounts) {
  const std::uint64_t before = allocated_bytes;
  const std::vector<char> block(5 * kMiB);
  EXPECT_GE(allocated_bytes - before, block.size());
}

TEST_F(Allocation, HostileCountsCostNothing) {
  const TestFile file = small_test_file();
  for (const TestFile::Field& field : file.fields())
    for (const std::uint64_t value :
         {1ull << 16, 1ull << 21, 1ull << 31, 1ull << 32, 1ull << 63, ~0ull, (1ull << 63) - 1}) {
      const std::uint64_t before = allocated_bytes;
      const auto bytes = file.with(field, value);
      const auto parsed = File::parse(bytes, "m.gguf");
      EXPECT_LE(allocated_bytes - before, bytes.size() + 64 * 1024) << field.name << " = " << value;
    }
}

TEST_F(Allocation, CountsThatFitAHole) {
  // The file is long enough for what its header claims, but empty: only what is there may be paid for.
  TestFile file;
  file.header(65536, 65536).data(16 * kMiB);
  EXPECT_LE(cost(file.bytes(), 24, false), 16 * kMiB);
}

TEST_F(Allocation, TheLargestFileOfTheShortestEntries) {
  TestFile file;
  file.header(65536, 65536);
  for (int i = 0; i < 65536; ++i) file.scalar(cat(i), ValueType::kU8, std::uint8_t{0});
  for (std::uint64_t i = 0; i < 65536; ++i) file.tensor(cat(i), {1}, 0, i * 32);
  file.data(65536 * 32);
  EXPECT_GT(cost(file.bytes(), 0, true), kMiB);
}

TEST_F(Allocation, AVocabularyIsNotCopied) {
  std::vector<std::string> tokens;
  for (int i = 0; i < 129280; ++i) tokens.push_back(cat("token", i));
  TestFile file;
  file.header(0, 1).array("tokenizer.ggml.tokens", ValueType::kString, tokens);
  EXPECT_LE(cost(file.bytes(), 0, true), 64 * 1024u);
}

}  // namespace
}  // namespace ds4::gguf
