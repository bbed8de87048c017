#!/bin/sh
# check_regex.sh SRC: nothing in the programs is matched by std::regex, whose recursion a long text can drive off the stack.
set -eu
if grep -rnE '#include <regex>|std::regex' "$1" --include='*.h' --include='*.cpp' | grep -v '_test\.cpp:'; then
  exit 1
fi
