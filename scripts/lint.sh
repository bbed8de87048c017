#!/usr/bin/env bash
# clang-format (nothing may change) and clang-tidy over src/, or over the files named; and long files by name.
set -euo pipefail
cd "$(dirname "$0")/.."

mapfile -t all < <(git ls-files 'src/*.h' 'src/*.cpp' 'tests/*.h' 'tests/*.cpp')
clang-format-19 --dry-run -Werror "${all[@]}"

cmake --preset release >/dev/null
files=("$@")
(( ${#files[@]} > 0 )) || mapfile -t files < <(git ls-files 'src/*.cpp' ':!src/*_test.cpp')
printf '%s\n' "${files[@]}" | xargs -P "$(nproc)" -n 1 clang-tidy-19 -p build/release --quiet --warnings-as-errors='*'
tests/arch/report_sizes.sh src
