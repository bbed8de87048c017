#!/bin/sh
# check_arrows.sh SRC [ARROWS]: fails when a file under SRC includes what arrows.txt does not allow.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
arrows=$(realpath "${2:-$here/arrows.txt}")
cd "$1"
find . -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh' \) |
  sed 's|^\./||' | sort | xargs awk -f "$here/check_arrows.awk" "$arrows"
