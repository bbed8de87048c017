#include "convert/row_source.h"

#include <sys/mman.h>
#include <unistd.h>

#include "quant/codec.h"

namespace ds4 {

void release_pages(std::span<const std::byte> data) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uintptr_t>(data.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(data.data() + data.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

RowSource::RowSource(const gguf::TensorInfo& tensor, std::uint64_t matrix)
    : source_(Matrix{tensor.type, tensor.dims[1], tensor.dims[0], {}}) {
  Matrix& view = std::get<Matrix>(source_);
  const std::size_t size = view.rows * row_bytes(tensor.type, view.columns);
  view.data = tensor.data.subspan(matrix * size, size);
}

std::uint64_t RowSource::rows() const {
  const auto* matrix = std::get_if<Matrix>(&source_);
  return matrix != nullptr ? matrix->rows : weight()->rows();
}

std::uint64_t RowSource::columns() const {
  const auto* matrix = std::get_if<Matrix>(&source_);
  return matrix != nullptr ? matrix->columns : weight()->columns();
}

void RowSource::read(std::uint64_t first, std::uint64_t count, float* out) const {
  const auto* matrix = std::get_if<Matrix>(&source_);
  if (matrix == nullptr) return weight()->read(first, count, out);
  decode_row(matrix->type, matrix->slice(first, count).data(), out, count * matrix->columns);
}

std::span<const std::byte> RowSource::stored(DType type, std::uint64_t first, std::uint64_t count) const {
  const auto* matrix = std::get_if<Matrix>(&source_);
  if (matrix == nullptr || matrix->type != type) return {};
  return matrix->slice(first, count);
}

std::uint64_t RowSource::bytes() const {
  const auto* matrix = std::get_if<Matrix>(&source_);
  return matrix != nullptr ? matrix->data.size() : weight()->data().size() + weight()->scales().size();
}

void RowSource::release() const {
  const auto* matrix = std::get_if<Matrix>(&source_);
  if (matrix != nullptr) return release_pages(matrix->data);
  release_pages(weight()->data());
  release_pages(weight()->scales());
}

}  // namespace ds4
