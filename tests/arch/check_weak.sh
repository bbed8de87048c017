#!/bin/sh
# check_weak.sh NM OBJECT...: fails when an object defines weak symbols.
#
# Files compiled for one instruction set must not emit inline functions that other files emit too: the linker keeps one
# copy of each, and if it keeps the AVX-512 one, the program dies on a machine without AVX-512 in code that never asked
# for it. One std::max or std::vector in such a file can be enough.
set -eu
nm=$1
shift
status=0
for object in "$@"; do
  # W and V: weak, u: unique. DW.ref.* are pointers for exception tables, the same on every machine.
  found=$("$nm" --defined-only --demangle "$object" | awk '$2 ~ /^[WVu]$/ && $3 !~ /^DW\.ref\./')
  if [ -n "$found" ]; then
    echo "$object is compiled for an instruction set and defines weak symbols:"
    echo "$found"
    status=1
  fi
done
exit $status
