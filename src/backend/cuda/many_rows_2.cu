#include "backend/cuda/many_rows.cuh"

namespace ds4::cuda {

void many_rows_2(Output output, const ManyRows& p, std::int64_t blocks_of_rows, cudaStream_t stream) {
  if (p.a.type == DType::kQ2_K) launch_many_rows<FragmentQ2_K>(output, p, blocks_of_rows, stream);
  else launch_many_rows<FragmentIQ2_XXS>(output, p, blocks_of_rows, stream);
}

}  // namespace ds4::cuda
