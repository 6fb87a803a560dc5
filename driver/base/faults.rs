// SPDX-License-Identifier: GPL-2.0-only

//! The driver's fault points. Each is a kernel fault attribute `fail_dmaplane_NAME` in the folder `faults` of the driver's
//! debugfs folder, with the files `passed` and `fired` beside the kernel's own. docs/testing.md says how to use them.

use crate::{
    kx::fault::{Folder, Point},
    logic::wire::MESSAGE_BYTES,
};
use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

macro_rules! points {
    ($($(#[$doc:meta])* $kind:ident $name:ident,)*) => {
        /// The points. Those marked `fails` stand for a failure of the caller's and are counted by its fail-nth.
        pub(crate) struct Faults {
            $($(#[$doc])* pub(crate) $name: Point,)*
        }

        #[allow(non_camel_case_types)] // Reason: the names are the points'.
        #[derive(Clone, Copy)]
        enum Index {
            $($name,)*
        }

        /// All of them.
        pub(crate) static FAULTS: Faults = Faults {
            $($name: Point::new(Index::$name as u32, points!(@$kind)),)*
        };

        /// Their names in debugfs, in the order of their indices.
        const NAMES: &[&CStr] = &[$(points!(@name $name),)*];
    };
    (@fails) => { true };
    (@acts) => { false };
    (@name $name:ident) => {
        match CStr::from_bytes_with_nul(concat!("fail_dmaplane_", stringify!($name), "\0").as_bytes()) {
            Ok(name) => name,
            Err(_) => c"",
        }
    };
}

points! {
    /// No memory for the bytes of a SEND that arrived.
    fails alloc_arrival,
    /// No memory for the keys of a peer's grant that arrives.
    fails alloc_assembly,
    /// No memory for a peer's grant that has arrived.
    fails alloc_peer_grant,
    /// No memory for a connection request at a listener.
    fails alloc_request,
    /// No memory for a device that is added.
    fails alloc_device,
    /// A step of taking over the memory of a PCI device fails.
    fails probe_bar,
    /// No memory for a latency histogram, which is made where sleeping is forbidden.
    acts alloc_histogram,
    /// Memory cannot be mapped for a device.
    fails dma_map,
    /// A device takes fewer pages than asked into a memory region.
    fails map_region,
    /// The provider refuses an operation.
    fails post_send,
    /// The provider takes the first of several work requests of an operation and refuses the rest.
    fails post_part,
    /// The provider refuses a control message.
    fails post_message,
    /// The provider refuses a receive.
    fails post_receive,
    /// The provider refuses a registration.
    fails post_register,
    /// Resolving an address or a route fails.
    fails cm_step,
    /// The peer's greeting is invalid.
    fails cm_greeting,
    /// The greeting in a connection request at a listener is invalid.
    fails cm_request,
    /// The accepting side is never notified that the connection is up, as when the peer does not finish the handshake.
    acts cm_established,
    /// An operation that was carried out completes with an error.
    fails complete_error,
    /// A work request before an operation's last one completes with an error.
    fails complete_part,
    /// An operation that was carried out completes as flushed, and the queue pair is in error.
    fails complete_flush,
    /// A control message completes with an error.
    fails complete_message,
    /// A receive completes with an error.
    fails complete_receive,
    /// A registration completes with an error.
    fails complete_register,
    /// A completion comes late.
    acts complete_delay,
    /// A CREDIT is never sent, though it counts as sent.
    acts credit_lost,
    /// A control message that arrived is lost.
    acts message_lost,
    /// A byte of a control message that arrived is wrong.
    acts message_corrupt,
    /// A WRITE_IMM or SEND is sent without a credit, as a hostile kernel would do.
    acts credit_forged,
    /// A transfer reaches beyond the peer's grant, as a hostile kernel would do.
    acts range_forged,
    /// A control message says that there are more receives than there can be.
    acts totals_forged,
    /// A control message has another generation than the grant that it names.
    acts generation_forged,
    /// A control message has the number of the grant before the one that it is about.
    acts number_repeated,
    /// A grant is revoked as soon as the peer was notified of it.
    acts revoke_at_grant,
    /// A grant ends, without the peer being asked, when something from the peer arrived.
    acts revoke_at_arrival,
    /// A grant ends, without the peer being asked, when a control message arrived.
    acts revoke_at_message,
    /// An endpoint sends nothing any more, for good: no operation, no message, no heartbeat.
    acts freeze,
    /// The teardown of an endpoint takes long.
    acts teardown_slow,
    /// The removal of a device takes long.
    acts remove_slow,
    /// The timer of an endpoint runs late.
    acts timer_late,
    /// A heartbeat is not sent.
    acts heartbeat_lost,
    /// The heartbeats of an endpoint that is being made are 40 times rarer than the module's parameter says.
    acts heartbeat_rare,
    /// A control message invalidates a key of the receiver's: the last one that any peer granted.
    acts send_invalidates,
}

/// The folder of the points, until drop.
pub(crate) fn debugfs() -> Folder {
    Folder::new(NAMES)
}

/// How long the points for slow steps last, in milliseconds.
pub(crate) const SLOW_MS: u32 = 100;

/// How late the points for late events make them, in milliseconds.
pub(crate) const LATE_MS: u32 = 20;

/// The first key of the last grant that any peer gave.
static GRANTED: Atomic<u32> = Atomic::new(0);

/// Notes a key of a peer's grant, for the point `send_invalidates`.
pub(crate) fn note_granted(key: u32) {
    GRANTED.store(key, Relaxed);
}

/// The key that was noted last.
pub(crate) fn granted_key() -> u32 {
    GRANTED.load(Relaxed)
}

/// The message as it came, or, when the point fires, with one bit flipped: another bit each time.
pub(crate) fn corrupted(message: &[u8; MESSAGE_BYTES]) -> [u8; MESSAGE_BYTES] {
    static TURN: Atomic<u32> = Atomic::new(0);
    let mut copy = *message;
    if FAULTS.message_corrupt.fires() {
        let bit = TURN.fetch_add(1, Relaxed);
        // At least half of the flips hit the first 64 bytes, which have most of the meaning.
        let at = if bit % 2 == 0 {
            bit / 2 % 64
        } else {
            bit % MESSAGE_BYTES as u32
        };
        if let Some(byte) = copy.get_mut(at as usize) {
            *byte ^= 1 << (bit / 3 % 8);
        }
    }
    copy
}
