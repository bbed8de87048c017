#include "engine/state_store.h"

#include <algorithm>
#include <cmath>

namespace ds4 {

namespace {
constexpr std::size_t kNone = SIZE_MAX;
/// After so many prompts that passed it by, a point is worth half.
constexpr double kHalfLife = 4;
}  // namespace

std::int64_t common_prefix(std::span<const TokenId> a, std::span<const TokenId> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

std::int64_t reachable(const Track& track, std::int64_t wanted) {
  if (track.length() <= wanted) return track.length();
  return wanted >= track.rewind_floor() ? wanted : 0;
}

std::size_t StateStore::best(std::span<const TokenId> target, std::int64_t& length) const {
  std::size_t found = kNone;
  length = 0;
  for (std::size_t i = 0; i < points_.size(); ++i) {
    const std::int64_t reach = reachable(*points_[i].track, common_prefix(target, points_[i].history->tokens()));
    if (reach <= length) continue;
    length = reach;
    found = i;
  }
  return found;
}

std::int64_t StateStore::reach(std::span<const TokenId> target) {
  ++clock_;
  for (Point& point : points_) {
    if (common_prefix(target, point.history->tokens()) == point.history->size()) point.used = clock_;
  }
  return carries(target);
}

std::int64_t StateStore::carries(std::span<const TokenId> target) const {
  std::int64_t length = 0;
  static_cast<void>(best(target, length));
  return length;
}

StateStore::Start StateStore::take(std::span<const TokenId> target) {
  std::int64_t length = 0;
  std::size_t from = best(target, length);
  DS4_CHECK(from != kNone);

  Start start;
  start.history = *points_[from].history;
  start.history.truncate(length);
  const bool goes_on = points_[from].end && points_[from].history->size() == length;
  while (!goes_on) {
    if (Result<std::unique_ptr<Track>> copy = points_[from].track->fork(); copy.ok()) {
      start.track = std::move(copy).value();
      break;
    }
    const std::size_t victim = worst(from);
    // A copy is not worth a point that is on the way of this very prompt.
    if (victim == kNone || points_[victim].used == clock_) break;
    erase(victim);
    if (victim < from) --from;
  }
  if (start.track == nullptr) {
    start.track = std::move(points_[from].track);
    erase(from);
  }
  DS4_CHECK(start.track->rewind(length));
  return start;
}

Result<std::unique_ptr<Track>> StateStore::fresh() {
  Result<std::unique_ptr<Track>> track = model_->new_track();
  while (!track.ok() && track.error().code == ErrorCode::kOutOfMemory && evict()) track = model_->new_track();
  return track;
}

Result<std::unique_ptr<Track>> StateStore::restore(const SequencePieces& pieces) {
  Result<std::unique_ptr<Track>> track = model_->restore(pieces);
  while (!track.ok() && track.error().code == ErrorCode::kOutOfMemory && evict()) track = model_->restore(pieces);
  return track;
}

bool StateStore::has(std::span<const TokenId> history) const {
  return std::any_of(points_.begin(), points_.end(),
                     [&](const Point& point) { return std::ranges::equal(point.history->tokens(), history); });
}

void StateStore::put(const Timeline& history, std::unique_ptr<Track> track, bool end) {
  if (capacity_ == 0 || history.size() == 0 || has(history.tokens())) return;
  while (static_cast<int>(points_.size()) >= capacity_) evict();
  const std::lock_guard lock(mutex_);
  points_.push_back({std::make_shared<const Timeline>(history), std::move(track), end, clock_});
}

void StateStore::put_copy(const Timeline& history, const Track& track) {
  if (capacity_ == 0 || has(history.tokens())) return;
  while (static_cast<int>(points_.size()) >= capacity_) evict();
  // A resume point is a convenience: without memory for it the work goes on.
  if (Result<std::unique_ptr<Track>> copy = track.fork(); copy.ok()) put(history, std::move(copy).value(), false);
}

bool StateStore::evict() {
  const std::size_t victim = worst(kNone);
  if (victim == kNone) return false;
  erase(victim);
  return true;
}

/// Losing a point costs the tokens since the one before it, if anybody ever comes back.
double StateStore::value(std::size_t point) const {
  const auto tokens = points_[point].history->tokens();
  std::int64_t before = 0;
  for (std::size_t i = 0; i < points_.size(); ++i) {
    const auto other = points_[i].history->tokens();
    if (i == point || other.size() >= tokens.size() || static_cast<std::int64_t>(other.size()) <= before) continue;
    if (std::ranges::equal(other, tokens.first(other.size()))) before = static_cast<std::int64_t>(other.size());
  }
  const auto age = static_cast<double>(clock_ - points_[point].used);
  return static_cast<double>(points_[point].history->size() - before) * std::exp2(-age / kHalfLife);
}

std::size_t StateStore::worst(std::size_t except) const {
  std::size_t victim = kNone;
  double least = 0;
  for (std::size_t i = 0; i < points_.size(); ++i) {
    if (i == except) continue;
    const double worth = value(i);
    if (victim != kNone && worth >= least) continue;
    least = worth;
    victim = i;
  }
  return victim;
}

void StateStore::erase(std::size_t point) {
  const std::lock_guard lock(mutex_);
  points_.erase(points_.begin() + static_cast<std::ptrdiff_t>(point));
}

void StateStore::clear() {
  const std::lock_guard lock(mutex_);
  points_.clear();
}

int StateStore::size() const { return static_cast<int>(points_.size()); }

std::vector<std::shared_ptr<const Timeline>> StateStore::histories() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<const Timeline>> all;
  for (const Point& point : points_) all.push_back(point.history);
  return all;
}

}  // namespace ds4
