#!/usr/bin/env bash
# Builds and runs tests: scripts/test.sh STEP...
#   release   everything, optimized; all tests but those labelled deep
#   parsers   what reads bytes from outside, under ASan and UBSan: every fuzz corpus, and the parsers' own unit tests
#   arm64     cross build of formats and kernels; their tests under qemu-user
#   arm64_all the same with everything: programs, text, fuzz corpora, a golden set
#   cuda      compiles the device code for one card, where there is an nvcc
#   asan      all tests under ASan and UBSan
#   tsan      tests with threads under TSan
#   fuzz      every fuzz target for FUZZ_SECONDS (120)
#   deep      tests labelled deep: whole tables, kills, soak, programs of others from npm
# A failed step does not keep the next ones from running. The last line is "N passed, N failed"; it is also left in
# build/reports/summary, beside one JUnit file per step. What could not be run is named above it.
set -uo pipefail
cd "$(dirname "$0")/.."

passed=0
failed=0
failures=()
skipped=()  # no registry, no browser, no instruction set
reports=$PWD/build/reports
rm -rf "$reports"
mkdir -p "$reports"

finish() {
  for name in "${skipped[@]}"; do echo "SKIPPED: $name"; done
  for failure in "${failures[@]}"; do echo "FAILED: $failure"; done
  echo "$passed passed, $failed failed" | tee "$reports/summary"
}
trap finish EXIT
trap 'fail interrupted; exit 1' INT TERM

fail() {
  failed=$((failed + 1))
  failures+=("$1")
}

# Processor time of everything this script has run so far, in seconds.
processor_seconds() { awk '{ printf "%d", ($16 + $17) / 100 }' "/proc/$$/stat"; }  # of children that have ended

# build PRESET [TARGET...]: configures and builds; says so and fails the step when that does not work.
build() {
  local preset=$1 start=$SECONDS before after
  before=$(processor_seconds)
  shift
  local targets=()
  (( $# > 0 )) && targets=(--target "$@")
  if cmake --preset "$preset" ${configure[@]+"${configure[@]}"} >"$reports/configure-$preset.log" 2>&1 &&
     cmake --build "build/$preset" ${targets[@]+"${targets[@]}"}; then
    after=$(processor_seconds)
    echo "== $preset: built in $((SECONDS - start)) s, $((after - before)) s of processor time"
  else
    grep -A9 'CMake Error' "$reports/configure-$preset.log"
    fail "$preset: build"
    return 1
  fi
}
configure=()

# run_ctest STEP PRESET [ctest arguments]: runs tests and adds up what the JUnit report says.
run_ctest() {
  local step=$1 preset=$2 report=$reports/$1.xml start=$SECONDS
  shift 2
  ctest --test-dir "build/$preset" --output-on-failure --no-tests=error --timeout 900 -j "$(nproc)" \
        --output-junit "$report" "$@"
  if [[ ! -s $report ]]; then
    fail "$step: ctest"
    return
  fi
  local ran lost
  ran=$(grep -c '<testcase .*status="run"' "$report")
  lost=$(grep -c '<testcase .*status="fail"' "$report")
  passed=$((passed + ran))
  while IFS= read -r name; do fail "$step: $name"; done < <(
    sed -n 's/.*<testcase name="\([^"]*\)".*status="fail".*/\1/p' "$report")
  while IFS= read -r name; do skipped+=("$step: $name"); done < <(
    sed -n 's/.*<testcase name="\([^"]*\)".*status="notrun".*/\1/p' "$report")
  echo "== $step: $ran passed, $lost failed in $((SECONDS - start)) s"
}

step_release() {
  build release && run_ctest release release -LE '^deep$'
  tests/arch/report_sizes.sh src
}

# Not the unit tests of everything above the parsers: they take longer to compile than all the rest together (see asan).
step_parsers() {
  build debug fuzzers gguf_test tokenizer_test &&
    run_ctest parsers debug -R '^(fuzz\..*|unit\.(gguf|tokenizer))$'
}

step_asan() { build debug && run_ctest asan debug -LE '^deep$'; }

step_tsan() { build tsan thread_tests && run_ctest tsan tsan -L '^threads$' -LE '^deep$'; }

has_arm64() {
  command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null && return
  echo "== arm64: left out, no aarch64-linux-gnu-g++ or no qemu-aarch64 (scripts/install_packages.sh arm64)"
  return 1
}

step_arm64() {
  has_arm64 || return 0
  configure=(-DDS4_CORE_ONLY=ON)
  build arm64 base_test quant_test gguf_test backend_test ds4-conformance &&
    run_ctest arm64 arm64 -R '^(unit\.(base|quant|gguf|backend)|conformance)$' -LE '^deep$'
  configure=()
}

step_arm64_all() {
  has_arm64 || return 0
  if ! scripts/arm64_sysroot.sh; then
    fail "arm64_all: no utf8proc for arm64"
    return
  fi
  configure=(-DDS4_CORE_ONLY=OFF)
  build arm64 && run_ctest arm64 arm64 -L '^(unit|fuzz|arm64)$' -LE '^deep$'
  configure=()
}

# One architecture, hardly optimised: does it compile? Results come from bench/gpu_check.sh on a card.
step_cuda() {
  if ! PATH=$PATH:/usr/local/cuda/bin command -v nvcc >/dev/null; then
    echo "== cuda: left out, no nvcc"
    return 0
  fi
  configure=(-DDS4_CORE_ONLY=ON -DDS4_CUDA_ARCHITECTURES=90a-real "-DCMAKE_CUDA_FLAGS=-Xcicc -O0 -Xptxas -O0" -DDS4_BUILD_TESTS=OFF
             -DCMAKE_CXX_FLAGS_RELEASE=-O0)
  build cuda ds4_backend && passed=$((passed + 1))
  configure=()
}

step_fuzz() {
  build fuzz fuzzers || return
  local line
  while IFS= read -r line; do
    echo "$line"
    case $line in
      "fuzz "*": FAILED"*) fail "$line" ;;
      "fuzz "*" clean") passed=$((passed + 1)) ;;
    esac
  done < <(scripts/fuzz.sh 2>&1)
}

step_deep() {
  build release && run_ctest deep release -L '^deep$' --timeout 7200
}

for step in "$@"; do
  if ! declare -F "step_$step" >/dev/null; then
    echo "test.sh: no step named '$step'" >&2
    fail "$step"
    continue
  fi
  "step_$step"
done
(( failed == 0 ))
