#!/usr/bin/env bash
# Builds the kernels, the model and ds4-bench for the card of this machine, with nothing but CMake, Ninja, g++ and nvcc, and
# checks or times them:
#   bench/gpu_check.sh check    every op against the reference; a card that is made to fail; a small full-size model, eager against replayed
#   bench/gpu_check.sh time     prefill and decode of the full-size synthetic model, and its ops
#   bench/gpu_check.sh sanitize  the shipped model under Compute Sanitizer
#   bench/gpu_check.sh golden   golden sets, and 20 prompts against the CPU's exact path; needs the libraries of a full build
#                               (CMAKE_PREFIX_PATH may say where)
# Results go to ${OUT:-build/gpu/out}. Each part stays under nine minutes on one H200.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-$PWD/build/gpu/out}
mkdir -p "$out"
export PATH=/usr/local/cuda/bin:$PATH

build() {
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
  build/gpu/bin/ds4-conformance --device cuda --fault || status=1
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
  local n
  for n in 2 4 8 16; do bench flash:43 --fill 2K --gen-tokens 32 --sequences "$n" --csv "$out/decode$n.csv"; done
  bench flash:43 --ctx-start 4096 --ctx-max 4096 --gen-tokens 16 --ops --roof-gbps 4300 --roof-tflops 788
}

sanitize() {
  local tool status=0
  for tool in memcheck racecheck initcheck; do
    echo "== $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 9 build/gpu/bin/ds4-conformance --device cuda --model models/ds4-nano.gguf --quick \
      >"$out/$tool.log" 2>&1 || status=1
    tail -3 "$out/$tool.log"
  done
  return $status
}

golden() {
  cmake -S . -B build/gpu-full -G Ninja -DCMAKE_BUILD_TYPE=Release -DDS4_CUDA=ON \
        -DDS4_CUDA_ARCHITECTURES="$architecture-real" >"$out/configure-full.log" 2>&1 || { tail -20 "$out/configure-full.log"; return 1; }
  ninja -C build/gpu-full golden_test ds4 >"$out/build-full.log" 2>&1 || { grep -E 'error|FAILED' -A5 "$out/build-full.log" | head -60; return 1; }
  local status=0 same=0 prompt text exact
  DS4_GOLDEN_DEVICE=cuda build/gpu-full/bin/golden_test --gtest_brief=1 || status=1
  while IFS= read -r prompt; do
    text=$(build/gpu-full/bin/ds4 -m models/ds4-nano.gguf --backend cuda --kv f32 --temp 0 --nothink -n 48 -p "$prompt" 2>/dev/null)
    exact=$(build/gpu-full/bin/ds4 -m models/ds4-nano.gguf --backend cpu --quality --kv f32 --temp 0 --nothink -n 48 -p "$prompt" 2>/dev/null)
    if [[ $text == "$exact" && -n $text ]]; then same=$((same + 1)); else printf 'differs: %s\n  cuda: %s\n  cpu:  %s\n' "$prompt" "$text" "$exact"; fi
  done <bench/prompts.txt
  echo "$same of $(wc -l <bench/prompts.txt) prompts answered alike"
  return $status
}

start=$SECONDS
build || exit 1
echo "== built in $((SECONDS - start)) s"
case ${1:-check} in
  check) check ;;
  time) timing ;;
  sanitize) sanitize ;;
  golden) golden ;;
  *) echo "usage: bench/gpu_check.sh check|time|sanitize|golden" >&2; exit 2 ;;
esac
