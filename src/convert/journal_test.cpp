#include "convert/journal.h"

#include <gtest/gtest.h>

#include "convert/content_hash.h"
#include "convert/test_checkpoint.h"

namespace ds4 {
namespace {

TEST(Journal, WhatIsWrittenIsRead) {
  const TestFolder folder;
  const std::string path = folder.path("m.journal");
  auto journal = JournalWriter::create(path, 7, std::vector<JournalEntry>{{"a", 1, 2}});
  ASSERT_TRUE(journal.ok());
  ASSERT_TRUE(journal->add({"a tensor with spaces", 123456789012, 0xfedcba9876543210}).ok());
  EXPECT_EQ(journal->entries(), 2U);
  const auto entries = read_journal(path, 7);
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[1].tensor, "a tensor with spaces");
  EXPECT_EQ(entries[1].bytes, 123456789012U);
  EXPECT_EQ(entries[1].hash, 0xfedcba9876543210U);
  EXPECT_TRUE(read_journal(path, 8).empty()) << "another conversion";
  ASSERT_TRUE(journal->remove().ok());
  EXPECT_TRUE(read_journal(path, 7).empty());
}

TEST(Journal, OnlyWholeLinesCount) {
  const TestFolder folder;
  const std::string title = "ds4-quantize journal 1 0000000000000007\n";
  const auto count = [&](const std::string& text) {
    folder.write("m.journal", text);
    return read_journal(folder.path("m.journal"), 7).size();
  };
  EXPECT_EQ(count(""), 0U);
  EXPECT_EQ(count(title), 0U);
  EXPECT_EQ(count(title + "a 1 0000000000000002\nb 1 00000000000"), 1U) << "cut short";
  EXPECT_EQ(count(title + "a 1 0000000000000002\nb 1 0000000000000002"), 1U) << "without its end";
  EXPECT_EQ(count(title + "a 1 0000000000000002\nb x 0000000000000002\nc 1 0000000000000002\n"), 1U);
  for (const char* bad : {" 1 0000000000000002", "a 0000000000000002", "a 1 2", "a -1 0000000000000002", "", "a"})
    EXPECT_EQ(count(title + bad + "\n"), 0U) << bad;
}

TEST(ContentHash, EveryByteCounts) {
  std::vector<std::byte> bytes(100);
  const std::uint64_t hash = content_hash(bytes);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = std::byte{1};
    EXPECT_NE(content_hash(bytes), hash) << i;
    bytes[i] = std::byte{0};
  }
  EXPECT_NE(content_hash(std::span(bytes).first(99)), hash);
  EXPECT_NE(content_hash(bytes, 1), hash);
  EXPECT_EQ(content_hash(bytes), hash);
}

}  // namespace
}  // namespace ds4
