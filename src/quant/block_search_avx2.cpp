#include "quant/block_search.h"

#if defined(__x86_64__)

namespace ds4 {
namespace {

constexpr int kWidth = 8;
#include "quant/block_search.inl"

}  // namespace

extern const BlockSearch kAvx2BlockSearch;
const BlockSearch kAvx2BlockSearch = {"avx2", q2_k, q4_k, grid_fit, grid_best, grid_errors};

}  // namespace ds4

#endif
