#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Defaults in virtme-ng's configuration file override options on the command line.
#
# Version: virtme-ng 1.42 (PyPI), kernel image of linux-binary-7.3.4+deb13-amd64 7.3.4-1~bpo13+1 (trixie-backports).
# Behaviour: "default_opts" of virtme-ng.conf are set after the command line was parsed, and overwrite it. An option on the
#   command line is silently ignored if the file sets it too, although a default should yield to an option.
# Output seen (2026-11-30):
#   without a file, --memory 2G: -m 2G
#   with a default of 512M, --memory 2G: -m 512M
#
# What dmaplane does about it: `cargo xtask vm-test --runner virtme-ng` gives vng its own HOME, so that none of the
# user's files changes a guest. See docs/testing.md.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet virtme-ng==1.42

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
$apt download linux-binary-7.3.4+deb13-amd64=7.3.4-1~bpo13+1 >>apt.log 2>&1 || { cat apt.log; exit 1; }
apt-get -q download busybox-static >>apt.log 2>&1 || { cat apt.log; exit 1; }
for deb in *.deb; do dpkg-deb -x "$deb" tree; done
kernel=$(ls "$dir"/tree/usr/lib/modules/*/vmlinuz)
busybox=$(find "$dir/tree" -name busybox -type f | head -n 1)

memory() { # HOME
	HOME=$1 PATH=$dir/venv/bin:$PATH venv/bin/vng --run "$kernel" --busybox "$busybox" --disable-kvm --force-9p \
		--memory 2G --dry-run --exec true 2>&1 | grep -oE -- '-m [0-9]+[MG]' | head -n 1
}
mkdir -p plain file/.config/virtme-ng
echo '{"default_opts": {"memory": "512M"}}' >file/.config/virtme-ng/virtme-ng.conf
without=$(memory "$dir/plain")
with=$(memory "$dir/file")
echo "without a file, --memory 2G: $without"
echo "with a default of 512M, --memory 2G: $with"
[ "$without" = "-m 2G" ] && [ "$with" = "-m 512M" ] && exit 0
echo "this has changed: the command line may win now"
exit 1
