#!/usr/bin/env bash
# The vendors' SDKs, installed from npm now, against the real server with the bundled model.
set -euo pipefail
cd "$(dirname "$0")/../.."
server=$PWD/build/release/bin/ds4-server
if [[ ! -x $server ]]; then
  echo "clients: there is no $server (libboost-dev missing?)" >&2
  exit 1
fi
if ! command -v npm >/dev/null; then
  echo "clients: SKIPPED, there is no npm" >&2
  exit 0
fi
work=$PWD/build/clients
mkdir -p "$work"
cp tests/clients/package.json tests/clients/clients.mjs "$work"
if ! (cd "$work" && npm install --no-audit --no-fund --silent); then
  echo "clients: SKIPPED, the npm registry cannot be reached" >&2
  exit 0
fi
"$server" -m models/ds4-nano.gguf --port 0 2>"$work/server.log" &
pid=$!
trap 'kill $pid 2>/dev/null || true' EXIT
port=
for _ in $(seq 100); do
  port=$(sed -n 's/.*event=listening.* port=\([0-9]*\).*/\1/p' "$work/server.log")
  [[ -n $port ]] && grep -q event=serving "$work/server.log" && break
  sleep 0.1
done
(cd "$work" && node clients.mjs "http://127.0.0.1:$port")
