#include "backend/backend.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace ds4 {

TopLogits top_logits_of(std::span<const float> row) {
  TopLogits top;
  if (!std::ranges::all_of(row, [](float logit) { return std::isfinite(logit); })) return top;
  std::vector<std::int32_t> order(row.size());
  std::iota(order.begin(), order.end(), 0);
  const auto at = [&](std::int32_t token) { return row[static_cast<std::size_t>(token)]; };
  top.count = static_cast<int>(std::min(row.size(), top.tokens.size()));
  std::partial_sort(order.begin(), order.begin() + top.count, order.end(),
                    [&](std::int32_t a, std::int32_t b) { return at(a) != at(b) ? at(a) > at(b) : a < b; });
  std::copy_n(order.begin(), top.count, top.tokens.begin());
  std::transform(order.begin(), order.begin() + top.count, top.logits.begin(), at);
  return top;
}

Status Backend::top_logits(const Tensor& logits, std::span<TopLogits> top) {
  std::vector<float> row(static_cast<std::size_t>(logits.cols));
  for (std::size_t i = 0; i < top.size(); ++i) {
    DS4_RETURN_IF_ERROR(download(row.data(), logits.data + i * row.size(), row.size() * sizeof(float)));
    top[i] = top_logits_of(row);
  }
  return {};
}

Status Backend::receive(void* to, Backend& from, const void* data, std::size_t bytes) {
  std::vector<std::byte> host(bytes);
  DS4_RETURN_IF_ERROR(from.download(host.data(), data, bytes));
  upload(to, host.data(), bytes);
  return {};
}

}  // namespace ds4
