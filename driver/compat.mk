# SPDX-License-Identifier: GPL-2.0-only
# What the driver does differently from kernel to kernel and from compiler to compiler: all of it is decided here. Code asks
# for the names that this file gives, `#[cfg(dmaplane_NAME)]` in Rust and `#ifdef dmaplane_NAME` in C, and never for a
# version. A difference is a line of the table and one of the list; both go with the last kernel that needs them.
#
# name           | where                                | what for
# transmute_lint | rustc 1.88 or later, says the kernel | bindgen's output trips this lint, which older compilers do not know
# own_c_flags    | gcc; clang takes all flags as such   | bindgen reads C by libclang, which does not know all of gcc's flags
compat-$(CONFIG_RUSTC_HAS_UNNECESSARY_TRANSMUTES) += transmute_lint

rustflags-y += $(foreach name,$(compat-y),--cfg dmaplane_$(name))
ccflags-y += $(foreach name,$(compat-y),-Ddmaplane_$(name))

# The kernel keeps the list of the flags that libclang does not know for its own bindings; it is read from there, so
# that it is right for whichever kernel this is built for.
ifdef CONFIG_CC_IS_GCC
own_skipped := $(shell sed -n -e '/^bindgen_skip_c_flags *:=/,/[^\\]$$/{' \
	-e 's/^bindgen_skip_c_flags *:=//' -e 's/\\$$//' -e 'p' -e '}' $(srctree)/rust/Makefile)
ifeq ($(strip $(own_skipped)),)
$(error $(srctree)/rust/Makefile has no bindgen_skip_c_flags: which flags of gcc does libclang not know?)
endif
own_c_flags = $(filter-out $(own_skipped),$(c_flags)) --target=x86_64-linux-gnu
else
own_c_flags = $(c_flags)
endif
