#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Builds dmaplane.ko for a stock Debian kernel, or only the metadata that the build needs: ./build.sh [OPTION]... KERNEL
#
# Debian's linux-headers have everything that a module in C needs. A module in Rust also needs the metadata of
# the kernel's own crates, which no package has. This script makes them again from the package linux-source,
# by the compiler that built the kernel, and compares every symbol with those that the kernel exports.
#
# If the build cannot work, the last line of the output names the cause and the remedy.
#   --check           checks everything that can be known beforehand, and builds nothing
#   --metadata OUT    stops before the module, and accepts a kernel of any series. OUT is then a build tree for the
#                     kernel's make: make -C OUT M=... modules. OUT.source belongs to it, and OUT/symbols.kernel lists
#                     the Rust symbols that the kernel exports
#   --refusal STATUS  the exit status of a refusal, 3 otherwise. DKMS takes 77 as "not meant for this kernel"
#                     and goes on; any other one would leave the headers' package half-configured
#   --root DIR        looks for the kernel and the tools in DIR instead of /
#   --source-version VERSION
#                     the version of linux-source, if dpkg does not know it. Nothing of that source is kept
set -eu
umask 022
export LC_ALL=C
unset MAKEFLAGS MFLAGS MAKELEVEL CDPATH

# Kilobytes that a build needs at its peak.
NEEDED=450000
# The files taken from the kernel's source. Everything else is in the headers.
FROM_SOURCE="rust scripts/Makefile scripts/generate_rust_target.rs scripts/min-tool-version.sh
	scripts/rust_is_available_bindgen_libclang.h drivers/base/base.h drivers/android/binder"

usage() {
	echo "usage: $0 [--check] [--metadata OUT] [--refusal STATUS] [--root DIR] [--source-version VERSION] KERNEL" >&2
	exit 2
}

check_only=
metadata=
refusal=3
root=
source_version=
while [ $# -gt 1 ]; do
	case $1 in
	--check) check_only=1 ;;
	--metadata) metadata=$2; shift ;;
	--refusal) refusal=$2; shift ;;
	--root) root=$2; shift ;;
	--source-version) source_version=$2; shift ;;
	*) usage ;;
	esac
	shift
done
[ $# -eq 1 ] || usage
kernel=$1
here=$(cd "$(dirname "$0")" && pwd)
if [ -n "$metadata" ]; then
	place=$(cd "$(dirname "$metadata")" && pwd) || usage
	tree=$place/$(basename "$metadata")
	out=
	free_some="free some space"
else
	place=$here
	tree=$here/work
	out=$here/out
	free_some="free some space, then run: dkms autoinstall -k $kernel"
fi
source=$tree.source
PATH=$root/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

remove() {
	rm -rf "$tree" "$source" ${out:+"$out"}
}

# refuse CAUSE REMEDY
refuse() {
	trap - EXIT
	[ -n "$check_only" ] || remove
	echo "dmaplane: not built for $kernel: $1. Remedy: $2" >&2
	exit "$refusal"
}

# The value of an option in the kernel's configuration, without quotes.
config() {
	sed -n "s/^CONFIG_$1=\"\{0,1\}\([^\"]*\)\"\{0,1\}\$/\1/p" "$headers/.config"
}

# resolve LINK FILE...: the absolute path behind a link of the kernel's packages to a folder that has these files
resolve() {
	target=$(readlink -f "$1" 2>/dev/null) || return 1
	shift
	for file; do
		[ -f "$target/$file" ] || return 1
	done
	echo "$target"
}

# Kilobytes that are free where the build takes place.
available() {
	df -Pk "$place" | awk 'NR == 2 { print $4 }'
}

space() {
	free=$(available)
	[ "$free" -ge "$NEEDED" ] ||
		refuse "$place has $((free / 1024)) MB of free space, and the build needs $((NEEDED / 1024)) MB" "$free_some"
}

if [ -n "$metadata" ]; then
	series=$(echo "${kernel%%[-+]*}" | cut -d. -f1,2)
else
	# dkms.conf names the series that the driver is written for.
	series=$(sed -n 's/^BUILD_EXCLUSIVE_KERNEL_MIN="\(.*\)"/\1/p' "$here/dkms.conf")
	case $kernel in
	"$series".*) ;;
	*) refuse "the driver is written for Linux $series" \
		"apt install -t trixie-backports linux-image-amd64 linux-headers-amd64, or remove dmaplane-dkms" ;;
	esac
fi

modules=$root/lib/modules/$kernel
headers=$(resolve "$modules/build" .config Module.symvers) ||
	refuse "its headers are not installed" "apt install linux-headers-$kernel"
common=$(resolve "$modules/source" Makefile) ||
	refuse "its headers have no folder $modules/source" "apt install --reinstall linux-headers-$kernel"
kbuild=$(resolve "$headers/scripts" Makefile.build) ||
	refuse "its headers have no scripts" "apt install --reinstall linux-headers-$kernel"
kbuild=${kbuild%/scripts}

[ "$(config X86_64)" = y ] || refuse "the driver is for x86-64" "remove dmaplane-dkms from this machine"
other_kernel="boot Debian's own kernel of that series: apt install -t trixie-backports linux-image-amd64 linux-headers-amd64"
[ "$(config RUST)" = y ] || refuse "it was built without CONFIG_RUST" "$other_kernel"
[ "$(config MODVERSIONS)" != y ] ||
	refuse "it was built with CONFIG_MODVERSIONS, and Rust symbols have no version checksums here" "$other_kernel"
for option in INFINIBAND INFINIBAND_ADDR_TRANS PCI_P2PDMA DMA_SHARED_BUFFER; do
	case $(config $option) in
	y | m) ;;
	*) refuse "it was built without CONFIG_$option" "$other_kernel" ;;
	esac
done

# A crate's symbols contain a hash of the compiler's version text, so another build of the same version will not do. The
# machine may have another compiler on PATH, so Debian's is called by its full path.
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

# Prints the source's version according to dpkg, or nothing if it is not unpacked.
installed_version() {
	installed=$(dpkg-query ${root:+--root="$root"} -W -f '${db:Status-Status} ${Version}' "$package" 2>/dev/null) || :
	case $installed in
	installed\ * | unpacked\ * | half-configured\ * | triggers-*\ *) echo "${installed#* }" ;;
	esac
}

# The headers name the version of their package; the source must have the same one. The files taken from it are kept,
# since the next upgrade replaces the source while this kernel may still be running.
version=$(sed -n 's/.*LINUX_PACKAGE_ID " *Debian \(.*\)".*/\1/p' "$headers/include/generated/package.h" 2>/dev/null) || :
[ -n "$version" ] || refuse "it is not a kernel of Debian's, so its source cannot be found" "$other_kernel"
package=linux-source-$series
tarball=$root/usr/src/$package.tar.xz
kept=
if [ -z "$source_version" ]; then
	kept=$root/var/lib/dmaplane-dkms/linux-$version-$(echo "$FROM_SOURCE" | cksum | cut -d' ' -f1).tar.gz
	source_version=$(installed_version)
fi
if [ ! -f "$kept" ]; then
	source_remedy="apt install --allow-downgrades $package=$version"
	if [ -z "$source_version" ] || [ ! -f "$tarball" ]; then
		refuse "it is of version $version, and $package is not installed" "$source_remedy"
	fi
	[ "$source_version" = "$version" ] ||
		refuse "it is of version $version, and $package is of version $source_version" "$source_remedy"
fi
space
[ -z "$check_only" ] || exit 0

# From here on, a step that fails prints its own error to the log. This names a full disk as the
# cause if there is one.
failed() {
	[ "$(available)" -ge 20000 ] || space
	refuse "$1" "look at the log above; if nothing on this machine explains it, report it with that log"
}
trap 'failed "a step of the build failed"' EXIT

remove
mkdir -p "$source/arch" "$tree" ${out:+"$out"}
if [ -f "$kept" ]; then
	tar -xzf "$kept" -C "$source" || { rm -f "$kept"; failed "$kept is damaged and was removed"; }
else
	# shellcheck disable=SC2046,SC2086 # Reason: the list is meant to be split.
	tar -xJf "$tarball" -C "$source" --strip-components=1 $(printf "$package/%s " $FROM_SOURCE) ||
		failed "$tarball could not be unpacked"
	if [ -n "$kept" ] && mkdir -p "${kept%/*}" 2>/dev/null && [ -w "${kept%/*}" ]; then
		# shellcheck disable=SC2086 # Reason: the list is meant to be split.
		if ! tar -czf "$kept.new" -C "$source" $FROM_SOURCE || ! mv "$kept.new" "$kept"; then
			rm -f "$kept.new"
		fi
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
cp -a "$headers/include" "$headers/arch" "$headers/.config" "$headers/Module.symvers" "$tree/"
cp -a "$kbuild/scripts" "$tree/"
rm -f "$tree"/scripts/Makefile*
ln -s "$kbuild/tools" "$tree/tools"
[ ! -e "$headers/vmlinux" ] || ln -s "$headers/vmlinux" "$tree/vmlinux"
printf 'export KBUILD_OUTPUT = %s\ninclude %s/Makefile\n' "$tree" "$source" >"$tree/Makefile"

jobs=$(nproc)
kernel_make() {
	make -C "$tree" ARCH=x86 CROSS_COMPILE=x86_64-linux-gnu- \
		CC="$cc" HOSTCC="$gcc" RUSTC="$rustc" HOSTRUSTC="$rustc" BINDGEN="$bindgen" \
		RUST_LIB_SRC="$library" KERNELRELEASE="$kernel" -j"$jobs" "$@"
}

# The kernel's own target for a command with its build's variables. The kernel's configuration is used unchanged.
# shellcheck disable=SC2016 # Reason: make expands it.
kernel_make need-config=1 may-sync-config= need-compiler=1 run-command \
	KBUILD_RUN_COMMAND='+$(MAKE) $(build)=scripts scripts/target.json && $(MAKE) $(build)=rust' ||
	failed "the kernel's Rust crates could not be compiled"

awk '$3 == "vmlinux" && $2 ~ /^(_R|rust_helper_)/ { print $2 }' "$headers/Module.symvers" | sort -u >"$tree/symbols.kernel"
cat "$tree"/rust/exports_*_generated.h | sed -n 's/^EXPORT_SYMBOL_RUST_GPL(\(.*\));.*/\1/p' | sort -u >"$tree/symbols.built"
missing=$(comm -23 "$tree/symbols.kernel" "$tree/symbols.built")
count=$(wc -l <"$tree/symbols.kernel")
[ "$count" -gt 0 ] || refuse "its headers list no Rust symbol" "apt install --reinstall linux-headers-$kernel"
if [ -n "$missing" ]; then
	refuse "$(echo "$missing" | wc -l) of the $count Rust symbols that it exports are not in the crates made from $package $version, the first is $(echo "$missing" | head -n 1)" \
		"apt install --reinstall linux-headers-$kernel rustc rust-src bindgen, and report it if that is not enough"
fi
echo "dmaplane: all $count Rust symbols of $kernel are the same"

if [ -z "$metadata" ]; then
	kernel_make M="$here/driver" MO="$out" modules || failed "the driver could not be compiled"
	[ -s "$out/dmaplane.ko" ] || failed "the build left no dmaplane.ko"
	rm -rf "$tree" "$source"
fi
trap - EXIT
