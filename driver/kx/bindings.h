/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What kx/ binds beyond the kernel crate, and the wrappers of shim.c for inline functions and macros.
 * Each wrapper keeps its callee's contract; see there.
 */
#include <linux/dma-buf.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <rdma/ib_verbs.h>
#include <rdma/rdma_cm.h>
#include "fault.h"

/*
 * For memory that user space or a peer can ask for: charged to the caller's memory cgroup, or to the one that was
 * chosen for the thread. A request for too much fails and never invokes the OOM killer.
 */
static const gfp_t DMAPLANE_GFP_CHARGED = GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN;

/* Memory. */
struct page *dmaplane_alloc_folio(int nid, unsigned int order, bool bound, bool insist);
void dmaplane_zero_page(struct page *page);
unsigned int dmaplane_folio_order(struct page *page);
unsigned int dmaplane_folio_references(struct page *page);
void dmaplane_sleep_killable(unsigned int ms);
void dmaplane_copy_to_page(struct page *page, size_t offset, const void *from, size_t bytes);
void dmaplane_copy_from_page(void *to, struct page *page, size_t offset, size_t bytes);
int dmaplane_page_to_nid(const struct page *page);
bool dmaplane_node_has_memory(int nid);
unsigned int dmaplane_node_ids(void);
int dmaplane_node_distance(int from, int to);
unsigned int dmaplane_own_cpus(void);
unsigned int dmaplane_node_cpus(int nid);
int dmaplane_pci_device_node(const char *name, int *nid);
void *dmaplane_vmalloc_shared(unsigned long bytes);
void dmaplane_vfree(void *memory);
void dmaplane_vma_shared_only(struct vm_area_struct *vma);
bool dmaplane_read_implies_exec(void);
void dmaplane_vma_on_demand(struct vm_area_struct *vma, pgoff_t first);

void dmaplane_move_between(struct page *to, size_t to_offset, struct page *from,
			   size_t from_offset, size_t bytes);

/* Address spaces of user mappings. */
struct file *dmaplane_space_new(void);
void dmaplane_space_put(struct inode *inode);
void dmaplane_space_adopt(struct file *space, struct file *file);
void dmaplane_space_keep(struct file *space, struct vm_area_struct *vma);
void dmaplane_space_zap(struct inode *inode, pgoff_t first, pgoff_t count);

/* Memory of a PCI device. */
struct pci_dev;
struct page *dmaplane_virt_to_page(const void *address);
void *dmaplane_page_address(const struct page *page);
int dmaplane_pci_claim(struct pci_dev *pdev, int bar);
void dmaplane_pci_release(struct pci_dev *pdev, int bar);
int dmaplane_pci_node(struct pci_dev *pdev);
u32 dmaplane_pci_address(struct pci_dev *pdev);
void *dmaplane_io_map(phys_addr_t start, size_t bytes, u32 tier);
bool dmaplane_io_has_tier(const void *mapping, u32 tier);
void dmaplane_io_unmap(void *mapping);
void dmaplane_io_copy(void *to, const void *from, size_t bytes);
void dmaplane_io_zero(void *to, size_t bytes);
void dmaplane_vma_of_io(struct vm_area_struct *vma, pgoff_t first, u32 tier);
void dmaplane_vma_of_frames(struct vm_area_struct *vma, pgoff_t first);
vm_fault_t dmaplane_vma_insert_frames(struct vm_area_struct *vma, unsigned long address,
				      struct page **pages, unsigned long count);
vm_fault_t dmaplane_vma_insert_io(struct vm_area_struct *vma, unsigned long address,
				  unsigned long pfn, unsigned long count);

/* Work that runs later. */
void dmaplane_init_work(struct work_struct *work, work_func_t run);
void dmaplane_queue_on_node(int nid, struct work_struct *work);
void dmaplane_init_delayed_work(struct delayed_work *work, work_func_t run);
void dmaplane_run_within(struct delayed_work *work, unsigned long jiffies);

/* Kernel threads. */
struct task_struct *dmaplane_thread_create(int (*run)(void *start), void *start, const char *name);
int dmaplane_thread_follow(struct task_struct *owner, int nid);
bool dmaplane_node_has_processors(int nid);
void dmaplane_about_to_sleep(void);
void dmaplane_awake(void);
void dmaplane_relax(void);
struct mem_cgroup *dmaplane_memcg_of_caller(void);
struct mem_cgroup *dmaplane_charge_to(struct mem_cgroup *memcg);
bool dmaplane_memcg_get(struct mem_cgroup *memcg);
void dmaplane_memcg_put(struct mem_cgroup *memcg);

/* Waiting for a condition. */
void dmaplane_init_waitqueue(struct wait_queue_head *queue);
void dmaplane_wake_up_all(struct wait_queue_head *queue);
long dmaplane_wait_for(struct wait_queue_head *queue, bool (*ready)(void *condition),
		       void *condition, bool killable, long limit);

/* Whether the calling thread is exiting, which closes its files. */
bool dmaplane_is_exiting(void);
/* Whether it was killed, and is still in the kernel. */
bool dmaplane_is_killed(void);

/* Attributes of the module in sysfs. */
int dmaplane_sysfs_begin(void);
void dmaplane_sysfs_end(void);

/* Network namespace of the calling process. */
struct net *dmaplane_current_net(void);

/* Verbs that are inline. */
int dmaplane_ib_device_node(struct ib_device *device);
bool dmaplane_ib_is_rxe(struct ib_device *device);
#define DMAPLANE_IB_INFINIBAND 1
#define DMAPLANE_IB_ROCE 2
#define DMAPLANE_IB_IWARP 4
#define DMAPLANE_IB_CONNECTIONS 8
#define DMAPLANE_IB_REGISTERS 16
u32 dmaplane_ib_features(struct ib_device *device);
void *dmaplane_ib_get_client_data(struct ib_device *device, struct ib_client *client);
int dmaplane_ib_post_send(struct ib_qp *qp, const struct ib_send_wr *wr,
			  const struct ib_send_wr **bad_wr);
int dmaplane_ib_post_recv(struct ib_qp *qp, const struct ib_recv_wr *wr);
int dmaplane_ib_dma_map_sgtable(struct ib_device *device, struct sg_table *table);
void dmaplane_ib_dma_unmap_sgtable(struct ib_device *device, struct sg_table *table);
u64 dmaplane_ib_dma_map_page(struct ib_device *device, void *memory, size_t bytes, bool to_device);
int dmaplane_ib_dma_mapping_error(struct ib_device *device, u64 address);
void dmaplane_ib_dma_unmap_page(struct ib_device *device, u64 address, size_t bytes, bool to_device);
void dmaplane_ib_dma_sync_cpu(struct ib_device *device, u64 address, size_t bytes);
void dmaplane_ib_dma_sync_device(struct ib_device *device, u64 address, size_t bytes, bool to_device);

/* dma-bufs, and pages mapped for any device. */
struct dma_resv *dmaplane_resv_new(void);
void dmaplane_resv_free(struct dma_resv *resv);
struct inode *dmaplane_dma_buf_inode(const struct dma_buf *dmabuf);
void dmaplane_resv_lock(struct dma_resv *resv);
void dmaplane_resv_unlock(struct dma_resv *resv);
bool dmaplane_dma_reaches(struct device *device, const struct page *page);
unsigned int dmaplane_dma_segment(struct device *device);
int dmaplane_dma_map(struct device *device, struct sg_table *table, enum dma_data_direction way);
void dmaplane_dma_unmap(struct device *device, struct sg_table *table, enum dma_data_direction way);
void dmaplane_dma_sync_for_cpu(struct device *device, struct sg_table *table,
			       enum dma_data_direction way);
void dmaplane_dma_sync_for_device(struct device *device, struct sg_table *table,
				  enum dma_data_direction way);
void *dmaplane_vmap(struct page **pages, unsigned int count);
void dmaplane_iosys_map_set(struct iosys_map *map, void *start);
void dmaplane_vunmap(struct iosys_map *map);
void *dmaplane_p2p_provider(struct pci_dev *pdev, int bar);
struct sg_table *dmaplane_p2p_map(struct dma_buf_attachment *attachment, void *provider,
				  phys_addr_t start, size_t bytes, enum dma_data_direction way);
void dmaplane_p2p_unmap(struct dma_buf_attachment *attachment, struct sg_table *table,
			enum dma_data_direction way);
int dmaplane_begin_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction way);
void dmaplane_resv_wait_all(struct dma_resv *resv);
bool dmaplane_resv_is_quiet(struct dma_resv *resv, unsigned int usage);
long dmaplane_resv_wait(struct dma_resv *resv, unsigned int usage, unsigned int limit_ms);
void dmaplane_get_dma_buf(struct dma_buf *dmabuf);
bool dmaplane_dma_buf_is_writable(const struct dma_buf *dmabuf);
void dmaplane_vma_never_written(struct vm_area_struct *vma);
struct page *dmaplane_kernel_page(const void *address);
void dmaplane_dma_any_address(struct device *device);
void dmaplane_module_stay(void);
