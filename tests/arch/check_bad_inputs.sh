#!/bin/sh
# check_bad_inputs.sh ROOT: every test that docs/bad-inputs.md names exists, and every row but those that say why has one.
set -eu
cd "$1"
status=0
for name in $(grep -o '`[A-Za-z0-9]*\.[A-Za-z0-9]*`' docs/bad-inputs.md | tr -d '`' | sort -u); do
  suite=${name%.*}
  test=${name#*.}
  case $name in
    arch.*) grep -rq "NAME arch.$test " tests/arch/CMakeLists.txt && continue ;;
    *) grep -rqE "^(TEST|TEST_F|TEST_P|RC_GTEST_PROP)\($suite, $test[,)]" src tests --include='*_test.cpp' && continue ;;
  esac
  echo "docs/bad-inputs.md: there is no test $name"
  status=1
done
if [ "$(grep -cE '^\| [HOCT][0-9]+ .*`' docs/bad-inputs.md)" -lt 36 ]; then
  echo "docs/bad-inputs.md: expected a test in at least 36 rows"
  status=1
fi
exit $status
