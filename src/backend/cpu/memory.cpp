#include "backend/cpu/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "base/text.h"

namespace ds4::cpu {

Result<HugeMemory> HugeMemory::allocate(std::size_t bytes) {
  HugeMemory memory;
  if (bytes == 0) return memory;
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED)
    return Error{ErrorCode::kOutOfMemory, cat("cannot allocate ", human_bytes(bytes), ": ", std::strerror(errno))};
#if defined(MADV_HUGEPAGE)
  ::madvise(data, bytes, MADV_HUGEPAGE);  // best effort
#endif
  memory.data_ = static_cast<std::byte*>(data);
  memory.size_ = bytes;
  return memory;
}

HugeMemory::~HugeMemory() { unmap(data_, size_); }

void HugeMemory::unmap(void* data, std::size_t bytes) {
  if (data != nullptr) ::munmap(data, bytes);
}

}  // namespace ds4::cpu
