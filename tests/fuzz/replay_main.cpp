// Runs a fuzz target over files instead of under libFuzzer: every file in the folders (or files) named, whole, and cut
// short at every length (long files at kMaxCuts lengths spread evenly). Crashes and sanitizer reports fail the test,
// and so does an empty corpus.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t kMaxCuts = 512;

/// In a block of exactly `size` bytes, so that a sanitizer sees a read of one byte more.
void run_exactly(const std::vector<std::uint8_t>& bytes, std::size_t size) {
  const std::unique_ptr<std::uint8_t[]> exact(new std::uint8_t[size]);
  std::copy_n(bytes.begin(), size, exact.get());
  LLVMFuzzerTestOneInput(exact.get(), size);
}

std::size_t replay(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const std::size_t cuts = std::min(bytes.size(), kMaxCuts);
  for (std::size_t cut = 0; cut < cuts; ++cut) run_exactly(bytes, bytes.size() * cut / cuts);
  run_exactly(bytes, bytes.size());
  return cuts + 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::filesystem::path> files;
  for (int i = 1; i < argc; ++i) {
    if (!std::filesystem::is_directory(argv[i])) {
      files.emplace_back(argv[i]);
      continue;
    }
    for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[i])) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  std::size_t inputs = 0;
  for (const auto& path : files) inputs += replay(path);
  std::printf("%zu files, %zu inputs\n", files.size(), inputs);
  return files.empty() ? 1 : 0;
}
