#!/usr/bin/env bash
# Eight conversations at once, and a short question beside a long prompt, on a CPU that nobody else uses:
#   bench/server_streams.sh [MODEL] [SECONDS]
# Without MODEL one of Flash's shapes with 4 layers and random weights is written once, 9.5 GB, to build/bench.
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:-build/bench/four-layers.gguf}
cmake --preset release >/dev/null
cmake --build build/release --target ds4-server ds4-synth-model >/dev/null
if [[ ! -e $model ]]; then
  mkdir -p "$(dirname "$model")"
  build/release/bin/ds4-synth-model "$model" --layers 4
fi
exec node bench/server_streams.mjs build/release/bin/ds4-server "$model" "${2:-20}"
