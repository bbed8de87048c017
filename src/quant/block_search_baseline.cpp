#include "quant/block_search.h"

namespace ds4 {
namespace {

constexpr int kWidth = 4;
#include "quant/block_search.inl"

}  // namespace

extern const BlockSearch kBaselineBlockSearch;
const BlockSearch kBaselineBlockSearch = {"baseline", q2_k, q4_k, grid_fit, grid_best, grid_errors};

}  // namespace ds4
