// SPDX-License-Identifier: MIT OR Apache-2.0

//! A thread with a channel of its own.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dmaplane::{Buffer, Channel, Entry, Polling};
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::{ErrorContext as _, Result, ensure};
use dmaplane_uapi as abi;

use super::field::{BYTES, Field, Side};
use super::ledger::Ledger;

/// Places of a submission ring.
const ENTRIES: u32 = 64;
/// Places of a completion ring, and so most operations under way.
const COMPLETIONS: u32 = 256;
/// Most bytes of an operation.
const MOST: u64 = 4096;

/// What all threads look at.
#[derive(Debug, Default)]
pub struct Count {
    /// Operations that were pushed.
    pub pushed: AtomicU64,
    /// Whether to push no more.
    pub stop: AtomicBool,
    /// Threads that push no more.
    pub done: AtomicU64,
}

/// One thread's work.
#[derive(Debug)]
pub struct Worker<'a> {
    /// What it works on.
    pub field: &'a Field,
    /// Which of the two files it uses.
    pub file: usize,
    /// Whether a thread of the kernel's takes its entries.
    pub polled: bool,
    /// Operations of all threads.
    pub count: &'a Count,
    /// Its choices.
    pub numbers: Numbers,
    /// Its operations.
    pub ledger: Ledger,
}

impl Worker<'_> {
    /// Works until there have been enough operations, then waits for the last completions.
    ///
    /// # Errors
    /// When a completion is lost, comes twice or cannot be, or when a call fails.
    pub fn run(mut self, wanted: u64, limit: Duration) -> Result<Ledger> {
        let mut builder = Channel::builder().entries(ENTRIES).completions(COMPLETIONS);
        if self.polled {
            // It sleeps now and then, so that waking it is tested as well.
            let idle = Duration::from_micros(self.numbers.below(200));
            builder = builder.polling(Polling { node: None, idle });
        }
        let mut channel = builder.build(&self.field.contexts[self.file])?;
        let worked = self.work(&mut channel, wanted);
        // In any case: the others wait for it.
        self.count.done.fetch_add(1, Ordering::Release);
        if worked.is_err() {
            self.count.stop.store(true, Ordering::Relaxed);
        }
        worked?;
        let start = Instant::now();
        while self.ledger.open() > 0 {
            channel.submit_and_wait(1, Duration::from_millis(100))?;
            self.take(&mut channel)?;
            ensure!(
                start.elapsed() < limit,
                "{} operations have no completion: {:?}",
                self.ledger.open(),
                self.ledger
            );
        }
        ensure!(
            channel.available() == 0 && channel.pending() == 0,
            "{channel:?} holds more than was asked for"
        );
        Ok(self.ledger)
    }

    fn work(&mut self, channel: &mut Channel, wanted: u64) -> Result<()> {
        let count = self.count;
        while count.pushed.load(Ordering::Relaxed) < wanted && !count.stop.load(Ordering::Relaxed) {
            let pushed = self.push(channel)?;
            count.pushed.fetch_add(pushed, Ordering::Relaxed);
            match self.numbers.below(4) {
                0 => drop(channel.submit()?),
                _ => {
                    // Long enough for most of them to get through.
                    let limit = Duration::from_micros(self.numbers.below(5000));
                    let wait = self.numbers.below(1 + self.ledger.open() as u64) as u32;
                    channel.submit_and_wait(wait, limit)?;
                }
            }
            self.take(channel)?;
        }
        Ok(())
    }

    fn take(&mut self, channel: &mut Channel) -> Result<()> {
        channel
            .completions()
            .try_for_each(|done| self.ledger.leave(&done))
    }

    /// Pushes a batch, on one endpoint of the file.
    fn push(&mut self, channel: &mut Channel) -> Result<u64> {
        let field = self.field;
        let sides = &field.sides[self.file];
        let place = &sides[self.numbers.below(sides.len() as u64) as usize];
        // An endpoint that is down refuses everything at once: soon nothing else would happen.
        if !Field::is_up(place) && self.numbers.below(64) != 0 {
            std::thread::yield_now();
            return Ok(0);
        }
        let side = place.read().unwrap_or_else(PoisonError::into_inner);
        let buffers = field.buffers[self.file]
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let batch = 1 + self.numbers.below(ENTRIES.into());
        let mut pushed = 0;
        while pushed < batch
            && channel.pending() < ENTRIES
            && self.ledger.open() < COMPLETIONS as usize
        {
            let entry = match side.as_ref() {
                Some(side) => self.entry(side, &buffers),
                None => self.entry_without(&buffers),
            };
            let mut sqe = *entry.raw();
            self.ledger.enter(&mut sqe);
            channel
                .push(Entry::from_raw(sqe))
                .context("there was a place")?;
            pushed += 1;
        }
        Ok(pushed)
    }

    fn entry_without(&mut self, buffers: &[Buffer]) -> Entry {
        let numbers = &mut self.numbers;
        let from = &buffers[numbers.below(buffers.len() as u64) as usize];
        let to = &buffers[numbers.below(buffers.len() as u64) as usize];
        let length = 1 + numbers.below(MOST);
        match numbers.below(8) {
            0..3 => Entry::copy(
                from.range(numbers.below(BYTES - MOST), length as u32),
                to,
                numbers.below(BYTES - MOST),
            ),
            // No such operation.
            3 => Entry::from_raw(abi::Sqe {
                op: abi::OP_WATCH + 1 + numbers.below(200) as u8,
                ..Default::default()
            }),
            _ => Entry::nop(),
        }
    }

    fn entry(&mut self, side: &Side, buffers: &[Buffer]) -> Entry {
        // Those that may wait for ever leave room for the others.
        let crowded = self.ledger.waiting() >= COMPLETIONS as usize / 2;
        let last = self.ledger.next();
        let numbers = &mut self.numbers;
        let endpoint = &side.endpoint;
        let buffer = &buffers[numbers.below(buffers.len() as u64) as usize];
        let length = 1 + numbers.below(MOST) as u32;
        let source = buffer.range(numbers.below(BYTES - MOST), length);
        let small = buffer.range(numbers.below(BYTES - MOST), 1 + length % 256);
        let target = side
            .taken
            .as_ref()
            .map(|grant| grant.at(numbers.below(BYTES - MOST)));
        let imm = numbers.below(8) as u32;
        let entry = match (numbers.below(1000), target) {
            (0..80, Some(target)) => Entry::write(source, target),
            (80..130, Some(target)) => Entry::read(source, target),
            (130..190, Some(target)) if !crowded => Entry::write_imm(source, target, imm),
            (190..260, _) if !crowded => Entry::recv(endpoint),
            (260..320, _) if !crowded => Entry::recv_into(endpoint, small),
            (320..370, _) if !crowded => Entry::send(endpoint, small, imm),
            (370..400, _) if !crowded => {
                Entry::watch(endpoint, imm, 7, 1 + numbers.below(4) as u32)
            }
            (400..410, _) if !crowded => match &side.given {
                Some(grant) => Entry::watch_grant(endpoint, grant),
                None => Entry::nop(),
            },
            (410..440, _) => Entry::fence(endpoint),
            (440..520, _) => {
                let number = last.wrapping_sub(1 + numbers.below(64));
                Entry::cancel(endpoint, number).queued_only()
            }
            (520, _) => Entry::cancel_endpoint(endpoint).queued_only(),
            (521, _) if numbers.below(16) == 0 => Entry::cancel(endpoint, last.wrapping_sub(1)),
            (522, _) if numbers.below(32) == 0 => Entry::cancel_endpoint(endpoint),
            (523, _) if numbers.below(64) == 0 => Entry::cancel_all(),
            (524, _) if numbers.below(8) == 0 => Entry::cancel_all().queued_only(),
            _ => return self.entry_without(buffers),
        };
        match numbers.below(1024) {
            // A limit that passes while the provider has the operation ends the endpoint, so most are long.
            0 => entry.time_limit(Duration::from_micros(numbers.below(1000))),
            1..128 => entry.time_limit(Duration::from_millis(200 + numbers.below(2000))),
            _ => entry,
        }
    }
}
