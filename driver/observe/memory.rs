// SPDX-License-Identifier: GPL-2.0-only

//! What is recorded of memory and its registrations.

use crate::kx::trace;
use kernel::{
    fmt,
    sync::atomic::{Atomic, Full, Relaxed},
};

/// Serials of memory and regions, which no other machine knows and no address hides in.
static SERIALS: Atomic<u64> = Atomic::new(1);

fn serial() -> u64 {
    SERIALS.fetch_add(1, Relaxed)
}

/// Marks memory; its drop tells that the memory goes.
pub(crate) struct MemoryMark {
    serial: u64,
    bytes: u64,
}

impl MemoryMark {
    /// Of memory of so many bytes.
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

    /// It is there, as asked for or not. `misplaced` counts the pages that are elsewhere.
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

/// Marks a region; its drop tells that the region goes.
pub(crate) struct RegionMark {
    serial: u64,
    buffer: u64,
    bytes: u64,
    remote: bool,
    revoked: Atomic<bool>,
}

impl RegionMark {
    /// Of a region over so many bytes of memory, which the peer may reach or not.
    pub(crate) fn new(memory: &MemoryMark, bytes: u64, remote: bool) -> Self {
        Self {
            serial: serial(),
            buffer: memory.serial,
            bytes,
            remote,
            revoked: Atomic::new(false),
        }
    }

    /// Bytes of it.
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

    /// It is registered.
    pub(crate) fn registered(&self) {
        trace::region_register(|| trace::RegionRegister {
            region: self.serial,
            buffer: self.buffer,
            bytes: self.bytes,
            remote: self.remote.into(),
        });
    }

    /// Its registration has ended. Told once.
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
