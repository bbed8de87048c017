#!/usr/bin/env bash
# Builds and runs tests: scripts/test.sh STEP...
#   release   everything, optimized; all tests but those labelled deep
#   parsers   what reads bytes from outside, under ASan and UBSan
#   arm64     cross build; unit tests, fuzz corpora and tests labelled arm64 under qemu-user
#   asan      all tests under ASan and UBSan
#   tsan      tests with threads under TSan
#   fuzz      every fuzz target for FUZZ_SECONDS (120)
#   deep      tests labelled deep, and every executable tests/*/deep.sh
# A failed step does not keep the next ones from running. The last line is "N passed, N failed"; it is also left in
# build/reports/summary, beside one JUnit file per step.
set -uo pipefail
cd "$(dirname "$0")/.."

passed=0
failed=0
failures=()
reports=$PWD/build/reports
rm -rf "$reports"
mkdir -p "$reports"

finish() {
  for failure in "${failures[@]}"; do echo "FAILED: $failure"; done
  echo "$passed passed, $failed failed" | tee "$reports/summary"
}
trap finish EXIT
trap 'fail interrupted; exit 1' INT TERM

fail() {
  failed=$((failed + 1))
  failures+=("$1")
}

# build PRESET [TARGET...]: configures and builds; says so and fails the step when that does not work.
build() {
  local preset=$1 start=$SECONDS
  shift
  local targets=()
  (( $# > 0 )) && targets=(--target "$@")
  if cmake --preset "$preset" ${configure[@]+"${configure[@]}"} >"$reports/configure-$preset.log" 2>&1 &&
     cmake --build "build/$preset" ${targets[@]+"${targets[@]}"}; then
    echo "== $preset: built in $((SECONDS - start)) s"
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
  echo "== $step: $ran passed, $lost failed in $((SECONDS - start)) s"
}

step_release() {
  build release && run_ctest release release -LE '^deep$'
  tests/arch/report_sizes.sh src
}

step_parsers() { build debug parser_tests && run_ctest parsers debug -L '^parser$' -LE '^deep$'; }

step_asan() { build debug && run_ctest asan debug -LE '^deep$'; }

step_tsan() { build tsan thread_tests && run_ctest tsan tsan -L '^threads$' -LE '^deep$'; }

step_arm64() {
  if ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64 >/dev/null; then
    echo "== arm64: left out, no aarch64-linux-gnu-g++ or no qemu-aarch64 (scripts/install_packages.sh arm64)"
    return
  fi
  configure=(-DDS4_CORE_ONLY=OFF)
  if ! scripts/arm64_sysroot.sh; then
    echo "== arm64: no utf8proc for arm64, so only base, quant, gguf, backend and model are tested"
    configure=(-DDS4_CORE_ONLY=ON)
  fi
  build arm64 && run_ctest arm64 arm64 -L '^(unit|fuzz|arm64)$' -LE '^deep$'
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
  build release || return
  if ctest --test-dir build/release -N -L '^deep$' | grep -q 'Total Tests: [1-9]'; then
    run_ctest deep release -L '^deep$' --timeout 7200
  fi
  local script
  for script in tests/*/deep.sh; do
    [[ -x $script ]] || continue
    if "$script"; then passed=$((passed + 1)); else fail "$script"; fi
  done
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
