#!/usr/bin/env bash
# Fetches the arm64 libraries that the cross build links (utf8proc) into build/arm64-sysroot, through apt but without
# adding an architecture to the machine: lists and cache live in a folder of our own. Does nothing when they are there.
set -euo pipefail
cd "$(dirname "$0")/.."

sysroot=build/arm64-sysroot
[[ -e $sysroot/usr/lib/aarch64-linux-gnu/libutf8proc.a ]] && exit 0

apt=$PWD/build/arm64-apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/deb"
options=(-qq -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt/cache"
         -o APT::Architecture=arm64 -o APT::Architectures=arm64)
(( $(id -u) == 0 )) && options+=(-o APT::Sandbox::User=root)
apt-get "${options[@]}" update
(cd "$apt/deb" && apt-get "${options[@]}" download libutf8proc-dev)
mkdir -p "$sysroot"
for deb in "$apt"/deb/*.deb; do dpkg-deb -x "$deb" "$sysroot"; done
rm -f "$sysroot"/usr/lib/aarch64-linux-gnu/*.so*  # only the archive: nothing to find at run time
rm -rf "$apt"
