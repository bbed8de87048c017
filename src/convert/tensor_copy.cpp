#include "convert/tensor_copy.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/text.h"
#include "quant/codec.h"

namespace ds4 {
namespace {

constexpr std::uint64_t kPieceElements = 1 << 20;

/// Gives the pages of a finished source back: a checkpoint is larger than memory, and mapped pages count as ours.
void release_pages(std::span<const std::byte> data) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uintptr_t>(data.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(data.data() + data.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

Result<Checkpoint::Entry> find_token_table(const Checkpoint& checkpoint, const TensorPlan& plan) {
  const std::string& name = plan.sources[0];
  const Checkpoint::Entry entry = checkpoint.find(name);
  const std::string wanted = cat("I64 ", describe_shape(plan.source_shape()));
  if (!entry)
    return Error{ErrorCode::kBadModel, cat(escaped(checkpoint.directory(), 4096), ": tensor ", escaped(name),
                                           ": expected ", wanted, ", found no such tensor")};
  const bool integers = entry.tensor->type == SafeType::kI64 || entry.tensor->type == SafeType::kI32;
  if (!integers || entry.tensor->shape != plan.source_shape())
    return entry.error(cat("expected ", wanted, ", found ", describe(*entry.tensor)));
  return entry;
}

}  // namespace

Result<TensorCopy> TensorCopy::open(const Checkpoint& checkpoint, TensorPlan plan, DType type, std::uint32_t experts) {
  TensorCopy copy;
  copy.plan_ = std::move(plan);
  copy.type_ = type;
  copy.experts_ = experts;
  if (copy.plan_.kind == TensorKind::kTokenTable) {
    DS4_ASSIGN_OR_RETURN(copy.table_, find_token_table(checkpoint, copy.plan_));
    return copy;
  }
  const std::vector<std::uint64_t> shape = copy.plan_.source_shape();
  for (const std::string& name : copy.plan_.sources) {
    DS4_ASSIGN_OR_RETURN(WeightReader source, WeightReader::open(checkpoint, name, shape));
    copy.sources_.push_back(source);
  }
  return copy;
}

void TensorCopy::declare(gguf::Writer& writer) { index_ = writer.add_tensor(plan_.name, type_, plan_.dims); }

Status TensorCopy::run(gguf::Writer& writer, const JobStep& step) const {
  if (table_) return run_token_table(writer, step);
  std::uint64_t offset = 0;
  for (const WeightReader& source : sources_) {
    DS4_RETURN_IF_ERROR(run_source(source, offset, writer, step));
    offset += source.rows() * row_bytes(type_, source.columns());
    release_pages(source.data());
    release_pages(source.scales());
  }
  return {};
}

Status TensorCopy::run_source(const WeightReader& source, std::uint64_t offset, gguf::Writer& writer,
                              const JobStep& step) const {
  const std::uint64_t columns = source.columns();
  const std::uint64_t piece = std::clamp<std::uint64_t>(kPieceElements / columns, 1, source.rows());
  std::vector<float> values(piece * columns);
  std::vector<std::byte> encoded(piece * row_bytes(type_, columns));
  for (std::uint64_t row = 0; row < source.rows(); row += piece) {
    const std::uint64_t count = std::min(piece, source.rows() - row);
    const std::span<const std::byte> bytes = std::span(encoded).first(count * row_bytes(type_, columns));
    source.read(row, count, values.data());
    encode_row(type_, values.data(), encoded.data(), count * columns);
    DS4_RETURN_IF_ERROR(writer.write_data(index_, offset, bytes));
    offset += bytes.size();
    DS4_RETURN_IF_ERROR(step(bytes.size()));
  }
  return {};
}

Status TensorCopy::run_token_table(gguf::Writer& writer, const JobStep& step) const {
  const SafeTensor& tensor = *table_.tensor;
  const std::size_t width = safe_type_bytes(tensor.type);
  std::vector<std::int32_t> ids(tensor.elements());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    std::int64_t id = 0;
    if (width == 8) {
      std::memcpy(&id, tensor.data.data() + i * 8, 8);
    } else {
      std::int32_t narrow = 0;
      std::memcpy(&narrow, tensor.data.data() + i * 4, 4);
      id = narrow;
    }
    if (id < 0 || id >= static_cast<std::int64_t>(experts_))
      return table_.error(cat("element ", i, ": expected an expert from 0 to ", experts_ - 1, ", found ", id));
    ids[i] = static_cast<std::int32_t>(id);
  }
  const std::span<const std::byte> bytes = std::as_bytes(std::span(ids));
  DS4_RETURN_IF_ERROR(writer.write_data(index_, 0, bytes));
  release_pages(tensor.data);
  DS4_RETURN_IF_ERROR(step(bytes.size()));
  return {};
}

void TensorCopy::collect_sources(std::unordered_set<std::string_view>& names) const {
  if (table_) names.insert(table_.tensor->name);
  for (const WeightReader& source : sources_) {
    names.insert(source.name());
    if (!source.scale_name().empty()) names.insert(source.scale_name());
  }
}

std::uint64_t TensorCopy::input_bytes() const {
  std::uint64_t bytes = table_ ? table_.tensor->data.size() : 0;
  for (const WeightReader& source : sources_) bytes += source.data().size() + source.scales().size();
  return bytes;
}

std::uint64_t TensorCopy::output_bytes() const {
  std::uint64_t elements = 1;
  for (const std::uint64_t dim : plan_.dims) elements *= dim;
  return row_bytes(type_, elements);
}

Status copy_tensors(std::span<const TensorCopy> copies, gguf::Writer& writer, const JobSettings& settings) {
  std::uint64_t total = 0;
  for (const TensorCopy& copy : copies) total += copy.output_bytes();
  return run_jobs(copies.size(), total, settings,
                  [&](std::size_t i, const JobStep& step) { return copies[i].run(writer, step); });
}

}  // namespace ds4
