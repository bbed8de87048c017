#!/bin/sh
# Plants includes in a small tree and expects check_arrows.sh to refuse the bad ones and no other.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failures=0

# expect good|bad FILE INCLUDE
expect() {
  rm -rf "$tree/src"
  mkdir -p "$tree/src/$(dirname "$2")"
  printf '#include <vector>\n#include %s\n' "$3" >"$tree/src/$2"
  if "$here/check_arrows.sh" "$tree/src" >"$tree/out" 2>&1; then found=good; else found=bad; fi
  if [ "$found" = bad ] && ! grep -q "^$2:" "$tree/out"; then found="bad without naming the file"; fi
  if [ "$found" != "$1" ]; then
    echo "$2 with #include $3: expected $1, found $found"
    failures=$((failures + 1))
  fi
}

expect good gguf/file.h '"base/result.h"'
expect good gguf/file.cpp '"gguf/file.h"'
expect good gguf/file.cpp '"quant/dtype.h"'
expect good model/model.h '"backend/backend.h"'
expect good backend/cpu/linear.cpp '"backend/tensor.h"'
expect good backend/cpu/linear.cpp '"quant/codec.h"'
expect good backend/create.cpp '"backend/cpu/cpu_backend.h"'
expect good main/ds4.cpp '"backend/cpu/cpu_backend.h"'
expect good main/ds4.cpp '<CLI/CLI.hpp>'
expect good chat/json.cpp '<nlohmann/json.hpp>'
expect good engine/engine.h '"model/model.h"'

expect bad base/result.h '"gguf/file.h"'
expect bad gguf/file.h '"model/model.h"'
expect bad gguf/file_test.cpp '"model/model.h"'
expect bad model/model.cpp '"backend/cpu/cpu_backend.h"'
expect bad model/model.cpp '"backend/host_kv.h"'
expect bad backend/backend.h '"backend/cpu/cpu_backend.h"'
expect bad backend/other.cpp '"backend/cpu/cpu_backend.h"'
expect bad backend/cpu/linear.cpp '"backend/reference/linear.h"'
expect bad backend/cpu/linear.cpp '"model/model.h"'
expect bad engine/engine.cpp '"server/server.h"'
expect bad engine/engine.cpp '<nlohmann/json.hpp>'
expect bad engine/engine.cpp '"backend/tensor.h"'
expect bad server/server.cpp '"backend/backend.h"'
expect bad engine/engine.cpp '"engine.h"'
expect bad engine/engine.cpp '"engine/../server/server.h"'
expect bad engine/engine.cpp '<server/server.h>'
expect bad engine/engine.cpp 'SOME_MACRO'
expect bad util/strings.h '"base/text.h"'

# Odd spelling must not hide an include.
expect bad gguf/file.h '  "model/model.h"  // why not'
rm -rf "$tree/src"
mkdir -p "$tree/src/gguf"
printf '  #  include"model/model.h"\n' >"$tree/src/gguf/file.h"
if "$here/check_arrows.sh" "$tree/src" >/dev/null; then
  echo 'an include with odd spaces was not seen'
  failures=$((failures + 1))
fi

[ "$failures" -eq 0 ]
