#include "backend/cuda/many_rows.cuh"

namespace ds4::cuda {

void many_rows_4(Output output, const ManyRows& p, std::int64_t blocks_of_rows, cudaStream_t stream) {
  if (p.a.type == DType::kMXFP4) launch_many_rows<FragmentMXFP4>(output, p, blocks_of_rows, stream);
  else launch_many_rows<FragmentQ4_K>(output, p, blocks_of_rows, stream);
}

}  // namespace ds4::cuda
