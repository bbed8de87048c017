#include "engine/disk_states.h"

#include <algorithm>
#include <utility>

#include "base/text.h"
#include "engine/engine.h"
#include "model/kv_blocks.h"

namespace ds4 {

namespace {

static_assert(kBlockTokens == kvstore::kBlockTokens);
constexpr std::int64_t kBlock = kBlockTokens;

/// Of the budget, for records beside the states: a tool call takes one or two KiB.
constexpr std::uint64_t kRecordShare = 16, kMostRecordBytes = std::uint64_t{64} << 20;

std::int64_t block_floor(std::int64_t tokens) { return tokens / kBlock * kBlock; }

template <typename T>
void add_number(kvstore::Sha256& hash, T value) {
  hash.add_field(cat(value));
}

}  // namespace

kvstore::Key state_identity(const ModelFile& file, KvFormat kv, const std::string& backend, PieceSizes sizes) {
  constexpr std::size_t kSample = 4096;
  kvstore::Sha256 hash;
  hash.add_field("ds4 kv");
  add_number(hash, kvstore::kVersion);
  hash.add_field(kv_format_name(kv));
  add_number(hash, sizes.block);
  add_number(hash, sizes.point);
  hash.add_field(backend);
  for (const gguf::Value& value : file.gguf.values()) {
    hash.add_field(value.key);
    add_number(hash, static_cast<std::uint32_t>(value.type));
    add_number(hash, static_cast<std::uint32_t>(value.element));
    hash.add_field(value.raw);
  }
  for (const gguf::TensorInfo& tensor : file.gguf.tensors()) {
    hash.add_field(tensor.name);
    hash.add_field(gguf::describe(tensor));
    add_number(hash, tensor.data.size());
    const std::size_t sample = std::min(kSample, tensor.data.size());
    hash.add_field(tensor.data.first(sample));
    hash.add_field(tensor.data.last(sample));
  }
  return hash.digest();
}

Result<std::unique_ptr<DiskStates>> DiskStates::open(const kvstore::Key& identity, const std::string& label,
                                                     PieceSizes sizes, DiskOptions options) {
  DS4_ASSIGN_OR_RETURN(std::unique_ptr<kvstore::Folder> folder, kvstore::Folder::open(options.folder));
  kvstore::StoreOptions store_options;
  if (options.record) store_options.record_budget = std::min(kMostRecordBytes, options.budget / kRecordShare);
  store_options.budget = options.budget - store_options.record_budget;
  store_options.identity = identity;
  store_options.label = label;
  store_options.block_bytes = sizes.block;
  store_options.point_bytes = sizes.point;
  store_options.warn = options.warn;
  store_options.saved = options.saved;
  store_options.record = options.record;
  DS4_ASSIGN_OR_RETURN(std::unique_ptr<kvstore::Store> store,
                       kvstore::Store::open(std::move(folder), std::move(store_options)));
  return std::make_unique<DiskStates>(std::move(store), std::move(options));
}

DiskStates::DiskStates(std::unique_ptr<kvstore::Store> store, DiskOptions options)
    : store_(std::move(store)), options_(std::move(options)) {}

Timeline DiskStates::match(const Tokenizer& tokenizer, std::span<const PromptPiece> pieces) const {
  struct Step {
    const kvstore::Block* block = nullptr;
    Place behind;  // the block
  };
  std::vector<Step> path;  // views that end with the walk
  std::vector<std::pair<kvstore::BlockTokens, kvstore::SampledBits>> best;
  std::size_t shared = 0;  // steps of `path` that are those of `best`
  std::size_t furthest = 0;
  store_->walk([&](std::size_t depth, const kvstore::Block& block) {
    path.resize(depth);
    shared = std::min(shared, depth);
    Place place = depth == 0 ? Place{} : path.back().behind;
    std::size_t passed = 0;
    while (passed < block.tokens.size() && pass(tokenizer, pieces, block.tokens[passed], place)) ++passed;
    path.push_back({&block, place});
    if (const std::size_t reach = depth * block.tokens.size() + passed; reach > furthest) {
      furthest = reach;
      best.resize(shared);
      for (; shared < path.size(); ++shared) best.emplace_back(path[shared].block->tokens, path[shared].block->sampled);
    }
    return passed == block.tokens.size();
  });
  Timeline history;
  for (const auto& [tokens, sampled] : best) {
    for (std::size_t i = 0; i < tokens.size(); ++i) history.append(tokens[i], (sampled[i / 8] >> i % 8 & 1) != 0);
  }
  return history;
}

kvstore::Tree::Found DiskStates::longest(std::span<const TokenId> tokens) const {
  const kvstore::Tree::Found found = store_->longest(tokens);
  return static_cast<std::int64_t>(found.position) >= options_.min_tokens ? found : kvstore::Tree::Found{};
}

const kvstore::Key& StateSaver::key(const Timeline& timeline, std::int64_t at) {
  const auto index = static_cast<std::size_t>(at / kBlock);
  while (keys_.size() < index) {
    const kvstore::Key& before = keys_.empty() ? disk_->store().identity() : keys_.back();
    const auto tokens = timeline.tokens().subspan(keys_.size() * kvstore::kBlockTokens);
    keys_.push_back(kvstore::block_key(before, tokens.first<kvstore::kBlockTokens>()));
  }
  return keys_[index - 1];
}

void StateSaver::plan(std::span<const TokenId> prompt, std::int64_t reused, std::int64_t turn_start,
                      bool answer_returns) {
  if (disk_ == nullptr) return;
  keys_.clear();
  marks_.clear();
  held_at_ = 0;
  held_ = {};
  prompt_ = static_cast<std::int64_t>(prompt.size());
  answer_returns_ = answer_returns;
  const std::int64_t interval = disk_->options().interval;
  for (std::int64_t rung = (reused / interval + 1) * interval; rung < prompt_; rung += interval)
    marks_.push_back({rung, true});
  marks_.push_back({block_floor(turn_start), true});
  // Strictly below the end: the same prompt again still needs the logits of its last token. Of a new conversation, or
  // for much that is new, it is worth a place even if the answer leaves one a little further.
  const bool anchor = reused == 0 || prompt_ - reused >= interval / 2;
  marks_.push_back({block_floor(prompt_ - 1), anchor || !answer_returns});
  std::ranges::sort(
      marks_, [](const Mark& a, const Mark& b) { return std::pair(a.at, !a.at_once) < std::pair(b.at, !b.at_once); });

  Timeline history;  // only to name the blocks
  for (const TokenId token : prompt) history.append(token, false);
  const auto useless = [&](const Mark& mark) {
    return mark.at <= reused - kRewindSlack || mark.at < std::max(kBlock, disk_->options().min_tokens) ||
           disk_->store().knows_point(key(history, mark.at));
  };
  std::erase_if(marks_, useless);
  const auto repeated = std::ranges::unique(marks_, {}, &Mark::at);
  marks_.erase(repeated.begin(), repeated.end());
}

std::int64_t StateSaver::cut(std::int64_t at, std::int64_t end) const {
  for (const Mark& mark : marks_) {
    if (mark.at + kRewindSlack > at) return std::min(end, mark.at + kRewindSlack);
  }
  return end;
}

void StateSaver::reached(const Timeline& timeline, const Track& track) {
  if (disk_ == nullptr) return;
  const std::int64_t size = timeline.size();
  while (!marks_.empty() && marks_.front().at <= size) {
    const Mark mark = marks_.front();
    marks_.erase(marks_.begin());
    auto point = take(timeline, track, mark.at);
    if (!point) continue;
    if (mark.at_once) {
      save(timeline, track, mark.at, std::move(*point));
    } else {
      held_at_ = mark.at;
      held_ = std::move(*point);
    }
  }
  const std::int64_t last = block_floor(size);
  if (!answer_returns_ || size <= prompt_ || last <= std::max(held_at_, block_floor(prompt_ - 1))) return;
  if (last < track.rewind_floor() || !disk_->store().writable()) return;
  auto point = take(timeline, track, last);  // none: it is known
  if (point && last % disk_->options().interval == 0) save(timeline, track, last, *std::exchange(point, std::nullopt));
  held_at_ = last;
  held_ = point ? std::move(*point) : std::vector<std::byte>();
}

void StateSaver::finish(const Timeline& timeline, const Track& track) {
  if (disk_ == nullptr) return;
  // Cut short in the middle of the prompt: what there is.
  const std::int64_t last = block_floor(timeline.size());
  if (timeline.size() < prompt_ && last > held_at_) {
    if (auto point = take(timeline, track, last)) {
      held_at_ = last;
      held_ = std::move(*point);
    }
  }
  if (!held_.empty()) save(timeline, track, held_at_, std::move(held_));
  held_ = {};
}

/// The point at `at`, if it is of use and can still be had.
std::optional<std::vector<std::byte>> StateSaver::take(const Timeline& timeline, const Track& track, std::int64_t at) {
  if (at < std::max(kBlock, disk_->options().min_tokens) || at < track.rewind_floor()) return std::nullopt;
  if (!disk_->store().writable() || disk_->store().knows_point(key(timeline, at))) return std::nullopt;
  Result<std::vector<std::byte>> point = track.save_point(at);
  if (!point.ok()) return std::nullopt;  // the device failed: its next step will say so
  return std::move(point).value();
}

void StateSaver::save(const Timeline& timeline, const Track& track, std::int64_t at, std::vector<std::byte> point) {
  kvstore::Store& store = disk_->store();
  kvstore::NewState state;
  state.key = key(timeline, at);
  state.position = static_cast<std::uint64_t>(at);
  state.point = std::move(point);
  const std::int64_t count = at / kBlock;
  for (std::int64_t first = 0; first < count;) {
    const auto known = [&](std::int64_t block) { return store.knows_block(key(timeline, (block + 1) * kBlock)); };
    if (known(first)) {
      ++state.reused;
      ++first;
      continue;
    }
    std::int64_t end = first + 1;
    while (end < count && !known(end)) ++end;
    Result<std::vector<std::vector<std::byte>>> rows = track.save_blocks(first, end - first);
    if (!rows.ok()) return;
    for (std::int64_t b = first; b < end; ++b) {
      kvstore::NewState::NewBlock& block = state.blocks.emplace_back();
      block.before = b == 0 ? store.identity() : key(timeline, b * kBlock);
      block.key = key(timeline, (b + 1) * kBlock);
      block.position = static_cast<std::uint64_t>((b + 1) * kBlock);
      for (std::int64_t i = 0; i < kBlock; ++i) {
        const auto at_byte = static_cast<std::size_t>(i / 8);
        block.tokens[static_cast<std::size_t>(i)] = timeline[b * kBlock + i];
        if (timeline.sampled(b * kBlock + i))
          block.sampled[at_byte] = static_cast<std::uint8_t>(block.sampled[at_byte] | 1 << i % 8);
      }
      block.rows = std::move((*rows)[static_cast<std::size_t>(b - first)]);
    }
    first = end;
  }
  store.save(std::move(state));
}

}  // namespace ds4
