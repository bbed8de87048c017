// What an operator can ask about a directory of states: `ds4-server kv ls|verify|rm`. Works beside running servers,
// which notice that files are gone. Plain functions; one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/result.h"
#include "kvstore/folder.h"

namespace ds4::kvstore {

/// A line for every conversation, and one about the rest.
Result<std::string> list_states(Folder& folder);

struct Verified {
  std::string text;
  bool clean = true;
};
/// Reads every byte of every file.
Result<Verified> verify_states(Folder& folder,
                               const std::function<void(std::uint64_t done, std::uint64_t all)>& progress);

/// Removes the conversations whose ids begin with these, as list_states() shows them, and what nothing else needs.
Result<std::string> remove_states(Folder& folder, std::span<const std::string> ids);
/// Removes every file of the store.
Result<std::string> remove_all(Folder& folder);

}  // namespace ds4::kvstore
