// The kernels in aarch64 with the dot-product extension.
#if defined(__aarch64__)
#include "backend/cpu/simd_neon.h"

#include "backend/cpu/kernels.inl"

namespace ds4::cpu {
extern const KernelTable kNeonDotTable;
const KernelTable kNeonDotTable = make_table("neon-dot");
}  // namespace ds4::cpu
#endif
