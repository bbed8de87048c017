#include "backend/cpu/isa.h"

#include <cstdlib>
#include <string_view>
#include <vector>

#include "base/cpus.h"
#include "base/text.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace ds4::cpu {

extern const KernelTable kScalarTable;
#if defined(__x86_64__)
extern const KernelTable kAvx2Table;
extern const KernelTable kAvx512Table;
extern const KernelTable kAmxTable;
#elif defined(__aarch64__)
extern const KernelTable kNeonTable;
extern const KernelTable kNeonDotTable;
#endif

namespace {

std::vector<const KernelTable*> probe() {
  std::vector<const KernelTable*> tables;
#if defined(__x86_64__)
  // These ask the operating system as well: registers that it does not save do not count.
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
  if (avx2 && avx512) tables.push_back(&kAvx512Table);
  if (avx2 && avx512 && has_amx_int8())
    tables.push_back(&kAmxTable);  // by name only: docs/decisions/tiles-for-streaming.md
  if (avx2) tables.push_back(&kAvx2Table);
#elif defined(__aarch64__)
#if defined(__linux__)
  if ((::getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) tables.push_back(&kNeonDotTable);
#else
  tables.push_back(&kNeonDotTable);  // every Apple CPU has it
#endif
  tables.push_back(&kNeonTable);
#endif
  tables.push_back(&kScalarTable);
  return tables;
}

}  // namespace

std::span<const KernelTable* const> available_tables() {
  static const std::vector<const KernelTable*> tables = probe();
  return tables;
}

Result<const KernelTable*> choose_table(const std::string& name) {
  std::string wanted = name;
  std::string_view source = "cpu backend";
  if (wanted.empty()) {
    const char* variable = std::getenv("DS4_CPU_ISA");
    if (variable != nullptr) wanted = variable;
    source = "DS4_CPU_ISA";
  }
  if (wanted.empty()) return available_tables().front();
  std::string names;
  for (const KernelTable* table : available_tables()) {
    if (wanted == table->name) return table;
    if (!names.empty()) names += ", ";
    names += table->name;
  }
  return Error{ErrorCode::kUsage, cat(source, ": instruction set \"", escaped(wanted), "\": this machine has ", names)};
}

}  // namespace ds4::cpu
