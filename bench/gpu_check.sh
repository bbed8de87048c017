#!/usr/bin/env bash
# Builds the kernels, the model and ds4-bench for the card of this machine, with nothing but CMake, Ninja, g++ and nvcc, and
# checks or times them:
#   bench/gpu_check.sh check    every op against the reference; a card that is made to fail; layers of Flash and of PRO and the shipped
#                               model: against the exact cpu path, alone, in batches and in portions, eager and replayed
#   bench/gpu_check.sh time     prefill and decode of the full-size synthetic Flash, its ops, a load from a file; 10 layers of PRO; all cards
#   bench/gpu_check.sh sanitize  the shipped model and the ops under Compute Sanitizer
#   bench/gpu_check.sh golden   golden sets, 20 prompts against the CPU's exact path, the shipped model with types mixed; needs
#                               the libraries of a full build (CMAKE_PREFIX_PATH may say where)
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
  build/gpu/bin/ds4-conformance --device cuda --synthetic flash:4 --verbose || status=1
  build/gpu/bin/ds4-conformance --device cuda --synthetic pro:4 --verbose || status=1
  local model
  for model in models/*.gguf ${MODELS:-}; do
    echo "== $model"
    build/gpu/bin/ds4-conformance --device cuda --model "$model" --verbose || status=1
  done
  return $status
}

timing() {
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader | tee "$out/card.txt"
  bench flash:43 --fill 2K,16K,64K,256K,1M --gen-tokens 64 --repeat 3 --csv "$out/decode.csv"
  bench flash:43 --ctx-start 4096 --ctx-max 16384 --step-incr 4096 --gen-tokens 0 --csv "$out/prefill.csv"
  bench flash:43 --ctx-start 262144 --ctx-max 262144 --gen-tokens 0 --csv "$out/prefill-long.csv"
  local n
  for n in 2 4 8 16; do bench flash:43 --fill 2K --gen-tokens 32 --repeat 3 --sequences "$n" --csv "$out/decode$n.csv"; done
  bench flash:43 --ctx-start 4096 --ctx-max 4096 --gen-tokens 16 --ops --ops-csv "$out/ops.csv" --roof-gbps 4300 --roof-tflops 788
  bench pro:10 --fill 2K,64K,1M --gen-tokens 64 --repeat 3 --csv "$out/pro-decode.csv"
  bench pro:10 --ctx-start 4096 --ctx-max 4096 --gen-tokens 0 --csv "$out/pro-prefill.csv"
  load
  (( $(nvidia-smi --list-gpus | wc -l) < 2 )) || several
}

# A file in memory, read as any file is: as many layers as half the memory holds.
load() {
  local room layers file=/dev/shm/ds4-load.gguf
  room=$(($(df --output=avail -B1G /dev/shm | tail -1) - 4))
  layers=$((room / 2)); ((layers <= 43)) || layers=43
  echo "== load of flash:$layers from $file"
  bench "flash:$layers" --synthetic-cache "$file" --fill 2K --gen-tokens 4 --csv "$out/load.csv"
  rm -f "$file"
}

# The same model on one card and on all.
several() {
  local all
  all=$(nvidia-smi --query-gpu=index --format=csv,noheader | sed 's/^/cuda:/' | paste -sd,)
  build/gpu/bin/ds4-conformance --device "$all" --model models/ds4-nano.gguf
  build/gpu/bin/ds4-bench --device "$all" --synthetic flash:43 --ctx-start 16384 --ctx-max 16384 --prefill-chunk 16384 --gen-tokens 32 \
    --csv "$out/several.csv"
}

sanitize() {
  local status=0
  check_with() {
    local tool=$1
    shift
    echo "== $tool $*"
    compute-sanitizer --tool "$tool" --error-exitcode 9 build/gpu/bin/ds4-conformance --device cuda "$@" >"$out/$tool.log" 2>&1 || status=1
    tail -3 "$out/$tool.log"
  }
  check_with memcheck --quick --model models/ds4-nano.gguf
  check_with initcheck --quick --model models/ds4-nano.gguf
  check_with racecheck --quick  # every op on small and uneven shapes: a model's thousands of steps take too long under it
  # Kernels of the real dims; racecheck needs long for PRO's.
  check_with memcheck --only "kv flash fp8 ratio 4" --only "kv pro fp8 ratio 4"
  check_with racecheck --only "kv flash fp8 ratio 4"
  return $status
}

golden() {
  cmake -S . -B build/gpu-full -G Ninja -DCMAKE_BUILD_TYPE=Release -DDS4_CUDA=ON \
        -DDS4_CUDA_ARCHITECTURES="$architecture-real" >"$out/configure-full.log" 2>&1 || { tail -20 "$out/configure-full.log"; return 1; }
  ninja -C build/gpu-full golden_test ds4 ds4-quantize >"$out/build-full.log" 2>&1 || { grep -E 'error|FAILED' -A5 "$out/build-full.log" | head -60; return 1; }
  local status=0 same=0 prompt text exact
  DS4_GOLDEN_DEVICE=cuda build/gpu-full/bin/golden_test --gtest_brief=1 || status=1
  while IFS= read -r prompt; do
    text=$(build/gpu-full/bin/ds4 -m models/ds4-nano.gguf --backend cuda --kv f32 --temp 0 --nothink -n 48 -p "$prompt" 2>/dev/null)
    exact=$(build/gpu-full/bin/ds4 -m models/ds4-nano.gguf --backend cpu --quality --kv f32 --temp 0 --nothink -n 48 -p "$prompt" 2>/dev/null)
    if [[ $text == "$exact" && -n $text ]]; then same=$((same + 1)); else printf 'differs: %s\n  cuda: %s\n  cpu:  %s\n' "$prompt" "$text" "$exact"; fi
  done <bench/prompts.txt
  echo "$same of $(wc -l <bench/prompts.txt) prompts answered alike"
  # Types that no published file mixes take other ways through a layer.
  local mixed=$out/mixed.gguf
  build/gpu-full/bin/ds4-quantize --in models/ds4-nano.gguf --out "$mixed" --overwrite --experts mxfp4 \
    --tensor 'blk.*.indexer_compressor_kv.weight=bf16' --tensor 'blk.*.ffn_gate_inp.weight=f16' >/dev/null || status=1
  build/gpu/bin/ds4-conformance --device cuda --model "$mixed" --verbose || status=1
  rm -f "$mixed"
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
