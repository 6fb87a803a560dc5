// SPDX-License-Identifier: GPL-2.0-only
/*
 * Attributes of the module in sysfs: names are here, because they must be static; values come from Rust. The list below
 * has each attribute's number.
 */
#include <linux/module.h>
#include <linux/sysfs.h>
#include "bindings.h"
#include "sysfs.h"

struct numbered {
	struct module_attribute attr;
	u32 which;
};

static ssize_t show(const struct module_attribute *attr, struct module_kobject *kobj, char *buf)
{
	const struct numbered *numbered = container_of(attr, struct numbered, attr);

	return sysfs_emit(buf, "%llu\n", dmaplane_sysfs_value(numbered->which));
}

#define NUMBERED(_number, _name)						\
	static const struct numbered number_##_name = {				\
		.attr = { .attr = { .name = #_name, .mode = 0444 }, .show = show }, \
		.which = _number,						\
	}

NUMBERED(0, abi_version);
NUMBERED(1, contexts);
NUMBERED(2, buffers);
NUMBERED(3, bytes);
NUMBERED(4, regions);
NUMBERED(5, grants);
NUMBERED(6, channels);
NUMBERED(7, listeners);
NUMBERED(8, endpoints);
NUMBERED(9, operations);
NUMBERED(10, max_buffer_mib);
NUMBERED(11, max_context_mib);
NUMBERED(12, max_endpoints);
NUMBERED(13, max_channels);
NUMBERED(14, heartbeat_ms);
NUMBERED(15, exports);
NUMBERED(16, imports);
NUMBERED(17, pollers);
NUMBERED(18, pools);
NUMBERED(19, max_listeners);
NUMBERED(20, max_context_pollers);
NUMBERED(21, max_pollers);
NUMBERED(22, max_provider_mib);

static const struct attribute *const own[] = {
	&number_abi_version.attr.attr,
	NULL
};

static const struct attribute *const counts[] = {
	&number_contexts.attr.attr,
	&number_buffers.attr.attr,
	&number_bytes.attr.attr,
	&number_pools.attr.attr,
	&number_exports.attr.attr,
	&number_imports.attr.attr,
	&number_regions.attr.attr,
	&number_grants.attr.attr,
	&number_channels.attr.attr,
	&number_pollers.attr.attr,
	&number_listeners.attr.attr,
	&number_endpoints.attr.attr,
	&number_operations.attr.attr,
	NULL
};

static const struct attribute *const limits[] = {
	&number_max_buffer_mib.attr.attr,
	&number_max_context_mib.attr.attr,
	&number_max_endpoints.attr.attr,
	&number_max_channels.attr.attr,
	&number_max_listeners.attr.attr,
	&number_max_provider_mib.attr.attr,
	&number_max_context_pollers.attr.attr,
	&number_max_pollers.attr.attr,
	&number_heartbeat_ms.attr.attr,
	NULL
};

static const struct attribute_group own_group = { .attrs_const = own };
static const struct attribute_group counts_group = { .name = "counts", .attrs_const = counts };
static const struct attribute_group limits_group = { .name = "limits", .attrs_const = limits };

static const struct attribute_group *const groups[] = {
	&own_group,
	&counts_group,
	&limits_group,
	NULL
};

int dmaplane_sysfs_begin(void)
{
	return sysfs_create_groups(&THIS_MODULE->mkobj.kobj, groups);
}

void dmaplane_sysfs_end(void)
{
	sysfs_remove_groups(&THIS_MODULE->mkobj.kobj, groups);
}
