#include "quant/block_search.h"

#include <array>

#include "base/check.h"

namespace ds4 {

extern const BlockSearch kBaselineBlockSearch;
#if defined(__x86_64__)
extern const BlockSearch kAvx2BlockSearch;
extern const BlockSearch kAvx512BlockSearch;
#endif

namespace {

struct Searches {
  std::array<const BlockSearch*, 3> all{};
  int count = 0;
};

/// Best first.
Searches probe() {
  Searches found;
#if defined(__x86_64__)
  // These ask the operating system as well: registers that it does not save do not count.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw"))
    found.all[found.count++] = &kAvx512BlockSearch;
  if (__builtin_cpu_supports("avx2")) found.all[found.count++] = &kAvx2BlockSearch;
#endif
  found.all[found.count++] = &kBaselineBlockSearch;
  return found;
}

const Searches& searches() {
  static const Searches found = probe();
  return found;
}

}  // namespace

const BlockSearch& block_search() { return *searches().all[0]; }
int block_searches() { return searches().count; }
const BlockSearch& block_search(int index) {
  DS4_CHECK(index >= 0 && index < searches().count);
  return *searches().all[static_cast<std::size_t>(index)];
}

}  // namespace ds4
