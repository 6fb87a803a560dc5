// SPDX-License-Identifier: GPL-2.0-only
/* A device's memory for other devices, by its addresses: there need not be pages behind it. No policy lives here. */
#include <linux/dma-buf-mapping.h>
#include <linux/dma-resv.h>
#include <linux/pci-p2pdma.h>
#include "../bindings.h"

/* What tells how other devices reach a BAR; it goes with the binding. NULL when nobody but the processor does. */
void *dmaplane_p2p_provider(struct pci_dev *pdev, int bar)
{
	return pcim_p2pdma_init(pdev) ? NULL : pcim_p2pdma_provider(pdev, bar);
}

/*
 * Called with the reservation lock held. The importer's device has to be on PCI, and has to reach the other one: that is the
 * one thing that is invalid about a range which is a part of a BAR.
 */
struct sg_table *dmaplane_p2p_map(struct dma_buf_attachment *attachment, void *provider,
				  phys_addr_t start, size_t bytes, enum dma_data_direction way)
{
	struct phys_vec range = { .paddr = start, .len = bytes };
	struct sg_table *table;

	table = dma_buf_phys_vec_to_sgt(attachment, provider, &range, 1, bytes, way);
	return table == ERR_PTR(-EINVAL) ? ERR_PTR(-EOPNOTSUPP) : table;
}

/* Likewise, of what the former made. */
void dmaplane_p2p_unmap(struct dma_buf_attachment *attachment, struct sg_table *table,
			enum dma_data_direction way)
{
	dma_buf_free_sgt(attachment, table, way);
}

/* Waits for whatever importers do with the memory, as long as it takes. */
void dmaplane_resv_wait_all(struct dma_resv *resv)
{
	dma_resv_wait_timeout(resv, DMA_RESV_USAGE_BOOKKEEP, false, MAX_SCHEDULE_TIMEOUT);
}
