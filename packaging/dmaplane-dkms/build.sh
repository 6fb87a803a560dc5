#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Builds dmaplane.ko for a stock Debian kernel: ./build.sh [--check] [--refusal STATUS] [--root DIR] KERNEL
#
# Debian's linux-headers have everything that a module in C needs. A module in Rust also needs the metadata of
# the kernel's own crates, which no package has. This script makes them again from the package linux-source,
# by the compiler that built the kernel, and compares every symbol with those that the kernel exports.
#
# What cannot work is refused by one line that names the cause and the remedy; it is the last one written.
#   --check           looks at everything that can be known beforehand, and builds nothing
#   --refusal STATUS  the exit status of a refusal, 3 otherwise. DKMS takes 77 as "not meant for this kernel"
#                     and goes on; any other one would leave the headers' package half-configured
#   --root DIR        looks for the kernel and the tools in DIR instead of /
set -eu
umask 022
export LC_ALL=C
unset MAKEFLAGS MFLAGS MAKELEVEL CDPATH

# Kilobytes that a build needs at its peak.
NEEDED=450000
# What is taken from the kernel's source. Everything else is in the headers.
FROM_SOURCE="rust scripts/Makefile scripts/generate_rust_target.rs scripts/min-tool-version.sh
	scripts/rust_is_available_bindgen_libclang.h drivers/base/base.h drivers/android/binder"

check_only=
refusal=3
root=
while [ $# -gt 1 ]; do
	case $1 in
	--check) check_only=1 ;;
	--refusal) refusal=$2; shift ;;
	--root) root=$2; shift ;;
	*) break ;;
	esac
	shift
done
if [ $# -ne 1 ]; then
	echo "usage: $0 [--check] [--refusal STATUS] [--root DIR] KERNEL" >&2
	exit 2
fi
kernel=$1
here=$(cd "$(dirname "$0")" && pwd)
work=$here/work
out=$here/out
PATH=$root/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

# refuse CAUSE REMEDY
refuse() {
	[ -n "$check_only" ] || rm -rf "$work" "$out"
	echo "dmaplane: not built for $kernel: $1. Remedy: $2" >&2
	exit "$refusal"
}

# The value of an option in the kernel's configuration, without quotes.
config() {
	sed -n "s/^CONFIG_$1=\"\{0,1\}\([^\"]*\)\"\{0,1\}\$/\1/p" "$headers/.config"
}

# The absolute path behind a link of the kernel's packages, which may be in another root.
resolve() {
	target=$(readlink -f "$1" 2>/dev/null) && [ -e "$target" ] || return 1
	echo "$target"
}

# space DIR KILOBYTES
space() {
	free=$(df -Pk "$1" | awk 'NR == 2 { print $4 }')
	[ "$free" -ge "$2" ] || refuse "$1 has $((free / 1024)) MB of free space, and the build needs $(($2 / 1024)) MB" \
		"free some space, then run: dkms autoinstall -k $kernel"
}

# The series that the driver is written for is dkms.conf's business.
series=$(sed -n 's/^BUILD_EXCLUSIVE_KERNEL_MIN="\(.*\)"/\1/p' "$here/dkms.conf")
case $kernel in
"$series".*) ;;
*) refuse "the driver is written for Linux $series" \
	"apt install -t trixie-backports linux-image-amd64 linux-headers-amd64, or remove dmaplane-dkms" ;;
esac

headers=$(resolve "$root/lib/modules/$kernel/build") && [ -f "$headers/.config" ] && [ -f "$headers/Module.symvers" ] ||
	refuse "its headers are not installed" "apt install linux-headers-$kernel"
common=$(resolve "$root/lib/modules/$kernel/source") && [ -f "$common/Makefile" ] ||
	refuse "its headers have no folder $root/lib/modules/$kernel/source" "apt install --reinstall linux-headers-$kernel"
kbuild=$(resolve "$headers/scripts") && [ -f "$kbuild/Makefile.build" ] ||
	refuse "its headers have no scripts" "apt install --reinstall linux-headers-$kernel"
kbuild=${kbuild%/scripts}

[ "$(config X86_64)" = y ] || refuse "the driver is for x86-64" "remove dmaplane-dkms from this machine"
other_kernel="boot Debian's own kernel of that series: apt install -t trixie-backports linux-image-amd64 linux-headers-amd64"
[ "$(config RUST)" = y ] || refuse "it was built without CONFIG_RUST" "$other_kernel"
[ "$(config MODVERSIONS)" != y ] ||
	refuse "it was built with CONFIG_MODVERSIONS, whose checksums Rust symbols do not have here" "$other_kernel"
for option in INFINIBAND INFINIBAND_ADDR_TRANS PCI_P2PDMA DMA_SHARED_BUFFER; do
	case $(config $option) in
	y | m) ;;
	*) refuse "it was built without CONFIG_$option" "$other_kernel" ;;
	esac
done

# A crate's symbols contain a hash of the compiler's version text, so another build of the same version will not do.
# The machine may have another compiler on PATH: the one of Debian's package is named by its path.
rustc=$root/usr/bin/rustc
wanted=$(config RUSTC_VERSION_TEXT)
version=$(echo "$wanted" | cut -d' ' -f2)
rust_remedy="apt install --allow-downgrades 'rustc=$version*' 'rust-src=$version*' 'libstd-rust-dev=$version*'"
[ -x "$rustc" ] || refuse "there is no $rustc, and the kernel was built by '$wanted'" "$rust_remedy"
found=$("$rustc" --version 2>&1) || :
[ "$found" = "$wanted" ] || refuse "$rustc is '$found', and the kernel was built by '$wanted'" "$rust_remedy"
library=$("$rustc" --print sysroot)/lib/rustlib/src/rust/library
[ -f "$library/core/src/lib.rs" ] || refuse "the sources of Rust's library are not in $library" "$rust_remedy"

bindgen=$root/usr/bin/bindgen
wanted=$(config BINDGEN_VERSION_TEXT)
bindgen_remedy="apt install --allow-downgrades 'bindgen=${wanted#bindgen }*'"
[ -x "$bindgen" ] || refuse "there is no $bindgen, and the kernel was built with '$wanted'" "$bindgen_remedy"
found=$("$bindgen" --version 2>&1) || :
[ "$found" = "$wanted" ] || refuse "$bindgen is '$found', and the kernel was built with '$wanted'" "$bindgen_remedy"

wanted=$(config CC_VERSION_TEXT)
cc=${wanted%% *}
gcc=${cc#x86_64-linux-gnu-}
[ -x "$root/usr/bin/$cc" ] || refuse "there is no $root/usr/bin/$cc, and the kernel was built by '$wanted'" "apt install $gcc"
for tool in make tar xz; do
	command -v $tool >/dev/null || refuse "there is no $tool" "apt install make tar xz-utils"
done

# The headers say which package they are of; the source must be of the very same version. What was taken from it is
# kept, since the next upgrade replaces the source while this kernel may still be the one that runs.
version=$(sed -n 's/.*LINUX_PACKAGE_ID " *Debian \(.*\)".*/\1/p' "$headers/include/generated/package.h" 2>/dev/null) || :
[ -n "$version" ] || refuse "it is not a kernel of Debian's, whose source could be found" "$other_kernel"
package=linux-source-$series
tarball=$root/usr/src/$package.tar.xz
kept=$root/var/lib/dmaplane-dkms/linux-$version-$(echo "$FROM_SOURCE" | cksum | cut -d' ' -f1).tar.gz
if [ ! -f "$kept" ]; then
	installed=$(dpkg-query ${root:+--root="$root"} -W -f '${db:Status-Status} ${Version}' "$package" 2>/dev/null) || :
	case $installed in
	installed\ * | unpacked\ * | half-configured\ * | triggers-*\ *) installed=${installed#* } ;;
	*) installed= ;;
	esac
	source_remedy="apt install --allow-downgrades $package=$version"
	[ -n "$installed" ] && [ -f "$tarball" ] ||
		refuse "it is of version $version, and $package is not installed" "$source_remedy"
	[ "$installed" = "$version" ] ||
		refuse "it is of version $version, and $package is of version $installed" "$source_remedy"
fi
space "$here" "$NEEDED"
[ -z "$check_only" ] || exit 0

# What fails from here on for want of space says so in its own words; the log has them.
failed() {
	if [ "$(df -Pk "$here" | awk 'NR == 2 { print $4 }')" -lt 20000 ]; then
		space "$here" "$NEEDED"
	fi
	refuse "$1" "look at the log above; if nothing of this machine's explains it, report it with that log"
}

rm -rf "$work" "$out"
mkdir -p "$work/source/arch" "$work/objects" "$out"
source=$work/source
objects=$work/objects
if [ -f "$kept" ]; then
	tar -xzf "$kept" -C "$source" || { rm -f "$kept"; failed "$kept is damaged and was removed"; }
else
	# shellcheck disable=SC2086 # Reason: the list is meant to be split.
	tar -xJf "$tarball" -C "$source" --strip-components=1 $(printf "$package/%s " $FROM_SOURCE) ||
		failed "$tarball could not be unpacked"
	if mkdir -p "${kept%/*}" 2>/dev/null && [ -w "${kept%/*}" ]; then
		# shellcheck disable=SC2086 # Reason: as above.
		tar -czf "$kept.new" -C "$source" $FROM_SOURCE && mv "$kept.new" "$kept" || rm -f "$kept.new"
	fi
fi
# The source tree of the kernel's build: the headers' files, and what they lack.
# Headers include others by "../..", which must lead to this tree: folders are real, files are links.
ln -s "$common/Makefile" "$source/"
cp -as "$common/include" "$source/"
cp -as "$common/arch/x86" "$source/arch/"
ln -s "$kbuild/tools" "$source/tools"
for file in "$kbuild"/scripts/*; do
	[ -e "$source/scripts/${file##*/}" ] || ln -s "$file" "$source/scripts/"
done
# The tree of its objects: what the kernel's build left in the headers.
cp -a "$headers/include" "$headers/arch" "$headers/.config" "$headers/Module.symvers" "$objects/"
cp -a "$kbuild/scripts" "$objects/"
rm -f "$objects"/scripts/Makefile*
ln -s "$kbuild/tools" "$objects/tools"
[ ! -e "$headers/vmlinux" ] || ln -s "$headers/vmlinux" "$objects/vmlinux"
echo "include $source/Makefile" >"$objects/Makefile"

jobs=$(nproc)
kernel_make() {
	make -C "$objects" -f "$source/Makefile" O="$objects" ARCH=x86 CROSS_COMPILE=x86_64-linux-gnu- \
		CC="$cc" HOSTCC="$gcc" RUSTC="$rustc" HOSTRUSTC="$rustc" BINDGEN="$bindgen" \
		RUST_LIB_SRC="$library" KERNELRELEASE="$kernel" -j"$jobs" "$@"
}

# The kernel's own target for a command with its build's variables; the configuration is the kernel's, never synchronised.
# shellcheck disable=SC2016 # Reason: make expands it.
kernel_make need-config=1 may-sync-config= need-compiler=1 run-command \
	KBUILD_RUN_COMMAND='+$(MAKE) $(build)=scripts scripts/target.json && $(MAKE) $(build)=rust' ||
	failed "the kernel's Rust crates could not be compiled"

awk '$3 == "vmlinux" && $2 ~ /^(_R|rust_helper_)/ { print $2 }' "$headers/Module.symvers" | sort -u >"$work/kernel"
cat "$objects"/rust/exports_*_generated.h | sed -n 's/^EXPORT_SYMBOL_RUST_GPL(\(.*\));.*/\1/p' | sort -u >"$work/made"
comm -23 "$work/kernel" "$work/made" >"$work/missing"
if [ ! -s "$work/kernel" ] || [ -s "$work/missing" ]; then
	refuse "$(wc -l <"$work/missing") of the $(wc -l <"$work/kernel") Rust symbols that it exports are not in the crates made from $package $version, the first is $(head -n 1 "$work/missing")" \
		"apt install --reinstall linux-headers-$kernel rustc rust-src bindgen, and report it if that is not enough"
fi
echo "dmaplane: all $(wc -l <"$work/kernel") Rust symbols of $kernel are the same"

kernel_make M="$here/driver" MO="$out" modules || failed "the driver could not be compiled"
[ -s "$out/dmaplane.ko" ] || failed "the build left no dmaplane.ko"
rm -rf "$work"
