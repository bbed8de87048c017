#!/usr/bin/env bash
# Claude Code, Codex, opencode and Pi, installed from npm now (1.2 GB), each through a whole tool loop with ds4-server and
# a script in place of the model: deep.sh [AGENT...]
set -euo pipefail
. "$(dirname "$0")/../npm_and_server.sh"
begin agents
npm_packages agents.mjs
DS4_EXAMPLES=$PWD/docs/examples node "$work/agents.mjs" "$server" "$PWD/models/ds4-nano.gguf" "$work" "$@"
