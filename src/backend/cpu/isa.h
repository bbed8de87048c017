// Which instruction sets this machine has, and their kernel tables.
#pragma once

#include <span>
#include <string>

#include "backend/cpu/kernels.h"
#include "base/result.h"

namespace ds4::cpu {

/// The tables this machine can run, best first; the last one is always "scalar".
std::span<const KernelTable* const> available_tables();

/// The table of this name; of DS4_CPU_ISA if `name` is empty; the best one if that is empty, too.
Result<const KernelTable*> choose_table(const std::string& name);

}  // namespace ds4::cpu
