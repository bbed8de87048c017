#include "backend/cuda/many_rows.cuh"

namespace ds4::cuda {

void many_rows_8(Output output, const ManyRows& p, std::int64_t blocks_of_rows, cudaStream_t stream) {
  launch_many_rows<FragmentQ8_0>(output, p, blocks_of_rows, stream);
}

}  // namespace ds4::cuda
