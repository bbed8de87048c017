// The kernels in aarch64 as every such CPU has it.
#if defined(__aarch64__)
#include "backend/cpu/simd_neon.h"

#include "backend/cpu/kernels.inl"

namespace ds4::cpu {
extern const KernelTable kNeonTable;
const KernelTable kNeonTable = make_table("neon");
}  // namespace ds4::cpu
#endif
