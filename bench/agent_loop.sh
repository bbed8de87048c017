#!/usr/bin/env bash
# An agent's day with ds4-nano: 40 turns to 16 K tokens, the tail edited every fifth turn, the server restarted in the
# middle. What is computed and written against what is new; exit status 1 when it is too much.
#   bench/agent_loop.sh [turns] [tokens] [--kill]
set -euo pipefail
cd "$(dirname "$0")/.."
cmake --preset release >/dev/null
cmake --build build/release --target agent_loop >/dev/null
exec build/release/bin/agent_loop "$@"
