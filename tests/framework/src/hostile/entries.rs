// SPDX-License-Identifier: MIT OR Apache-2.0

//! Rings: entries that may be right, and indices that may not.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use dmaplane_uapi as abi;

use super::tables::{Kind, Map, Tables};
use crate::pattern::Numbers;

/// The ring behind the page of the header.
const RING: usize = 4096;

const SQ_HEAD: usize = offset_of!(abi::RingHeader, sq_head);
const SQ_FLAGS: usize = offset_of!(abi::RingHeader, sq_flags);
const SQ_TAIL: usize = offset_of!(abi::RingHeader, sq_tail);
const CQ_HEAD: usize = offset_of!(abi::RingHeader, cq_head);
const CQ_TAIL: usize = offset_of!(abi::RingHeader, cq_tail);

/// Fills a few entries of a channel's ring, publishes them and takes all completions, mostly.
/// Gives the number of entries.
pub(super) fn push(map: &Map, tables: &Tables, file: usize, numbers: &mut Numbers) -> u32 {
    let word = |at: usize| map.words.at(at);
    let head = word(SQ_HEAD).load(Ordering::Acquire);
    let count = numbers.below(u64::from(map.of.entries.clamp(1, 16))) as u32 + 1;
    for index in 0..count {
        let place = head.wrapping_add(index) & map.of.entries.saturating_sub(1);
        let start = RING + place as usize * size_of::<abi::Sqe>();
        for (at, value) in entry(tables, file, numbers).into_iter().enumerate() {
            word(start + 4 * at).store(value, Ordering::Relaxed);
        }
    }
    let tail = head.wrapping_add(count);
    word(SQ_TAIL).store(tail, Ordering::Release);
    let taken = word(CQ_TAIL).load(Ordering::Acquire);
    word(CQ_HEAD).store(taken, Ordering::Release);
    count
}

/// Scribbles into the ring while others use it.
pub(super) fn scribble(map: &Map, numbers: &mut Numbers) {
    for _ in 0..=numbers.below(8) {
        let at = match numbers.below(9) {
            0 => SQ_HEAD,
            8 => SQ_FLAGS,
            1 => SQ_TAIL,
            2 => CQ_HEAD,
            3 => CQ_TAIL,
            4 => numbers.below(RING as u64) as usize,
            _ => RING + numbers.next_u64() as usize % (1 << 20),
        };
        let word = map.words.at(at);
        let value = match numbers.below(4) {
            0 => word.load(Ordering::Relaxed).wrapping_add(1),
            1 => word.load(Ordering::Relaxed) ^ (1 << numbers.below(32)),
            2 => u32::MAX,
            _ => numbers.next_u64() as u32,
        };
        word.store(value, Ordering::Release);
    }
}

/// The words of an entry of any operation, half of them spoiled.
fn entry(tables: &Tables, file: usize, numbers: &mut Numbers) -> [u32; 16] {
    let mut words = [0; 16];
    let mut put = |at: usize, value: u64, wide: bool| {
        words[at / 4] = value as u32;
        if wide {
            words[at / 4 + 1] = (value >> 32) as u32;
        }
    };
    let op = numbers.below(u64::from(abi::OP_WATCH) + 2) as u8;
    let buffer = tables.pick(file, Kind::Buffer, numbers);
    let endpoint = tables.pick(file, Kind::Endpoint, numbers).handle;
    let grant = tables.pick(file, Kind::PeerGrant, numbers).handle;
    let length = numbers.below(buffer.bytes.max(1)) + 1;
    let flags = match (op, numbers.below(4)) {
        (abi::OP_CANCEL, 0) => u64::from(abi::SQE_CANCEL_QUEUED),
        (abi::OP_CANCEL, 1) => u64::from(abi::SQE_CANCEL_ENDPOINT),
        _ => 0,
    };
    put(offset_of!(abi::Sqe, op), u64::from(op) | flags << 8, false);
    put(offset_of!(abi::Sqe, user_data), numbers.next_u64(), true);
    if op != abi::OP_NOP && op != abi::OP_COPY {
        put(offset_of!(abi::Sqe, endpoint), endpoint.into(), false);
    }
    let has_buffer = matches!(op, abi::OP_WRITE..=abi::OP_COPY);
    if has_buffer {
        put(offset_of!(abi::Sqe, buffer), buffer.handle.into(), false);
        put(offset_of!(abi::Sqe, length), length, false);
    }
    match op {
        abi::OP_WRITE | abi::OP_WRITE_IMM | abi::OP_READ => {
            put(offset_of!(abi::Sqe, grant), grant.into(), false);
        }
        abi::OP_COPY => {
            let target = tables.pick(file, Kind::Buffer, numbers).handle;
            put(offset_of!(abi::Sqe, grant), target.into(), false);
        }
        abi::OP_WATCH if numbers.below(2) == 0 => {
            put(offset_of!(abi::Sqe, endpoint), 0, false);
            put(offset_of!(abi::Sqe, buffer), buffer.handle.into(), false);
        }
        abi::OP_WATCH => put(offset_of!(abi::Sqe, length), 1, false),
        _ => {}
    }
    if numbers.below(8) == 0 {
        put(
            offset_of!(abi::Sqe, timeout_ns),
            numbers.below(1 << 30),
            true,
        );
    }
    if numbers.below(2) == 0 {
        for _ in 0..=numbers.below(3) {
            let at = numbers.below(16) as usize;
            words[at] = match numbers.below(4) {
                0 => words[at] ^ (1 << numbers.below(32)),
                1 => words[at].wrapping_sub(1),
                2 => u32::MAX,
                _ => numbers.next_u64() as u32,
            };
        }
    }
    words
}
