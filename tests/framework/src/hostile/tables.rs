// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the threads share: two open files, what lives in them, and mappings.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};

use crate::pattern::Numbers;
use crate::sys::{Words, replace_taken_pages};

/// Kinds of objects, as far as handles of them are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Buffer,
    Pool,
    Channel,
    Listener,
    Endpoint,
    Grant,
    PeerGrant,
}

impl Kind {
    /// Number of kinds.
    const COUNT: usize = 7;
}

/// Handles of one kind that are remembered.
const KEPT: usize = 12;
/// Mappings that are remembered.
const MAPPED: usize = 24;

/// What is known of an object.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    pub(super) handle: u32,
    pub(super) mmap_offset: u64,
    pub(super) bytes: u64,
    /// Entries of a channel's submission ring.
    pub(super) entries: u32,
}

/// A mapping that all threads may scribble into.
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub(super) words: Arc<Words>,
    /// The object when it was mapped.
    pub(super) of: Known,
}

/// An open file and what was made in it.
#[derive(Debug)]
struct File {
    fd: Arc<OwnedFd>,
    known: [[Known; KEPT]; Kind::COUNT],
    /// The last listener's address, as the interface has it.
    listening: [u8; 24],
}

impl File {
    fn open() -> Result<Self> {
        Ok(Self {
            fd: Arc::new(open()?),
            known: Default::default(),
            listening: [0; 24],
        })
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Tables {
    files: [Mutex<File>; 2],
    maps: Mutex<Vec<Map>>,
}

impl Tables {
    /// Two files, freshly opened. From here on the process survives its own touches of memory that it took away: whoever has
    /// these tables maps buffers, revokes them and scribbles.
    pub(super) fn open() -> Result<Self> {
        replace_taken_pages()?;
        Ok(Self {
            files: [Mutex::new(File::open()?), Mutex::new(File::open()?)],
            maps: Mutex::default(),
        })
    }

    fn file(&self, index: usize) -> std::sync::MutexGuard<'_, File> {
        self.files[index % 2]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fd(&self, file: usize) -> Arc<OwnedFd> {
        self.file(file).fd.clone()
    }

    /// Opens the file anew. The old one lives on as long as calls and mappings hold it.
    pub(super) fn reopen(&self, file: usize) -> Result<()> {
        let fresh = File::open()?;
        let old = std::mem::replace(&mut *self.file(file), fresh);
        drop(old);
        Ok(())
    }

    /// An object of a kind, or of any other now and then.
    pub(super) fn pick(&self, file: usize, kind: Kind, numbers: &mut Numbers) -> Known {
        let kind = match numbers.below(16) {
            0 => numbers.below(Kind::COUNT as u64) as usize,
            _ => kind as usize,
        };
        self.file(file).known[kind][numbers.below(KEPT as u64) as usize]
    }

    /// Remembers an object; gives the one that is forgotten for it.
    pub(super) fn keep(&self, file: usize, kind: Kind, at: u64, known: Known) -> Known {
        let place = (at % KEPT as u64) as usize;
        std::mem::replace(&mut self.file(file).known[kind as usize][place], known)
    }

    pub(super) fn listening(&self, file: usize) -> [u8; 24] {
        self.file(file).listening
    }

    pub(super) fn set_listening(&self, file: usize, address: [u8; 24]) {
        self.file(file).listening = address;
    }

    /// A mapping, if there is one.
    pub(super) fn map(&self, numbers: &mut Numbers) -> Option<Map> {
        let maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let count = maps.len() as u64;
        (count > 0).then(|| maps[numbers.below(count) as usize].clone())
    }

    /// Adds a mapping, or with `None` only takes one away.
    pub(super) fn exchange_map(&self, map: Option<Map>, numbers: &mut Numbers) -> Option<Map> {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let full = maps.len() >= MAPPED || map.is_none();
        let old = (full && !maps.is_empty()).then(|| {
            let at = numbers.below(maps.len() as u64);
            maps.swap_remove(at as usize)
        });
        maps.extend(map);
        // The caller drops it without the lock: that is the munmap(2).
        old
    }
}

fn open() -> Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(dmaplane::DEVICE_PATH)
        .with_context(|| format!("cannot open {}", dmaplane::DEVICE_PATH))?;
    Ok(file.into())
}
