#!/usr/bin/env bash
# Claude Code, Codex, opencode and Pi, installed from npm now (1.2 GB), each through a whole tool loop with ds4-server and
# a script in place of the model: deep.sh [AGENT...]
set -euo pipefail
cd "$(dirname "$0")/../.."
server=$PWD/build/release/bin/ds4-server
if [[ ! -x $server ]]; then
  echo "agents: there is no $server (libboost-dev or libssl-dev missing?)" >&2
  exit 1
fi
if ! command -v npm >/dev/null; then
  echo "agents: SKIPPED, there is no npm" >&2
  exit 0
fi
work=$PWD/build/agents
mkdir -p "$work"
cp tests/agents/package.json tests/agents/agents.mjs "$work"
if ! (cd "$work" && npm install --no-audit --no-fund --silent); then
  echo "agents: SKIPPED, the npm registry cannot be reached" >&2
  exit 0
fi
DS4_EXAMPLES=$PWD/docs/examples node "$work/agents.mjs" "$server" "$PWD/models/ds4-nano.gguf" "$work" "$@"
