#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# `rustfmt --check` finds what is wrong with a file on its standard input, prints it, and exits with 0.
#
# Version: rustfmt 1.9.0 of Rust 1.95.0.
# Behaviour: given by name, an unformatted file makes `rustfmt --check` print the difference and exit with 1. The same file on
#   standard input makes it print the same difference, and exit with 0. A check that relies on the exit code always passes.
# Output seen (2026-11-30):
#   by name: exit 1, 4 lines of differences
#   on standard input: exit 0, 4 lines of differences
#
# What dmaplane does about it: the driver's files are checked on standard input, because rustfmt would follow their modules
# into files of another style. The lint relies on what rustfmt prints (xtask/src/lint/mod.rs), and a test checks that it finds
# something.
set -eu
version=1.95.0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
rustup=$(command -v rustup)
export RUSTUP_HOME=$dir/rustup
$rustup -q toolchain install "$version" --profile minimal --component rustfmt --no-self-update >install.log 2>&1 ||
	{ cat install.log; exit 1; }
rustfmt() { RUSTUP_TOOLCHAIN=$version "$rustup" run "$version" rustfmt "$@"; }

printf 'fn  main( ) {}\n' >main.rs
by_name=0
rustfmt --check main.rs >by-name || by_name=$?
on_stdin=0
rustfmt --check <main.rs >on-stdin || on_stdin=$?
echo "by name: exit $by_name, $(wc -l <by-name) lines of differences"
echo "on standard input: exit $on_stdin, $(wc -l <on-stdin) lines of differences"
[ "$by_name" -eq 1 ] && [ "$on_stdin" -eq 0 ] && [ -s on-stdin ] && exit 0
echo "this has changed: the exit code may report differences now"
exit 1
