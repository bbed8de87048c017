#!/usr/bin/env bash
# soak.sh [SECONDS]: mixed good and hostile traffic against ds4-server with the bundled model, 30 minutes by default.
set -euo pipefail
cd "$(dirname "$0")/../.."
server=$PWD/build/release/bin/ds4-server
if [[ ! -x $server ]]; then
  echo "soak: there is no $server (libboost-dev or libssl-dev missing?)" >&2
  exit 1
fi
if ! command -v node >/dev/null; then
  echo "soak: SKIPPED, there is no node" >&2
  exit 0
fi
exec node tests/soak/soak.mjs "$server" models/ds4-nano.gguf "${1:-1800}"
