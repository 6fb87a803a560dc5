// SPDX-License-Identifier: GPL-2.0-only

//! What is recorded of memory and its registrations.

use crate::kx::trace;
use kernel::{
    fmt,
    sync::atomic::{Atomic, Full, Relaxed},
};

/// The next serial of memory and regions. Serials are local to this machine and reveal no address.
static SERIALS: Atomic<u64> = Atomic::new(1);

fn serial() -> u64 {
    SERIALS.fetch_add(1, Relaxed)
}

/// Identifies memory in traces. Its drop traces the end of the memory.
pub(crate) struct MemoryMark {
    serial: u64,
    bytes: u64,
}

impl MemoryMark {
    /// The mark of memory of this size.
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            serial: serial(),
            bytes,
        }
    }

    /// Its serial.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Size of the memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Traces the allocation. `misplaced` counts the pages that are elsewhere than asked for.
    pub(crate) fn allocated(&self, policy: u32, node: i32, misplaced: impl FnOnce() -> u64) {
        trace::buffer_alloc(|| trace::BufferAlloc {
            buffer: self.serial,
            bytes: self.bytes,
            policy,
            node,
        });
        if trace::buffer_misplaced_is_on() {
            let pages = misplaced();
            if pages > 0 {
                trace::buffer_misplaced(|| trace::BufferMisplaced {
                    buffer: self.serial,
                    pages,
                    node,
                });
            }
        }
    }
}

impl Drop for MemoryMark {
    fn drop(&mut self) {
        trace::buffer_free(|| trace::BufferFree {
            buffer: self.serial,
            bytes: self.bytes,
        });
    }
}

/// Identifies a region in traces. Its drop traces the end of the region.
pub(crate) struct RegionMark {
    serial: u64,
    buffer: u64,
    bytes: u64,
    remote: bool,
    revoked: Atomic<bool>,
}

impl RegionMark {
    /// The mark of a region over this many bytes of memory, which the peer may access if `remote` is set.
    pub(crate) fn new(memory: &MemoryMark, bytes: u64, remote: bool) -> Self {
        Self {
            serial: serial(),
            buffer: memory.serial,
            bytes,
            remote,
            revoked: Atomic::new(false),
        }
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes its line.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.remote { "remote" } else { "local" };
        let state = if self.revoked.load(Relaxed) {
            "revoked"
        } else {
            "live"
        };
        write!(f, "region={} buffer={}", self.serial, self.buffer)?;
        writeln!(f, " bytes={} access={access} state={state}", self.bytes)
    }

    /// Traces its registration.
    pub(crate) fn registered(&self) {
        trace::region_register(|| trace::RegionRegister {
            region: self.serial,
            buffer: self.buffer,
            bytes: self.bytes,
            remote: self.remote.into(),
        });
    }

    /// Traces the end of its registration, once.
    pub(crate) fn revoked(&self) {
        if self.revoked.xchg(true, Full) {
            return;
        }
        trace::region_revoke(|| trace::RegionRevoke {
            region: self.serial,
            buffer: self.buffer,
            bytes: self.bytes,
            remote: self.remote.into(),
        });
    }
}

impl Drop for RegionMark {
    fn drop(&mut self) {
        trace::region_free(|| trace::RegionFree {
            region: self.serial,
            buffer: self.buffer,
            bytes: self.bytes,
            remote: self.remote.into(),
        });
    }
}
