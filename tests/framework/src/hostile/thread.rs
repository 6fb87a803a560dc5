// SPDX-License-Identifier: MIT OR Apache-2.0

//! One of the threads.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, anyhow};
use dmaplane_uapi as abi;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::arguments::Argument;
use super::tables::{Kind, Known, Map, Tables};
use super::{Plan, Report, entries};
use crate::pattern::Numbers;
use crate::sys::{self, Room, Words};

/// Nanoseconds that a connection between the two files may take.
const CONNECT_NS: u64 = 2_000_000_000;

/// dma-bufs that a thread keeps open.
const EXPORTED: usize = 8;

pub(super) struct Thread<'a> {
    plan: &'a Plan,
    tables: &'a Tables,
    done: &'a AtomicU64,
    /// Its choices.
    pub(super) numbers: Numbers,
    room: Room,
    /// dma-bufs that were made, for the others to import.
    exports: Vec<OwnedFd>,
    calls: BTreeMap<&'static str, u64>,
    ends: BTreeMap<i32, u64>,
    entries: u64,
}

/// Makes calls until all threads together have made enough.
pub(super) fn run(plan: &Plan, index: u64, tables: &Tables, done: &AtomicU64) -> Result<Report> {
    let numbers = Numbers::new(plan.seed ^ (index << 56));
    let mut thread = Thread::new(plan, tables, done, numbers);
    while done.load(Ordering::Relaxed) < plan.calls {
        thread.step()?;
    }
    let word = |end| match end {
        0 => "ok".to_owned(),
        errno => std::io::Error::from_raw_os_error(errno).to_string(),
    };
    let calls = thread.calls.into_iter();
    let ends = thread.ends.into_iter();
    Ok(Report {
        calls: calls
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
        ends: ends.map(|(end, count)| (word(end), count)).collect(),
        entries: thread.entries,
    })
}

impl<'a> Thread<'a> {
    /// One that has done nothing yet.
    pub(super) fn new(
        plan: &'a Plan,
        tables: &'a Tables,
        done: &'a AtomicU64,
        numbers: Numbers,
    ) -> Self {
        Self {
            plan,
            tables,
            done,
            numbers,
            room: Room::default(),
            exports: Vec::new(),
            calls: BTreeMap::new(),
            ends: BTreeMap::new(),
            entries: 0,
        }
    }
}

impl Thread<'_> {
    fn count(&mut self, name: &'static str, end: Result<(), Errno>) {
        *self.calls.entry(name).or_default() += 1;
        let end = end.err().map_or(0, Errno::raw_os_error);
        *self.ends.entry(end).or_default() += 1;
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes a call or two.
    pub(super) fn step(&mut self) -> Result<()> {
        let file = self.numbers.below(2) as usize;
        match self.numbers.below(10_000) {
            0..5000 => self.call(file),
            5000..5500 => self.garbage(file),
            5500..8000 => self.submit(file),
            8000..8700 => self.map(file),
            8700..9200 => {
                let old = self.tables.exchange_map(None, &mut self.numbers);
                if old.is_some_and(|map| Arc::strong_count(&map.words) == 1) {
                    self.count("munmap", Ok(()));
                }
            }
            9200..9980 => self.poll(file),
            9980..9984 => {
                self.tables.reopen(file)?;
                self.count("open", Ok(()));
                self.count("close", Ok(()));
            }
            _ => self.connect()?,
        }
        Ok(())
    }

    /// A call, half of them with a spoiled argument.
    fn call(&mut self, file: usize) {
        let address = self.plan.address;
        let numbers = &mut self.numbers;
        let mut argument = Argument::random(numbers, self.tables, file, &self.room, address);
        if numbers.below(2) == 0 {
            argument.mutate(numbers);
        }
        argument.tame(numbers, &self.room);
        self.issue(file, argument);
    }

    fn garbage(&mut self, file: usize) {
        let numbers = &mut self.numbers;
        let opcode = match numbers.below(4) {
            0 => numbers.next_u64() as u32,
            1 => abi::IOC_QUERY ^ (1 << numbers.below(32)),
            _ => abi::IOC_QUERY | numbers.below(0x60) as u32,
        };
        let mut argument = Argument::new(opcode);
        argument
            .bytes
            .iter_mut()
            .for_each(|byte| *byte = numbers.next_u64() as u8);
        if numbers.below(2) == 0 {
            let bytes = argument.bytes.len() as u32;
            argument.put32(0, bytes);
            argument.put32(4, 0);
        }
        argument.tame(numbers, &self.room);
        self.issue(file, argument);
    }

    /// Issues a call and remembers what it made.
    fn issue(&mut self, file: usize, mut argument: Argument) {
        let fd = self.tables.fd(file);
        let opcode = argument.opcode;
        let end = self.room.ioctl(fd.as_fd(), opcode, &mut argument.bytes);
        self.count(argument.name, end);
        if end.is_ok() {
            if opcode == abi::IOC_LISTEN {
                self.remember_address(file, &argument);
            }
            if let Some(fd) = argument.descriptor() {
                // A few are kept for a while, so that they can be imported.
                self.exports.push(sys::own(fd));
                if self.exports.len() > EXPORTED {
                    let at = self.numbers.below(EXPORTED as u64) as usize;
                    self.exports.swap_remove(at);
                }
            }
            if let Some((kind, known)) = argument.made() {
                self.keep(file, kind, known);
            }
        }
    }

    fn remember_address(&self, file: usize, argument: &Argument) {
        let at = offset_of!(abi::Listen, local);
        if let Ok(address) = argument.bytes[at..at + 24].try_into() {
            self.tables.set_listening(file, address);
        }
    }

    fn keep(&mut self, file: usize, kind: Kind, known: Known) {
        let at = self.numbers.next_u64();
        let old = self.tables.keep(file, kind, at, known);
        // A few are left behind, for the end of the file.
        if old.handle != 0 && self.numbers.below(16) != 0 {
            let mut destroy = Argument::new(abi::IOC_DESTROY);
            destroy.put32(offset_of!(abi::Destroy, handle), old.handle);
            self.issue(file, destroy);
        }
    }

    /// Fills a ring and enters, or scribbles into it.
    fn submit(&mut self, file: usize) {
        let Some(map) = self.tables.map(&mut self.numbers) else {
            return self.map(file);
        };
        if map.of.entries == 0 || self.numbers.below(4) == 0 {
            return entries::scribble(&map, &mut self.numbers);
        }
        let count = entries::push(&map, self.tables, file, &mut self.numbers);
        self.entries += u64::from(count);
        let mut enter = Argument::new(abi::IOC_ENTER);
        enter.put32(offset_of!(abi::Enter, channel), map.of.handle);
        // Nobody remembers which channels have a polling thread.
        if self.numbers.below(4) == 0 {
            enter.put32(offset_of!(abi::Enter, flags), abi::ENTER_WAKE);
        } else {
            enter.put32(offset_of!(abi::Enter, to_submit), count);
        }
        self.issue(file, enter);
    }

    fn map(&mut self, file: usize) {
        let kind = match self.numbers.below(3) {
            0 => Kind::Buffer,
            _ => Kind::Channel,
        };
        let of = self.tables.pick(file, kind, &mut self.numbers);
        let mut bytes = of.bytes.clamp(4096, 16 << 20) as usize;
        let mut offset = of.mmap_offset;
        match self.numbers.below(8) {
            0 => bytes += 4096,
            1 => offset ^= 1 << self.numbers.below(64),
            2 => offset = self.numbers.next_u64() & !0xfff,
            _ => {}
        }
        let fd = self.tables.fd(file);
        let mapped = Words::map(fd.as_fd(), offset & !0xfff, bytes);
        let end = mapped.as_ref().map(|_| ()).map_err(|errno| *errno);
        self.count("mmap", end);
        if let Ok(words) = mapped {
            let words = Arc::new(words);
            let map = Map { words, of };
            drop(self.tables.exchange_map(Some(map), &mut self.numbers));
        }
    }

    fn poll(&mut self, file: usize) {
        let fd = self.tables.fd(file);
        let mut fds = [PollFd::new(&*fd, PollFlags::IN | PollFlags::OUT)];
        let end = poll(&mut fds, Some(&Timespec::default())).map(drop);
        self.count("poll", end);
    }

    /// Connects the two files, so that there are endpoints to ill-treat.
    pub(super) fn connect(&mut self) -> Result<()> {
        let mut listen = Argument::new(abi::IOC_LISTEN);
        listen.put_address(offset_of!(abi::Listen, local), self.plan.address);
        listen.put32(offset_of!(abi::Listen, backlog), 4);
        let fd = self.tables.fd(0);
        let end = self
            .room
            .ioctl(fd.as_fd(), abi::IOC_LISTEN, &mut listen.bytes);
        self.count(listen.name, end);
        let (Ok(()), Some((_, listener))) = (end, listen.made()) else {
            return Ok(());
        };
        self.remember_address(1, &listen);
        let mut accept = Argument::new(abi::IOC_ACCEPT);
        accept.put32(offset_of!(abi::Accept, listener), listener.handle);
        accept.put32(offset_of!(abi::Accept, recv_depth), 16);
        accept.put64(offset_of!(abi::Accept, timeout_ns), CONNECT_NS);
        let mut connect = Argument::new(abi::IOC_CONNECT);
        let at = offset_of!(abi::Connect, remote);
        connect.bytes[at..at + 24].copy_from_slice(&self.tables.listening(1));
        connect.put32(offset_of!(abi::Connect, recv_depth), 16);
        connect.put64(offset_of!(abi::Connect, timeout_ns), CONNECT_NS);
        let other = self.tables.fd(1);
        let (accepted, connected) = std::thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                Room::default().ioctl(other.as_fd(), abi::IOC_CONNECT, &mut connect.bytes)
            });
            let accepted = self
                .room
                .ioctl(fd.as_fd(), abi::IOC_ACCEPT, &mut accept.bytes);
            (accepted, connecting.join())
        });
        let connected = connected.map_err(|_| anyhow!("a connecting thread panicked"))?;
        self.count(accept.name, accepted);
        self.count(connect.name, connected);
        for (file, end, argument) in [(0, accepted, accept), (1, connected, connect)] {
            if let (Ok(()), Some((kind, known))) = (end, argument.made()) {
                self.keep(file, kind, known);
            }
        }
        self.keep(0, Kind::Listener, listener);
        Ok(())
    }
}
