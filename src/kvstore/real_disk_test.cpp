// The store on real file systems that are full, or whose power is cut: a small tmpfs, and ext4 in an image that is
// copied while it is written to. Both need root; without it they say that they were left out.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "base/text.h"
#include "kvstore/inspect.h"
#include "kvstore/store_rig.h"

namespace ds4::kvstore {
namespace {

namespace fs = std::filesystem;

/// A mounted file system that nobody else sees and that ends with the last of its files: nothing is left of a test that
/// dies.
class Mounted {
 public:
  Mounted(Mounted&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Mounted& operator=(Mounted&&) = delete;
  ~Mounted() {
    if (fd_ >= 0) ::close(fd_);
  }
  /// `mount` mounts it at the folder that it is given; nullopt when it may not.
  template <typename Mount>
  static std::optional<Mounted> make(Mount mount) {
    std::string at = cat(testing::TempDir(), "ds4-mount-XXXXXX");
    if (::mkdtemp(at.data()) == nullptr) return std::nullopt;
    int fd = -1;
    if (mount(at)) {
      fd = ::open(at.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      ::umount2(at.c_str(), MNT_DETACH);
    }
    ::rmdir(at.c_str());
    if (fd < 0) return std::nullopt;
    return Mounted(fd);
  }
  std::string path() const { return cat("/proc/self/fd/", fd_); }

 private:
  explicit Mounted(int fd) : fd_(fd) {}
  int fd_;
};

bool left_out(const char* why) {
  std::fprintf(stderr, "kvstore: SKIPPED, %s\n", why);
  return true;
}

std::unique_ptr<Store> open_at(const std::string& path, std::vector<std::string>* warnings = nullptr,
                               std::vector<std::string>* records = nullptr) {
  StoreOptions with = options();
  with.record_budget = 1 << 20;
  with.warn = [warnings](const std::string& text) {
    if (warnings != nullptr) warnings->push_back(text);
  };
  with.record = [records](std::string_view record) {
    if (records != nullptr) records->emplace_back(record);
  };
  auto folder = Folder::open(path);
  EXPECT_TRUE(folder.ok()) << folder.error().message;
  if (!folder.ok()) return nullptr;
  auto store = Store::open(std::move(folder).value(), std::move(with));
  EXPECT_TRUE(store.ok()) << store.error().message;
  return store.ok() ? std::move(store).value() : nullptr;
}

TEST(FullDisk, AtAnyWriteTheStoreGoesOnWithoutIt) {
  constexpr std::uint64_t kPage = 4096, kPages = 48;
  auto disk = Mounted::make([&](const std::string& at) {
    return ::mount("tmpfs", at.c_str(), "tmpfs", 0, cat("size=", kPages * kPage, ",mode=0700").c_str()) == 0;
  });
  if (!disk && left_out("no tmpfs can be mounted: a full disk is only simulated")) GTEST_SKIP();
  const std::string path = disk->path();
  const std::vector<Tokens> states = {history(2), history(4), history(5, 1, 3)};
  std::size_t stored = 0, dropped = 0;
  // Every number of pages that may be free when the writing begins.
  for (std::uint64_t free = 0; free < 24; ++free) {
    {
      auto store = open_at(path);
      save(*store, states[0]);
      ASSERT_TRUE(store->flush(30));
    }
    const std::string ballast = path + "/ballast";
    const auto space = fs::space(path);
    std::ofstream(ballast) << std::string(space.available - std::min(space.available, free * kPage), '#');
    ASSERT_EQ(fs::space(path).available, free * kPage);
    std::vector<std::string> warnings;
    {
      auto store = open_at(path, &warnings);
      for (std::size_t i = 0; i < states.size(); ++i) {
        store->keep_record(cat("record ", i));
        save(*store, states[i]);
        ASSERT_TRUE(store->flush(30));
      }
      EXPECT_EQ(restore(*store, states[0]), states[0].size()) << free;
      dropped += store->stats().dropped;
      stored += store->stats().written_points;
      EXPECT_EQ(store->stats().queued_bytes, 0u);
    }
    EXPECT_LE(warnings.size(), 1u) << warnings[1];
    for (const std::string& warning : warnings)
      EXPECT_NE(warning.find("No space left on device"), std::string::npos) << warning;
    ASSERT_TRUE(fs::remove(ballast));
    {
      auto store = open_at(path);
      for (const Tokens& tokens : states) {
        EXPECT_LE(restore(*store, tokens), tokens.size());
        save(*store, tokens);
      }
      store->keep_record("last");
      ASSERT_TRUE(store->flush(30));
      for (const Tokens& tokens : states) EXPECT_EQ(restore(*store, tokens), tokens.size()) << free;
    }
    std::vector<std::string> records;
    open_at(path, nullptr, &records);
    ASSERT_FALSE(records.empty());
    EXPECT_EQ(records.back(), "last");
    const auto folder = Folder::open(path);
    EXPECT_TRUE(verify_states(**folder, nullptr)->clean);
    ASSERT_TRUE(remove_all(**folder).ok());
  }
  EXPECT_GT(stored, 0u);
  EXPECT_GT(dropped, 0u);
}

bool command(const std::string& line) { return std::system(cat(line, " >/dev/null 2>&1").c_str()) == 0; }

std::string content_of(const std::string& path) {
  std::string bytes(fs::file_size(path), '\0');
  std::ifstream(path, std::ios::binary).read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

Tokens nth_state(std::size_t i) { return history(1 + i % 5, static_cast<std::int32_t>(1 + i / 3), i % 2); }

/// A process that stores one state after the other, each with a record, and says of each when it is on the disk.
struct Writer {
  explicit Writer(const std::string& path) {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    pid = ::fork();
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      auto store = open_at(path);
      for (std::uint32_t i = 0; store != nullptr; ++i) {
        store->keep_record(cat("record ", i));
        save(*store, nth_state(i));
        if (!store->flush(60) || !store->writable() || ::write(ends[1], &i, sizeof i) != sizeof i) break;
      }
      ::_exit(1);
    }
    ::close(ends[1]);
    said = ends[0];
    ::fcntl(said, F_SETFL, O_NONBLOCK);
  }
  ~Writer() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    ::close(said);
  }
  /// States 0 to this are on the disk.
  std::uint32_t stored() {
    std::uint32_t i = 0;
    while (::read(said, &i, sizeof i) == sizeof i) count = i + 1;
    return count;
  }
  pid_t pid = -1;
  int said = -1;
  std::uint32_t count = 0;
};

TEST(PowerCut, WhatWasStoredIsThereAndNothingElseIsUsed) {
  if (!deep()) GTEST_SKIP();
  const std::string folder = cat(testing::TempDir(), "ds4-power-", ::getpid());
  fs::create_directory(folder);
  const auto remove = [](const std::string* path) { fs::remove_all(*path); };
  const std::unique_ptr<const std::string, decltype(remove)> removed(&folder, remove);
  const std::string image = folder + "/image", copy = folder + "/copy";
  const auto mount_image = [](const std::string& file) {
    return Mounted::make([&](const std::string& at) { return command(cat("mount -o loop ", file, " ", at)); });
  };
  std::mt19937_64 random(1);
  int cuts = 0, restored = 0, torn = 0;
  while (cuts < 500) {
    const bool made = command(
        cat("mkfs.ext4 -q -F -b 1024 -N 6000 -J size=1 -E lazy_itable_init=0,lazy_journal_init=0 ", image, " 12M"));
    auto disk = made ? mount_image(image) : std::nullopt;
    if (!disk && left_out("no ext4 image can be mounted: power cuts are only simulated")) break;
    Writer writer(disk->path() + "/states");
    for (int i = 0; i < 50; ++i, ++cuts) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
      ASSERT_EQ(::kill(writer.pid, SIGSTOP), 0);
      int status = 0;
      ASSERT_EQ(::waitpid(writer.pid, &status, WUNTRACED), writer.pid);
      ASSERT_TRUE(WIFSTOPPED(status));
      const std::uint32_t stored = writer.stored();
      std::string bytes = content_of(image);
      // The kernel may still be writing: a disk stops at one moment.
      for (std::string again; (again = content_of(image)) != bytes;) bytes = std::move(again);
      ::kill(writer.pid, SIGCONT);
      std::ofstream(copy, std::ios::binary) << bytes;
      const auto after = mount_image(copy);
      ASSERT_TRUE(after);
      if (stored == 0 && !fs::exists(after->path() + "/states")) continue;
      std::vector<std::string> warnings, records;
      auto store = open_at(after->path() + "/states", &warnings, &records);
      ASSERT_NE(store, nullptr);
      torn += warnings.empty() ? 0 : 1;
      ASSERT_GE(records.size(), stored);
      for (std::size_t n = 0; n < records.size(); ++n) EXPECT_EQ(records[n], cat("record ", n));
      // Of what was there long ago some; of what is new, all.
      for (std::uint32_t n = 0; n <= stored; n += n + 8 < stored ? 1 + static_cast<std::uint32_t>(random() % 16) : 1) {
        const std::size_t got = restore(*store, nth_state(n));  // holds every byte against what it must be
        if (n < stored) {
          EXPECT_EQ(got, nth_state(n).size()) << "cut " << cuts << ", state " << n << " of " << stored;
        }
        restored += got > 0 ? 1 : 0;
      }
    }
  }
  std::printf("kvstore: %d power cuts, %d states restored, %d with something torn\n", cuts, restored, torn);
}

}  // namespace
}  // namespace ds4::kvstore
