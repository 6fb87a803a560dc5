// SPDX-License-Identifier: MIT OR Apache-2.0

//! The only unsafe code of the library: ioctl(2), mmap(2) and memory shared with other writers.

use std::ffi::c_void;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use dmaplane_uapi as abi;
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};
use rustix::mm::{MapFlags, ProtFlags};

/// Opens the device node for reading and writing, closed on exec.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open(path)?.into())
}

/// An ioctl argument whose first member is its size.
///
/// # Safety
///
/// `OPCODE` must be the ioctl that takes this structure, and the kernel must reach no memory but
/// the structure itself through it.
pub(crate) unsafe trait Argument {
    /// Number of the ioctl.
    const OPCODE: u32;
    /// Sets the size member.
    fn set_size(&mut self);
}

macro_rules! argument {
    ($($ty:ident = $opcode:ident),* $(,)?) => {$(
        // SAFETY: Number and structure belong together by `abi`, and the structure has no address
        // in it.
        unsafe impl Argument for abi::$ty {
            const OPCODE: u32 = abi::$opcode;

            fn set_size(&mut self) {
                self.size = size_of::<Self>() as u32;
            }
        }
    )*};
}

argument! {
    Query = IOC_QUERY,
    Destroy = IOC_DESTROY,
    BufferCreate = IOC_BUFFER_CREATE,
    BufferRevoke = IOC_BUFFER_REVOKE,
    MemoryQuery = IOC_MEMORY_QUERY,
    DeviceQuery = IOC_DEVICE_QUERY,
    DeviceAlloc = IOC_DEVICE_ALLOC,
    RdmaQuery = IOC_RDMA_QUERY,
    BufferExport = IOC_BUFFER_EXPORT,
    BufferImport = IOC_BUFFER_IMPORT,
    BufferFolios = IOC_BUFFER_FOLIOS,
    PoolCreate = IOC_POOL_CREATE,
    PoolCarve = IOC_POOL_CARVE,
    PoolQuery = IOC_POOL_QUERY,
    ChannelCreate = IOC_CHANNEL_CREATE,
    Enter = IOC_ENTER,
    Listen = IOC_LISTEN,
    Accept = IOC_ACCEPT,
    Connect = IOC_CONNECT,
    EndpointQuery = IOC_ENDPOINT_QUERY,
    GrantCreate = IOC_GRANT_CREATE,
    GrantWait = IOC_GRANT_WAIT,
}

/// An opcode known at run time with the address of its argument.
struct Call {
    opcode: u32,
    argument: *mut c_void,
}

// SAFETY: The kernel may write through the pointer, which `IS_MUTATING` says; nothing is read back
// from it here.
unsafe impl Ioctl for Call {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        Opcode::from(self.opcode)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Issues the ioctl that belongs to `argument`, which it also sizes.
pub(crate) fn ioctl<A: Argument>(fd: BorrowedFd<'_>, argument: &mut A) -> Result<(), Errno> {
    argument.set_size();
    let call = Call {
        opcode: A::OPCODE,
        argument: std::ptr::from_mut(argument).cast(),
    };
    // SAFETY: `Argument` promises that the kernel stays within the structure, whose size member was
    // just set and which is borrowed for the call.
    unsafe { rustix::ioctl::ioctl(fd, call) }
}

/// `IOC_BUFFER_QUERY` with the array that receives the pages of each node.
pub(crate) fn buffer_query(
    fd: BorrowedFd<'_>,
    handle: u32,
    pages_by_node: &mut [u64],
) -> Result<abi::BufferQuery, Errno> {
    let mut query = abi::BufferQuery {
        size: size_of::<abi::BufferQuery>() as u32,
        handle,
        node_count: u32::try_from(pages_by_node.len()).unwrap_or(u32::MAX),
        pages_by_node: pages_by_node.as_mut_ptr().expose_provenance() as u64,
        ..Default::default()
    };
    let call = Call {
        opcode: abi::IOC_BUFFER_QUERY,
        argument: std::ptr::from_mut(&mut query).cast(),
    };
    // SAFETY: The kernel writes the structure and at most `node_count` elements of the array, and
    // both are borrowed for the call.
    unsafe { rustix::ioctl::ioctl(fd, call) }?;
    Ok(query)
}

/// `IOC_STATS_QUERY` with the array that receives the latencies in each bucket.
pub(crate) fn stats_query(
    fd: BorrowedFd<'_>,
    query: &mut abi::StatsQuery,
    buckets: &mut [u64],
) -> Result<(), Errno> {
    query.size = size_of::<abi::StatsQuery>() as u32;
    query.bucket_count = u32::try_from(buckets.len()).unwrap_or(u32::MAX);
    query.buckets = buckets.as_mut_ptr().expose_provenance() as u64;
    let call = Call {
        opcode: abi::IOC_STATS_QUERY,
        argument: std::ptr::from_mut(query).cast(),
    };
    // SAFETY: The kernel writes the structure and at most `bucket_count` elements of the array, and
    // both are borrowed for the call.
    unsafe { rustix::ioctl::ioctl(fd, call) }
}

/// `IOC_BUFFER_EXPORT`, which gives a new file descriptor.
pub(crate) fn buffer_export(
    fd: BorrowedFd<'_>,
    export: &mut abi::BufferExport,
) -> Result<OwnedFd, Errno> {
    ioctl(fd, export)?;
    // SAFETY: The call succeeded, so that the number is a descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(export.fd) })
}

/// Types without padding for which every bit pattern is a value.
///
/// # Safety
///
/// The type has no padding, and every bit pattern is a value of it.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: Integers in a C layout without padding; `abi` asserts the size.
unsafe impl Plain for abi::Sqe {}
// SAFETY: Integers in a C layout without padding; `abi` asserts the size.
unsafe impl Plain for abi::Cqe {}

/// A shared mapping that this process, the kernel and a peer may write at the same time.
///
/// Its safe methods go through relaxed atomics or volatile accesses, so a concurrent writer costs
/// the reader a mix of old and new bytes, never undefined behaviour.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: The mapping belongs to the process, not to a thread, and `SharedMemory` owns it.
unsafe impl Send for SharedMemory {}
// SAFETY: Methods that take `&self` are atomic or volatile; the others are unsafe and say so.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps `bytes` of `fd` from `offset`, readable, writable and shared.
    pub(crate) fn map(fd: BorrowedFd<'_>, offset: u64, bytes: usize) -> Result<Self, Errno> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: A new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                prot,
                MapFlags::SHARED,
                fd,
                offset,
            )
        }?;
        Self::own(start, bytes)
    }

    /// Anonymous shared memory, which stands in for the kernel's in tests.
    #[cfg(test)]
    pub(crate) fn anonymous(bytes: usize) -> Result<Self, Errno> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: A new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, prot, MapFlags::SHARED)
        }?;
        Self::own(start, bytes)
    }

    /// An empty mapping: no memory at all.
    pub(crate) fn empty() -> Self {
        Self {
            start: NonNull::dangling(),
            bytes: 0,
        }
    }

    fn own(start: *mut c_void, bytes: usize) -> Result<Self, Errno> {
        let start = NonNull::new(start.cast()).ok_or(Errno::FAULT)?;
        Ok(Self { start, bytes })
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Panics unless `len` bytes at `offset` are inside and `offset` is aligned.
    #[inline]
    fn at(&self, offset: usize, len: usize, align: usize) -> NonNull<u8> {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.bytes) && offset.is_multiple_of(align),
            "{len} bytes at {offset} are not inside a mapping of {} bytes, or not aligned",
            self.bytes
        );
        // SAFETY: The offset was just checked to be inside the mapping.
        unsafe { self.start.add(offset) }
    }

    /// The 32-bit atomic at `offset`. Panics outside of the mapping.
    #[inline]
    pub(crate) fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        let place = self.at(offset, 4, 4);
        // SAFETY: Inside the mapping, aligned because the mapping starts on a page, and mapped as
        // long as `self` is borrowed.
        unsafe { AtomicU32::from_ptr(place.as_ptr().cast()) }
    }

    /// Volatile read of a plain value. Panics outside of the mapping.
    #[inline]
    pub(crate) fn read<T: Plain>(&self, offset: usize) -> T {
        let place = self.at(offset, size_of::<T>(), align_of::<T>());
        // SAFETY: Inside the mapping and aligned; `Plain` has no invalid patterns.
        unsafe { place.cast::<T>().read_volatile() }
    }

    /// Volatile write of a plain value. Panics outside of the mapping.
    #[inline]
    pub(crate) fn write<T: Plain>(&self, offset: usize, value: T) {
        let place = self.at(offset, size_of::<T>(), align_of::<T>());
        // SAFETY: Inside the mapping and aligned.
        unsafe { place.cast::<T>().write_volatile(value) }
    }

    /// Copies out of the mapping, word by word. Panics outside of the mapping.
    pub(crate) fn copy_out(&self, offset: usize, to: &mut [u8]) {
        self.at(offset, to.len(), 1);
        let head = to.len().min(offset.next_multiple_of(8) - offset);
        let (first, rest) = to.split_at_mut(head);
        for (i, byte) in first.iter_mut().enumerate() {
            *byte = self.atomic_u8(offset + i).load(Ordering::Relaxed);
        }
        let mut at = offset + head;
        let (words, tail) = rest.as_chunks_mut::<8>();
        for word in words {
            *word = self.atomic_u64(at).load(Ordering::Relaxed).to_ne_bytes();
            at += 8;
        }
        for (i, byte) in tail.iter_mut().enumerate() {
            *byte = self.atomic_u8(at + i).load(Ordering::Relaxed);
        }
    }

    /// Copies into the mapping, word by word. Panics outside of the mapping.
    pub(crate) fn copy_in(&self, offset: usize, from: &[u8]) {
        self.at(offset, from.len(), 1);
        let head = from.len().min(offset.next_multiple_of(8) - offset);
        let (first, rest) = from.split_at(head);
        for (i, byte) in first.iter().enumerate() {
            self.atomic_u8(offset + i).store(*byte, Ordering::Relaxed);
        }
        let mut at = offset + head;
        let (words, tail) = rest.as_chunks::<8>();
        for word in words {
            self.atomic_u64(at)
                .store(u64::from_ne_bytes(*word), Ordering::Relaxed);
            at += 8;
        }
        for (i, byte) in tail.iter().enumerate() {
            self.atomic_u8(at + i).store(*byte, Ordering::Relaxed);
        }
    }

    fn atomic_u8(&self, offset: usize) -> &AtomicU8 {
        let place = self.at(offset, 1, 1);
        // SAFETY: Inside the mapping, a byte needs no alignment, and mapped as long as `self` is
        // borrowed.
        unsafe { AtomicU8::from_ptr(place.as_ptr()) }
    }

    fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        let place = self.at(offset, 8, 8);
        // SAFETY: Inside the mapping, aligned because the mapping starts on a page, and mapped as
        // long as `self` is borrowed.
        unsafe { AtomicU64::from_ptr(place.as_ptr().cast()) }
    }

    /// The memory as a slice.
    ///
    /// # Safety
    ///
    /// Nothing may write the memory while the slice lives: no grant is live, no other mapping is
    /// written, no other thread copies in.
    pub(crate) unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: Mapped and initialised by the kernel; the caller excludes writers.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    /// The memory as a mutable slice.
    ///
    /// # Safety
    ///
    /// Nothing else may read or write the memory through this process while the slice lives, and
    /// no grant over it may be live.
    pub(crate) unsafe fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: Mapped and initialised by the kernel; the caller excludes everybody else.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// The memory as a slice, after the owner proved that no other writer is left.
    pub(crate) fn exclusive(self) -> Frozen {
        Frozen(self)
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        // SAFETY: `self` owns the mapping and every borrow of it has ended.
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(
            result.is_ok(),
            "munmap of an own mapping failed: {result:?}"
        );
    }
}

/// Memory that nobody writes any more; see `Buffer::freeze`.
#[derive(Debug)]
pub(crate) struct Frozen(SharedMemory);

impl Frozen {
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `exclusive` took the only mapping, and its caller proved that no grant lives.
        unsafe { self.0.as_slice() }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: `exclusive` took the only mapping, its caller proved that no grant lives, and the
        // exclusive borrow keeps other slices away.
        unsafe { self.0.as_mut_slice() }
    }
}

/// Borrows the descriptor of anything that owns one; shortens call sites.
pub(crate) fn fd(owner: &impl AsFd) -> BorrowedFd<'_> {
    owner.as_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_keep_every_byte_at_every_alignment() {
        let memory = SharedMemory::anonymous(4096).expect("anonymous memory");
        let data: Vec<u8> = (0..64u8).map(|i| i.wrapping_mul(37) ^ 0x5a).collect();
        for offset in 0..17 {
            for len in 0..data.len() {
                memory.copy_in(offset, &data[..len]);
                let mut back = vec![0; len];
                memory.copy_out(offset, &mut back);
                assert_eq!(back, data[..len], "{len} bytes at {offset}");
            }
        }
    }

    #[test]
    fn a_copy_touches_nothing_around_it() {
        let memory = SharedMemory::anonymous(4096).expect("anonymous memory");
        memory.copy_in(3, &[0xff; 21]);
        let mut all = [0; 64];
        memory.copy_out(0, &mut all);
        let mut want = [0; 64];
        want[3..24].fill(0xff);
        assert_eq!(all, want);
    }

    #[test]
    #[should_panic(expected = "not inside a mapping")]
    fn a_copy_beyond_the_end_panics() {
        let memory = SharedMemory::anonymous(4096).expect("anonymous memory");
        memory.copy_out(4090, &mut [0; 7]);
    }

    #[test]
    #[should_panic(expected = "not aligned")]
    fn a_misaligned_atomic_panics() {
        let memory = SharedMemory::anonymous(4096).expect("anonymous memory");
        memory.atomic_u32(2);
    }
}
