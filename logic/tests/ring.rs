// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Ring indices, completion slots, handles, ranges and outcomes.

use std::num::NonZero;

use dmaplane_logic::{
    handle::{Handle, MmapTarget, GENERATIONS, MAX_SLOTS},
    outcome::{Completion, Down, State},
    range::{within, Pieces},
    ring::{place, queued, valid_entries, Corrupt, Slots},
};
use proptest::prelude::*;

proptest! {
    #[test]
    fn slots_never_overflow_the_ring(
        shift in 0u32..6,
        actions in proptest::collection::vec(0u8..3, 1..500),
    ) {
        let entries = 1 << shift;
        let mut slots = Slots::default();
        let mut user_head = 0u32;
        for action in actions {
            match action {
                0 => {
                    let _ = slots.reserve(user_head, entries);
                }
                1 if slots.reserved() > 0 => {
                    slots.post();
                }
                2 if slots.waiting(user_head, entries).unwrap() > 0 => {
                    user_head = user_head.wrapping_add(1);
                }
                _ => {}
            }
            let waiting = slots.waiting(user_head, entries).unwrap();
            prop_assert!(waiting + slots.reserved() <= entries);
        }
    }

    #[test]
    fn a_lying_head_is_corrupt_or_bounded(head in any::<u32>(), posts in 0u32..40) {
        let mut slots = Slots::default();
        let mut user = 0;
        for _ in 0..posts {
            if slots.reserve(user, 8) == Ok(true) {
                slots.post();
            }
            user = slots.tail();
        }
        match slots.waiting(head, 8) {
            Ok(waiting) => prop_assert!(waiting <= 8),
            Err(Corrupt) => prop_assert!(slots.tail().wrapping_sub(head) > 8),
        }
    }

    #[test]
    fn queued_counts_across_the_wrap(head in any::<u32>(), count in 0u32..=16) {
        prop_assert_eq!(queued(head, head.wrapping_add(count), 16), Ok(count));
        prop_assert_eq!(queued(head, head.wrapping_add(17 + count), 16), Err(Corrupt));
        prop_assert!(place(head, 16) < 16);
    }

    #[test]
    fn handles_survive_their_number_and_offset(
        index in 0..MAX_SLOTS as u32,
        generation in 1..GENERATIONS,
        start in 0u64..1 << 40,
    ) {
        let handle = Handle { index, generation };
        prop_assert_eq!(Handle::from_raw(handle.to_raw()), handle);
        prop_assert!(handle.to_raw() != 0);
        let target = MmapTarget::from_offset(handle.mmap_offset() + start);
        prop_assert_eq!(target.index, index);
        prop_assert_eq!(target.start, start);
        prop_assert!(target.matches(generation));
        prop_assert!(i64::try_from(handle.mmap_offset() + start).is_ok());
        // The name after this one is another in both forms.
        let next = Handle::next_generation(generation);
        prop_assert!(next != 0 && next != generation);
        prop_assert!(!target.matches(next));
    }

    #[test]
    fn pieces_cover_the_transfer_and_stay_in_their_segments(
        local in 0u64..1 << 24,
        remote in 0u64..1 << 24,
        length in 1u64..1 << 22,
        local_shift in 12u32..23,
        remote_shift in 12u32..23,
    ) {
        let (local_bytes, remote_bytes) = (1u64 << local_shift, 1u64 << remote_shift);
        let (local_size, remote_size) =
            (NonZero::new(local_bytes).unwrap(), NonZero::new(remote_bytes).unwrap());
        let (mut at_local, mut at_remote, mut total) = (local, remote, 0);
        for piece in Pieces::new(local, local_size, remote, remote_size, length) {
            prop_assert!(piece.length > 0);
            prop_assert_eq!(piece.local_segment * local_bytes + piece.local_offset, at_local);
            prop_assert_eq!(piece.remote_segment * remote_bytes + piece.remote_offset, at_remote);
            prop_assert!(piece.local_offset + piece.length <= local_bytes);
            prop_assert!(piece.remote_offset + piece.length <= remote_bytes);
            at_local += piece.length;
            at_remote += piece.length;
            total += piece.length;
        }
        prop_assert_eq!(total, length);
    }

    #[test]
    fn within_agrees_with_wide_arithmetic(offset: u64, length: u64, limit: u64) {
        let fits = length > 0 && u128::from(offset) + u128::from(length) <= u128::from(limit);
        prop_assert_eq!(within(offset, length, limit), fits);
    }
}

#[test]
fn only_powers_of_two_in_range_are_ring_sizes() {
    let valid: Vec<u32> = (0..70_000)
        .filter(|entries| valid_entries(*entries))
        .collect();
    let powers: Vec<u32> = (0..=16).map(|shift| 1 << shift).collect();
    assert_eq!(valid, powers);
}

#[test]
fn the_last_generation_is_followed_by_the_first() {
    assert_eq!(Handle::next_generation(GENERATIONS - 1), 1);
}

#[test]
fn every_end_has_its_outcome() {
    let outcome = |completion: Completion, down, revoked| completion.outcome(down, revoked).state;
    assert_eq!(
        outcome(Completion::Success, Some(Down::Peer), true),
        State::Ok
    );
    assert_eq!(
        outcome(Completion::Flushed, Some(Down::Local), false),
        State::Canceled
    );
    assert_eq!(
        outcome(Completion::Flushed, Some(Down::Peer), false),
        State::PeerDead
    );
    assert_eq!(
        outcome(Completion::Flushed, Some(Down::Device), false),
        State::PeerDead
    );
    assert_eq!(
        outcome(Completion::Flushed, Some(Down::Peer), true),
        State::Revoked
    );
    assert_eq!(
        outcome(Completion::RemoteAccess, None, true),
        State::Revoked
    );
    assert_eq!(outcome(Completion::RemoteAccess, None, false), State::Error);
    assert_eq!(
        outcome(Completion::RetryExceeded, None, false),
        State::PeerDead
    );
    assert_eq!(outcome(Completion::Failed, None, false), State::Error);
}

#[test]
fn only_first_causes_bring_an_endpoint_down() {
    assert_eq!(Completion::Flushed.cause(), None);
    assert_eq!(Completion::Success.cause(), None);
    assert_eq!(Completion::RetryExceeded.cause(), Some(Down::Unreachable));
    assert_eq!(Completion::RemoteAccess.cause(), Some(Down::Transfer));
}
