// What a directory entry is, from its name and its first bytes. Stateless; the thread that uses the Folder.
#pragma once

#include <string>
#include <string_view>

#include "kvstore/file_format.h"
#include "kvstore/folder.h"

namespace ds4::kvstore {

/// "t-...tmp": being written, or left over.
bool is_temporary(std::string_view name);
/// A name that the store gives; everything else in the directory is none of its business.
bool is_ours(std::string_view name);

struct HeadReading {
  enum class Outcome {
    kGood,          // head
    kGone,          // removed in between
    kUnreadable,    // problem: what the system said
    kBroken,        // problem
    kOtherVersion,  // of this format
  };
  Outcome outcome = Outcome::kGood;
  Head head;
  std::string problem;
};
/// `entry` has a name of a block or a point.
HeadReading read_head(Folder& folder, const Folder::Entry& entry);

}  // namespace ds4::kvstore
