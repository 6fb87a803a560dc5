// SPDX-License-Identifier: GPL-2.0-only
/* Fault points; see fault.h for the contracts. No policy lives here. */
#include <linux/debugfs.h>
#include <linux/fault-inject.h>
#include <linux/sched.h>
#include "fault.h"

struct point {
	struct fault_attr attr;
	atomic64_t passed;
	atomic64_t fired;
};

/* Filled in by dmaplane_fault_add(); zeroed attributes never fire. */
static struct point points[DMAPLANE_FAULT_POINTS];

static int counter_get(void *data, u64 *value)
{
	*value = atomic64_read(data);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(counter_fops, counter_get, NULL, "%llu\n");

struct dentry *dmaplane_faults_begin(void)
{
	struct dentry *parent = debugfs_lookup("dmaplane", NULL);
	struct dentry *folder = debugfs_create_dir("faults", parent);

	dput(parent);
	return folder;
}

void dmaplane_fault_add(struct dentry *folder, unsigned int point, const char *name)
{
	static const struct fault_attr initial = FAULT_ATTR_INITIALIZER;
	struct dentry *dir;

	if (point >= DMAPLANE_FAULT_POINTS)
		return;
	points[point].attr = initial;
	dir = fault_create_debugfs_attr(name, folder, &points[point].attr);
	if (IS_ERR(dir))
		return;
	debugfs_create_file_unsafe("passed", 0400, dir, &points[point].passed, &counter_fops);
	debugfs_create_file_unsafe("fired", 0400, dir, &points[point].fired, &counter_fops);
}

void dmaplane_faults_end(struct dentry *folder)
{
	debugfs_remove(folder);
}

bool dmaplane_fault_fires(unsigned int point, bool swept)
{
	if (point >= DMAPLANE_FAULT_POINTS)
		return false;
	atomic64_inc(&points[point].passed);
	if (!swept && in_task() && READ_ONCE(current->fail_nth))
		return false;
	if (!should_fail(&points[point].attr, 1))
		return false;
	atomic64_inc(&points[point].fired);
	return true;
}
