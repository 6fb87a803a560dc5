// SPDX-License-Identifier: MIT OR Apache-2.0

//! vivid: cameras without lenses, which take frames into other drivers' memory.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::load;
use crate::poll;
use crate::sys::{self, Foreign, read_write, write_only};

const TYPE: u8 = b'V';
const CAPTURE: u32 = 1;
const MEMORY_MMAP: u32 = 1;
const MEMORY_DMABUF: u32 = 4;

#[repr(C)]
struct Format {
    kind: u32,
    pad: u32,
    width: u32,
    height: u32,
    pixelformat: u32,
    field: u32,
    bytesperline: u32,
    sizeimage: u32,
    rest: [u32; 44],
}
const _: () = assert!(size_of::<Format>() == 208);

// SAFETY: `VIDIOC_S_FMT` reads and writes this structure.
unsafe impl Foreign for Format {
    const OPCODE: u32 = read_write(TYPE, 5, size_of::<Self>());
}

#[repr(C)]
struct Request {
    count: u32,
    kind: u32,
    memory: u32,
    capabilities: u32,
    flags: u32,
}

// SAFETY: `VIDIOC_REQBUFS` reads and writes this structure.
unsafe impl Foreign for Request {
    const OPCODE: u32 = read_write(TYPE, 8, size_of::<Self>());
}

#[repr(C)]
struct Slot<const NR: u8> {
    index: u32,
    kind: u32,
    bytesused: u32,
    flags: u32,
    field: u32,
    pad: u32,
    time: [u64; 2],
    timecode: [u32; 4],
    sequence: u32,
    memory: u32,
    fd: i32,
    pad2: u32,
    length: u32,
    reserved: [u32; 3],
}
const _: () = assert!(size_of::<Slot<0>>() == 88);

// SAFETY: `VIDIOC_QBUF` (15) and `VIDIOC_DQBUF` (17) read and write this structure. Without planes there is no address in it.
unsafe impl<const NR: u8> Foreign for Slot<NR> {
    const OPCODE: u32 = read_write(TYPE, NR, size_of::<Self>());
}

impl<const NR: u8> Slot<NR> {
    fn new(memory: u32, fd: i32) -> Self {
        Self {
            index: 0,
            kind: CAPTURE,
            bytesused: 0,
            flags: 0,
            field: 0,
            pad: 0,
            time: [0; 2],
            timecode: [0; 4],
            sequence: 0,
            memory,
            fd,
            pad2: 0,
            length: 0,
            reserved: [0; 3],
        }
    }
}

#[repr(C)]
struct Export {
    kind: u32,
    index: u32,
    plane: u32,
    flags: u32,
    fd: i32,
    reserved: [u32; 11],
}

// SAFETY: `VIDIOC_EXPBUF` reads and writes this structure.
unsafe impl Foreign for Export {
    const OPCODE: u32 = read_write(TYPE, 16, size_of::<Self>());
}

#[repr(C)]
struct Stream<const NR: u8>(u32);

// SAFETY: `VIDIOC_STREAMON` (18) and `VIDIOC_STREAMOFF` (19) read an integer.
unsafe impl<const NR: u8> Foreign for Stream<NR> {
    const OPCODE: u32 = write_only(TYPE, NR, size_of::<Self>());
}

/// How a camera reaches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By a kernel mapping.
    Mapping,
    /// By DMA into contiguous memory, as far as its drivers know: the memory is attached and mapped for its device
    /// until the camera releases it by itself. The camera itself writes by a kernel mapping as well.
    Device,
}

/// An open camera with one frame buffer.
#[derive(Debug)]
pub struct Vivid {
    file: File,
    bytes: u32,
}

impl Vivid {
    /// Loads the module if need be, opens a camera and sets a small picture.
    ///
    /// # Errors
    /// When the kernel has no vivid.
    pub fn open(kind: Kind) -> Result<Self> {
        // A camera of each kind and nothing else.
        let parameters = "n_devs=2 node_types=0x1,0x1 allocators=0,1 no_error_inj=1";
        load("vivid", parameters)?;
        let node = || node(kind);
        let path = poll::until(Duration::from_secs(10), node)?.context("no node of vivid's")?;
        let file = File::options().read(true).write(true).open(&path);
        let file = file.with_context(|| path.display().to_string())?;
        let mut format = Format {
            kind: CAPTURE,
            pad: 0,
            width: 320,
            height: 180,
            pixelformat: u32::from_le_bytes(*b"YUYV"),
            field: 1,
            bytesperline: 0,
            sizeimage: 0,
            rest: [0; 44],
        };
        sys::foreign(file.as_fd(), &mut format).context("VIDIOC_S_FMT")?;
        let bytes = format.sizeimage;
        ensure!(bytes > 0, "a picture of no bytes");
        Ok(Self { file, bytes })
    }

    /// Bytes of a frame.
    pub fn bytes(&self) -> u64 {
        self.bytes.into()
    }

    fn request(&self, count: u32, memory: u32) -> Result<()> {
        let mut request = Request {
            count,
            kind: CAPTURE,
            memory,
            capabilities: 0,
            flags: 0,
        };
        sys::foreign(self.file.as_fd(), &mut request).context("VIDIOC_REQBUFS")?;
        ensure!(request.count >= count, "{} buffers", request.count);
        Ok(())
    }

    /// Queues a dma-buf for the next frame; a frame buffer of its own without one.
    ///
    /// # Errors
    /// What the exporter says to it.
    fn queue(&self, index: u32, dmabuf: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let mut slot = match dmabuf {
            // Without a length it takes the dma-buf's own. A length beyond the dma-buf makes it leak a reference.
            Some(fd) => Slot::<15>::new(MEMORY_DMABUF, fd.as_raw_fd()),
            None => Slot::<15>::new(MEMORY_MMAP, 0),
        };
        slot.index = index;
        sys::foreign(self.file.as_fd(), &mut slot).map(drop)
    }

    /// Takes one frame into a dma-buf, or into a frame buffer of its own.
    fn frame(&self, dmabuf: Option<BorrowedFd<'_>>, limit: Duration) -> Result<()> {
        self.queue(0, dmabuf).context("VIDIOC_QBUF")?;
        sys::foreign(self.file.as_fd(), &mut Stream::<18>(CAPTURE)).context("VIDIOC_STREAMON")?;
        let mut ready = [PollFd::new(&self.file, PollFlags::IN)];
        let limit = Timespec::try_from(limit)?;
        ensure!(
            rustix::event::poll(&mut ready, Some(&limit))? == 1,
            "no frame in time"
        );
        let memory = dmabuf.map_or(MEMORY_MMAP, |_| MEMORY_DMABUF);
        let mut slot = Slot::<17>::new(memory, 0);
        sys::foreign(self.file.as_fd(), &mut slot).context("VIDIOC_DQBUF")?;
        ensure!(
            slot.bytesused == self.bytes,
            "a frame of {} bytes",
            slot.bytesused
        );
        sys::foreign(self.file.as_fd(), &mut Stream::<19>(CAPTURE)).context("VIDIOC_STREAMOFF")?;
        Ok(())
    }

    /// Takes one frame into a dma-buf, and lets go of it.
    ///
    /// # Errors
    /// When no frame comes, or the dma-buf is refused.
    pub fn capture(&self, dmabuf: BorrowedFd<'_>, limit: Duration) -> Result<()> {
        // The queue wants two buffers before it streams.
        self.request(1, MEMORY_DMABUF)?;
        self.frame(Some(dmabuf), limit)?;
        self.request(0, MEMORY_DMABUF)
    }

    /// Has it take a dma-buf and hold it, until [`Self::let_go`].
    ///
    /// # Errors
    /// What it says to the dma-buf.
    pub fn hold(&self, dmabuf: BorrowedFd<'_>) -> Result<Result<(), Errno>> {
        self.hold_all(&[dmabuf])
    }

    /// Has it take several dma-bufs and hold them, until [`Self::let_go`].
    ///
    /// # Errors
    /// What it says to one of them; then it holds none.
    pub fn hold_all(&self, dmabufs: &[BorrowedFd<'_>]) -> Result<Result<(), Errno>> {
        self.request(u32::try_from(dmabufs.len())?, MEMORY_DMABUF)?;
        for (index, dmabuf) in (0..).zip(dmabufs) {
            let queued = self.queue(index, Some(*dmabuf));
            if queued.is_err() {
                self.let_go()?;
                return Ok(queued);
            }
        }
        Ok(Ok(()))
    }

    /// Has it let go of what it holds.
    ///
    /// # Errors
    /// When it cannot.
    pub fn let_go(&self) -> Result<()> {
        self.request(0, MEMORY_DMABUF)
    }

    /// Takes one frame into a frame buffer of its own, and gives that as a dma-buf.
    ///
    /// # Errors
    /// When no frame comes.
    pub fn export(&self, limit: Duration) -> Result<OwnedFd> {
        self.request(1, MEMORY_MMAP)?;
        let mut export = Export {
            kind: CAPTURE,
            index: 0,
            plane: 0,
            flags: (libc::O_CLOEXEC | libc::O_RDWR) as u32,
            fd: -1,
            reserved: [0; 11],
        };
        sys::foreign(self.file.as_fd(), &mut export).context("VIDIOC_EXPBUF")?;
        let fd = sys::own(export.fd);
        self.frame(None, limit)?;
        Ok(fd)
    }
}

/// The node of a camera.
fn node(kind: Kind) -> Result<Option<PathBuf>> {
    let wanted = match kind {
        Kind::Mapping => "vivid-000-vid-cap",
        Kind::Device => "vivid-001-vid-cap",
    };
    let entries = std::fs::read_dir("/sys/class/video4linux")
        .into_iter()
        .flatten()
        .flatten();
    for entry in entries {
        let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        let path = Path::new("/dev").join(entry.file_name());
        if name.trim() == wanted && path.exists() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
