#include "model/verify.h"

#include <algorithm>

#include "base/text.h"
#include "model/weights.h"
#include "quant/finite.h"

namespace ds4 {

namespace {
constexpr std::uint64_t kPieceBlocks = 1 << 18;  // between two looks at the cancel flag: some 10 MB
}

Result<VerifyReport> verify_weights(const gguf::File& file, const ModelShape& shape, const std::atomic<bool>* cancel,
                                    const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
  VerifyReport report;
  std::uint64_t total = 0;
  for (const gguf::TensorInfo& tensor : file.tensors()) total += tensor.data.size();
  for (const gguf::TensorInfo& tensor : file.tensors()) {
    const DTypeInfo& info = dtype_info(tensor.type);
    const std::uint64_t blocks = tensor.data.size() / info.block_bytes;
    for (std::uint64_t at = 0; at < blocks; at += kPieceBlocks) {
      if (cancel != nullptr && cancel->load(std::memory_order_relaxed))
        return Error{ErrorCode::kCancelled, "cancelled"};
      const std::uint64_t count = std::min(kPieceBlocks, blocks - at);
      const auto bad =
          first_non_finite(tensor.type, tensor.data.data() + at * info.block_bytes, count * info.block_elements);
      if (bad) {
        const std::uint64_t element = at * info.block_elements + *bad;
        return file.tensor_error(
            tensor,
            cat("expected finite numbers, found NaN or infinity in the ", info.block_elements == 1 ? "value" : "block",
                " of element ", element, ", byte ", tensor.offset + element / info.block_elements * info.block_bytes));
      }
      report.bytes += count * info.block_bytes;
      if (progress) progress(report.bytes, total);
    }
    ++report.tensors;
  }
  DS4_RETURN_IF_ERROR(check_token_experts(file, shape));
  return report;
}

}  // namespace ds4
