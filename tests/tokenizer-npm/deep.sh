#!/bin/sh
# The tokenizer against Hugging Face's over the complete tables, for `make test-deep`. Needs node, npm and their registry.
set -eu
if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
  echo "tokenizer comparison left out: no node or npm"
  exit 77
fi
exec "$(dirname "$0")/../../scripts/tokenizer_golden.sh"
