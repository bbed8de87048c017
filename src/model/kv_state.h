// Lays the KV state of a model out in pages and tails (backend/kv_layout.h), and counts who uses a page.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "backend/kv_layout.h"
#include "model/shape.h"

namespace ds4 {

/// The layout for the layers `on_backend` marks; the others take no space.
KvLayout make_kv_layout(const ModelShape& shape, KvFormat format, const std::vector<bool>& on_backend);

/// Pages of one backend with their reference counts. A page with one owner may be written, a shared one must be copied.
class PagePool {
 public:
  explicit PagePool(Backend& backend) : backend_(&backend) {}

  Result<std::int32_t> take();
  void share(std::int32_t page) { ++count(page); }
  void release(std::int32_t page);
  /// `page` itself if nobody else holds it; otherwise a copy, and the caller's hold moves there.
  Result<std::int32_t> make_writable(std::int32_t page);

 private:
  int& count(std::int32_t page);
  Backend* backend_;
  std::vector<int> counts_;
};

}  // namespace ds4
