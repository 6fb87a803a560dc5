// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a hostile peer sends: greetings and control messages, one after the other, and what its totals do to the credits.
#![no_main]

use dmaplane_logic::flow::{Flow, CONTROL, MAX_DEPTH};
use dmaplane_logic::wire::{Body, Hello, Message, HELLO_BYTES, KEYS, MESSAGE_BYTES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((hello, rest)) = data.split_at_checked(HELLO_BYTES) else {
        assert!(Hello::decode(data).is_err(), "a short greeting");
        return;
    };
    let peer_depth = match Hello::decode(hello) {
        Ok(hello) => {
            assert!((1..=MAX_DEPTH).contains(&hello.depth));
            assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
            hello.depth
        }
        Err(_) => 8,
    };
    let mut flow = Flow::new(16, peer_depth);
    let mut rest = rest;
    while let Some((mode, after)) = rest.split_first() {
        let whole;
        (whole, rest) = message(*mode, after);
        step(&mut flow, &whole, peer_depth);
    }
});

/// The next message: any bytes, or a valid head, so that the rest is decoded too.
fn message(mode: u8, input: &[u8]) -> ([u8; MESSAGE_BYTES], &[u8]) {
    let mut whole = [0; MESSAGE_BYTES];
    let at = if mode == 0 {
        0
    } else {
        let right = Hello {
            depth: 1,
            heartbeat_ms: 1000,
        }
        .encode();
        // Magic and version are those of a greeting.
        whole[..3].copy_from_slice(&right[..3]);
        whole[3] = mode % 10;
        whole[4] = mode / 128;
        whole[8] = mode / 128;
        16
    };
    let Some((length, input)) = input.split_first() else {
        return (whole, input);
    };
    let count = usize::from(*length)
        .min(input.len())
        .min(MESSAGE_BYTES - at);
    let (own, rest) = input.split_at(count);
    whole[at..at + count].copy_from_slice(own);
    // A truncated message is refused.
    assert!(Message::decode(&whole[..MESSAGE_BYTES - 1]).is_err());
    (whole, rest)
}

/// One message, and what this side does between two of them.
fn step(flow: &mut Flow, bytes: &[u8; MESSAGE_BYTES], peer_depth: u32) {
    let Ok(message) = Message::decode(bytes) else {
        return;
    };
    // Whatever was accepted has exactly one form.
    assert_eq!(message.encode(), *bytes, "{message:?}");
    match &message.body {
        Body::Grant(part) => {
            assert!(usize::from(part.count) <= KEYS && !part.keys().is_empty());
            let last = u64::from(part.first) + part.keys().len() as u64;
            assert!(last <= part.segments(), "{part:?}");
        }
        Body::Send(payload) => assert_eq!(payload.bytes().len(), payload.length as usize),
        _ => {}
    }
    let before = flow.clone();
    if flow
        .receive_message(message.body.budget(), message.totals)
        .is_err()
    {
        // The endpoint ends; a new one begins.
        *flow = before;
        return;
    }
    assert!(
        flow.send_credits() <= peer_depth,
        "credits beyond the peer's depth"
    );
    assert!(flow.posted_receives() <= 16, "more receives than there are");
    // A user that is busy.
    let _ = flow.post_receive();
    let _ = flow.take_data();
    let mut sent = 0;
    while flow.take_control() {
        sent += 1;
        assert!(sent <= CONTROL, "more control credits than there are");
    }
    if flow.credit_due() {
        let _ = flow.totals();
        flow.sent_credit();
    }
    let _ = flow.receive_data();
}
