// The script of a ScriptedModel from a JSON file: {"rules": [{"when", "reasoning", "reply", "token_ms", "prompt_ms",
// "fail_at", "down_at", "rebuild_ms", "stays_down"}]}.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "engine/scripted_model.h"

namespace ds4::server {

Result<std::vector<ScriptRule>> read_script(const std::string& path);

}  // namespace ds4::server
