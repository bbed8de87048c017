#include "kvstore/record_log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <random>
#include <set>

#include "base/text.h"
#include "kvstore/inspect.h"
#include "kvstore/simulated_folder.h"
#include "kvstore/store_rig.h"

namespace ds4::kvstore {
namespace {

using Texts = std::vector<std::string>;

/// A process with the log open.
struct Reader {
  explicit Reader(SimulatedDisk& disk, std::uint64_t budget = 1 << 20, std::uint8_t identity = 7)
      : folder(disk.folder()), log(*folder, options(budget, identity)) {}
  RecordLog::Options options(std::uint64_t budget, std::uint8_t identity) {
    RecordLog::Options out;
    out.identity.fill(identity);
    out.budget = budget;
    out.lock_seconds = 0.02;
    out.found = [this](std::string_view record) { found.emplace_back(record); };
    out.warn = [this](const std::string& text) { warnings.push_back(text); };
    return out;
  }
  bool append(const Texts& records) { return log.append(records).ok(); }
  std::unique_ptr<Folder> folder;
  Texts found, warnings;
  RecordLog log;
};

Texts all_of(SimulatedDisk& disk) {
  Reader reader(disk);
  EXPECT_TRUE(reader.log.read().ok());
  EXPECT_EQ(reader.warnings, Texts());
  return reader.found;
}

const Texts kThree = {"first", std::string(300, 'x'), "third"};

SimulatedDisk& with_three(SimulatedDisk& disk) {
  EXPECT_TRUE(Reader(disk).append(kThree));
  return disk;
}

TEST(RecordLog, WhatIsKeptIsFoundByTheNext) {
  SimulatedDisk disk;
  EXPECT_EQ(all_of(disk), Texts());
  Reader one(disk);
  EXPECT_TRUE(one.append({"a"}));
  EXPECT_TRUE(one.append({"b", "c"}));
  EXPECT_EQ(one.found, Texts());  // its own
  EXPECT_EQ(all_of(disk), Texts({"a", "b", "c"}));

  Reader other(disk);
  ASSERT_TRUE(other.log.read().ok());
  EXPECT_TRUE(other.append({"d"}));
  EXPECT_TRUE(one.append({"e"}));
  EXPECT_EQ(one.found, Texts({"d"}));
  EXPECT_EQ(all_of(disk), Texts({"a", "b", "c", "d", "e"}));

  Reader stranger(disk, 1 << 20, 8);
  ASSERT_TRUE(stranger.log.read().ok());
  EXPECT_EQ(stranger.found, Texts());
}

TEST(RecordLog, NoFlippedBitIsEverUsed) {
  SimulatedDisk original;
  const std::vector<std::byte> good = with_three(original).content(kRecordLogName);
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    SimulatedDisk disk;
    std::vector<std::byte> bytes = good;
    bytes[bit / 8] ^= std::byte{1} << bit % 8;
    const std::array<std::span<const std::byte>, 1> pieces = {bytes};
    ASSERT_TRUE(disk.folder()->write(kRecordLogName, pieces).ok());
    Reader reader(disk);
    ASSERT_TRUE(reader.log.read().ok());
    for (const std::string& record : reader.found) EXPECT_TRUE(std::ranges::count(kThree, record) == 1) << bit;
    // Of the head, 4 bytes are spare and 16 are whatever they are.
    const bool told = bit / 8 < 12 || bit / 8 >= kLogHeadBytes;
    EXPECT_EQ(reader.warnings.size(), told ? 1u : 0u) << bit;
    EXPECT_EQ(reader.found.size() < 3, told) << bit;
    const std::size_t payload = kLogHeadBytes + kRecordHeadBytes;
    if (bit / 8 >= payload && bit / 8 < payload + kThree[0].size()) {
      EXPECT_EQ(reader.found, Texts(kThree.begin() + 1, kThree.end()));
    }
    EXPECT_EQ(all_of(disk), reader.found);  // and it is not said twice
    EXPECT_TRUE(reader.append({"more"}));
    EXPECT_EQ(all_of(disk).back(), "more");
  }
}

TEST(RecordLog, AFileThatIsCutKeepsWhatIsBeforeTheCut) {
  SimulatedDisk original;
  const std::vector<std::byte> good = with_three(original).content(kRecordLogName);
  for (std::size_t size = 0; size < good.size(); ++size) {
    SimulatedDisk disk;
    const std::array<std::span<const std::byte>, 1> pieces = {std::span(good).first(size)};
    ASSERT_TRUE(disk.folder()->write(kRecordLogName, pieces).ok());
    Reader writer(disk);
    ASSERT_TRUE(writer.append({"more"})) << size;
    Texts found = all_of(disk);
    EXPECT_EQ(writer.found.size() + 1, found.size());
    EXPECT_EQ(found.back(), "more");
    found.pop_back();
    EXPECT_EQ(found, Texts(kThree.begin(), kThree.begin() + std::ssize(found))) << size;
  }
}

TEST(RecordLog, WhatARecordHoldsIsNeverTakenForARecord) {
  Key identity;
  identity.fill(7);
  const std::vector<std::byte> inner = encode_record(identity, "planted");
  const std::string payload(reinterpret_cast<const char*>(inner.data()), inner.size());
  SimulatedDisk disk;
  ASSERT_TRUE(Reader(disk).append({payload}));
  disk.content(kRecordLogName)[kLogHeadBytes + 4] ^= std::byte{1};
  Reader reader(disk);
  ASSERT_TRUE(reader.log.read().ok());
  EXPECT_EQ(reader.found, Texts());
}

TEST(RecordLog, KeepsToItsBudgetAndTheNewestStay) {
  constexpr std::uint64_t kBudget = 20000;
  SimulatedDisk disk;
  Reader one(disk, kBudget), other(disk, kBudget);
  std::mt19937 random(3);
  for (int i = 0; i < 500; ++i) {
    ASSERT_TRUE((i % 3 == 0 ? other : one).append({cat(i, ' ', std::string(random() % 2000, 'y'))}));
    ASSERT_LE(disk.content(kRecordLogName).size(), kBudget);
  }
  ASSERT_LE(disk.most_bytes(), 2 * kBudget);
  const Texts found = all_of(disk);
  EXPECT_GE(found.size(), 4u);
  for (std::size_t i = 0; i < found.size(); ++i)
    EXPECT_TRUE(found[found.size() - 1 - i].starts_with(cat(499 - i, ' '))) << i;
  // One that does not fit at all is left out.
  ASSERT_TRUE(one.append({std::string(kBudget, 'z'), "small"}));
  EXPECT_EQ(all_of(disk).back(), "small");
  // Those of another model go like all others: by age.
  Reader stranger(disk, kBudget, 8);
  ASSERT_TRUE(stranger.append({"theirs"}));
  EXPECT_EQ(all_of(disk).back(), "small");
}

TEST(RecordLog, IsNotWrittenWhileAnotherHoldsTheLock) {
  SimulatedDisk disk;
  with_three(disk);
  Reader reader(disk);
  const auto folder = disk.folder();
  const auto held = lock_records(*folder, 0);
  ASSERT_NE(held, nullptr);
  EXPECT_TRUE(reader.log.read().ok());
  EXPECT_EQ(reader.found, kThree);
  const Status status = reader.log.append(Texts{"x"});
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("another process"), std::string::npos) << status.error().message;
}

/// Appends one after the other, with a fault at every call: what append() said was kept is found (the oldest make
/// room), and nothing but what was being kept.
void at_every_call(SimulatedDisk::Fault fault, std::optional<std::uint64_t> power = std::nullopt) {
  for (int call = 1;; ++call) {
    SimulatedDisk disk;
    with_three(disk);
    const int before = disk.calls();
    disk.fail_at(call, fault);
    std::set<std::string> kept, tried(kThree.begin(), kThree.end());
    std::string last;
    {
      Reader reader(disk, 1500);
      static_cast<void>(reader.log.read());
      for (int i = 0; i < 6; ++i) {
        const std::string record = cat(i, std::string(200, 'r'));
        tried.insert(record);
        if (!reader.append({record})) continue;
        kept.insert(record);
        last = record;
      }
    }
    const bool done = disk.calls() < before + call;
    EXPECT_GE(kept.size(), fault == SimulatedDisk::Fault::kDeath ? 0u : 5u) << call;
    if (power) disk.cut_power(*power);
    disk.heal();
    Reader reader(disk, 1500);
    ASSERT_TRUE(reader.log.read().ok());
    for (const std::string& record : reader.found) EXPECT_TRUE(tried.contains(record)) << record;
    if (!last.empty()) {
      EXPECT_EQ(std::ranges::count(reader.found, last), 1) << call;
    }
    EXPECT_TRUE(reader.append({"after"})) << call;
    EXPECT_EQ(all_of(disk).back(), "after") << call;
    if (done) break;
  }
}

TEST(RecordLog, SurvivesAnErrorOfEveryCall) { at_every_call(SimulatedDisk::Fault::kError); }
TEST(RecordLog, SurvivesAFullDiskAtEveryCall) { at_every_call(SimulatedDisk::Fault::kFull); }
TEST(RecordLog, SurvivesBeingKilledAtEveryCall) { at_every_call(SimulatedDisk::Fault::kDeath); }
TEST(RecordLog, SurvivesAPowerCutAtEveryCall) {
  for (std::uint64_t seed = 0; seed < 8; ++seed) at_every_call(SimulatedDisk::Fault::kDeath, seed);
}

TEST(RecordLog, IsPartOfTheStore) {
  SimulatedDisk disk;
  Texts found, warnings;
  const auto open = [&] {
    StoreOptions with = options();
    with.record_budget = 10000;
    with.record = [&](std::string_view record) { found.emplace_back(record); };
    with.warn = [&](const std::string& text) { warnings.push_back(text); };
    return std::move(Store::open(disk.folder(), std::move(with))).value();
  };
  auto store = open();
  for (const char* record : {"a", "b", "c"}) store->keep_record(record);
  save(*store, history(2));
  ASSERT_TRUE(store->flush(10));
  EXPECT_EQ(store->stats().queued_bytes, 0u);
  EXPECT_EQ(store->stats().records_kept, 3u);
  store = open();
  EXPECT_EQ(found, Texts({"a", "b", "c"}));
  EXPECT_EQ(store->stats().records_found, 3u);
  EXPECT_EQ(restore(*store, history(2)), 2 * kBlockTokens);
  store.reset();

  const auto folder = disk.folder();
  EXPECT_NE(verify_states(*folder, nullptr)->text.find("4 files good, 0 bad"), std::string::npos);
  disk.content(kRecordLogName).back() ^= std::byte{1};
  const auto verified = verify_states(*folder, nullptr);
  EXPECT_FALSE(verified->clean);
  EXPECT_NE(verified->text.find("bad: calls.log: record at byte "), std::string::npos) << verified->text;
  found.clear();
  store = open();
  EXPECT_EQ(found, Texts({"a", "b"}));
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("calls.log: 1 not used: record at byte"), std::string::npos) << warnings[0];
  store.reset();
  ASSERT_TRUE(remove_all(*folder).ok());
  EXPECT_TRUE(disk.names().empty());
}

}  // namespace
}  // namespace ds4::kvstore
