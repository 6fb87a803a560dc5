#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs, upgrades and removes the packages in a clean Debian 13, as root: packaging/check.sh DIR NEXT
#
# DIR has the packages, NEXT those of the next version. The apt sources must have trixie and trixie-backports. This
# changes the system that it runs in: `cargo xtask package --check` runs it in a root of its own, and CI in a container.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
dir=$(realpath "$1")
next=$(realpath "$2")

fail() {
	echo "check: FAILED: $*" >&2
	exit 1
}

step() {
	echo "check: [${SECONDS}s] $*"
}

version_of() {
	dpkg-deb -f "$(ls "$1"/dmaplane_*.deb)" Version
}

apt() {
	apt-get -y -q -o Dpkg::Use-Pty=0 --no-install-recommends "$@" || fail "apt-get $*"
}

# Everything is configured: no package is left half done.
settled() {
	[ -z "$(dpkg --audit)" ] || fail "dpkg --audit: $(dpkg --audit)"
}

# The module is there for the kernel and belongs to it: installed VERSION
installed() {
	dkms status -m dmaplane -v "$1" -k "$kernel" | grep -q ': installed' || fail "dkms status: $(dkms status)"
	local file magic
	file=$(ls "/lib/modules/$kernel/updates/dkms/"dmaplane.ko*) || fail "no module in /lib/modules/$kernel"
	magic=$(modinfo -F vermagic "$file")
	case $magic in
	"$kernel "*) echo "  $file: vermagic $magic" ;;
	*) fail "$file is for $magic" ;;
	esac
	settled
}

# Every path whose name says that it is ours.
ours() {
	find / -xdev \( -path /proc -o -path /sys -o -path /tmp -o -path "$dir" -o -path "$next" \
		-o -path /var/cache/apt -o -path /usr/share/lintian \) -prune -o -name '*dmaplane*' -print | sort
}

apt update
first=$(version_of "$dir")
second=$(version_of "$next")
series=$(dpkg-deb -f "$(ls "$dir"/dmaplane-dkms_*.deb)" Depends | sed 's/.*linux-source-\([0-9.]*\).*/\1/')
headers=$(apt-cache search --names-only "^linux-headers-$series\.[0-9]+\+deb13-amd64\$" | cut -d' ' -f1 | sort -V | tail -n 1)
[ -n "$headers" ] || fail "the apt sources have no headers of Linux $series; is trixie-backports among them?"
kernel=${headers#linux-headers-}
ours | grep . && fail "this root is not clean"

step "installing $first without headers"
apt install "$dir"/dmaplane-dkms_*.deb "$dir"/dmaplane_*.deb | tee /tmp/apt.log
grep -q '^dmaplane: not built, since no headers' /tmp/apt.log || fail "nothing says what is missing"
settled

step "tool, group and rules"
getent group dmaplane || fail "no group"
dmaplane --version
dmaplane info 2>&1 && fail "there is no driver, but \`dmaplane info\` succeeds"
test -f /usr/lib/udev/rules.d/60-dmaplane.rules
test -f /usr/lib/modules-load.d/dmaplane.conf

step "installing $headers, after the source"
apt install "$headers"
installed "$first"

step "upgrading to $second"
apt install "$next"/dmaplane-dkms_*.deb "$next"/dmaplane_*.deb
installed "$second"
ours | grep -- "-$first" && fail "the old version is still there"

# The state when the next kernel arrives: the kernel has neither headers nor module, and the source is that of an older
# one.
source=linux-source-$series
mkdir -p /tmp/old/DEBIAN /tmp/old/usr/src
cat >/tmp/old/DEBIAN/control <<END
Package: $source
Version: $series.0-1
Architecture: all
Maintainer: nobody <nobody@example.invalid>
Description: source of an older kernel
END
: >"/tmp/old/usr/src/$source.tar.xz"
dpkg-deb --root-owner-group --build /tmp/old /tmp/old.deb >/dev/null
older() {
	dkms unbuild -m dmaplane -v "$second" -k "$kernel"
	dpkg --remove "$headers"
	rm -rf /var/lib/dmaplane-dkms
	dpkg --install /tmp/old.deb
}

step "upgrading headers and source in one run of apt"
older
apt install "$headers" "$source"
installed "$second"

step "installing $headers before its source"
older
(cd /tmp && apt-get -q download "$headers")
dpkg --install "/tmp/$headers"_*.deb 2>&1 | tee /tmp/apt.log
grep "^dmaplane: not built for $kernel: it is of version .*$source is of version $series.0-1. Remedy: " \
	/tmp/apt.log || fail "nothing says what is missing"
last=$(sed -n '/^# exit code/q; /./p' /var/lib/dkms/dmaplane/"$second"/build/make.log | tail -n 1)
case $last in
"dmaplane: not built for $kernel: "*) ;;
*) fail "DKMS's log ends with: $last" ;;
esac
settled
step "and now the source"
apt install "$source"
installed "$second"

step "removing"
apt remove dmaplane-dkms dmaplane
[ -z "$(dkms status -m dmaplane)" ] || fail "dkms status: $(dkms status)"
ls "/lib/modules/$kernel/updates/dkms/"dmaplane.ko* 2>/dev/null && fail "the module is still there"
step "purging"
apt purge dmaplane-dkms dmaplane
ours | grep . && fail "the files above are left"
getent group dmaplane && fail "the group is left"
settled
rm -rf /tmp/old /tmp/old.deb /tmp/apt.log "/tmp/$headers"_*.deb
step "ok"
