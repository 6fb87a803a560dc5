#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Gives a stock Debian kernel back what an external Rust module needs and linux-headers lacks: the metadata of the
# kernel's own crates and the library of its procedural macros.
#
#   rust-metadata.sh RELEASE OUT
#
# OUT becomes a folder that the kernel's make takes for a build tree: make -C OUT M=... modules. Everything else is read
# where Debian's packages put it. The crates are built from linux-source of exactly the headers' version by the compiler
# that the kernel names, and every Rust symbol that the kernel exports has to be among theirs. (Names do not prove
# layouts. Those follow from the same source, the same configuration and the same compiler, which are compared as well.)
#
# A refusal is one line with cause and remedy, and exit code 3; OUT is then not there.
set -eu

release=$1 out=$2
jobs=${JOBS:-$(nproc)}

refuse() {
	rm -rf "$out"
	echo "dmaplane: $*" >&2
	exit 3
}

[ "$(uname -m)" = x86_64 ] || refuse "this machine is $(uname -m); the driver is for x86-64 only"

headers=/usr/src/linux-headers-$release
case $release in
*-amd64) base=${release%-amd64} ;;
*) refuse "kernel $release is none of Debian's for amd64; supported kernels are listed in docs/install.md" ;;
esac
common=/usr/src/linux-headers-$base-common
kbuild=/usr/lib/linux-kbuild-$base
series=$(echo "${base%%+*}" | cut -d. -f1,2)
source=linux-source-$series
tarball=/usr/src/$source.tar.xz

[ -f "$headers/.config" ] ||
	refuse "there are no headers of kernel $release; install them: apt install linux-headers-$release"

option() { sed -n "s/^CONFIG_$1=//p" "$headers/.config" | tr -d '"'; }

[ "$(option RUST)" = y ] ||
	refuse "kernel $release was built without Rust (CONFIG_RUST); boot one of those listed in docs/install.md"
[ "$(option MODVERSIONS)" != y ] ||
	refuse "kernel $release has CONFIG_MODVERSIONS, which this module is not built for; boot one of those listed in docs/install.md"

compiler=$(option RUSTC_VERSION_TEXT)
have=$(rustc --version 2>/dev/null) || have="no rustc"
[ "$have" = "$compiler" ] ||
	refuse "kernel $release was compiled by '$compiler', here is '$have'; install Debian's own: apt install rustc rust-src"
# The C compiler is named by its command and what it said of its version.
cc=$(option CC_VERSION_TEXT | cut -d' ' -f1)
command -v "$cc" >/dev/null ||
	refuse "kernel $release was compiled by $cc, which is not here; install it: apt install ${cc#x86_64-linux-gnu-}"
wanted=$(option BINDGEN_VERSION_TEXT)
have=$(bindgen --version 2>/dev/null) || have="no bindgen"
[ "$have" = "$wanted" ] ||
	refuse "kernel $release was built with '$wanted', here is '$have'; install Debian's own: apt install bindgen"
library=$(rustc --print sysroot)/lib/rustlib/src/rust/library
[ -f "$library/core/src/lib.rs" ] ||
	refuse "the sources of Rust's library are not at $library; install them: apt install rust-src"

# Debian writes the version of the source package into what identifies a build.
of_headers=$(sed -n 's/^#define LINUX_PACKAGE_ID " Debian \(.*\)"$/\1/p' "$headers/include/generated/package.h" \
	"$common/include/generated/package.h" 2>/dev/null | head -n 1)
[ -f "$tarball" ] ||
	refuse "the kernel's source is not at $tarball; install it: apt install $source${of_headers:+=$of_headers}"

need=1500000
room=$(df -Pk "$(dirname "$out")" | awk 'NR == 2 { print $4 }')
[ "$room" -ge "$need" ] ||
	refuse "$(dirname "$out") has $((room / 1024)) MB free, and $((need / 1024)) are needed; make room there"

rm -rf "$out"
work=$out.source
rm -rf "$work"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/unpacked" "$work/arch" "$out"

# The parts of the source that no package of headers has.
tar -xJf "$tarball" -C "$work/unpacked" --strip-components=1 \
	"$source/rust" "$source/scripts" "$source/drivers/base/base.h" "$source/drivers/android/binder" ||
	refuse "cannot unpack $tarball; install it anew: apt install --reinstall $source"

# A source tree of links: what the headers have, and beside it the parts above.
cp -a "$common/include" "$common/arch" "$work/" 2>/dev/null || refuse "cannot copy $common; is $(dirname "$out") full?"
ln -s "$kbuild/tools" "$work/tools"
mv "$work/unpacked/rust" "$work/unpacked/drivers" "$work/"
cp -a "$kbuild/scripts" "$work/scripts"
for file in Makefile generate_rust_target.rs rust_is_available.sh min-tool-version.sh; do
	cp "$work/unpacked/scripts/$file" "$work/scripts/"
done
cp "$work"/unpacked/scripts/rust_is_available_* "$work/scripts/"
# The kernel's own makefile knows the order of everything; it gets a target of just what is missing. A name that ends in
# "install" keeps it from configuring anew, for which the headers lack the programs.
sed 's/^need-compiler := .*/need-compiler := 1/' "$common/Makefile" >"$work/Makefile"
cat >>"$work/Makefile" <<'MAKE'

ifeq ($(need-sub-make),)
PHONY += rust_metadata_install
rust_metadata_install:
	$(Q)$(MAKE) $(build)=scripts scripts/target.json
	$(Q)$(MAKE) $(build)=rust
endif
MAKE

# A build tree: the headers' configuration and generated files, with the programs that Debian built.
cp -a "$headers/include" "$headers/arch" "$headers/.config" "$headers/Module.symvers" "$out/"
ln -s "$headers/vmlinux" "$out/vmlinux"
cp -a "$kbuild/scripts" "$out/scripts"
find "$out/scripts" -maxdepth 1 -name 'Makefile*' -delete
ln -s "$kbuild/tools" "$out/tools"
printf 'export KBUILD_OUTPUT = %s\ninclude %s/Makefile\n' "$out" "$out.source" >"$out/Makefile"

# Nothing that a make around this one, or cargo, has set reaches the kernel's.
unset MAKEFLAGS MFLAGS MAKELEVEL RUSTFLAGS || :
make -C "$work" O="$out" ARCH=x86 CROSS_COMPILE=x86_64-linux-gnu- CC="$cc" HOSTCC="$cc" \
	KERNELRELEASE="$release" RUST_LIB_SRC="$library" -j"$jobs" rust_metadata_install

# All that the running kernel exports has to be there under the same name: a crate's hash is in each.
awk '$3 == "vmlinux" && $2 ~ /^(_R|rust_helper_)/ { print $2 }' "$headers/Module.symvers" | sort -u >"$out/symbols.kernel"
cat "$out"/rust/exports_*_generated.h | sed -n 's/^EXPORT_SYMBOL_RUST_GPL(\(.*\));.*/\1/p' | sort -u >"$out/symbols.built"
[ -s "$out/symbols.kernel" ] || refuse "kernel $release exports no Rust symbol; its headers are damaged: apt install --reinstall linux-headers-$release"
missing=$(comm -23 "$out/symbols.kernel" "$out/symbols.built" | wc -l)
[ "$missing" -eq 0 ] ||
	refuse "$missing of $(wc -l <"$out/symbols.kernel") Rust symbols of kernel $release are not among those just built, $(comm -23 "$out/symbols.kernel" "$out/symbols.built" | head -n 1) first; install headers, source, rustc and bindgen anew from one suite"

# The makefiles are needed for modules; the rest of the source is not.
trap - EXIT
rm -rf "$work/unpacked"
