#include "kvstore/store.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "base/text.h"
#include "kvstore/head_reader.h"

namespace ds4::kvstore {

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

constexpr const char* kLockName = "lock";

std::uint64_t file_bytes(const NewState& state) {
  std::uint64_t bytes = kPointHeadBytes + state.point.size();
  for (const NewState::NewBlock& block : state.blocks) bytes += kBlockHeadBytes + block.rows.size();
  return bytes;
}

}  // namespace

Store::Store(std::unique_ptr<Folder> folder, StoreOptions options)
    : folder_(std::move(folder)),
      options_(std::move(options)),
      log_(*folder_, {.identity = options_.identity,
                      .budget = options_.record_budget,
                      .found =
                          [this](std::string_view record) {
                            if (options_.record) options_.record(record);
                            const std::lock_guard lock(mutex_);
                            ++stats_.records_found;
                          },
                      .warn = [this](const std::string& text) { warn(text); }}) {}

Result<std::unique_ptr<Store>> Store::open(std::unique_ptr<Folder> folder, StoreOptions options) {
  std::unique_ptr<Store> store(new Store(std::move(folder), std::move(options)));
  DS4_RETURN_IF_ERROR(store->scan());
  if (const Status status = store->log_.read(); !status.ok()) store->warn(status.error().message);
  store->thread_ = std::thread([raw = store.get()] {
    pthread_setname_np(pthread_self(), "ds4-kv");
    raw->run();
  });
  return store;
}

Store::~Store() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  if (thread_.joinable()) thread_.join();
  for (Load& load : loads_) {
    if (load.done != nullptr) load.done(Error{ErrorCode::kCancelled, "the store is closed"});
  }
}

void Store::warn(const std::string& text) const {
  if (options_.warn) options_.warn(text);
}

Tree::Found Store::longest(std::span<const std::int32_t> tokens) const {
  const std::lock_guard lock(mutex_);
  return tree_.longest(options_.identity, tokens);
}

void Store::walk(const std::function<bool(std::size_t, const Block&)>& visit) const {
  const std::lock_guard lock(mutex_);
  tree_.walk(options_.identity, visit);
}

bool Store::knows_block(const Key& key) const {
  const std::lock_guard lock(mutex_);
  return tree_.block(key) != nullptr || coming_blocks_.contains(key);
}

bool Store::knows_point(const Key& key) const {
  const std::lock_guard lock(mutex_);
  // One above a gap is of no use: it is to be written again, with what is missing.
  return coming_points_.contains(key) || (tree_.point(key) != nullptr && !tree_.chain(key).empty());
}

bool Store::writable() const {
  const std::lock_guard lock(mutex_);
  return Clock::now() >= paused_until_ && stats_.queued_bytes < options_.max_queue;
}

void Store::save(NewState state) {
  const std::uint64_t bytes = file_bytes(state);
  {
    const std::lock_guard lock(mutex_);
    const bool full = !saves_.empty() && stats_.queued_bytes + bytes > options_.max_queue;
    if (full || Clock::now() < paused_until_) {
      ++stats_.dropped;
      return;
    }
    for (const NewState::NewBlock& block : state.blocks) coming_blocks_.insert(block.key);
    coming_points_.insert(state.key);
    stats_.queued_bytes += bytes;
    saves_.push_back(std::move(state));
  }
  work_.notify_all();
}

void Store::load(const Key& point, std::function<void(Result<LoadedState>)> done) {
  {
    const std::lock_guard lock(mutex_);
    loads_.push_back({point, std::move(done), {}});
  }
  work_.notify_all();
}

void Store::forget(const Key& point, const std::string& why) {
  {
    const std::lock_guard lock(mutex_);
    loads_.push_back({point, nullptr, why});
  }
  work_.notify_all();
}

void Store::keep_record(std::string record) {
  {
    const std::lock_guard lock(mutex_);
    if (options_.record_budget == 0 || stats_.queued_bytes + record.size() > options_.max_queue) return;
    stats_.queued_bytes += record.size();
    records_.push_back(std::move(record));
  }
  work_.notify_all();
}

bool Store::flush(double seconds) {
  std::unique_lock lock(mutex_);
  return idle_.wait_for(lock, std::chrono::duration<double>(seconds),
                        [&] { return !busy_ && saves_.empty() && loads_.empty() && records_.empty(); });
}

StoreStats Store::stats() const {
  const std::lock_guard lock(mutex_);
  StoreStats stats = stats_;
  stats.bytes = tree_.bytes() + other_bytes_;
  stats.blocks = tree_.blocks().size();
  stats.points = tree_.points().size();
  return stats;
}

void Store::run() {
  while (true) {
    NewState state;
    {
      std::unique_lock lock(mutex_);
      busy_ = false;
      idle_.notify_all();
      work_.wait(lock, [&] { return stop_ || !saves_.empty() || !loads_.empty() || !records_.empty(); });
      if (stop_) return;
      busy_ = true;
      if (loads_.empty() && records_.empty()) {
        state = std::move(saves_.front());
        saves_.pop_front();
      }
    }
    serve_loads();
    write_records();
    if (state.position > 0) write_state(std::move(state));
  }
}

/// All that wait, with one sync.
void Store::write_records() {
  std::vector<std::string> records;
  bool paused = false;
  {
    const std::lock_guard lock(mutex_);
    records = std::exchange(records_, {});
    paused = Clock::now() < paused_until_;
  }
  if (records.empty()) return;
  const Status status = paused ? Status() : log_.append(records);
  {
    const std::lock_guard lock(mutex_);
    for (const std::string& record : records) stats_.queued_bytes -= record.size();
    if (status.ok() && !paused) stats_.records_kept += records.size();
  }
  if (!status.ok()) fail(status.error().message);
}

/// Somebody waits for a load; nobody waits for a save.
void Store::serve_loads() {
  while (true) {
    Load load;
    {
      const std::lock_guard lock(mutex_);
      if (loads_.empty() || stop_) return;
      load = std::move(loads_.front());
      loads_.pop_front();
    }
    if (load.done == nullptr) {
      reject(Kind::kPoint, load.key, load.unusable, true);
      continue;
    }
    Result<LoadedState> state = read_state(load.key);
    {
      const std::lock_guard lock(mutex_);
      if (state.ok()) {
        ++stats_.restores;
        stats_.restored_tokens += state->tokens.size();
        stats_.restored_bytes += state->point.file.size();
        for (const auto& block : state->blocks) stats_.restored_bytes += block.file.size();
      } else {
        ++stats_.missed;
      }
    }
    load.done(std::move(state));
  }
}

Result<LoadedState> Store::read_state(const Key& key) {
  std::vector<Key> chain;
  {
    const std::lock_guard lock(mutex_);
    if (tree_.point(key) != nullptr) chain = tree_.chain(key);
  }
  if (chain.empty()) return Error{ErrorCode::kIo, "this state is no longer stored"};
  LoadedState state;
  Head head;
  DS4_ASSIGN_OR_RETURN(state.point, read_piece(Kind::kPoint, key, options_.point_bytes, head));
  Key before = options_.identity;
  for (std::size_t i = 0; i < chain.size(); ++i) {
    DS4_ASSIGN_OR_RETURN(LoadedState::Piece piece, read_piece(Kind::kBlock, chain[i], options_.block_bytes, head));
    // The key of a block is the hash of what came before and of its tokens: this is the history of the point.
    if (head.before != before || head.position != (i + 1) * kBlockTokens) {
      reject(Kind::kBlock, chain[i], "it is not the block after the one before", true);
      return Error{ErrorCode::kIo, "the blocks of this state do not follow each other"};
    }
    before = head.key;
    state.tokens.insert(state.tokens.end(), head.tokens.begin(), head.tokens.end());
    for (std::size_t t = 0; t < kBlockTokens; ++t) state.sampled.push_back(head.sampled_at(t));
    state.blocks.push_back(std::move(piece));
  }
  // Others see from the time of the file that it is worth keeping. Not to be able to say so is no harm.
  static_cast<void>(folder_->touch(file_name(Kind::kPoint, key)));
  const std::lock_guard lock(mutex_);
  if (Point* point = tree_.point(key)) {
    ++point->uses;
    point->used = now_seconds();
  }
  return state;
}

Result<LoadedState::Piece> Store::read_piece(Kind kind, const Key& key, std::uint64_t payload_bytes, Head& head) {
  const std::string name = file_name(kind, key);
  auto bytes = folder_->read(name, head_bytes(kind) + payload_bytes + 1);
  if (!bytes.ok()) {
    reject(kind, key, bytes.error().message, false);
    return bytes.error();
  }
  if (!bytes->has_value()) {
    const std::lock_guard lock(mutex_);
    tree_.erase(kind, key);  // another process needed the room
    return Error{ErrorCode::kIo, cat(name, " is gone")};
  }
  LoadedState::Piece piece{std::move(**bytes), head_bytes(kind)};
  Result<File> file = parse_file(piece.file, name);
  std::string problem;
  if (!file.ok()) problem = file.error().message;
  else if (file->head.kind != kind || file->head.key != key) problem = cat(name, ": it belongs under another name");
  else if (file->head.identity != options_.identity) problem = cat(name, ": it is of another model");
  else if (file->head.payload_bytes != payload_bytes)
    problem = cat(name, ": expected a payload of ", payload_bytes, " bytes, found ", file->head.payload_bytes);
  if (!problem.empty()) {
    reject(kind, key, problem, true);
    return Error{ErrorCode::kIo, problem};
  }
  head = std::move(file->head);
  return piece;
}

/// A file that must not be used again. One that could not even be read stays, and is not asked for any more.
void Store::reject(Kind kind, const Key& key, const std::string& why, bool remove) {
  const std::string name = file_name(kind, key);
  {
    const std::lock_guard lock(mutex_);
    tree_.erase(kind, key);
    ++stats_.rejected;
  }
  ignored_.insert(name);
  if (remove && folder_->remove(name).ok()) ignored_.erase(name);
  warn(cat("a stored state is not used: ", why));
}

void Store::fail(const std::string& what) {
  {
    const std::lock_guard lock(mutex_);
    paused_until_ = Clock::now() +
                    std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options_.pause_seconds));
  }
  warn(cat("states are not stored for ", options_.pause_seconds, " s: ", what));
}

void Store::write_state(NewState state) {
  const auto start = Clock::now();
  const std::uint64_t all = file_bytes(state);
  SaveReport report{state.position, 0, 0, 0};
  const auto write = [&]() -> Status {
    std::vector<Key> keep = {state.blocks.empty() ? state.key : state.blocks.front().before, state.key};
    {
      const std::lock_guard lock(mutex_);
      if (Clock::now() < paused_until_) return Error{ErrorCode::kIo, ""};
      const Key& before = keep.front();
      if (before != options_.identity && tree_.chain(before).empty()) return Error{ErrorCode::kIo, ""};
    }
    if (all > options_.budget) {
      if (!std::exchange(said_too_large_, true))
        warn(cat("a state of ", human_bytes(all), " is not stored: the budget is ", human_bytes(options_.budget)));
      return Error{ErrorCode::kIo, ""};
    }
    if (!make_room(all, keep)) return Error{ErrorCode::kIo, ""};
    for (NewState::NewBlock& block : state.blocks) {
      serve_loads();
      {
        const std::lock_guard lock(mutex_);
        if (stop_) return Error{ErrorCode::kCancelled, ""};
        if (tree_.block(block.key) != nullptr) continue;
      }
      Head head{Kind::kBlock, options_.identity, block.key,    block.before, block.position, block.rows.size(),
                {},           options_.label,    block.tokens, block.sampled};
      DS4_RETURN_IF_ERROR(write_file(std::move(head), block.rows));
      ++report.blocks;
      report.bytes += kBlockHeadBytes + block.rows.size();
      block.rows = {};
    }
    Head head{Kind::kPoint, options_.identity, state.key, {}, state.position, state.point.size(), {}, options_.label};
    DS4_RETURN_IF_ERROR(write_file(std::move(head), state.point));
    report.bytes += kPointHeadBytes + state.point.size();
    return folder_->sync();
  };
  const Status status = write();
  {
    const std::lock_guard lock(mutex_);
    for (const NewState::NewBlock& block : state.blocks) coming_blocks_.erase(block.key);
    coming_points_.erase(state.key);
    stats_.queued_bytes -= all;
    if (!status.ok()) ++stats_.dropped;
    else stats_.reused_blocks += state.reused + state.blocks.size() - report.blocks;
  }
  if (!status.ok() && !status.error().message.empty()) fail(status.error().message);
  report.seconds = seconds_since(start);
  if (status.ok() && options_.saved) options_.saved(report);
}

Status Store::write_file(Head head, std::span<const std::byte> payload) {
  const std::string name = file_name(head.kind, head.key);
  const std::string temporary = cat("t-", ::getpid(), "-", ++temporary_, ".tmp");
  const std::vector<std::byte> bytes = encode_head(head, payload);
  const std::array<std::span<const std::byte>, 2> pieces = {bytes, payload};
  Status status = folder_->write(temporary, pieces);
  if (status.ok()) status = folder_->rename(temporary, name);
  if (!status.ok()) {
    static_cast<void>(folder_->remove(temporary));
    return status;
  }
  const std::uint64_t size = bytes.size() + payload.size();
  ignored_.erase(name);
  unscanned_ += size;
  const std::lock_guard lock(mutex_);
  stats_.written_bytes += size;
  if (head.kind == Kind::kBlock) {
    ++stats_.written_blocks;
    tree_.add_block(head, size, now_seconds());
  } else {
    ++stats_.written_points;
    tree_.add_point(head, size, now_seconds());
  }
  return {};
}

/// False when the budget cannot be kept.
bool Store::make_room(std::uint64_t bytes, std::span<const Key> keep) {
  const auto used = [&] {
    const std::lock_guard lock(mutex_);
    return tree_.bytes() + other_bytes_;
  };
  // Other processes write too: look now and then how much there is.
  const bool look = unscanned_ > options_.budget / 16;
  if (!look && used() + bytes <= options_.budget) return true;
  if (const Status status = scan(); !status.ok()) {
    fail(status.error().message);
    return false;
  }
  if (used() + bytes <= options_.budget) return true;
  const std::unique_ptr<Folder::Lock> lock = folder_->try_lock(kLockName);
  if (lock == nullptr) return false;  // another process is at it: the next state will find room
  const auto remove = [&](const std::string& name, std::uint64_t size) {
    if (const Status status = folder_->remove(name); !status.ok()) {
      fail(status.error().message);
      return false;
    }
    const std::lock_guard guard(mutex_);
    ++stats_.evicted;
    stats_.evicted_bytes += size;
    return true;
  };
  while (!other_.empty() && used() + bytes > options_.budget) {
    if (!remove(other_.back().name, other_.back().bytes)) return false;
    const std::lock_guard guard(mutex_);
    other_bytes_ -= other_.back().bytes;
    other_.pop_back();
  }
  // A little more than needed, so that not every state begins like this.
  std::vector<NamedFile> victims;
  {
    const std::lock_guard guard(mutex_);
    const std::uint64_t have = tree_.bytes() + other_bytes_ + bytes;
    if (have > options_.budget)
      victims = tree_.choose_victims(have - options_.budget + options_.budget / 32, keep, now_seconds());
  }
  for (const NamedFile& victim : victims) {
    std::uint64_t size = 0;
    {
      const std::lock_guard guard(mutex_);
      const Block* block = victim.kind == Kind::kBlock ? tree_.block(victim.key) : nullptr;
      const Point* point = victim.kind == Kind::kPoint ? tree_.point(victim.key) : nullptr;
      size = block != nullptr ? block->bytes : point != nullptr ? point->bytes : 0;
    }
    if (!remove(file_name(victim.kind, victim.key), size)) return false;
    const std::lock_guard guard(mutex_);
    tree_.erase(victim.kind, victim.key);
  }
  return used() + bytes <= options_.budget;
}

/// Makes the tree what the directory says. Heads of files that are known are not read again.
Status Store::scan() {
  DS4_ASSIGN_OR_RETURN(std::vector<Folder::Entry> entries, folder_->list(is_ours));
  unscanned_ = 0;
  sweep_temporary(entries);
  std::unordered_set<Key, KeyHash> blocks, points;
  std::vector<Folder::Entry> fresh;
  {
    const std::lock_guard lock(mutex_);
    other_.clear();
    other_bytes_ = 0;
    for (const Folder::Entry& entry : entries) {
      const std::optional<NamedFile> file = read_file_name(entry.name);
      if (!file) {
        other_bytes_ += entry.bytes;  // a temporary file of somebody
        continue;
      }
      const bool block = file->kind == Kind::kBlock;
      (block ? blocks : points).insert(file->key);
      Point* point = block ? nullptr : tree_.point(file->key);
      if (point != nullptr) point->used = std::max(point->used, entry.modified);
      if (ignored_.contains(entry.name)) other_bytes_ += entry.bytes;
      else if (block ? tree_.block(file->key) == nullptr : point == nullptr) fresh.push_back(entry);
    }
    std::vector<NamedFile> gone;
    for (const auto& [key, block] : tree_.blocks()) {
      if (!blocks.contains(key)) gone.push_back({Kind::kBlock, key});
    }
    for (const auto& [key, point] : tree_.points()) {
      if (!points.contains(key)) gone.push_back({Kind::kPoint, key});
    }
    for (const NamedFile& file : gone) tree_.erase(file.kind, file.key);
  }
  for (const Folder::Entry& entry : fresh) add(entry);
  return {};
}

void Store::sweep_temporary(const std::vector<Folder::Entry>& entries) {
  for (const Folder::Entry& entry : entries) {
    if (is_temporary(entry.name) && folder_->abandoned(entry.name)) static_cast<void>(folder_->remove(entry.name));
  }
}

void Store::add(const Folder::Entry& entry) {
  const NamedFile file = *read_file_name(entry.name);
  const HeadReading reading = read_head(*folder_, entry);
  switch (reading.outcome) {
    case HeadReading::Outcome::kGone: return;
    case HeadReading::Outcome::kUnreadable: return reject(file.kind, file.key, reading.problem, false);
    case HeadReading::Outcome::kBroken: return reject(file.kind, file.key, reading.problem, true);
    case HeadReading::Outcome::kOtherVersion: {
      other_.push_back(entry);
      const std::lock_guard lock(mutex_);
      other_bytes_ += entry.bytes;
      return;
    }
    case HeadReading::Outcome::kGood: break;
  }
  const std::lock_guard lock(mutex_);
  if (file.kind == Kind::kBlock) tree_.add_block(reading.head, entry.bytes, entry.modified);
  else tree_.add_point(reading.head, entry.bytes, entry.modified);
}

}  // namespace ds4::kvstore
