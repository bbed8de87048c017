// `ds4 --inspect`: what is in a model file and what it would take to run it, from the header alone.
#pragma once

#include "cli/console.h"
#include "engine/engine.h"

namespace ds4::cli {

/// Metadata, shape, tensors by group, sizes of the KV state, and the memory plan for `options`, on stdout. A plan that
/// cannot be made (a missing tensor, no such device) is an Error, after everything else was printed.
Status inspect(Console& console, const ModelFile& file, const EngineOptions& options);

}  // namespace ds4::cli
