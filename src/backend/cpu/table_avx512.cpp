// The kernels in AVX-512 (F, BW, DQ, VL, VNNI).
#if defined(__x86_64__)
#include "backend/cpu/simd_avx512.h"

#include "backend/cpu/kernels.inl"

namespace ds4::cpu {
extern const KernelTable kAvx512Table;
const KernelTable kAvx512Table = make_table("avx512");
}  // namespace ds4::cpu
#endif
