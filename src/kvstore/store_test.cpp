#include "kvstore/store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "base/text.h"
#include "kvstore/inspect.h"
#include "kvstore/simulated_folder.h"
#include "kvstore/store_rig.h"

namespace ds4::kvstore {
namespace {

std::unique_ptr<Store> open(SimulatedDisk& disk, StoreOptions with = options()) {
  Result<std::unique_ptr<Store>> store = Store::open(disk.folder(), std::move(with));
  EXPECT_TRUE(store.ok()) << store.error().message;
  return store.ok() ? std::move(store).value() : nullptr;
}

TEST(Sha256, IsThePublishedFunction) {
  const auto of = [](std::string_view text) {
    Sha256 hash;
    hash.add(text);
    return hex(hash.digest());
  };
  EXPECT_EQ(of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  Sha256 million;
  for (int i = 0; i < 1000; ++i) million.add(std::string(1000, 'a'));
  EXPECT_EQ(hex(million.digest()), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(KvFile, EveryByteIsChecked) {
  for (const Kind kind : {Kind::kBlock, Kind::kPoint}) {
    Head head;
    head.kind = kind;
    head.identity.fill(3);
    head.before = head.identity;
    head.position = kBlockTokens;
    head.label = "a label";
    head.tokens[5] = 77;
    head.sampled[2] = 9;
    head.key = block_key(head.before, head.tokens);
    if (kind == Kind::kPoint) head.before = {}, head.tokens = {}, head.sampled = {};
    const std::vector<std::byte> payload = bytes_of(head.key, 50, 0);
    std::vector<std::byte> bytes = encode_head(head, payload);
    ASSERT_EQ(bytes.size(), head_bytes(kind));
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    const Result<File> file = parse_file(bytes, "f");
    ASSERT_TRUE(file.ok()) << file.error().message;
    EXPECT_EQ(file->head.key, head.key);
    EXPECT_EQ(file->head.tokens, head.tokens);
    EXPECT_EQ(file->head.label, "a label");
    EXPECT_TRUE(std::ranges::equal(file->payload, payload));
    for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      bytes[bit / 8] ^= std::byte{1} << bit % 8;
      EXPECT_FALSE(parse_file(bytes, "f").ok()) << "bit " << bit;
      bytes[bit / 8] ^= std::byte{1} << bit % 8;
    }
    for (std::size_t size = 0; size < bytes.size(); ++size)
      EXPECT_FALSE(parse_file(std::span(bytes).first(size), "f").ok());
    bytes.push_back(std::byte{0});
    EXPECT_FALSE(parse_file(bytes, "f").ok());
  }
}

TEST(KvFile, NamesGoThereAndBack) {
  const Key key = block_key({}, BlockTokens{});
  const auto named = read_file_name(file_name(Kind::kPoint, key));
  ASSERT_TRUE(named);
  EXPECT_EQ(named->kind, Kind::kPoint);
  EXPECT_EQ(named->key, key);
  const std::string good = file_name(Kind::kBlock, key);
  EXPECT_FALSE(read_file_name("x" + good.substr(1)));
  EXPECT_FALSE(read_file_name(good + "x"));
  EXPECT_FALSE(read_file_name(cat("b-", std::string(64, 'G'), ".kv")));
  EXPECT_FALSE(read_file_name("../" + good));
}

TEST(Store, WhatWasSavedComesBackAfterARestart) {
  SimulatedDisk disk;
  {
    auto store = open(disk);
    save(*store, history(4));
    ASSERT_TRUE(store->flush(10));
    EXPECT_EQ(restore(*store, history(6)), 4 * kBlockTokens);
  }
  auto store = open(disk);
  EXPECT_EQ(restore(*store, history(6)), 4 * kBlockTokens);
  EXPECT_EQ(restore(*store, history(4, 1, 3)), 0u);  // shares three blocks, but there is no point
  EXPECT_EQ(restore(*store, history(3)), 0u);
  EXPECT_EQ(store->stats().restored_tokens, 4 * kBlockTokens);
}

TEST(Store, RowsAreWrittenOnce) {
  SimulatedDisk disk;
  auto store = open(disk);
  save(*store, history(4));
  save(*store, history(6));
  save(*store, history(6, 1, 2));  // a branch
  save(*store, history(6));
  ASSERT_TRUE(store->flush(10));
  const StoreStats stats = store->stats();
  EXPECT_EQ(stats.written_blocks, 4u + 2 + 4);
  EXPECT_EQ(stats.written_points, 3u);
  EXPECT_EQ(stats.reused_blocks, 4u + 2);
  EXPECT_EQ(stats.written_bytes, 10 * (kBlockHeadBytes + kRows) + 3 * (kPointHeadBytes + kPointBytes));
  EXPECT_EQ(stats.written_bytes, disk.bytes());
  EXPECT_EQ(restore(*store, history(9)), 6 * kBlockTokens);
  EXPECT_EQ(restore(*store, history(9, 1, 2)), 6 * kBlockTokens);
  EXPECT_EQ(restore(*store, history(5, 1, 4)), 4 * kBlockTokens);
}

TEST(Store, AnotherModelSeesNothing) {
  SimulatedDisk disk;
  {
    auto store = open(disk);
    save(*store, history(4));
    ASSERT_TRUE(store->flush(10));
  }
  StoreOptions other = options();
  other.identity.fill(8);
  auto store = open(disk, other);
  EXPECT_EQ(store->longest(history(4)).position, 0u);
  save(*store, history(4));
  ASSERT_TRUE(store->flush(10));
  EXPECT_EQ(restore(*store, history(4)), 4 * kBlockTokens);
  EXPECT_EQ(store->stats().blocks, 8u);
}

TEST(Store, NoFlippedBitIsEverUsed) {
  SimulatedDisk disk;
  const std::vector<Tokens> all = {history(2), history(4), history(5, 1, 3)};
  std::map<std::string, std::vector<std::byte>> good;
  {
    auto store = open(disk);
    for (const Tokens& tokens : all) save(*store, tokens);
    ASSERT_TRUE(store->flush(10));
  }
  for (const std::string& name : disk.names()) good[name] = disk.content(name);
  std::mt19937_64 random(1);
  for (int flip = 0; flip < (deep() ? 10000 : 300); ++flip) {
    SimulatedDisk copy;
    for (const auto& [name, content] : good) {
      const std::array<std::span<const std::byte>, 1> pieces = {content};
      ASSERT_TRUE(copy.folder()->write(name, pieces).ok());
    }
    auto victim = good.begin();
    std::advance(victim, random() % good.size());
    const std::uint64_t bit = random() % (victim->second.size() * 8);
    const auto damage = [&] { copy.content(victim->first)[bit / 8] ^= std::byte{1} << bit % 8; };
    // Before the heads are read, or between that and the loading.
    const bool before = random() % 2 == 0;
    if (before) damage();
    auto store = open(copy);
    if (!before) damage();
    for (const Tokens& tokens : all) restore(*store, tokens);
    const StoreStats stats = store->stats();
    EXPECT_EQ(stats.blocks + stats.points, good.size() - 1) << victim->first << " bit " << bit;
    // With another version number it is a file that another program may use; otherwise it goes.
    const bool other_version = before && bit / 32 == 2;
    EXPECT_EQ(stats.rejected, other_version ? 0u : 1u) << victim->first << " bit " << bit;
    EXPECT_EQ(std::ranges::count(copy.names(), victim->first), other_version ? 1 : 0)
        << victim->first << " bit " << bit;
  }
}

/// Everything that `go` does to a disk, with a fault at every call that it makes.
void at_every_call(SimulatedDisk::Fault fault, bool all, bool power) {
  const std::vector<Tokens> states = {history(3), history(5), history(4, 1, 2)};
  for (int call = 1;; ++call) {
    SimulatedDisk disk;
    {
      auto store = open(disk);
      save(*store, states[0]);
      ASSERT_TRUE(store->flush(10));
    }
    const int before = disk.calls();
    disk.fail_at(call, fault, all);
    {
      Result<std::unique_ptr<Store>> store = Store::open(disk.folder(), options());
      if (store.ok()) {
        restore(**store, states[0]);
        save(**store, states[1]);
        save(**store, states[2]);
        ASSERT_TRUE((*store)->flush(10));
        restore(**store, states[1]);
      }
    }
    const bool done = disk.calls() < before + call;
    for (std::uint64_t seed = 0; seed < (power ? 4 : 1); ++seed) {
      if (power) disk.cut_power(seed);
      disk.heal();
      auto store = open(disk);
      // A sound state stays what it was; what was being written is there whole or not at all.
      for (const Tokens& tokens : states) {
        const std::size_t got = restore(*store, tokens);
        EXPECT_LE(got, tokens.size());
      }
      save(*store, states[2]);
      ASSERT_TRUE(store->flush(10));
      EXPECT_EQ(restore(*store, states[2]), states[2].size()) << "call " << call;
      for (const std::string& name : disk.names()) EXPECT_FALSE(name.starts_with("t-")) << name << ", call " << call;
    }
    if (done) break;
  }
}

TEST(Store, SurvivesAnErrorOfEveryCall) { at_every_call(SimulatedDisk::Fault::kError, false, false); }
TEST(Store, SurvivesADiskThatFailsFromAnyCallOn) { at_every_call(SimulatedDisk::Fault::kError, true, false); }
TEST(Store, SurvivesAFullDiskAtEveryCall) { at_every_call(SimulatedDisk::Fault::kFull, false, false); }
TEST(Store, SurvivesShortReadsAtEveryCall) { at_every_call(SimulatedDisk::Fault::kShort, false, false); }
TEST(Store, SurvivesBeingKilledAtEveryCall) { at_every_call(SimulatedDisk::Fault::kDeath, false, false); }
TEST(Store, SurvivesAPowerCutAtEveryCall) { at_every_call(SimulatedDisk::Fault::kDeath, false, true); }

TEST(Store, WhatWasSyncedSurvivesAPowerCut) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    SimulatedDisk disk;
    auto store = open(disk);
    save(*store, history(4));
    ASSERT_TRUE(store->flush(10));
    store.reset();
    disk.cut_power(seed);
    store = open(disk);
    EXPECT_EQ(restore(*store, history(4)), 4 * kBlockTokens) << seed;
  }
}

TEST(Store, AFullDiskIsOneWarningAndAPause) {
  SimulatedDisk disk;
  std::vector<std::string> warnings;
  StoreOptions with = options();
  with.warn = [&](const std::string& text) { warnings.push_back(text); };
  auto store = open(disk, with);
  disk.fail_at(1, SimulatedDisk::Fault::kFull, true);
  for (std::int32_t i = 0; i < 10; ++i) save(*store, history(2, i));
  ASSERT_TRUE(store->flush(10));
  EXPECT_EQ(store->stats().dropped, 10u);
  EXPECT_EQ(store->stats().queued_bytes, 0u);
  EXPECT_FALSE(store->writable());
  store.reset();
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("not stored for 60 s"), std::string::npos) << warnings[0];
}

TEST(Store, AQueueThatIsFullDropsStates) {
  SimulatedDisk disk;
  StoreOptions with = options();
  with.max_queue = 2000;
  auto store = open(disk, with);
  for (std::int32_t i = 0; i < 100; ++i) save(*store, history(1, i));
  ASSERT_TRUE(store->flush(10));
  const StoreStats stats = store->stats();
  EXPECT_GT(stats.written_points, 0u);
  EXPECT_EQ(stats.written_points + stats.dropped, 100u);
}

TEST(Store, KeepsToItsBudgetAndTheNewestStays) {
  constexpr std::uint64_t kBudget = 40000;
  SimulatedDisk disk;
  auto store = open(disk, options(kBudget));
  std::mt19937_64 random(2);
  for (int i = 0; i < 300; ++i) {
    const Tokens tokens = history(1 + random() % 8, static_cast<std::int32_t>(random() % 40), random() % 3);
    save(*store, tokens);
    ASSERT_TRUE(store->flush(10));
    EXPECT_EQ(restore(*store, tokens), tokens.size());
    ASSERT_LE(disk.most_bytes(), kBudget);
  }
  EXPECT_GT(store->stats().evicted, 100u);
  EXPECT_EQ(store->stats().bytes, disk.bytes());
  // Nothing is left that nothing can use.
  const auto folder = disk.folder();
  EXPECT_NE(list_states(*folder)->find("; 0 unused, 0 broken"), std::string::npos) << *list_states(*folder);
  // A state larger than everything changes nothing.
  const std::uint64_t evicted = store->stats().evicted;
  save(*store, history(60, 99));
  ASSERT_TRUE(store->flush(10));
  EXPECT_EQ(store->stats().evicted, evicted);
  EXPECT_EQ(store->longest(history(60, 99)).position, 0u);
}

TEST(Store, ALongConversationKeepsALadder) {
  SimulatedDisk disk;
  constexpr std::uint64_t kBlock = kBlockHeadBytes + kRows, kPoint = kPointHeadBytes + kPointBytes;
  auto store = open(disk, options(64 * kBlock + 20 * kPoint));
  for (std::size_t blocks = 1; blocks <= 64; ++blocks) {
    save(*store, history(blocks));
    ASSERT_TRUE(store->flush(10));
  }
  EXPECT_EQ(restore(*store, history(64)), 64 * kBlockTokens);
  // Wherever the tail is cut, a rung is not too far below.
  for (std::size_t cut = 16; cut < 64; ++cut) {
    const Tree::Found found = store->longest(history(64, 1, cut));
    EXPECT_GE(found.position + 16 * kBlockTokens, cut * kBlockTokens) << cut;
  }
}

TEST(Store, TheOldGoesBeforeTheNewAndTheUsedStays) {
  SimulatedDisk disk;
  constexpr std::uint64_t kState = 2 * (kBlockHeadBytes + kRows) + kPointHeadBytes + kPointBytes;
  {
    auto store = open(disk, options(8 * kState));
    for (std::int32_t i = 0; i < 6; ++i) save(*store, history(2, i));
    ASSERT_TRUE(store->flush(10));
  }
  for (const std::string& name : disk.names()) disk.set_modified(name, 1000);  // long ago, all alike
  auto store = open(disk, options(8 * kState));
  EXPECT_EQ(restore(*store, history(2, 3)), 2 * kBlockTokens);
  for (std::int32_t i = 10; i < 17; ++i) save(*store, history(2, i));
  ASSERT_TRUE(store->flush(10));
  EXPECT_EQ(restore(*store, history(2, 3)), 2 * kBlockTokens);
  EXPECT_EQ(restore(*store, history(2, 0)), 0u);
  EXPECT_EQ(restore(*store, history(2, 16)), 2 * kBlockTokens);
}

TEST(Store, FilesOfAnotherVersionMakeRoom) {
  SimulatedDisk disk;
  {
    auto store = open(disk);
    save(*store, history(4));
    ASSERT_TRUE(store->flush(10));
  }
  for (const std::string& name : disk.names()) disk.content(name)[8] = std::byte{9};
  const std::uint64_t used = disk.bytes();
  auto store = open(disk, options(used + 1000));
  EXPECT_EQ(store->longest(history(4)).position, 0u);
  EXPECT_EQ(store->stats().bytes, used);
  save(*store, history(4, 1));
  ASSERT_TRUE(store->flush(10));
  EXPECT_EQ(restore(*store, history(4, 1)), 4 * kBlockTokens);
  EXPECT_LE(disk.bytes(), used + 1000);
}

TEST(Store, ManyOnOneDirectory) {
  SimulatedDisk disk;
  constexpr std::uint64_t kBudget = 30000;
  std::vector<std::thread> threads;
  for (std::uint64_t who = 0; who < 4; ++who) {
    threads.emplace_back([&disk, who] {
      std::mt19937_64 random(who);
      for (int life = 0; life < 5; ++life) {
        auto store = open(disk, options(kBudget));
        for (int i = 0; i < (deep() ? 2000 : 40); ++i) {
          const Tokens tokens = history(1 + random() % 6, static_cast<std::int32_t>(random() % 12), random() % 3);
          if (random() % 2 == 0) save(*store, tokens);
          else restore(*store, tokens);
        }
        store->flush(10);
        EXPECT_EQ(store->stats().rejected, 0u);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  auto store = open(disk, options(kBudget));
  save(*store, history(3, 50));
  ASSERT_TRUE(store->flush(10));
  EXPECT_EQ(restore(*store, history(3, 50)), 3 * kBlockTokens);
}

TEST(Store, AStateThatFailedIsForgotten) {
  SimulatedDisk disk;
  auto store = open(disk);
  save(*store, history(2));
  save(*store, history(4));
  ASSERT_TRUE(store->flush(10));
  store->forget(store->longest(history(4)).key, "the device failed");
  ASSERT_TRUE(store->flush(10));
  EXPECT_EQ(restore(*store, history(4)), 2 * kBlockTokens);
  store = open(disk);
  EXPECT_EQ(restore(*store, history(4)), 2 * kBlockTokens);
}

/// A directory on the real file system.
class RealDirectory : public ::testing::Test {
 protected:
  void SetUp() override {
    path = cat(std::filesystem::temp_directory_path().string(), "/ds4-kv-XXXXXX");
    ASSERT_NE(mkdtemp(path.data()), nullptr);
  }
  void TearDown() override { std::filesystem::remove_all(path); }
  std::unique_ptr<Store> open_real(StoreOptions with = options()) {
    auto folder = Folder::open(path);
    EXPECT_TRUE(folder.ok()) << folder.error().message;
    return std::move(Store::open(std::move(folder).value(), std::move(with))).value();
  }
  std::string path;
};

TEST_F(RealDirectory, SavesAndRestores) {
  {
    auto store = open_real();
    save(*store, history(4));
    ASSERT_TRUE(store->flush(30));
  }
  auto store = open_real();
  EXPECT_EQ(restore(*store, history(5)), 4 * kBlockTokens);
  struct stat found{};
  ASSERT_EQ(stat(path.c_str(), &found), 0);
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    EXPECT_EQ(entry.status().permissions(), std::filesystem::perms(0600)) << entry.path();
  }
}

TEST_F(RealDirectory, LeavesAloneWhatIsNotItsOwn) {
  {
    auto store = open_real();
    save(*store, history(2));
    ASSERT_TRUE(store->flush(30));
  }
  namespace fs = std::filesystem;
  const std::string outside = cat(path, ".outside");
  const auto name = [&](std::uint8_t fill) {
    Key key;
    key.fill(fill);
    return cat(path, "/", file_name(Kind::kBlock, key));
  };
  std::ofstream(outside) << "precious";
  fs::create_symlink(outside, name(1));
  fs::create_directory(name(2));
  ASSERT_EQ(mkfifo(name(3).c_str(), 0600), 0);
  std::ofstream(cat(path, "/notes.txt")) << "mine";
  fs::create_symlink(outside, cat(path, "/t-1-1.tmp"));
  std::ofstream(cat(path, "/t-1-2.tmp")) << "left over";
  std::ofstream(name(4)) << "not what the name says";
  {
    auto store = open_real(options(3000));
    EXPECT_EQ(restore(*store, history(2)), 2 * kBlockTokens);
    for (std::int32_t i = 1; i < 5; ++i) save(*store, history(2, i));
    ASSERT_TRUE(store->flush(30));
    EXPECT_EQ(store->stats().rejected, 1u);
  }
  EXPECT_TRUE(fs::is_symlink(name(1)) && fs::is_directory(name(2)) && fs::is_fifo(name(3)));
  EXPECT_TRUE(fs::is_symlink(cat(path, "/t-1-1.tmp")) && fs::exists(cat(path, "/notes.txt")));
  EXPECT_FALSE(fs::exists(cat(path, "/t-1-2.tmp")));
  EXPECT_FALSE(fs::exists(name(4)));
  std::string text;
  std::getline(std::ifstream(outside), text);
  EXPECT_EQ(text, "precious");
  fs::remove(outside);
}

TEST_F(RealDirectory, IsRefusedWhenItIsNotOursAlone) {
  const auto refusal = [&](const std::string& at) {
    const auto folder = Folder::open(at);
    return folder.ok() ? "" : folder.error().message;
  };
  ASSERT_EQ(chmod(path.c_str(), 0707), 0);
  EXPECT_EQ(refusal(path),
            cat(path, ": expected a directory that only its owner writes to, found mode 707: chmod o-w helps"));
  EXPECT_NE(refusal(cat(path, "/no/such")).find("or one that can be made, found No such file"), std::string::npos);
  std::ofstream(cat(path, "/file")) << "x";
  EXPECT_NE(refusal(cat(path, "/file")).find("found Not a directory"), std::string::npos);
  // Root may do everything: in its place somebody who may not.
  ASSERT_EQ(chmod(path.c_str(), 0500), 0);
  EXPECT_EXIT(
      {
        if (::geteuid() == 0 && (::chown(path.c_str(), 65534, 65534) != 0 || ::setuid(65534) != 0)) ::_exit(9);
        std::fputs(refusal(path).c_str(), stderr);
        ::_exit(Folder::open(path, Folder::Use::kRead).ok() ? 0 : 1);
      },
      testing::ExitedWithCode(0), "expected a directory that can be written to, found Permission denied");
  if (::geteuid() == 0) {
    EXPECT_NE(refusal(path).find("expected a directory of this user (0), found one of user 65534"), std::string::npos);
  }
}

TEST_F(RealDirectory, AFileInWorkIsNotSwept) {
  auto folder = Folder::open(path);
  ASSERT_TRUE(folder.ok());
  auto held = (*folder)->try_lock("t-9-9.tmp");
  ASSERT_NE(held, nullptr);
  EXPECT_EQ((*folder)->try_lock("t-9-9.tmp"), nullptr);
  open_real();
  EXPECT_TRUE(std::filesystem::exists(cat(path, "/t-9-9.tmp")));
  held.reset();
  open_real();
  EXPECT_FALSE(std::filesystem::exists(cat(path, "/t-9-9.tmp")));
}

TEST(Inspect, ListsVerifiesAndRemoves) {
  SimulatedDisk disk;
  {
    auto store = open(disk);
    save(*store, history(2));
    save(*store, history(4));
    save(*store, history(5, 1, 3));
    save(*store, history(3, 2));
    ASSERT_TRUE(store->flush(10));
  }
  const auto folder = disk.folder();
  const std::string listed = *list_states(*folder);
  EXPECT_NE(listed.find("3 conversations, 4 points, 9 blocks"), std::string::npos) << listed;
  EXPECT_NE(listed.find("test 0707070"), std::string::npos) << listed;
  EXPECT_TRUE(verify_states(*folder, nullptr)->clean);

  auto store = open(disk);
  const std::string id = hex(store->longest(history(4)).key).substr(0, 12);
  store.reset();
  EXPECT_NE(listed.find(id), std::string::npos);
  EXPECT_FALSE(remove_states(*folder, std::vector<std::string>{"zz"}).ok());
  EXPECT_FALSE(remove_states(*folder, std::vector<std::string>{""}).ok());
  const auto removed = remove_states(*folder, std::vector<std::string>{id});
  ASSERT_TRUE(removed.ok()) << removed.error().message;
  EXPECT_NE(removed->find("2 files"), std::string::npos) << *removed;  // the rest is shared
  store = open(disk);
  EXPECT_EQ(restore(*store, history(4)), 2 * kBlockTokens);
  EXPECT_EQ(restore(*store, history(5, 1, 3)), 5 * kBlockTokens);
  store.reset();

  const std::string name = disk.names().front();
  disk.content(name).back() ^= std::byte{1};
  const auto verified = verify_states(*folder, nullptr);
  EXPECT_FALSE(verified->clean);
  EXPECT_NE(verified->text.find(name), std::string::npos) << verified->text;
  ASSERT_TRUE(remove_all(*folder).ok());
  EXPECT_TRUE(disk.names().empty());
}

}  // namespace
}  // namespace ds4::kvstore
