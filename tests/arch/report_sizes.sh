#!/bin/sh
# report_sizes.sh SRC [LINES]: names the source files longer than LINES (600), where a second idea may be hiding.
# A report, not a test: it never fails.
set -eu
limit=${2:-600}
find "$1" -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh' \) -exec wc -l {} + |
  awk -v limit="$limit" '$2 != "total" && $1 > limit { printf "note: %s has %d lines (over %d)\n", $2, $1, limit }' | sort
