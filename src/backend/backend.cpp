#include "backend/backend.h"

#include <vector>

namespace ds4 {

Status Backend::receive(void* to, Backend& from, const void* data, std::size_t bytes) {
  std::vector<std::byte> host(bytes);
  DS4_RETURN_IF_ERROR(from.download(host.data(), data, bytes));
  upload(to, host.data(), bytes);
  return {};
}

}  // namespace ds4
