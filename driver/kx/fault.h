/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fault points: kernel fault attributes with two counters each. Only in kernels that can inject faults;
 * Kbuild leaves fault.c out elsewhere, and fault.rs calls nothing of it then.
 */
#ifndef DMAPLANE_FAULT_H
#define DMAPLANE_FAULT_H

#include <linux/types.h>

struct dentry;

/* Most points that there may be. */
#define DMAPLANE_FAULT_POINTS 64

/* The folder "faults" in the driver's debugfs folder, or an error pointer. */
struct dentry *dmaplane_faults_begin(void);
/* Adds the attribute of a point. */
void dmaplane_fault_add(struct dentry *folder, unsigned int point, const char *name);
/* Removes the folder and waits for readers of its files. */
void dmaplane_faults_end(struct dentry *folder);
/*
 * Counts a pass of the point, and returns whether it fires. Any context. A point that is not `swept` leaves the calling
 * task's fail-nth alone.
 */
bool dmaplane_fault_fires(unsigned int point, bool swept);

#endif
