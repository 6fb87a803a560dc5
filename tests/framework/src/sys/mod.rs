// SPDX-License-Identifier: MIT OR Apache-2.0

//! System calls that the library rightly does not offer, and, but for [`kcov`](crate::kcov), the kit's only unsafe code.

pub mod pins;
pub mod process;
mod words;

pub use words::Words;

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use dmaplane_uapi as abi;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// Room behind an argument, so that a wrong size member stays within it.
const ROOM: usize = 64 << 10;
/// More than any structure that the kernel writes.
const WRITTEN: usize = 512;

/// Memory that arguments are passed in, again and again, and that the kernel may write.
#[derive(Debug)]
pub struct Room(Vec<u8>);

impl Default for Room {
    fn default() -> Self {
        Self(vec![0; ROOM])
    }
}

impl Room {
    /// Where the kernel may write an array: the second half of the room.
    pub fn array(&self) -> u64 {
        self.0[ROOM / 2..].as_ptr().expose_provenance() as u64
    }

    /// Issues any ioctl with any argument bytes; they hold the kernel's answer afterwards.
    ///
    /// # Errors
    /// The driver's errno.
    ///
    /// # Panics
    /// When the argument names memory of this process outside of the room.
    pub fn ioctl(
        &mut self,
        fd: BorrowedFd<'_>,
        opcode: u32,
        argument: &mut [u8],
    ) -> Result<(), Errno> {
        let length = argument.len();
        assert!(length <= ROOM / 2, "an argument of {length} bytes");
        if let Some(at) = address_in(opcode) {
            let bytes = argument.get(at..at + 8).and_then(|b| b.try_into().ok());
            let address = bytes.map_or(0, u64::from_ne_bytes);
            assert!(
                self.is_harmless(address),
                "{address:#x} may be this process' memory"
            );
        }
        self.0[..length].copy_from_slice(argument);
        // SAFETY: The driver writes at most the 4 GiB that a size member can name, but refuses sizes
        // beyond a page, which is inside the room; the one address in an argument was checked above.
        let result = unsafe {
            libc::ioctl(
                fd.as_raw_fd(),
                libc::c_ulong::from(opcode),
                self.0.as_mut_ptr().cast::<c_void>(),
            )
        };
        let errno = check(i64::from(result));
        argument.copy_from_slice(&self.0[..length]);
        // The next argument finds zeroes behind it.
        self.0[..length.max(WRITTEN)].fill(0);
        errno
    }

    /// Whether this process survives if the kernel writes a few numbers there.
    pub fn is_harmless(&self, address: u64) -> bool {
        let array = self.array();
        address < 4096 || address >> 63 == 1 || (array..array + ROOM as u64 / 4).contains(&address)
    }
}

/// Where an ioctl's argument holds an address, if it does.
pub fn address_in(opcode: u32) -> Option<usize> {
    match opcode {
        abi::IOC_BUFFER_QUERY => Some(std::mem::offset_of!(abi::BufferQuery, pages_by_node)),
        abi::IOC_STATS_QUERY => Some(std::mem::offset_of!(abi::StatsQuery, buckets)),
        _ => None,
    }
}

/// Issues one ioctl as [`Room::ioctl`] does.
///
/// # Errors
/// The driver's errno.
pub fn ioctl(fd: BorrowedFd<'_>, opcode: u32, argument: &mut [u8]) -> Result<(), Errno> {
    Room::default().ioctl(fd, opcode, argument)
}

/// The argument of another driver's ioctl.
///
/// # Safety
///
/// The ioctl of number `OPCODE` reaches no memory but the structure, all bytes of which are initialised and may have any
/// value.
pub(crate) unsafe trait Foreign {
    /// Number of the ioctl.
    const OPCODE: u32;
}

/// Number of an ioctl that reads its argument.
pub(crate) const fn write_only(kind: u8, nr: u8, bytes: usize) -> u32 {
    1 << 30 | (bytes as u32) << 16 | (kind as u32) << 8 | nr as u32
}

/// Number of an ioctl that reads and writes its argument.
pub(crate) const fn read_write(kind: u8, nr: u8, bytes: usize) -> u32 {
    2 << 30 | write_only(kind, nr, bytes)
}

/// Issues another driver's ioctl, as often as signals interrupt it; gives its result.
pub(crate) fn foreign<T: Foreign>(fd: BorrowedFd<'_>, argument: &mut T) -> Result<i32, Errno> {
    loop {
        // SAFETY: By `Foreign`'s contract the kernel stays in the structure, which is borrowed for the call.
        let result = unsafe {
            libc::ioctl(
                fd.as_raw_fd(),
                libc::c_ulong::from(T::OPCODE),
                std::ptr::from_mut(argument).cast::<c_void>(),
            )
        };
        match check(i64::from(result)) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(()) => return Ok(result),
        }
    }
}

/// Takes over a descriptor that the kernel has just made, which nobody else may do.
///
/// # Panics
/// When it is negative, and so none.
pub fn own(fd: i32) -> OwnedFd {
    assert!(fd >= 0, "{fd} is no descriptor");
    // SAFETY: The caller got the number from a call that made it, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Issues an ioctl with an address as its argument that no memory is at.
///
/// # Errors
/// The driver's errno, which must be `EFAULT`.
pub fn ioctl_at_nothing(fd: BorrowedFd<'_>, opcode: u32) -> Result<(), Errno> {
    // SAFETY: The first page is never mapped, so the kernel can only fail.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::c_ulong::from(opcode), 8usize) };
    check(i64::from(result))
}

/// Tries to map and unmaps at once.
///
/// # Errors
/// What mmap(2) says.
pub fn try_map(
    fd: BorrowedFd<'_>,
    offset: u64,
    bytes: usize,
    flags: MapFlags,
    prot: ProtFlags,
) -> Result<(), Errno> {
    assert!(
        !flags.contains(MapFlags::FIXED),
        "a fixed mapping would replace others"
    );
    // SAFETY: A new mapping at an address of the kernel's choice touches no existing memory, and
    // nobody uses it before it goes.
    unsafe {
        let start = rustix::mm::mmap(std::ptr::null_mut(), bytes, prot, flags, fd, offset)?;
        rustix::mm::munmap(start, bytes)
    }
}

/// Closes the file behind a descriptor and leaves the descriptor its owner, with /dev/null behind it: as if the process
/// had lost the file at this moment.
///
/// # Errors
/// What open(2) or dup2(2) says.
pub fn close_behind(fd: BorrowedFd<'_>) -> Result<()> {
    let null = std::fs::File::open("/dev/null").context("/dev/null")?;
    // SAFETY: The descriptor stays open, with another file; its owner only ever passes it to the kernel, which says
    // that the new file is of another kind.
    let done = unsafe { libc::dup2(null.as_raw_fd(), fd.as_raw_fd()) };
    ensure!(done >= 0, "dup2: {}", io::Error::last_os_error());
    Ok(())
}

/// The NUMA node of each of `count` pages from `start` on, as get_mempolicy(2) sees this process.
/// move_pages(2) would return all in one call, but is there only in kernels that migrate pages.
///
/// # Errors
/// When the call fails for a page, which is named.
pub fn page_nodes(start: *const u8, count: usize, page_bytes: usize) -> Result<Vec<u32>> {
    const MPOL_F_NODE: libc::c_ulong = 1 << 0;
    const MPOL_F_ADDR: libc::c_ulong = 1 << 1;
    let node = |index: usize| {
        let mut node: libc::c_int = -1;
        // SAFETY: The call writes one integer to `node` and looks the address up, whatever it is; it takes
        // no mask, so that its length is 0.
        let result = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut node,
                std::ptr::null_mut::<libc::c_ulong>(),
                0,
                start.wrapping_add(index * page_bytes),
                MPOL_F_NODE | MPOL_F_ADDR,
            )
        };
        check(result).with_context(|| format!("get_mempolicy of page {index}"))?;
        u32::try_from(node).with_context(|| format!("page {index} has no node: {node}"))
    };
    (0..count).map(node).collect()
}

/// Asks mbind(2) to bind a range to a node and to move its pages there.
///
/// # Errors
/// What mbind(2) says.
pub fn bind_and_move(start: *const u8, bytes: u64, node: u32) -> Result<(), Errno> {
    const MPOL_BIND: libc::c_long = 2;
    const STRICT_AND_MOVE: libc::c_long = 1 | 2;
    let mask: libc::c_ulong = 1u64.checked_shl(node).unwrap_or(0);
    // SAFETY: The call reads one word of the mask; policies of a shared mapping change where its pages come from, never what
    // is in them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            start.addr(),
            bytes,
            MPOL_BIND,
            &raw const mask,
            libc::c_ulong::from(libc::c_ulong::BITS),
            STRICT_AND_MOVE,
        )
    };
    check(result)
}

/// A forked child, killed when it is dropped before it was waited for.
#[derive(Debug)]
pub struct Forked(libc::pid_t);

/// Starts `work` in a forked child, which has a copy of this process' memory and mappings.
///
/// The child has only the calling thread. `work` must not allocate, lock or panic: another thread
/// may have held the lock when it forked.
///
/// # Errors
/// When the fork fails.
pub fn fork(work: impl FnOnce() -> bool) -> Result<Forked> {
    // SAFETY: The child runs `work`, whose limits are the caller's promise, and leaves by _exit,
    // without running this process' destructors.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let code = i32::from(!work());
        // SAFETY: Ends the process; nothing runs after it.
        unsafe { libc::_exit(code) }
    }
    ensure!(child > 0, "cannot fork: {}", io::Error::last_os_error());
    Ok(Forked(child))
}

impl Forked {
    /// Waits for the child's answer.
    ///
    /// # Errors
    /// When the child died otherwise than by its answer.
    pub fn wait(self) -> Result<bool> {
        let status = self.reap()?;
        std::mem::forget(self);
        if !libc::WIFEXITED(status) {
            bail!("the child died of signal {}", libc::WTERMSIG(status));
        }
        Ok(libc::WEXITSTATUS(status) == 0)
    }

    /// Waits for the child's death by a signal, and gives the signal.
    ///
    /// # Errors
    /// When it ended otherwise.
    pub fn wait_signal(self) -> Result<i32> {
        let status = self.reap()?;
        std::mem::forget(self);
        ensure!(libc::WIFSIGNALED(status), "the child ended by itself");
        Ok(libc::WTERMSIG(status))
    }

    fn reap(&self) -> Result<libc::c_int> {
        let mut status = 0;
        // SAFETY: The child is ours and `status` is borrowed for the call.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        ensure!(
            waited == self.0,
            "cannot wait for the child: {}",
            io::Error::last_os_error()
        );
        Ok(status)
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        // SAFETY: The child is ours and was not waited for, so its number is still its own.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        // It is gone in any case.
        let _ = self.reap();
    }
}

/// How often a touch of memory that was taken away has met [`replace_taken_pages`] in this process.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// How often a touch of memory that was taken away gave SIGBUS since [`replace_taken_pages`].
pub fn taken_pages() -> u64 {
    TAKEN.load(Ordering::Relaxed)
}

/// From here on, a touch of memory that was taken away (SIGBUS) finds a page of zeroes instead, which is this
/// process' own, and is counted.
///
/// # Errors
/// When the handler cannot be installed.
pub fn replace_taken_pages() -> Result<()> {
    extern "C" fn replace(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        // SAFETY: The kernel passes the signal's information. The page is replaced as a whole: whatever was mapped there
        // is gone for good. mmap(2) may be called in a handler.
        unsafe {
            let page = (*info).si_addr().map_addr(|address| address & !0xfff);
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            if libc::mmap(page, 0x1000, prot, flags, -1, 0) == libc::MAP_FAILED {
                libc::_exit(99);
            }
        }
    }
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) = replace;
    // SAFETY: The handler only does what is allowed in one.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut())
    };
    ensure!(
        result == 0,
        "cannot handle SIGBUS: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

fn check(result: i64) -> Result<(), Errno> {
    if result >= 0 {
        return Ok(());
    }
    let errno = io::Error::last_os_error();
    Err(Errno::from_io_error(&errno).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_child_answers_and_its_death_is_an_error() {
        assert!(fork(|| true).and_then(Forked::wait).expect("a child"));
        assert!(!fork(|| false).and_then(Forked::wait).expect("a child"));
        // SAFETY: The signal ends the child only.
        let child = fork(|| unsafe { libc::raise(libc::SIGKILL) } == 0);
        let error = child.and_then(Forked::wait).expect_err("it dies");
        assert!(error.to_string().contains("signal 9"), "{error}");
    }

    #[test]
    fn a_child_that_nobody_waits_for_is_killed() {
        let child = fork(|| {
            loop {
                // SAFETY: Waits for a signal; there is nothing to violate.
                unsafe { libc::pause() };
            }
        });
        let child = child.expect("a child");
        let pid = child.0;
        drop(child);
        // SAFETY: Signal 0 only asks.
        let asked = unsafe { libc::kill(pid, 0) };
        assert_eq!(asked, -1, "it was killed and reaped");
    }

    #[test]
    fn errnos_come_back() {
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        assert_eq!(
            ioctl(null.as_fd(), abi::IOC_QUERY, &mut [0; 8]),
            Err(Errno::NOTTY)
        );
    }

    #[test]
    #[should_panic(expected = "may be this process' memory")]
    fn an_address_in_an_argument_is_refused() {
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        let mut argument = [0xaa; size_of::<abi::BufferQuery>()];
        argument[23] = 0;
        let _ = ioctl(null.as_fd(), abi::IOC_BUFFER_QUERY, &mut argument);
    }
}
