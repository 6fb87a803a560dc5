// SPDX-License-Identifier: GPL-2.0-only
/* Wrappers for what bindgen cannot bind: inline functions and macros. No policy lives here. */
#include <linux/anon_inodes.h>
#include <linux/cpumask.h>
#include <linux/cpuset.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/gfp.h>
#include <linux/highmem.h>
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/nodemask.h>
#include <linux/nsproxy.h>
#include <linux/io.h>
#include <linux/pci.h>
#include <linux/pgtable.h>
#include <linux/personality.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/topology.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include "bindings.h"

/*
 * For what may go on for long. A preemptible kernel's cond_resched() is empty, and tracers wait for a quiescent state of
 * each task.
 */
static void relax(void)
{
	cond_resched_tasks_rcu_qs();
}

/*
 * Allocates one folio, not zeroed, and charges it to the caller's memory cgroup. Like user memory, it comes only from
 * nodes of the caller's cpuset; without a node it follows the caller's memory policy. __GFP_RETRY_MAYFAIL,
 * __GFP_NORETRY and __GFP_THISNODE all avoid the OOM killer: a caller that asks for too much gets NULL, and nobody else
 * is hurt. Unless the caller insists, large folios are not retried: there are smaller ones.
 */
struct page *dmaplane_alloc_folio(int nid, unsigned int order, bool bound, bool insist)
{
	gfp_t gfp = GFP_USER | __GFP_ACCOUNT | __GFP_COMP | __GFP_NOWARN;

	gfp |= order && !insist ? __GFP_NORETRY : __GFP_RETRY_MAYFAIL;
	if (bound)
		gfp |= __GFP_THISNODE;
	if (nid == NUMA_NO_NODE)
		return alloc_pages(gfp, order);
	return alloc_pages_node(nid, gfp, order);
}

/* References to the folio that a page is part of. */
unsigned int dmaplane_folio_references(struct page *page)
{
	return folio_ref_count(page_folio(page));
}

/* Sleeps for a while, unless the caller is being killed. */
void dmaplane_sleep_killable(unsigned int ms)
{
	schedule_timeout_killable(msecs_to_jiffies(ms));
}

unsigned int dmaplane_folio_order(struct page *page)
{
	return folio_order(page_folio(page));
}

void dmaplane_zero_page(struct page *page)
{
	clear_highpage(page);
	relax();
}

void dmaplane_copy_to_page(struct page *page, size_t offset, const void *from, size_t bytes)
{
	memcpy_to_page(page, offset, from, bytes);
}

void dmaplane_copy_from_page(void *to, struct page *page, size_t offset, size_t bytes)
{
	memcpy_from_page(to, page, offset, bytes);
}

void dmaplane_move_between(struct page *to, size_t to_offset, struct page *from,
			   size_t from_offset, size_t bytes)
{
	char *target = kmap_local_page(to);
	const char *source = kmap_local_page(from);

	memmove(target + to_offset, source + from_offset, bytes);
	kunmap_local(source);
	kunmap_local(target);
	relax();
}

void dmaplane_init_work(struct work_struct *work, work_func_t run)
{
	INIT_WORK(work, run);
}

/* Near the node, and unbound, because it may take long. */
void dmaplane_queue_on_node(int nid, struct work_struct *work)
{
	queue_work_node(nid, system_dfl_wq, work);
}

void dmaplane_init_delayed_work(struct delayed_work *work, work_func_t run)
{
	INIT_DELAYED_WORK(work, run);
}

/* Unbound, because the work may wait. The last call decides when it runs. */
void dmaplane_run_within(struct delayed_work *work, unsigned long jiffies)
{
	mod_delayed_work(system_dfl_wq, work, jiffies);
}

/* The thread sleeps until the caller wakes it. The caller gets a reference to the task. */
struct task_struct *dmaplane_thread_create(int (*run)(void *start), void *start,
					   const char *name)
{
	struct task_struct *task = kthread_create(run, start, "%s", name);

	if (!IS_ERR(task))
		get_task_struct(task);
	return task;
}

/*
 * Moves the calling kernel thread to the processors of another task, which waits meanwhile, and of those to the
 * processors of a node if one is wanted. Not to that task's cgroup: one of version 2 cannot be frozen with a kernel
 * thread in it.
 */
int dmaplane_thread_follow(struct task_struct *owner, int nid)
{
	cpumask_var_t mask;
	int ret = -EINVAL;

	if (!alloc_cpumask_var(&mask, GFP_KERNEL_ACCOUNT))
		return -ENOMEM;
	cpumask_copy(mask, &owner->cpus_mask);
	if (nid == NUMA_NO_NODE || cpumask_and(mask, mask, cpumask_of_node(nid)))
		ret = set_cpus_allowed_ptr(current, mask);
	free_cpumask_var(mask);
	return ret;
}

bool dmaplane_node_has_processors(int nid)
{
	return nid >= 0 && nid < nr_node_ids && node_online(nid) && nr_cpus_node(nid);
}

/* Idle, so that it counts neither as load nor as hung. Contains a full barrier. */
void dmaplane_about_to_sleep(void)
{
	set_current_state(TASK_IDLE);
}

void dmaplane_awake(void)
{
	__set_current_state(TASK_RUNNING);
}

void dmaplane_relax(void)
{
	cpu_relax();
	relax();
}

struct mem_cgroup *dmaplane_memcg_of_caller(void)
{
	struct mem_cgroup *memcg;

	rcu_read_lock();
	memcg = mem_cgroup_from_task(current);
	if (memcg && !mem_cgroup_tryget(memcg))
		memcg = NULL;
	rcu_read_unlock();
	return memcg;
}

/* Returns the one that was charged before. */
struct mem_cgroup *dmaplane_charge_to(struct mem_cgroup *memcg)
{
	return set_active_memcg(memcg);
}

bool dmaplane_memcg_get(struct mem_cgroup *memcg)
{
	return mem_cgroup_tryget(memcg);
}

void dmaplane_memcg_put(struct mem_cgroup *memcg)
{
	mem_cgroup_put(memcg);
}

void dmaplane_init_waitqueue(struct wait_queue_head *queue)
{
	init_waitqueue_head(queue);
}

void dmaplane_wake_up_all(struct wait_queue_head *queue)
{
	wake_up_all(queue);
}

/* The limit is in jiffies. Returns what is left of it, at least 1, when ready; 0 on a timeout, negative on a signal. */
long dmaplane_wait_for(struct wait_queue_head *queue, bool (*ready)(void *condition),
		       void *condition, bool killable, long limit)
{
	if (killable)
		return wait_event_killable_timeout(*queue, ready(condition), limit);
	return wait_event_interruptible_timeout(*queue, ready(condition), limit);
}

bool dmaplane_is_exiting(void)
{
	return current->flags & PF_EXITING;
}

bool dmaplane_is_killed(void)
{
	return fatal_signal_pending(current);
}

int dmaplane_page_to_nid(const struct page *page)
{
	return page_to_nid(page);
}

/* Whether the node has memory that the kernel may use for itself, and the caller's cpuset allows it. */
bool dmaplane_node_has_memory(int nid)
{
	return nid >= 0 && nid < nr_node_ids && node_state(nid, N_NORMAL_MEMORY) &&
	       node_isset(nid, cpuset_current_mems_allowed);
}

unsigned int dmaplane_node_ids(void)
{
	return nr_node_ids;
}

int dmaplane_node_distance(int from, int to)
{
	if (from < 0 || to < 0)
		return REMOTE_DISTANCE;
	return node_distance(from, to);
}

/* Processors that the calling thread may run on. */
unsigned int dmaplane_own_cpus(void)
{
	return cpumask_weight(current->cpus_ptr);
}

unsigned int dmaplane_node_cpus(int nid)
{
	return nid >= 0 && nid < nr_node_ids && node_online(nid) ? nr_cpus_node(nid) : 0;
}

int dmaplane_pci_device_node(const char *name, int *nid)
{
	struct device *device = bus_find_device_by_name(&pci_bus_type, NULL, name);

	if (!device)
		return -ENODEV;
	*nid = dev_to_node(device);
	put_device(device);
	return 0;
}

bool dmaplane_ib_is_rxe(struct ib_device *device)
{
	return device->ops.driver_id == RDMA_DRIVER_RXE;
}

/*
 * What the device is and has, as DMAPLANE_IB_* bits: of its first port. Others may have another protocol of the two
 * that IB's connection manager serves, which makes no difference to what the device can do.
 */
u32 dmaplane_ib_features(struct ib_device *device)
{
	u32 port = rdma_start_port(device);
	u32 features = 0;

	if (rdma_protocol_ib(device, port))
		features |= DMAPLANE_IB_INFINIBAND;
	if (rdma_protocol_roce(device, port))
		features |= DMAPLANE_IB_ROCE;
	if (rdma_protocol_iwarp(device, port))
		features |= DMAPLANE_IB_IWARP;
	if (rdma_cap_ib_cm(device, port) || rdma_cap_iw_cm(device, port))
		features |= DMAPLANE_IB_CONNECTIONS;
	if (device->attrs.device_cap_flags & IB_DEVICE_MEM_MGT_EXTENSIONS)
		features |= DMAPLANE_IB_REGISTERS;
	return features;
}

/* The node of the adapter, or that of the device under its first port if the adapter itself has none. */
int dmaplane_ib_device_node(struct ib_device *device)
{
	int nid = dev_to_node(&device->dev);
	struct net_device *netdev;

	if (nid == NUMA_NO_NODE && device->dma_device)
		nid = dev_to_node(device->dma_device);
	if (nid != NUMA_NO_NODE)
		return nid;
	netdev = ib_device_get_netdev(device, 1);
	if (!netdev)
		return NUMA_NO_NODE;
	if (netdev->dev.parent)
		nid = dev_to_node(netdev->dev.parent);
	dev_put(netdev);
	return nid;
}

void *dmaplane_vmalloc_shared(unsigned long bytes)
{
	return __vmalloc(bytes, DMAPLANE_GFP_CHARGED | __GFP_ZERO);
}

void dmaplane_vfree(void *memory)
{
	vfree(memory);
}

/* Called from mmap(2) with the VMA still private to the caller. */
void dmaplane_vma_shared_only(struct vm_area_struct *vma)
{
	vm_flags_mod(vma, VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC | VM_EXEC);
	/* Pages that are inserted right away are not executable either. */
	vma->vm_page_prot = vm_get_page_prot(vma->vm_flags);
}

bool dmaplane_read_implies_exec(void)
{
	return current->personality & READ_IMPLIES_EXEC;
}

/* Called from mmap(2) with the VMA still private to the caller. Pages are inserted on first access. */
void dmaplane_vma_on_demand(struct vm_area_struct *vma, pgoff_t first)
{
	vm_flags_set(vma, VM_MIXEDMAP);
	vma->vm_pgoff = first;
}

static const struct file_operations dmaplane_space_fops = { .owner = THIS_MODULE };

/* A file with an inode of its own, whose address space holds user mappings and nothing else. */
struct file *dmaplane_space_new(void)
{
	return anon_inode_create_getfile("[dmaplane]", &dmaplane_space_fops, NULL, O_RDWR, NULL);
}

void dmaplane_space_put(struct inode *inode)
{
	iput(inode);
}

/* Called from open(2), before the file can be mapped. The space outlives the file. */
void dmaplane_space_adopt(struct file *space, struct file *file)
{
	file->f_mapping = space->f_mapping;
}

/*
 * Called from mmap(2) with the VMA still private to the caller: the mapping keeps the space instead of the file that was
 * mapped, which has the same address space.
 */
void dmaplane_space_keep(struct file *space, struct vm_area_struct *vma)
{
	vma_set_file(vma, space);
}

/* A count of 0 stands for all pages from the first on. */
void dmaplane_space_zap(struct inode *inode, pgoff_t first, pgoff_t count)
{
	unmap_mapping_pages(inode->i_mapping, first, count, true);
}

struct page *dmaplane_virt_to_page(const void *address)
{
	return virt_to_page(address);
}

void *dmaplane_page_address(const struct page *page)
{
	return page_address(page);
}

/* Enables the device's memory and takes one BAR for this driver alone. */
int dmaplane_pci_claim(struct pci_dev *pdev, int bar)
{
	int error = pci_enable_device_mem(pdev);

	if (error)
		return error;
	error = pci_request_region(pdev, bar, KBUILD_MODNAME);
	if (error)
		pci_disable_device(pdev);
	return error;
}

void dmaplane_pci_release(struct pci_dev *pdev, int bar)
{
	pci_release_region(pdev, bar);
	pci_disable_device(pdev);
}

int dmaplane_pci_node(struct pci_dev *pdev)
{
	return dev_to_node(&pdev->dev);
}

/* Domain, bus, device and function. */
u32 dmaplane_pci_address(struct pci_dev *pdev)
{
	return (u32)pci_domain_nr(pdev->bus) << 16 | pci_dev_id(pdev);
}

/* The tiers' numbers are those of kx/bar.rs. */
void *dmaplane_io_map(phys_addr_t start, size_t bytes, u32 tier)
{
	switch (tier) {
	case 0:
		return (void __force *)ioremap(start, bytes);
	case 1:
		return (void __force *)ioremap_wc(start, bytes);
	default:
		return (void __force *)ioremap_cache(start, bytes);
	}
}

/*
 * Whether a mapping has the tier that was wanted. If the MTRRs or a missing PAT do not allow it, the mapping is made
 * uncached without an error.
 */
bool dmaplane_io_has_tier(const void *mapping, u32 tier)
{
#ifdef CONFIG_X86
	enum page_cache_mode wanted = tier == 1 ? _PAGE_CACHE_MODE_WC : _PAGE_CACHE_MODE_WB;
	unsigned int level;
	unsigned long bits;
	pte_t *pte;

	if (tier == 0)
		return true;
	pte = lookup_address((unsigned long)mapping, &level);
	if (!pte)
		return false;
	bits = pte_val(*pte);
	/* The PAT bit is another one in entries of large pages. */
	if (level != PG_LEVEL_4K)
		bits = protval_large_2_4k(bits);
	return (bits & _PAGE_CACHE_MASK) == cachemode2protval(wanted) &&
	       cachemode2protval(wanted) != cachemode2protval(_PAGE_CACHE_MODE_UC_MINUS);
#else
	return true;
#endif
}

void dmaplane_io_unmap(void *mapping)
{
	iounmap((void __iomem __force *)mapping);
}

/*
 * Copies whole words where both sides are aligned. Either side may be a device's memory, for which the accesses of a
 * plain memcpy() are not specified.
 */
void dmaplane_io_copy(void *to, const void *from, size_t bytes)
{
	while (bytes) {
		if (bytes >= 8 && !(((uintptr_t)to | (uintptr_t)from) & 7)) {
			WRITE_ONCE(*(u64 *)to, READ_ONCE(*(const u64 *)from));
			to += 8;
			from += 8;
			bytes -= 8;
		} else {
			WRITE_ONCE(*(u8 *)to, READ_ONCE(*(const u8 *)from));
			to++;
			from++;
			bytes--;
		}
	}
	relax();
}

void dmaplane_io_zero(void *to, size_t bytes)
{
	memset_io((void __iomem __force *)to, 0, bytes);
	relax();
}

/* Called from mmap(2) with the VMA still private to the caller. */
void dmaplane_vma_of_io(struct vm_area_struct *vma, pgoff_t first, u32 tier)
{
	vm_flags_set(vma, VM_IO | VM_PFNMAP);
	vma->vm_pgoff = first;
	if (tier == 0)
		vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	else if (tier == 1)
		vma->vm_page_prot = pgprot_writecombine(vma->vm_page_prot);
	/* Shared with the device, and so not encrypted, like the kernel's own mapping. */
	vma->vm_page_prot = pgprot_decrypted(vma->vm_page_prot);
}

/* Called from a fault in a VMA of dmaplane_vma_of_io(). */
vm_fault_t dmaplane_vma_insert_io(struct vm_area_struct *vma, unsigned long address,
				  unsigned long pfn, unsigned long count)
{
	vm_fault_t result = VM_FAULT_NOPAGE;
	unsigned long at;

	for (at = 0; at < count && result == VM_FAULT_NOPAGE; at++)
		result = vmf_insert_pfn(vma, address + at * PAGE_SIZE, pfn + at);
	/* The faulting page is there, or another thread was faster. */
	return at > 1 ? VM_FAULT_NOPAGE : result;
}

/* Like dmaplane_vma_of_io(), but for host pages that nobody may pin. */
void dmaplane_vma_of_frames(struct vm_area_struct *vma, pgoff_t first)
{
	vm_flags_set(vma, VM_PFNMAP);
	vma->vm_pgoff = first;
}

/* Called from a fault in a VMA of dmaplane_vma_of_frames(). */
vm_fault_t dmaplane_vma_insert_frames(struct vm_area_struct *vma, unsigned long address,
				      struct page **pages, unsigned long count)
{
	vm_fault_t result = VM_FAULT_NOPAGE;
	unsigned long at;

	for (at = 0; at < count && result == VM_FAULT_NOPAGE; at++)
		result = vmf_insert_pfn(vma, address + at * PAGE_SIZE, page_to_pfn(pages[at]));
	/* The faulting page is there, or another thread was faster. */
	return at > 1 ? VM_FAULT_NOPAGE : result;
}

struct net *dmaplane_current_net(void)
{
	return current->nsproxy->net_ns;
}

void *dmaplane_ib_get_client_data(struct ib_device *device, struct ib_client *client)
{
	return ib_get_client_data(device, client);
}

int dmaplane_ib_post_send(struct ib_qp *qp, const struct ib_send_wr *wr,
			  const struct ib_send_wr **bad_wr)
{
	return ib_post_send(qp, wr, bad_wr);
}

int dmaplane_ib_post_recv(struct ib_qp *qp, const struct ib_recv_wr *wr)
{
	return ib_post_recv(qp, wr, NULL);
}

int dmaplane_ib_dma_map_sgtable(struct ib_device *device, struct sg_table *table)
{
	/* User space accesses the memory at any time, and it is never synchronised, so it has to be coherent. */
	return ib_dma_map_sgtable_attrs(device, table, DMA_BIDIRECTIONAL, DMA_ATTR_REQUIRE_COHERENT);
}

void dmaplane_ib_dma_unmap_sgtable(struct ib_device *device, struct sg_table *table)
{
	ib_dma_unmap_sgtable_attrs(device, table, DMA_BIDIRECTIONAL, DMA_ATTR_REQUIRE_COHERENT);
}

static enum dma_data_direction direction(bool to_device)
{
	return to_device ? DMA_TO_DEVICE : DMA_FROM_DEVICE;
}

u64 dmaplane_ib_dma_map_page(struct ib_device *device, void *memory, size_t bytes, bool to_device)
{
	return ib_dma_map_single(device, memory, bytes, direction(to_device));
}

int dmaplane_ib_dma_mapping_error(struct ib_device *device, u64 address)
{
	return ib_dma_mapping_error(device, address);
}

void dmaplane_ib_dma_unmap_page(struct ib_device *device, u64 address, size_t bytes, bool to_device)
{
	ib_dma_unmap_single(device, address, bytes, direction(to_device));
}

void dmaplane_ib_dma_sync_cpu(struct ib_device *device, u64 address, size_t bytes)
{
	ib_dma_sync_single_for_cpu(device, address, bytes, DMA_FROM_DEVICE);
}

void dmaplane_ib_dma_sync_device(struct ib_device *device, u64 address, size_t bytes, bool to_device)
{
	ib_dma_sync_single_for_device(device, address, bytes, direction(to_device));
}

/*
 * The exporter's part of dma_buf_begin_cpu_access() alone, which then waits for fences without a time limit. The caller
 * has waited for them with one; a fence that comes later is like one that comes after the access has begun.
 */
int dmaplane_begin_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction way)
{
	if (!dmabuf->ops->begin_cpu_access)
		return 0;
	return dmabuf->ops->begin_cpu_access(dmabuf, way);
}

struct dma_resv *dmaplane_resv_new(void)
{
	struct dma_resv *resv = kzalloc(sizeof(*resv), DMAPLANE_GFP_CHARGED);

	if (resv)
		dma_resv_init(resv);
	return resv;
}

void dmaplane_resv_free(struct dma_resv *resv)
{
	dma_resv_fini(resv);
	kfree(resv);
}

/* Returns the inode with a reference. The caller has a reference to the dma-buf. */
struct inode *dmaplane_dma_buf_inode(const struct dma_buf *dmabuf)
{
	struct inode *inode = file_inode(dmabuf->file);

	ihold(inode);
	return inode;
}

void dmaplane_resv_lock(struct dma_resv *resv)
{
	dma_resv_lock(resv, NULL);
}

void dmaplane_resv_unlock(struct dma_resv *resv)
{
	dma_resv_unlock(resv);
}

/* Whether others have finished with the memory. Any context. */
bool dmaplane_resv_is_quiet(struct dma_resv *resv, unsigned int usage)
{
	return dma_resv_test_signaled(resv, usage);
}

/*
 * Waits until others have finished with the memory. Ends early when the calling thread is killed, or is a kernel thread
 * that should stop. Other signals do not end it: with one every few milliseconds the wait would never succeed. Returns
 * 0 on a timeout, negative when it ended early.
 */
long dmaplane_resv_wait(struct dma_resv *resv, unsigned int usage, unsigned int limit_ms)
{
	const unsigned long look = msecs_to_jiffies(20);
	unsigned long left = msecs_to_jiffies(limit_ms);

	for (;;) {
		unsigned long slice = min(left, look);
		long waited = dma_resv_wait_timeout(resv, usage, false, slice);

		left -= slice;
		if (waited || !left)
			return waited;
		if (fatal_signal_pending(current) ||
		    ((current->flags & PF_KTHREAD) && kthread_should_stop()))
			return -EINTR;
	}
}

void dmaplane_get_dma_buf(struct dma_buf *dmabuf)
{
	get_dma_buf(dmabuf);
}

bool dmaplane_dma_buf_is_writable(const struct dma_buf *dmabuf)
{
	return dmabuf->file->f_mode & FMODE_WRITE;
}

/* Called from mmap(2) with the VMA still private to the caller. */
void dmaplane_vma_never_written(struct vm_area_struct *vma)
{
	vm_flags_clear(vma, VM_MAYWRITE);
}

/*
 * Whether an address has the same cache mode as the kernel's own mapping of the page. If an exporter maps
 * write-combined, what is written through one mapping need not be seen through the other.
 */
static bool mapped_alike(const void *address, struct page *page)
{
#ifdef CONFIG_X86
	unsigned int level;
	pte_t *here = lookup_address((unsigned long)address, &level);
	pte_t *there = lookup_address((unsigned long)page_address(page), &level);

	/* These two bits distinguish write-back, write-combining and uncached, in entries of every size. */
	return here && there && !((pte_flags(*here) ^ pte_flags(*there)) & (_PAGE_PWT | _PAGE_PCD));
#else
	return address == page_address(page);
#endif
}

/*
 * The page behind an address that the kernel has mapped; NULL when there is none, as behind device registers, or when it cannot
 * be reached by the kernel's own mapping as well.
 */
struct page *dmaplane_kernel_page(const void *address)
{
	struct page *page = NULL;

	if (is_vmalloc_addr(address))
		page = vmalloc_to_page(address);
	else if (virt_addr_valid(address))
		page = virt_to_page(address);
	return page && pfn_valid(page_to_pfn(page)) && mapped_alike(address, page) ? page : NULL;
}

/* For a device that never does DMA, but whose DMA mask exporters check. */
void dmaplane_dma_any_address(struct device *device)
{
	dma_coerce_mask_and_coherent(device, DMA_BIT_MASK(64));
}

/* Most bytes that one entry of a scatter list may have for this device, in whole pages. */
unsigned int dmaplane_dma_segment(struct device *device)
{
	size_t most = min_t(size_t, dma_max_mapping_size(device), dma_get_max_seg_size(device));

	return ALIGN_DOWN(min_t(size_t, most, SZ_1G), PAGE_SIZE);
}

/*
 * Whether a device can address a page, which it always can behind an IOMMU. Mapping a page that it cannot address would
 * be reported in the kernel's log.
 */
bool dmaplane_dma_reaches(struct device *device, const struct page *page)
{
	u64 limit = min_not_zero(dma_get_mask(device), device->bus_dma_limit);

	return device_iommu_mapped(device) || page_to_phys(page) + PAGE_SIZE - 1 <= limit;
}

/*
 * Processors and peers write the memory while it is mapped: a bounce buffer (swiotlb) would overwrite what they wrote,
 * so the device has to be coherent. The two sync calls below maintain the processor's caches, and mapping does not,
 * because the same pages are mapped for many devices at a time.
 */
#define MAP_ATTRS (DMA_ATTR_REQUIRE_COHERENT | DMA_ATTR_SKIP_CPU_SYNC)

int dmaplane_dma_map(struct device *device, struct sg_table *table, enum dma_data_direction way)
{
	return dma_map_sgtable(device, table, way, MAP_ATTRS | DMA_ATTR_NO_WARN);
}

void dmaplane_dma_unmap(struct device *device, struct sg_table *table, enum dma_data_direction way)
{
	dma_unmap_sgtable(device, table, way, MAP_ATTRS);
}

void dmaplane_dma_sync_for_cpu(struct device *device, struct sg_table *table,
			       enum dma_data_direction way)
{
	dma_sync_sgtable_for_cpu(device, table, way);
}

void dmaplane_dma_sync_for_device(struct device *device, struct sg_table *table,
				  enum dma_data_direction way)
{
	dma_sync_sgtable_for_device(device, table, way);
}

void *dmaplane_vmap(struct page **pages, unsigned int count)
{
	return vmap(pages, count, VM_MAP, PAGE_KERNEL);
}

void dmaplane_iosys_map_set(struct iosys_map *map, void *start)
{
	iosys_map_set_vaddr(map, start);
}

void dmaplane_vunmap(struct iosys_map *map)
{
	vunmap(map->vaddr);
}

void dmaplane_module_stay(void)
{
	__module_get(THIS_MODULE);
}
