#include "kvstore/inspect.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <vector>

#include "base/text.h"
#include "kvstore/head_reader.h"
#include "kvstore/record_log.h"
#include "kvstore/tree.h"

namespace ds4::kvstore {

namespace {

using Outcome = HeadReading::Outcome;

/// The directory as a whole.
struct Picture {
  Tree tree;
  std::map<Key, std::string> labels;       // by identity
  std::map<Key, std::vector<Key>> leaves;  // key of the last point: keys of its chain
  std::map<Key, int> users;                // of a block: leaves above it
  std::uint64_t broken = 0, other = 0, temporary = 0, other_bytes = 0;
  std::uint64_t unused = 0;  // blocks and points that no leaf needs
};

Result<Picture> look(Folder& folder) {
  DS4_ASSIGN_OR_RETURN(const std::vector<Folder::Entry> entries, folder.list(is_ours));
  Picture out;
  for (const Folder::Entry& entry : entries) {
    if (is_temporary(entry.name)) {
      ++out.temporary;
      out.other_bytes += entry.bytes;
      continue;
    }
    const HeadReading reading = read_head(folder, entry);
    if (reading.outcome == Outcome::kGone) continue;
    if (reading.outcome != Outcome::kGood) {
      ++(reading.outcome == Outcome::kOtherVersion ? out.other : out.broken);
      out.other_bytes += entry.bytes;
      continue;
    }
    out.labels[reading.head.identity] = reading.head.label;
    if (reading.head.kind == Kind::kBlock) out.tree.add_block(reading.head, entry.bytes, entry.modified);
    else out.tree.add_point(reading.head, entry.bytes, entry.modified);
  }
  // A point is a leaf unless it lies below another.
  std::map<Key, bool> below;
  for (const auto& [key, point] : out.tree.points()) {
    std::vector<Key> chain = out.tree.chain(key);
    if (chain.empty()) continue;
    for (std::size_t i = 0; i + 1 < chain.size(); ++i) below[chain[i]] = true;
    out.leaves[key] = std::move(chain);
  }
  std::erase_if(out.leaves, [&](const auto& leaf) { return below.contains(leaf.first); });
  for (const auto& [key, chain] : out.leaves) {
    for (const Key& block : chain) ++out.users[block];
  }
  for (const auto& [key, block] : out.tree.blocks()) out.unused += out.users.contains(key) ? 0 : 1;
  for (const auto& [key, point] : out.tree.points()) out.unused += out.users.contains(key) ? 0 : 1;
  return out;
}

std::string age_text(double seconds) {
  if (seconds < 0) return "now";
  if (seconds < 120) return cat(static_cast<int>(seconds), " s");
  if (seconds < 7200) return cat(static_cast<int>(seconds / 60), " min");
  if (seconds < 172800) return cat(static_cast<int>(seconds / 3600), " h");
  return cat(static_cast<int>(seconds / 86400), " days");
}

std::string line(const char* id, const std::string& tokens, const std::string& points, const std::string& own,
                 const std::string& used, const std::string& model) {
  char text[96];
  std::snprintf(text, sizeof text, "%-12s %9s %7s %11s %9s  ", id, tokens.c_str(), points.c_str(), own.c_str(),
                used.c_str());
  return cat(text, model, "\n");
}

std::string id_of(const Key& key) { return hex(key).substr(0, 12); }

}  // namespace

Result<std::string> list_states(Folder& folder) {
  DS4_ASSIGN_OR_RETURN(const Picture picture, look(folder));
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  struct Row {
    double used = 0;
    std::string text;
  };
  std::vector<Row> rows;
  for (const auto& [key, chain] : picture.leaves) {
    std::uint64_t own = 0, points = 0;
    for (const Key& block : chain) {
      const Point* point = picture.tree.point(block);
      points += point != nullptr ? 1 : 0;
      if (picture.users.at(block) > 1) continue;
      own += picture.tree.block(block)->bytes + (point != nullptr ? point->bytes : 0);
    }
    const Point& leaf = *picture.tree.point(key);
    const Key& identity = picture.tree.block(key)->identity;
    rows.push_back({leaf.used, line(id_of(key).c_str(), cat(leaf.position), cat(points), human_bytes(own),
                                    age_text(now - leaf.used),
                                    cat(escaped(picture.labels.at(identity)), " ", id_of(identity).substr(0, 8)))});
  }
  std::ranges::sort(rows, std::greater<>(), &Row::used);
  std::string text = line("id", "tokens", "points", "own bytes", "used", "rows, backend, model, identity");
  for (const Row& row : rows) text += row.text;
  text += cat(rows.size(), " conversations, ", picture.tree.points().size(), " points, ", picture.tree.blocks().size(),
              " blocks, ", human_bytes(picture.tree.bytes() + picture.other_bytes), "; ", picture.unused, " unused, ",
              picture.broken, " broken, ", picture.other, " of another version, ", picture.temporary, " temporary\n");
  return text;
}

Result<Verified> verify_states(Folder& folder, const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
  DS4_ASSIGN_OR_RETURN(const std::vector<Folder::Entry> entries, folder.list(is_ours));
  std::uint64_t all = 0, done = 0, good = 0, bad = 0, other = 0;
  for (const Folder::Entry& entry : entries) all += entry.bytes;
  Verified out;
  for (const Folder::Entry& entry : entries) {
    done += entry.bytes;
    if (progress) progress(done, all);
    if (is_temporary(entry.name)) continue;
    HeadReading reading = read_head(folder, entry);
    if (reading.outcome == Outcome::kGood) {
      auto bytes = folder.read(entry.name, head_bytes(reading.head.kind) + reading.head.payload_bytes + 1);
      if (!bytes.ok()) {
        reading.outcome = Outcome::kUnreadable;
        reading.problem = bytes.error().message;
      } else if (!bytes->has_value()) {
        reading.outcome = Outcome::kGone;
      } else if (const Result<File> file = parse_file(**bytes, entry.name); !file.ok()) {
        reading.outcome = Outcome::kBroken;
        reading.problem = file.error().message;
      }
    }
    switch (reading.outcome) {
      case Outcome::kGood: ++good; break;
      case Outcome::kGone: break;
      case Outcome::kOtherVersion: ++other; break;
      case Outcome::kUnreadable:
      case Outcome::kBroken: ++bad; out.text += cat("bad: ", reading.problem, "\n");
    }
  }
  const auto lock = lock_records(folder, 1);  // or what is being appended would look broken
  DS4_ASSIGN_OR_RETURN(const auto log, folder.read(kRecordLogName, UINT64_MAX));
  if (log) {
    const std::string problem = log_head_problem(*log);
    const ParsedRecords records =
        problem.empty() ? parse_records(std::span(*log).subspan(kLogHeadBytes)) : ParsedRecords{};
    std::vector<std::string> problems = records.problems;
    if (!problem.empty()) problems.push_back(problem);
    for (const std::string& one : problems) out.text += cat("bad: ", kRecordLogName, ": ", one, "\n");
    bad += problems.empty() ? 0 : 1;
    good += problems.empty() ? 1 : 0;
    all += log->size();
  }
  out.clean = bad == 0;
  out.text += cat(good, " files good, ", bad, " bad, ", other, " of another version, ", human_bytes(all), "\n");
  return out;
}

Result<std::string> remove_states(Folder& folder, std::span<const std::string> ids) {
  DS4_ASSIGN_OR_RETURN(Picture picture, look(folder));
  std::map<Key, bool> chosen;
  for (const std::string& id : ids) {
    std::size_t found = 0;
    for (const auto& [key, chain] : picture.leaves) {
      if (id.empty() || !hex(key).starts_with(id)) continue;
      chosen[key] = true;
      ++found;
    }
    if (found != 1)
      return Error{ErrorCode::kUsage,
                   cat("id \"", escaped(id), "\": expected that of one conversation, found ", found)};
  }
  for (const auto& [key, on] : chosen) {
    for (const Key& block : picture.leaves.at(key)) --picture.users[block];
  }
  std::uint64_t files = 0, bytes = 0;
  for (const auto& [block, users] : picture.users) {
    if (users > 0) continue;
    // The point first: a block without it is of no use, a point without its block is broken.
    if (const Point* point = picture.tree.point(block)) {
      DS4_RETURN_IF_ERROR(folder.remove(file_name(Kind::kPoint, block)));
      ++files;
      bytes += point->bytes;
    }
    DS4_RETURN_IF_ERROR(folder.remove(file_name(Kind::kBlock, block)));
    ++files;
    bytes += picture.tree.block(block)->bytes;
  }
  DS4_RETURN_IF_ERROR(folder.sync());
  return cat(chosen.size(), " conversations removed: ", files, " files, ", human_bytes(bytes), "\n");
}

Result<std::string> remove_all(Folder& folder) {
  const auto every = [](std::string_view name) { return is_ours(name) || name == kRecordLogName; };
  DS4_ASSIGN_OR_RETURN(const std::vector<Folder::Entry> entries, folder.list(every));
  std::uint64_t files = 0, bytes = 0;
  for (const Folder::Entry& entry : entries) {
    if (is_temporary(entry.name) && !folder.abandoned(entry.name)) continue;  // a server is writing it
    DS4_RETURN_IF_ERROR(folder.remove(entry.name));
    ++files;
    bytes += entry.bytes;
  }
  DS4_RETURN_IF_ERROR(folder.sync());
  return cat("everything removed: ", files, " files, ", human_bytes(bytes), "\n");
}

}  // namespace ds4::kvstore
