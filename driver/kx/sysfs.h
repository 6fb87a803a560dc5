/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _DMAPLANE_SYSFS_H
#define _DMAPLANE_SYSFS_H

#include <linux/types.h>

/* Rust's part, see sysfs.rs: the value of the attribute with this number. */
u64 dmaplane_sysfs_value(u32 which);

#endif
