#!/bin/sh
# Compares our tokenizer with Hugging Face's JavaScript one over the complete DeepSeek tables: the committed cases, every
# code point in small contexts, random text, this repository's files, and any text files given as arguments.
# Needs node 20 and npm (the packages are downloaded on the first run) and a built tokenizer_test.
#
#   scripts/tokenizer_golden.sh [TEXT...]             compare
#   scripts/tokenizer_golden.sh --regenerate          rewrite src/tokenizer/testdata from tests/tokenizer-npm/cases.mjs
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
reference=$root/tests/tokenizer-npm
[ -d "$reference/node_modules" ] || npm install --prefix "$reference" --no-audit --no-fund --no-package-lock

if [ "${1:-}" = --regenerate ]; then
  exec node "$reference/golden.mjs" "$root/src/tokenizer/testdata"
fi

test_program=${DS4_TOKENIZER_TEST:-$root/build/release/bin/tokenizer_test}
[ -x "$test_program" ] || { echo "$test_program: build it first, or name another with DS4_TOKENIZER_TEST" >&2; exit 2; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
find "$root/src" "$root/tests" "$root/docs" "$reference/node_modules" \
     \( -name '*.cpp' -o -name '*.h' -o -name '*.md' -o -name '*.mjs' \) -type f -size -300k 2>/dev/null | sort > "$out/files"
for text in "$@"; do realpath "$text"; done >> "$out/files"
tr '\n' '\0' < "$out/files" | xargs -0 node --max-old-space-size=4096 "$reference/golden.mjs" "$out" --full
DS4_TOKENIZER_DATA=$out "$test_program" --gtest_filter='Golden.*' --gtest_brief=1
