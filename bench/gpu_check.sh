#!/usr/bin/env bash
# Builds the kernels, the model and ds4-bench for the card of this machine, with nothing but CMake, Ninja, g++ and nvcc, and
# checks or times them:
#   bench/gpu_check.sh check    every op against the reference; a small full-size model, eager against replayed
#   bench/gpu_check.sh time     prefill and decode of the full-size synthetic model, and its ops
# Results go to ${OUT:-build/gpu/out}. Each part stays under nine minutes on one H200.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-$PWD/build/gpu/out}
mkdir -p "$out"
export PATH=/usr/local/cuda/bin:$PATH

build() {
  local architecture
  architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
  [[ $architecture == 90 ]] && architecture=90a
  cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DDS4_CORE_ONLY=ON -DDS4_CUDA=ON \
        -DDS4_CUDA_ARCHITECTURES="$architecture-real" >"$out/configure.log" 2>&1 || { tail -20 "$out/configure.log"; return 1; }
  ninja -C build/gpu ds4-conformance ds4-bench >"$out/build.log" 2>&1 || { grep -E 'error|FAILED' -A5 "$out/build.log" | head -60; return 1; }
}

bench() { build/gpu/bin/ds4-bench --device cuda --synthetic "$@"; }

check() {
  local status=0
  build/gpu/bin/ds4-conformance --device cuda || status=1
  local model
  for model in models/*.gguf ${MODELS:-}; do
    echo "== $model"
    build/gpu/bin/ds4-conformance --device cuda --model "$model" --verbose || status=1
  done
  return $status
}

timing() {
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader | tee "$out/card.txt"
  bench flash:43 --fill 2K,16K,64K,256K --gen-tokens 64 --csv "$out/decode.csv"
  bench flash:43 --ctx-start 4096 --ctx-max 16384 --step-incr 4096 --gen-tokens 0 --csv "$out/prefill.csv"
  bench flash:43 --fill 2K --gen-tokens 32 --sequences 16 --csv "$out/decode16.csv"
  bench flash:43 --ctx-start 4096 --ctx-max 4096 --gen-tokens 16 --ops --roof-gbps 4300 --roof-tflops 788
}

start=$SECONDS
build || exit 1
echo "== built in $((SECONDS - start)) s"
case ${1:-check} in
  check) check ;;
  time) timing ;;
  *) echo "usage: bench/gpu_check.sh check|time" >&2; exit 2 ;;
esac
