// Timelines: taking tokens back, forking, saving and restoring (§3.4).
#include <algorithm>
#include <utility>

#include "base/text.h"
#include "model/kv_blocks.h"
#include "model/model.h"
#include "model/model_impl.h"

namespace ds4 {

namespace {
std::size_t pages_for(std::int64_t tokens) {
  return static_cast<std::size_t>((tokens + kPageTokens - 1) / kPageTokens);
}
}  // namespace

Sequence::Sequence(Model* model, std::vector<std::int32_t> tails)
    : model_(model), tails_(std::move(tails)), pages_(tails_.size()) {}

Sequence::Sequence(Sequence&& other) noexcept
    : model_(std::exchange(other.model_, nullptr)),
      length_(std::exchange(other.length_, 0)),
      written_(std::exchange(other.written_, 0)),
      tails_(std::move(other.tails_)),
      pages_(std::move(other.pages_)) {}

Sequence& Sequence::operator=(Sequence&& other) noexcept {
  std::swap(model_, other.model_);
  std::swap(length_, other.length_);
  std::swap(written_, other.written_);
  std::swap(tails_, other.tails_);
  std::swap(pages_, other.pages_);
  return *this;
}

Sequence::~Sequence() { release(); }

void Sequence::release() {
  if (model_ == nullptr) return;
  auto& devices = model_->impl_->devices;
  for (std::size_t d = 0; d < tails_.size(); ++d) {
    for (const std::int32_t page : pages_[d]) devices[d]->pages.release(page);
    devices[d]->backend->free_tail(tails_[d]);
  }
  model_ = nullptr;
}

std::int64_t Sequence::rewind_floor() const {
  // Position p and p + slots share a ring slot. The furthest position ever written decides what is still there; a
  // restart at `to` needs at most slots - kRewindSlack entries before it.
  return std::clamp<std::int64_t>(written_ - kRewindSlack, 0, length_);
}

bool Sequence::rewind(std::int64_t to) {
  if (to == length_) return true;
  if (to > length_ || (to != 0 && to < rewind_floor())) return false;
  length_ = to;
  if (to == 0) written_ = 0;  // nothing before it is needed: the rings start anew
  for (std::size_t d = 0; d < pages_.size(); ++d) {
    while (pages_[d].size() > pages_for(to)) {
      model_->impl_->devices[d]->pages.release(pages_[d].back());
      pages_[d].pop_back();
    }
  }
  return true;
}

Result<Sequence> Model::new_sequence() {
  std::vector<std::int32_t> tails;
  for (auto& device : impl_->devices) {
    auto tail = device->backend->new_tail();
    if (!tail.ok()) {
      for (std::size_t d = 0; d < tails.size(); ++d) impl_->devices[d]->backend->free_tail(tails[d]);
      return std::move(tail).error();
    }
    tails.push_back(*tail);
  }
  return Sequence(this, std::move(tails));
}

Result<Sequence> Sequence::fork() const {
  DS4_ASSIGN_OR_RETURN(Sequence copy, model_->new_sequence());
  copy.length_ = length_;
  copy.written_ = written_;
  auto& devices = model_->impl_->devices;
  for (std::size_t d = 0; d < devices.size(); ++d) {
    devices[d]->backend->copy_tail(copy.tails_[d], tails_[d]);
    for (const std::int32_t page : pages_[d]) {
      devices[d]->pages.share(page);
      copy.pages_[d].push_back(page);
    }
  }
  return copy;
}

Result<SequenceImage> Sequence::save() const {
  SequenceImage image{length_, written_, {}, {}};
  auto& devices = model_->impl_->devices;
  for (std::size_t d = 0; d < devices.size(); ++d) {
    const KvLayout& layout = devices[d]->layout;
    auto& pages = image.pages.emplace_back(layout.page_bytes * pages_[d].size());
    for (std::size_t i = 0; i < pages_[d].size(); ++i)
      DS4_RETURN_IF_ERROR(devices[d]->backend->read_page(
          pages_[d][i], std::span(pages).subspan(i * layout.page_bytes, layout.page_bytes)));
    auto& tail = image.tails.emplace_back(layout.tail_bytes);
    DS4_RETURN_IF_ERROR(devices[d]->backend->read_tail(tails_[d], tail));
  }
  return image;
}

Result<Sequence> Model::restore(const SequenceImage& image) {
  DS4_ASSIGN_OR_RETURN(Sequence sequence, new_sequence());
  const auto refuse = [](std::string message) { return Error{ErrorCode::kFailure, std::move(message)}; };
  if (image.length < 0 || image.length > impl_->options.context || image.written < image.length)
    return refuse(cat("saved sequence: expected at most ", impl_->options.context, " tokens, found ", image.length));
  if (image.pages.size() != impl_->devices.size() || image.tails.size() != impl_->devices.size())
    return refuse(cat("saved sequence: expected ", impl_->devices.size(), " devices, found ", image.pages.size()));
  for (std::size_t d = 0; d < impl_->devices.size(); ++d) {
    Device& device = *impl_->devices[d];
    const std::size_t page_bytes = device.layout.page_bytes;
    const std::size_t count = pages_for(image.length);
    if (image.pages[d].size() != count * page_bytes || image.tails[d].size() != device.layout.tail_bytes)
      return refuse(cat("saved sequence: expected ", count * page_bytes, " + ", device.layout.tail_bytes,
                        " bytes of KV, found ", image.pages[d].size(), " + ", image.tails[d].size()));
    for (std::size_t i = 0; i < count; ++i) {
      DS4_ASSIGN_OR_RETURN(const std::int32_t page, device.pages.take());
      sequence.pages_[d].push_back(page);
      device.backend->write_page(page, std::span(image.pages[d]).subspan(i * page_bytes, page_bytes));
    }
    device.backend->write_tail(sequence.tails_[d], image.tails[d]);
  }
  sequence.length_ = image.length;
  sequence.written_ = image.written;
  return sequence;
}

std::uint64_t Model::block_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& device : impl_->devices) bytes += ds4::block_bytes(device->layout);
  return bytes;
}

std::uint64_t Model::point_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& device : impl_->devices) bytes += ds4::point_bytes(device->layout);
  return bytes;
}

Result<std::vector<std::vector<std::byte>>> Sequence::save_blocks(std::int64_t first, std::int64_t count) const {
  DS4_CHECK(first >= 0 && (first + count) * kBlockTokens <= length_);
  std::vector<std::vector<std::byte>> blocks(static_cast<std::size_t>(count),
                                             std::vector<std::byte>(model_->block_bytes()));
  std::size_t offset = 0;  // of a device's part in each block
  std::vector<std::byte> page;
  for (std::size_t d = 0; d < pages_.size(); ++d) {
    Device& device = *model_->impl_->devices[d];
    const std::size_t bytes = block_bytes(device.layout);
    page.resize(device.layout.page_bytes);
    for (std::int64_t b = first; b < first + count; ++b) {
      // A page is read once for all of its blocks: on a card that is a transfer.
      if (b == first || b % kPageBlocks == 0)
        DS4_RETURN_IF_ERROR(device.backend->read_page(pages_[d][static_cast<std::size_t>(b / kPageBlocks)], page));
      read_block(device.layout, static_cast<int>(b % kPageBlocks), page,
                 std::span(blocks[static_cast<std::size_t>(b - first)]).subspan(offset, bytes));
    }
    offset += bytes;
  }
  return blocks;
}

Result<std::vector<std::byte>> Sequence::save_point(std::int64_t at) const {
  DS4_CHECK(at > 0 && at % kBlockTokens == 0 && at >= rewind_floor() && at <= length_);
  std::vector<std::byte> point(model_->point_bytes());
  std::size_t offset = 0;
  for (std::size_t d = 0; d < tails_.size(); ++d) {
    Device& device = *model_->impl_->devices[d];
    std::vector<std::byte> tail(device.layout.tail_bytes);
    DS4_RETURN_IF_ERROR(device.backend->read_tail(tails_[d], tail));
    const std::size_t bytes = point_bytes(device.layout);
    read_point(device.layout, at, tail, std::span(point).subspan(offset, bytes));
    offset += bytes;
  }
  return point;
}

Result<Sequence> Model::restore(const SequencePieces& pieces) {
  const auto refuse = [](std::string message) { return Error{ErrorCode::kFailure, std::move(message)}; };
  const auto length = static_cast<std::int64_t>(pieces.blocks.size()) * kBlockTokens;
  if (length == 0 || length > impl_->options.context)
    return refuse(cat("stored sequence: expected 1 to ", impl_->options.context, " tokens, found ", length));
  if (pieces.point.size() != point_bytes())
    return refuse(cat("stored sequence: expected a point of ", point_bytes(), " bytes, found ", pieces.point.size()));
  for (const auto& block : pieces.blocks)
    if (block.size() != block_bytes())
      return refuse(cat("stored sequence: expected blocks of ", block_bytes(), " bytes, found ", block.size()));
  DS4_ASSIGN_OR_RETURN(Sequence sequence, new_sequence());
  std::size_t block_at = 0, point_at = 0;
  for (std::size_t d = 0; d < impl_->devices.size(); ++d) {
    Device& device = *impl_->devices[d];
    const std::size_t bytes = ds4::block_bytes(device.layout);
    for (std::size_t first = 0; first < pieces.blocks.size(); first += kPageBlocks) {
      DS4_ASSIGN_OR_RETURN(const std::int32_t page, device.pages.take());
      sequence.pages_[d].push_back(page);
      std::vector<std::byte> host(device.layout.page_bytes);
      for (std::size_t b = first; b < std::min(first + kPageBlocks, pieces.blocks.size()); ++b)
        write_block(device.layout, static_cast<int>(b - first), pieces.blocks[b].subspan(block_at, bytes), host);
      device.backend->write_page(page, host);
    }
    std::vector<std::byte> tail(device.layout.tail_bytes);
    const std::size_t tail_bytes = ds4::point_bytes(device.layout);
    write_point(device.layout, length, pieces.point.subspan(point_at, tail_bytes), tail);
    device.backend->write_tail(sequence.tails_[d], tail);
    block_at += bytes;
    point_at += tail_bytes;
  }
  sequence.length_ = length;
  sequence.written_ = length + kRewindSlack;  // what lay before `length` beyond the window is not there
  return sequence;
}

}  // namespace ds4
