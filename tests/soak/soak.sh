#!/usr/bin/env bash
# soak.sh [SECONDS]: mixed good and hostile traffic against ds4-server with the bundled model, 30 minutes by default.
set -euo pipefail
. "$(dirname "$0")/../npm_and_server.sh"
begin soak
command -v node >/dev/null || leave_out "there is no node"
exec node tests/soak/soak.mjs "$server" models/ds4-nano.gguf "${1:-1800}"
