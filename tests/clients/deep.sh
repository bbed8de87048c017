#!/usr/bin/env bash
# The vendors' SDKs, installed from npm now, against the real server with the bundled model.
set -euo pipefail
. "$(dirname "$0")/../npm_and_server.sh"
begin clients
npm_packages clients.mjs
serve
(cd "$work" && node clients.mjs "$url")
