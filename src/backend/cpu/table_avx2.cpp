// The kernels in AVX2, FMA and F16C.
#if defined(__x86_64__)
#include "backend/cpu/simd_avx2.h"

#include "backend/cpu/kernels.inl"

namespace ds4::cpu {
extern const KernelTable kAvx2Table;
const KernelTable kAvx2Table = make_table("avx2");
}  // namespace ds4::cpu
#endif
