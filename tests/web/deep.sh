#!/usr/bin/env bash
# The page of ds4-server in Chromium, with a script in place of the model. Pictures of it are left in build/web.
set -euo pipefail
cd "$(dirname "$0")/../.."
server=$PWD/build/release/bin/ds4-server
if [[ ! -x $server ]]; then
  echo "web: there is no $server (libboost-dev or libssl-dev missing?)" >&2
  exit 1
fi
scripts/install_packages.sh browser || true
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [[ -z $chromium ]]; then
  echo "web: SKIPPED, there is no Chromium and it cannot be installed" >&2
  exit 0
fi
if ! command -v npm >/dev/null; then
  echo "web: SKIPPED, there is no npm" >&2
  exit 0
fi
work=$PWD/build/web
mkdir -p "$work"
cp tests/web/package.json tests/web/page.mjs "$work"
if ! (cd "$work" && npm install --no-audit --no-fund --silent); then
  echo "web: SKIPPED, the npm registry cannot be reached" >&2
  exit 0
fi
"$server" -m models/ds4-nano.gguf --script tests/web/script.json --port 0 2>"$work/server.log" &
pid=$!
trap 'kill $pid 2>/dev/null || true' EXIT
port=
for _ in $(seq 100); do
  port=$(sed -n 's/.*event=listening.* port=\([0-9]*\).*/\1/p' "$work/server.log")
  [[ -n $port ]] && grep -q event=serving "$work/server.log" && break
  sleep 0.1
done
(cd "$work" && node page.mjs "http://127.0.0.1:$port" "$chromium" "$work")
