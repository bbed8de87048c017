#!/usr/bin/env bash
# Runs every fuzz target of build/fuzz for FUZZ_SECONDS (120) each, or only those named. The corpus in the tree is read,
# never written: what libFuzzer finds goes to a temporary folder, a crashing input to build/fuzz/crashes.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-120}
jobs=${FUZZ_JOBS:-$(nproc)}

names=("$@")
if (( ${#names[@]} == 0 )); then
  for source in tests/fuzz/*_fuzz.cpp; do
    [[ -e $source ]] || { echo "No fuzz targets in tests/fuzz." >&2; exit 1; }
    name=$(basename "$source" _fuzz.cpp)
    names+=("$name")
  done
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
crashes=$PWD/build/fuzz/crashes
mkdir -p "$crashes"

# One target in the background; its log and exit status are left in $work.
fuzz() {
  local name=$1 corpus=tests/fuzz/corpus/$1 status=0
  mkdir -p "$work/$name"
  [[ -d $corpus ]] && cp -r "$corpus/." "$work/$name"
  local options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
                 -artifact_prefix="$crashes/$name-")
  [[ -e tests/fuzz/$name.dict ]] && options+=(-dict="tests/fuzz/$name.dict")
  "build/fuzz/bin/${name}_fuzz" "${options[@]}" "$work/$name" >"$work/$name.log" 2>&1 || status=$?
  echo "$status" >"$work/$name.status"
}

for name in "${names[@]}"; do
  while (( $(jobs -rp | wc -l) >= jobs )); do wait -n; done
  fuzz "$name" &
done
wait

failed=0
for name in "${names[@]}"; do
  if [[ $(cat "$work/$name.status") == 0 ]]; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$name.log")
    echo "fuzz $name: $seconds s, ${runs:-?} inputs, clean"
  else
    tail -n 60 "$work/$name.log"
    echo "fuzz $name: FAILED, the input is in $crashes"
    failed=$((failed + 1))
  fi
done
exit $(( failed > 0 ))
