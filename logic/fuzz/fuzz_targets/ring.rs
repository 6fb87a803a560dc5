// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a hostile process does to its rings: indices that jump, entries of any bytes, and the ranges in them.
#![no_main]

use core::num::NonZero;

use dmaplane_logic::operation::{Ask, End, Operation};
use dmaplane_logic::outcome::{Completion, Down};
use dmaplane_logic::range::{within, Pieces};
use dmaplane_logic::ring::{place, queued, valid_entries, Slots};
use dmaplane_logic::{handle, window::Window};
use libfuzzer_sys::fuzz_target;

#[path = "../../../driver/channel/check.rs"]
mod check;
use dmaplane_uapi as uapi;

/// Numbers from the input, then zeroes.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let count = N.min(self.0.len());
        bytes[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        bytes
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

fuzz_target!(|data: &[u8]| {
    let mut numbers = Numbers(data);
    while !numbers.0.is_empty() {
        match numbers.byte() % 5 {
            0 => rings(&mut numbers),
            1 => entry(&mut numbers),
            2 => ranges(&mut numbers),
            3 => operation(&mut numbers),
            _ => names(&mut numbers),
        }
    }
});

/// A completion ring whose user lies about its head.
fn rings(numbers: &mut Numbers<'_>) {
    let entries = 1 << (numbers.byte() % 17);
    assert!(valid_entries(entries));
    let mut slots = Slots::default();
    let mut head: u32 = 0;
    for _ in 0..numbers.byte() {
        match numbers.byte() % 4 {
            0 => head = numbers.word(),
            1 => head = head.wrapping_add(numbers.byte().into()),
            2 => {
                let before = slots.reserved();
                match slots.reserve(head, entries) {
                    Ok(true) => {
                        assert_eq!(slots.reserved(), before + 1);
                        let waiting = slots.waiting(head, entries).expect("it just made sense");
                        assert!(waiting + slots.reserved() <= entries, "promised too much");
                    }
                    Ok(false) | Err(_) => assert_eq!(slots.reserved(), before),
                }
            }
            _ if slots.reserved() > 0 => {
                let index = slots.post();
                assert!(place(index, entries) < entries);
            }
            _ => {}
        }
        assert!(slots.reserved() <= entries);
    }
    let (head, tail) = (numbers.word(), numbers.word());
    if let Ok(count) = queued(head, tail, entries) {
        assert!(count <= entries && head.wrapping_add(count) == tail);
    }
}

/// An entry of any bytes.
fn entry(numbers: &mut Numbers<'_>) {
    let sqe = uapi::Sqe {
        op: numbers.byte(),
        flags: numbers.byte(),
        user_data: numbers.long(),
        endpoint: numbers.word() & mask(numbers),
        buffer: numbers.word() & mask(numbers),
        grant: numbers.word() & mask(numbers),
        length: numbers.word() & mask(numbers),
        imm: numbers.word() & mask(numbers),
        offset: numbers.long() & u64::from(mask(numbers)),
        remote_offset: numbers.long() & u64::from(mask(numbers)),
        timeout_ns: numbers.long() & u64::from(mask(numbers)),
        ..Default::default()
    };
    match check::check(&sqe) {
        Ok(()) => {
            assert!(sqe.op <= uapi::OP_WATCH && sqe.timeout_ns <= check::MAX_TIMEOUT_NS);
            let bare = matches!(sqe.op, uapi::OP_NOP);
            assert!(!bare || sqe.flags == 0 && sqe.endpoint | sqe.buffer | sqe.grant == 0);
        }
        Err(field) => assert!(field <= uapi::FIELD_TIMEOUT.max(uapi::FIELD_RESERVED).max(64)),
    }
}

/// A mask of all bits or of none, so that entries which use few members occur at all.
fn mask(numbers: &mut Numbers<'_>) -> u32 {
    if numbers.byte() % 4 == 0 {
        u32::MAX
    } else {
        0
    }
}

/// A transfer that is cut into pieces.
fn ranges(numbers: &mut Numbers<'_>) {
    let limit = numbers.long();
    let (offset, length) = (numbers.long(), numbers.long());
    if !within(offset, length, limit) {
        return;
    }
    assert!(offset < limit && length <= limit - offset);
    let segment = |shift: u8| NonZero::new(4096u64 << (shift % 15)).expect("not 0");
    let (local, remote) = (segment(numbers.byte()), segment(numbers.byte()));
    let (offset, remote_offset) = (offset % (1 << 40), numbers.long() % (1 << 40));
    let length = length % (4 << 20);
    let mut done = 0;
    for piece in Pieces::new(offset, local, remote_offset, remote, length).take(5000) {
        assert!(piece.length > 0);
        assert!(piece.local_offset + piece.length <= local.get());
        assert!(piece.remote_offset + piece.length <= remote.get());
        assert_eq!(
            piece.local_segment * local.get() + piece.local_offset,
            offset + done
        );
        let there = piece.remote_segment * remote.get() + piece.remote_offset;
        assert_eq!(there, remote_offset + done);
        done += piece.length;
    }
    assert_eq!(done, length, "pieces that are not the whole");
}

/// The life of an operation: one terminal state, whatever happens in which order.
fn operation(numbers: &mut Numbers<'_>) {
    let mut life = Operation::new();
    let mut ends = 0;
    let mut posted = false;
    for _ in 0..numbers.byte() % 16 {
        match numbers.byte() % 5 {
            0 if !posted && ends == 0 => posted = life.post(),
            1 if posted && ends == 0 => {
                life.unpost();
                posted = false;
            }
            2 => {
                let end = if numbers.byte() % 2 == 0 {
                    End::Canceled
                } else {
                    End::Expired
                };
                match life.ask(end) {
                    Ask::Now => ends += 1,
                    Ask::Flush => assert!(posted && ends == 0, "a flush of nothing"),
                    Ask::Late => {}
                }
            }
            3 => {
                let cut = life.cut(Down::Local.outcome()).is_some();
                assert!(!cut || !posted, "cut off while the provider has it");
                ends += u32::from(cut);
            }
            _ => {
                let completion = [
                    Completion::Success,
                    Completion::Flushed,
                    Completion::RemoteAccess,
                    Completion::RetryExceeded,
                    Completion::Failed,
                ][usize::from(numbers.byte() % 5)];
                if posted {
                    ends += u32::from(life.finish(completion, None, false).is_some());
                }
            }
        }
        assert!(ends <= 1, "a second end");
    }
}

/// Handles, mmap offsets and watermarks of any value.
fn names(numbers: &mut Numbers<'_>) {
    let raw = numbers.word();
    let handle = handle::Handle::from_raw(raw);
    let target = handle::MmapTarget::from_offset(handle.mmap_offset());
    assert_eq!((target.index, target.start), (handle.index, 0));
    let _ = handle::MmapTarget::from_offset(numbers.long());
    if let Some(mut window) = Window::new(numbers.word(), numbers.word(), 256) {
        for _ in 0..numbers.byte() {
            let count = 1 + u32::from(numbers.byte() % 10);
            if window.admits(count) {
                window.posted(count);
            } else {
                window.returned(count.min(window.under_way()));
            }
            assert!(window.under_way() <= 256, "a window beyond its mark");
        }
    }
}
