// Which model file `ds4` opens when -m does not say: ds4flash.gguf in the current folder, then the one that came with
// the program.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace ds4::cli {

/// Folders that may hold a model installed beside the program at `executable`: models/ in the folders above it (a
/// source tree), and share/ds4/models of its prefix.
std::vector<std::string> installed_model_folders(const std::string& executable);

/// `asked` if not empty; otherwise looks as described above. The error tells how to get a model.
Result<std::string> find_model(const std::string& asked, const std::vector<std::string>& folders);

/// The path of the running program.
std::string executable_path();

}  // namespace ds4::cli
