#include "convert/compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "convert/jobs.h"
#include "convert/row_source.h"
#include "gguf/file.h"
#include "quant/codec.h"

namespace ds4 {
namespace {

struct Sums {
  double aa = 0;
  double bb = 0;
  double ab = 0;
  double off = 0;  // sum (a - b)^2
};

Status add_values(const gguf::TensorInfo& a, const gguf::TensorInfo& b, const JobStep& step, Sums& sums) {
  constexpr std::uint64_t kPiece = 1 << 16;  // a multiple of every block
  std::vector<float> left(kPiece), right(kPiece);
  for (std::uint64_t at = 0; at < a.elements(); at += kPiece) {
    const std::uint64_t count = std::min(kPiece, a.elements() - at);
    decode_row(a.type, a.data.data() + row_bytes(a.type, at), left.data(), count);
    decode_row(b.type, b.data.data() + row_bytes(b.type, at), right.data(), count);
    for (std::uint64_t i = 0; i < count; ++i) {
      const double x = static_cast<double>(left[i]);
      const double y = static_cast<double>(right[i]);
      sums.aa += x * x;
      sums.bb += y * y;
      sums.ab += x * y;
      sums.off += (x - y) * (x - y);
    }
    DS4_RETURN_IF_ERROR(step(count));
  }
  return {};
}

double ratio(double part, double whole) { return whole > 0 ? part / whole : part > 0 ? INFINITY : 0.0; }

Status compare_tensor(const gguf::TensorInfo& a, const gguf::TensorInfo& b, const JobStep& step,
                      TensorDifference& out) {
  out.name = a.name;
  out.type_a = a.type;
  out.type_b = b.type;
  out.elements = a.elements();
  if (a.type == DType::kI32 || b.type == DType::kI32) {
    std::uint64_t different = a.type == b.type ? 0 : a.elements();
    for (std::uint64_t i = 0; a.type == b.type && i < a.elements(); ++i)
      different += std::memcmp(a.data.data() + 4 * i, b.data.data() + 4 * i, 4) != 0 ? 1 : 0;
    out.relative_rms = ratio(static_cast<double>(different), static_cast<double>(a.elements()));
    out.cosine = different == 0 ? 1 : 0;
    return step(a.elements());
  }
  Sums sums;
  DS4_RETURN_IF_ERROR(add_values(a, b, step, sums));
  out.relative_rms = std::sqrt(ratio(sums.off, sums.aa));
  out.cosine = sums.aa == 0 && sums.bb == 0 ? 1 : ratio(sums.ab, std::sqrt(sums.aa) * std::sqrt(sums.bb));
  release_pages(a.data);
  release_pages(b.data);
  return {};
}

}  // namespace

Result<ModelDifference> compare_models(const std::string& path_a, const std::string& path_b,
                                       const CompareOptions& options) {
  DS4_ASSIGN_OR_RETURN(const gguf::File a, gguf::File::open(path_a));
  DS4_ASSIGN_OR_RETURN(const gguf::File b, gguf::File::open(path_b));
  ModelDifference out;
  std::vector<std::pair<const gguf::TensorInfo*, const gguf::TensorInfo*>> pairs;
  std::uint64_t total = 0;
  for (const gguf::TensorInfo& tensor : a.tensors()) {
    const gguf::TensorInfo* other = b.find_tensor(tensor.name);
    if (other == nullptr) {
      out.only_a.emplace_back(tensor.name);
    } else if (!std::equal(tensor.dims, tensor.dims + 4, other->dims)) {
      out.other_shape.emplace_back(tensor.name);
    } else {
      pairs.emplace_back(&tensor, other);
      total += tensor.elements();
    }
  }
  for (const gguf::TensorInfo& tensor : b.tensors())
    if (a.find_tensor(tensor.name) == nullptr) out.only_b.emplace_back(tensor.name);
  out.tensors.resize(pairs.size());
  DS4_RETURN_IF_ERROR(run_jobs(pairs.size(), total, {options.threads, options.cancel, options.progress},
                               [&](std::size_t i, const JobStep& step) {
                                 return compare_tensor(*pairs[i].first, *pairs[i].second, step, out.tensors[i]);
                               }));
  std::stable_sort(out.tensors.begin(), out.tensors.end(),
                   [](const auto& x, const auto& y) { return x.relative_rms > y.relative_rms; });
  return out;
}

}  // namespace ds4
