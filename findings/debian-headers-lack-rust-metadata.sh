#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Debian's kernel headers promise Rust and cannot build a Rust module.
#
# Version: linux-headers-7.3.4+deb13-amd64 and -common, linux-kbuild-7.3.4+deb13, all 7.3.4-1~bpo13+1 (trixie-backports).
# Behaviour: the configuration says CONFIG_RUST=y, and Module.symvers exports thousands of Rust symbols to modules, but none
#   of the packages has what rustc needs to compile against the kernel's crates: no .rmeta file, no library of procedural
#   macros, no rust/Makefile, no target.json. A module in C builds against them, one in Rust does not.
# Output seen (2026-11-30):
#   CONFIG_RUST=y
#   CONFIG_RUSTC_VERSION_TEXT="rustc 1.85.1 (4eb161250 2025-03-15) (built from a source tarball)"
#   Rust symbols that the kernel exports: 2502
#   files that rustc could use: 0
#
# What dmaplane does about it: packaging/ builds the metadata anew from linux-source of the same version, by the same
# compiler, and refuses unless every one of the symbols is the same. See docs/install.md.
set -eu
version=7.3.4-1~bpo13+1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

# The machine's own mirror, read for another suite by a private configuration: /etc/apt stays as it is.
stanza=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
	awk -v RS= '/Types:[^\n]*deb/ && /Components:[^\n]*main/ && !/security/ { print; exit }')
if [ -n "$stanza" ]; then
	printf '%s\n' "$stanza" | sed 's/^Suites:.*/Suites: trixie-backports/; s/^Types:.*/Types: deb/' >private.sources
else
	sed -n 's/^deb \(.*\) [a-z]* main.*/deb \1 trixie-backports main/p' /etc/apt/sources.list | head -n 1 >private.list
fi
mkdir -p lists/partial cache/archives/partial
apt="apt-get -q -o Dir::Etc::SourceList=$(ls "$dir"/private.*) -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$dir/lists
	-o Dir::Cache=$dir/cache -o APT::Sandbox::User=root"
$apt update >apt.log 2>&1 || { cat apt.log; exit 1; }
for package in linux-headers-7.3.4+deb13-amd64 linux-headers-7.3.4+deb13-common linux-kbuild-7.3.4+deb13; do
	$apt download "$package=$version" >>apt.log 2>&1 || { cat apt.log; exit 1; }
done
for deb in *.deb; do dpkg-deb -x "$deb" root; done

headers=root/usr/src/linux-headers-7.3.4+deb13-amd64
grep -E '^CONFIG_RUST(=|C_VERSION_TEXT=)' $headers/.config
symbols=$(awk '$3 == "vmlinux" && $2 ~ /^_R/' $headers/Module.symvers | wc -l)
echo "Rust symbols that the kernel exports: $symbols"
usable=$(find root \( -name '*.rmeta' -o -name 'libmacros.so' -o -name target.json -o -path '*/rust/Makefile' \) | wc -l)
echo "files that rustc could use: $usable"
[ "$symbols" -gt 2000 ] && [ "$usable" -eq 0 ] && grep -q '^CONFIG_RUST=y' $headers/.config && exit 0
echo "this has changed: the headers may build Rust modules now"
exit 1
