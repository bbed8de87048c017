#!/usr/bin/env bash
# Installs the Debian packages that a job needs and that are missing:
#   install_packages.sh build|test|arm64|deep|browser ...
# Quick and offline when nothing is missing. Without root it only says what to run.
set -euo pipefail

declare -A packages=(
  [build]="build-essential cmake ninja-build ccache lld nlohmann-json3-dev libcli11-dev libutf8proc-dev pkg-config libboost-dev libssl-dev libxxhash-dev"
  [test]="libgtest-dev libgmock-dev librapidcheck-dev libpcre2-dev"
  [arm64]="g++-aarch64-linux-gnu qemu-user googletest libgtest-dev libgmock-dev"
  [browser]="chromium fonts-dejavu-core"
  [deep]="clang-19 libclang-rt-19-dev clang-format-19 clang-tidy-19"
)

wanted=()
for job in "${@:-build}"; do
  if [[ -z ${packages[$job]:-} ]]; then
    echo "install_packages.sh: expected build, test, arm64, deep or browser, found '$job'" >&2
    exit 2
  fi
  read -ra names <<<"${packages[$job]}"
  wanted+=("${names[@]}")
done

if ! command -v dpkg-query >/dev/null; then
  echo "Not a Debian system: the packages (${wanted[*]}) are taken to be present." >&2
  exit 0
fi

missing=()
for name in "${wanted[@]}"; do
  [[ $(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || missing+=("$name")
done
(( ${#missing[@]} == 0 )) && exit 0

if (( $(id -u) != 0 )); then
  echo "Missing Debian packages. As root, run:" >&2
  echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi

echo "Installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
if ! apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; then
  echo "apt-get could not install them all; the names are those of Debian 12 (bookworm)." >&2
  exit 1
fi
