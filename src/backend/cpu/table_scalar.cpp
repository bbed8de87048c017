// The kernels in plain C: the set that every machine has.
#include "backend/cpu/simd_scalar.h"

#include "backend/cpu/kernels.inl"

namespace ds4::cpu {
extern const KernelTable kScalarTable;
const KernelTable kScalarTable = make_table("scalar");
}  // namespace ds4::cpu
