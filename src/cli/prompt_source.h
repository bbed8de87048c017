// Reading what the user points at: prompt files, standard input, lists of token ids.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"

namespace ds4::cli {

/// All bytes of a file; "-" is standard input.
Result<std::string> read_input(const std::string& path);

/// Decimal token ids separated by white space or commas.
Result<std::vector<TokenId>> parse_token_ids(std::string_view text, const std::string& name);

}  // namespace ds4::cli
