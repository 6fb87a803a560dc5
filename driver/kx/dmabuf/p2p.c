// SPDX-License-Identifier: GPL-2.0-only
/* Maps a device's memory for other devices by its addresses, which need no struct pages. No policy lives here. */
#include <linux/dma-buf-mapping.h>
#include <linux/dma-resv.h>
#include <linux/pci-p2pdma.h>
#include "../bindings.h"

/*
 * The p2pdma provider of a BAR, which describes how other devices reach it. It lives as long as the binding. NULL when
 * only the CPU reaches the BAR.
 */
void *dmaplane_p2p_provider(struct pci_dev *pdev, int bar)
{
	return pcim_p2pdma_init(pdev) ? NULL : pcim_p2pdma_provider(pdev, bar);
}

/*
 * Called with the reservation lock held. The importer's device has to be on PCI and has to reach the other one: -EINVAL
 * means that it does not, because nothing else can be invalid about a range inside a BAR.
 */
struct sg_table *dmaplane_p2p_map(struct dma_buf_attachment *attachment, void *provider,
				  phys_addr_t start, size_t bytes, enum dma_data_direction way)
{
	struct phys_vec range = { .paddr = start, .len = bytes };
	struct sg_table *table;

	table = dma_buf_phys_vec_to_sgt(attachment, provider, &range, 1, bytes, way);
	return table == ERR_PTR(-EINVAL) ? ERR_PTR(-EOPNOTSUPP) : table;
}

/* Called with the reservation lock held, and with a table of dmaplane_p2p_map(). */
void dmaplane_p2p_unmap(struct dma_buf_attachment *attachment, struct sg_table *table,
			enum dma_data_direction way)
{
	dma_buf_free_sgt(attachment, table, way);
}

/* Waits for all that importers do with the memory, without a time limit. */
void dmaplane_resv_wait_all(struct dma_resv *resv)
{
	dma_resv_wait_timeout(resv, DMA_RESV_USAGE_BOOKKEEP, false, MAX_SCHEDULE_TIMEOUT);
}
