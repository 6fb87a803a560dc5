// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Messages survive the wire, and whatever else arrives is refused without a panic.

use dmaplane_logic::{
    flow::Totals,
    wire::{
        Body, GrantPart, Hello, Malformed, Message, Payload, HELLO_BYTES, KEYS, MESSAGE_BYTES,
        SEND_BYTES,
    },
};
use proptest::prelude::*;

fn totals() -> impl Strategy<Value = Totals> {
    any::<(u32, u32, u32)>().prop_map(|(data_limit, control_limit, credit_seen)| Totals {
        data_limit,
        control_limit,
        credit_seen,
    })
}

fn grant_message() -> impl Strategy<Value = Message> {
    (
        (1u32.., 1u32..),
        (1u64..1 << 32, any::<u64>(), 1u32..),
        (21u8..=30, 1u8..=KEYS as u8),
        (any::<u32>(), totals()),
    )
        .prop_map(
            |((grant, generation), (length, label, rights), (shift, count), (seed, totals))| {
                let segments = length.div_ceil(1 << shift);
                let count = count.min(u8::try_from(segments).unwrap_or(u8::MAX));
                let segments = u32::try_from(segments).unwrap_or(u32::MAX);
                let first = seed % (segments - u32::from(count) + 1);
                let mut keys = [0; KEYS];
                for (index, key) in keys.iter_mut().take(usize::from(count)).enumerate() {
                    *key = seed.wrapping_mul(index as u32 + 1);
                }
                let body = Body::Grant(GrantPart {
                    length,
                    label,
                    rights,
                    segment_shift: shift,
                    first,
                    max_uses: seed,
                    count,
                    keys,
                });
                Message {
                    grant,
                    generation,
                    totals,
                    body,
                }
            },
        )
}

proptest! {
    #[test]
    fn grants_survive_the_wire(message in grant_message()) {
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn credits_survive_the_wire(totals in totals()) {
        let message = Message { grant: 0, generation: 0, totals, body: Body::Credit };
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn sends_and_wills_survive_the_wire(imm: u32, sent in proptest::collection::vec(any::<u8>(), 0..=SEND_BYTES),
                                        reason: u32, totals in totals()) {
        let mut bytes = [0; SEND_BYTES];
        bytes[..sent.len()].copy_from_slice(&sent);
        let payload = Payload { imm, length: sent.len() as u32, bytes };
        for body in [Body::Send(payload), Body::LastWill(reason), Body::Ping] {
            let message = Message { grant: 0, generation: 0, totals, body };
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn a_send_that_is_too_long_is_refused(length in SEND_BYTES as u32 + 1.., totals in totals()) {
        let payload = Payload { imm: 0, length: 0, bytes: [0; SEND_BYTES] };
        let body = Body::Send(payload);
        let mut bytes = Message { grant: 0, generation: 0, totals, body }.encode();
        bytes[32..36].copy_from_slice(&length.to_le_bytes());
        prop_assert_eq!(Message::decode(&bytes), Err(Malformed::Field));
    }

    #[test]
    fn lengths_survive_the_wire(length: u64, totals in totals()) {
        let message = Message { grant: 0, generation: 0, totals, body: Body::Split(length) };
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn revocations_survive_the_wire(number in 1u32.., totals in totals(), answer: bool) {
        let body = if answer { Body::Revoked } else { Body::Revoke };
        let message = Message { grant: number, generation: number, totals, body };
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::decode(&bytes);
        let _ = Hello::decode(&bytes);
    }

    #[test]
    fn a_changed_byte_is_refused_or_reads_back_as_what_it_says(
        message in grant_message(),
        at in 0..MESSAGE_BYTES,
        value in any::<u8>(),
    ) {
        let mut bytes = message.encode();
        bytes[at] = value;
        if let Ok(read) = Message::decode(&bytes) {
            // Nothing is ignored: every accepted byte is part of the message.
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn greetings_survive_the_wire(depth in 1u32..=4096, heartbeat_ms in 10u32..=60_000) {
        let hello = Hello {
            depth,
            heartbeat_ms,
        };
        let mut bytes = hello.encode().to_vec();
        // The connection manager pads.
        bytes.resize(56, 0);
        prop_assert_eq!(Hello::decode(&bytes), Ok(hello));
    }
}

const HELLO: Hello = Hello {
    depth: 1,
    heartbeat_ms: 1000,
};

#[test]
fn another_version_is_distinguished() {
    let mut bytes = HELLO.encode();
    bytes[2] += 1;
    assert_eq!(Hello::decode(&bytes), Err(Malformed::Version));
    assert_eq!(
        Hello::decode(&bytes[..HELLO_BYTES - 1]),
        Err(Malformed::Length)
    );
    assert_eq!(Hello::decode(&[0; HELLO_BYTES]), Err(Malformed::Magic));
}

#[test]
fn a_depth_of_zero_is_refused() {
    let hello = Hello { depth: 0, ..HELLO };
    assert_eq!(Hello::decode(&hello.encode()), Err(Malformed::Field));
}

#[test]
fn a_heartbeat_interval_that_no_side_may_choose_is_refused() {
    for heartbeat_ms in [0, 9, 60_001, u32::MAX] {
        let hello = Hello {
            heartbeat_ms,
            ..HELLO
        };
        assert_eq!(Hello::decode(&hello.encode()), Err(Malformed::Field));
    }
}
