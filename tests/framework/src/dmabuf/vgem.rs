// SPDX-License-Identifier: MIT OR Apache-2.0

//! vgem: a graphics driver without a graphics card.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use super::load;
use crate::poll;
use crate::sys::{self, Foreign, Words, read_write, write_only};

const KIND: u8 = b'd';

#[repr(C)]
struct CreateDumb {
    height: u32,
    width: u32,
    bpp: u32,
    flags: u32,
    handle: u32,
    pitch: u32,
    size: u64,
}

// SAFETY: `DRM_IOCTL_MODE_CREATE_DUMB` reads and writes this structure.
unsafe impl Foreign for CreateDumb {
    const OPCODE: u32 = read_write(KIND, 0xb2, size_of::<Self>());
}

#[repr(C)]
struct MapDumb {
    handle: u32,
    pad: u32,
    offset: u64,
}

// SAFETY: `DRM_IOCTL_MODE_MAP_DUMB` reads and writes this structure.
unsafe impl Foreign for MapDumb {
    const OPCODE: u32 = read_write(KIND, 0xb3, size_of::<Self>());
}

#[repr(C)]
struct Close {
    handle: u32,
    pad: u32,
}

// SAFETY: `DRM_IOCTL_GEM_CLOSE` reads this structure.
unsafe impl Foreign for Close {
    const OPCODE: u32 = write_only(KIND, 0x09, size_of::<Self>());
}

#[repr(C)]
struct Prime<const NR: u8> {
    handle: u32,
    flags: u32,
    fd: i32,
}

// SAFETY: `DRM_IOCTL_PRIME_HANDLE_TO_FD` (0x2d) and `DRM_IOCTL_PRIME_FD_TO_HANDLE` (0x2e) read and write this structure.
unsafe impl<const NR: u8> Foreign for Prime<NR> {
    const OPCODE: u32 = read_write(KIND, NR, size_of::<Self>());
}

#[repr(C)]
struct FenceAttach {
    handle: u32,
    flags: u32,
    out_fence: u32,
    pad: u32,
}

// SAFETY: `DRM_IOCTL_VGEM_FENCE_ATTACH` reads and writes this structure.
unsafe impl Foreign for FenceAttach {
    const OPCODE: u32 = read_write(KIND, 0x41, size_of::<Self>());
}

#[repr(C)]
struct FenceSignal {
    fence: u32,
    flags: u32,
}

// SAFETY: `DRM_IOCTL_VGEM_FENCE_SIGNAL` reads this structure.
unsafe impl Foreign for FenceSignal {
    const OPCODE: u32 = write_only(KIND, 0x42, size_of::<Self>());
}

/// An open file of vgem.
#[derive(Debug)]
pub struct Vgem(File);

impl Vgem {
    /// Loads the module if need be and opens its node.
    ///
    /// # Errors
    /// When the kernel has no vgem.
    pub fn open() -> Result<Self> {
        load("vgem", "")?;
        let folder = Path::new("/sys/devices/faux/vgem/drm");
        let card = || -> Result<Option<String>> {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let card = names.filter(|name| name.starts_with("card")).last();
            Ok(card
                .map(|name| format!("/dev/dri/{name}"))
                .filter(|path| Path::new(path).exists()))
        };
        let path = poll::until(Duration::from_secs(10), card)?
            .with_context(|| format!("{} has no card", folder.display()))?;
        let file = File::options().read(true).write(true).open(&path);
        Ok(Self(file.with_context(|| path)?))
    }

    /// Makes an object of at least `bytes`; its handle and size.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn create(&self, bytes: u64) -> Result<(u32, u64)> {
        let mut create = CreateDumb {
            height: u32::try_from(bytes.div_ceil(4096))?,
            width: 1024,
            bpp: 32,
            flags: 0,
            handle: 0,
            pitch: 0,
            size: 0,
        };
        sys::foreign(self.0.as_fd(), &mut create).context("MODE_CREATE_DUMB")?;
        Ok((create.handle, create.size))
    }

    /// Maps an object of its own.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn map(&self, handle: u32, bytes: u64) -> Result<Words> {
        let mut map = MapDumb {
            handle,
            pad: 0,
            offset: 0,
        };
        sys::foreign(self.0.as_fd(), &mut map).context("MODE_MAP_DUMB")?;
        Ok(Words::map(
            self.0.as_fd(),
            map.offset,
            usize::try_from(bytes)?,
        )?)
    }

    /// A dma-buf of an object. An imported one comes back as the dma-buf that it was imported from.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn export(&self, handle: u32) -> Result<OwnedFd> {
        let mut prime = Prime::<0x2d> {
            handle,
            flags: (libc::O_CLOEXEC | libc::O_RDWR) as u32,
            fd: -1,
        };
        sys::foreign(self.0.as_fd(), &mut prime).context("PRIME_HANDLE_TO_FD")?;
        Ok(sys::own(prime.fd))
    }

    /// Imports a dma-buf: attaches to it until the object goes, and never maps it.
    ///
    /// # Errors
    /// What the exporter says.
    pub fn import(&self, dmabuf: BorrowedFd<'_>) -> Result<u32, Errno> {
        let mut prime = Prime::<0x2e> {
            handle: 0,
            flags: 0,
            fd: dmabuf.as_raw_fd(),
        };
        sys::foreign(self.0.as_fd(), &mut prime)?;
        Ok(prime.handle)
    }

    /// Gives up a handle, and the object with its last one.
    ///
    /// # Errors
    /// When there is no such handle.
    pub fn close(&self, handle: u32) -> Result<(), Errno> {
        sys::foreign(self.0.as_fd(), &mut Close { handle, pad: 0 }).map(drop)
    }

    /// Says that a device works on the object until the fence is signalled, at most 10 s.
    ///
    /// # Errors
    /// `EBUSY` when another one works on it.
    pub fn fence(&self, handle: u32, writes: bool) -> Result<u32> {
        let mut attach = FenceAttach {
            handle,
            flags: u32::from(writes),
            out_fence: 0,
            pad: 0,
        };
        sys::foreign(self.0.as_fd(), &mut attach).context("VGEM_FENCE_ATTACH")?;
        Ok(attach.out_fence)
    }

    /// Signals a fence.
    ///
    /// # Errors
    /// `ETIMEDOUT` when its time was over.
    pub fn signal(&self, fence: u32) -> Result<()> {
        let mut signal = FenceSignal { fence, flags: 0 };
        sys::foreign(self.0.as_fd(), &mut signal).context("VGEM_FENCE_SIGNAL")?;
        Ok(())
    }
}
