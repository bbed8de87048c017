#!/bin/sh
# check_weak_selftest.sh NM BAD GOOD: the check must refuse the object with an STL function and accept the other.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if out=$("$here/check_weak.sh" "$1" "$2"); then
  echo "$2 uses std::max and was accepted"
  exit 1
fi
case $out in
  *std::max*) ;;
  *) echo "refused, but nothing of std::max is named: $out"; exit 1 ;;
esac
"$here/check_weak.sh" "$1" "$3"
