// SPDX-License-Identifier: MIT OR Apache-2.0

//! dma-bufs of the kernel's own exporters, and importers that are not the driver's.
//!
//! | module | exporter | importer |
//! |---|---|---|
//! | here | udmabuf, the system heap | |
//! | [`vgem`] | GEM objects, with fences | attaches and never maps |
//! | [`vivid`] | frames of a camera | writes frames through a kernel mapping; maps for its device, until it lets go by itself |

pub mod vgem;
pub mod vivid;

use std::fs::File;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use dmaplane_uapi as abi;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use crate::module;
use crate::sys::{self, Foreign, read_write, write_only};

/// Loads a module that exports dma-bufs, with parameters. One that is there already is fine.
fn load(name: &str, parameters: &str) -> Result<()> {
    module::load_listed("DMAPLANE_EXPORTERS", name, parameters)
}

/// Bytes that a dma-buf says it has, and the name of its exporter.
///
/// # Errors
/// When the descriptor is not one of a dma-buf.
pub fn describe(dmabuf: BorrowedFd<'_>) -> Result<(u64, String)> {
    let path = format!("/proc/self/fdinfo/{}", dmabuf.as_raw_fd());
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim)
            .with_context(|| format!("{path} has no {name} {text}"))
    };
    Ok((value("size:")?.parse()?, value("exp_name:")?.to_owned()))
}

/// What a process does with a dma-buf between two calls of [`sync`].
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// Reads.
    Read = 1,
    /// Writes.
    Write = 2,
    /// Both.
    Both = 3,
}

#[repr(C)]
struct Sync {
    flags: u64,
}

const SYNC_END: u64 = 1 << 2;

// SAFETY: `DMA_BUF_IOCTL_SYNC` reads this structure.
unsafe impl Foreign for Sync {
    const OPCODE: u32 = write_only(b'b', 0, size_of::<Self>());
}

/// Begins or ends an access of this process (`DMA_BUF_IOCTL_SYNC`).
///
/// # Errors
/// What the exporter says.
pub fn sync(dmabuf: BorrowedFd<'_>, access: Access, begin: bool) -> Result<(), Errno> {
    let end = if begin { 0 } else { SYNC_END };
    let mut sync = Sync {
        flags: access as u64 | end,
    };
    sys::foreign(dmabuf, &mut sync).map(drop)
}

#[repr(C)]
struct HeapAlloc {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

// SAFETY: `DMA_HEAP_IOCTL_ALLOC` reads and writes this structure.
unsafe impl Foreign for HeapAlloc {
    const OPCODE: u32 = read_write(b'H', 0, size_of::<Self>());
}

/// A dma-buf of the system heap.
///
/// # Errors
/// When the kernel has no heap or no memory.
pub fn heap(bytes: u64) -> Result<OwnedFd> {
    heap_with(bytes, libc::O_RDWR)
}

/// A dma-buf of the system heap that is not to be written.
///
/// # Errors
/// As [`heap`].
pub fn heap_read_only(bytes: u64) -> Result<OwnedFd> {
    heap_with(bytes, libc::O_RDONLY)
}

fn heap_with(bytes: u64, mode: i32) -> Result<OwnedFd> {
    let heap = File::options()
        .read(true)
        .write(true)
        .open("/dev/dma_heap/system")
        .context("/dev/dma_heap/system")?;
    let mut alloc = HeapAlloc {
        len: bytes,
        fd: 0,
        fd_flags: (libc::O_CLOEXEC | mode) as u32,
        heap_flags: 0,
    };
    sys::foreign(heap.as_fd(), &mut alloc).context("DMA_HEAP_IOCTL_ALLOC")?;
    Ok(sys::own(alloc.fd as i32))
}

#[repr(C)]
struct UdmabufCreate {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

// SAFETY: `UDMABUF_CREATE` reads this structure.
unsafe impl Foreign for UdmabufCreate {
    const OPCODE: u32 = write_only(b'u', 0x42, size_of::<Self>());
}

/// A dma-buf of a file in memory, and the file.
///
/// # Errors
/// When the kernel has no udmabuf or no memory.
pub fn udmabuf(bytes: u64) -> Result<(OwnedFd, OwnedFd)> {
    let memfd = sealed(bytes)?;
    let mut create = UdmabufCreate {
        memfd: memfd.as_raw_fd() as u32,
        flags: 1, // UDMABUF_FLAGS_CLOEXEC
        offset: 0,
        size: bytes,
    };
    let fd = sys::foreign(udmabuf_device()?.as_fd(), &mut create).context("UDMABUF_CREATE")?;
    Ok((sys::own(fd), memfd))
}

/// A file in memory of which dma-bufs may be made.
///
/// # Errors
/// When there is no memory.
pub fn sealed(bytes: u64) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = rustix::fs::memfd_create(c"dmaplane-test", flags)?;
    rustix::fs::ftruncate(&memfd, bytes)?;
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK)?;
    Ok(memfd)
}

fn udmabuf_device() -> Result<File> {
    let device = File::options().read(true).write(true).open("/dev/udmabuf");
    device.context("/dev/udmabuf")
}

/// Most pages of [`udmabuf_of_pages`].
pub const LISTED: usize = 16;

#[repr(C)]
struct UdmabufItem {
    memfd: u32,
    reserved: u32,
    offset: u64,
    size: u64,
}

#[repr(C)]
struct UdmabufList {
    flags: u32,
    count: u32,
    list: [UdmabufItem; LISTED],
}

// SAFETY: `UDMABUF_CREATE_LIST` reads this structure and as many entries as it says, which are inside it. The number is that
// of the head alone.
unsafe impl Foreign for UdmabufList {
    const OPCODE: u32 = write_only(b'u', 0x43, 8);
}

/// A dma-buf of pages of a file in memory, in any order.
///
/// # Errors
/// When the kernel has no udmabuf, or refuses.
///
/// # Panics
/// With more than [`LISTED`] pages.
pub fn udmabuf_of_pages(memfd: BorrowedFd<'_>, pages: &[u64]) -> Result<OwnedFd> {
    assert!(pages.len() <= LISTED, "{} pages", pages.len());
    let item = |index: usize| UdmabufItem {
        memfd: memfd.as_raw_fd() as u32,
        reserved: 0,
        offset: pages.get(index).copied().unwrap_or(0) * 4096,
        size: 4096,
    };
    let mut list = UdmabufList {
        flags: 1, // UDMABUF_FLAGS_CLOEXEC
        count: pages.len() as u32,
        list: std::array::from_fn(item),
    };
    let fd = sys::foreign(udmabuf_device()?.as_fd(), &mut list).context("UDMABUF_CREATE_LIST")?;
    Ok(sys::own(fd))
}

/// Imports by number, whatever it is.
///
/// # Errors
/// The driver's errno, which must come.
pub fn import_raw(context: BorrowedFd<'_>, fd: i32, flags: u32) -> Result<(), Errno> {
    let mut argument = [0; size_of::<abi::BufferImport>()];
    let mut put = |at: usize, value: u32| {
        argument[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    };
    put(
        offset_of!(abi::BufferImport, size),
        size_of::<abi::BufferImport>() as u32,
    );
    put(offset_of!(abi::BufferImport, flags), flags);
    put(offset_of!(abi::BufferImport, fd), fd.cast_unsigned());
    sys::ioctl(context, abi::IOC_BUFFER_IMPORT, &mut argument)
}

/// A descriptor of another process of this guest, as one that was passed over a socket.
///
/// # Errors
/// When there is no such process or descriptor.
pub fn take(pid: u32, fd: i32) -> Result<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("process 0")?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let flags = PidfdGetfdFlags::empty();
    Ok(rustix::process::pidfd_getfd(process, fd, flags)?)
}
