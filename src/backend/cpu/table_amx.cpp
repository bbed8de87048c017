// The kernels in AVX-512, with products of many rows on the matrix unit (AMX int8).
#if defined(__x86_64__)
#include "backend/cpu/simd_avx512.h"

#include "backend/cpu/kernels.inl"

#include "backend/cpu/kernels_amx.inl"

namespace ds4::cpu {
extern const KernelTable kAmxTable;
const KernelTable kAmxTable = make_amx_table();
}  // namespace ds4::cpu
#endif
