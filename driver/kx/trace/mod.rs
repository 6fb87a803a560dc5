// SPDX-License-Identifier: GPL-2.0-only

//! Trace events. `dmaplane_trace.h` defines them for the kernel; the events in here have the same members in the same
//! order.
//!
//! Extends `kernel::tracepoint`.
//!
//! A disabled event costs one check of its static key: its values are only computed when somebody listens. A module
//! built with `DMAPLANE_TRACE=n` has no events, for the measurement of that cost.

macro_rules! events {
    ($(
        $(#[$doc:meta])*
        fn $name:ident() -> $event:ident { $($(#[$member_doc:meta])* $member:ident: $ty:ty),* $(,)? }
    )*) => {
        #[cfg(dmaplane_trace)]
        #[allow(improper_ctypes)] // Reason: of the kernel's tracepoints, only the static key is read.
        mod raw {
            kernel::macros::paste! {
                extern "C" {
                    $(
                        pub(super) static [<__tracepoint_ $name>]: kernel::bindings::tracepoint;
                        pub(super) fn [<rust_do_trace_ $name>]($($member: $ty),*);
                    )*
                }
            }
        }
        $(
            $(#[$doc])*
            pub(crate) struct $event {
                $($(#[$member_doc])* pub(crate) $member: $ty,)*
            }

            kernel::macros::paste! {
                /// Whether somebody listens.
                #[inline(always)]
                pub(crate) fn [<$name _is_on>]() -> bool {
                    #[cfg(dmaplane_trace)]
                    // SAFETY: `trace.c` defines the tracepoint, and reading its static key is always allowed.
                    unsafe {
                        kernel::jump_label::static_branch_unlikely!(
                            raw::[<__tracepoint_ $name>],
                            kernel::bindings::tracepoint,
                            key
                        )
                    }
                    #[cfg(not(dmaplane_trace))]
                    false
                }

                /// Emits the event if somebody listens.
                #[inline(always)]
                pub(crate) fn $name(event: impl FnOnce() -> $event) {
                    if [<$name _is_on>]() {
                        let $event { $($member),* } = event();
                        #[cfg(dmaplane_trace)]
                        // SAFETY: `trace.c` defines the function with these parameters, which are plain integers.
                        unsafe { raw::[<rust_do_trace_ $name>]($($member),*) };
                        #[cfg(not(dmaplane_trace))]
                        let _ = ($($member),*);
                    }
                }
            }
        )*
    };
}

events! {
    /// Memory of a buffer was allocated.
    fn buffer_alloc() -> BufferAlloc {
        /// Its serial.
        buffer: u64,
        /// Its size.
        bytes: u64,
        /// The policy that was asked for.
        policy: u32,
        /// The node that was asked for.
        node: i32,
    }
    /// Some of a buffer's pages are not on the node that was asked for.
    fn buffer_misplaced() -> BufferMisplaced {
        /// Its serial.
        buffer: u64,
        /// How many.
        pages: u64,
        /// The node that was asked for.
        node: i32,
    }
    /// A buffer's memory is freed.
    fn buffer_free() -> BufferFree {
        /// Its serial.
        buffer: u64,
        /// Its size.
        bytes: u64,
    }
    /// Memory is registered.
    fn region_register() -> RegionRegister {
        /// Its serial.
        region: u64,
        /// The memory's serial.
        buffer: u64,
        /// Its size.
        bytes: u64,
        /// Whether the peer may reach it.
        remote: u32,
    }
    /// A registration has ended.
    fn region_revoke() -> RegionRevoke {
        /// Its serial.
        region: u64,
        /// The memory's serial.
        buffer: u64,
        /// Its size.
        bytes: u64,
        /// Whether the peer could reach it.
        remote: u32,
    }
    /// A region is freed.
    fn region_free() -> RegionFree {
        /// Its serial.
        region: u64,
        /// The memory's serial.
        buffer: u64,
        /// Its size.
        bytes: u64,
        /// Whether the peer could reach it.
        remote: u32,
    }
    /// A grant was made.
    fn grant_create() -> GrantCreate {
        /// The endpoint's serial.
        endpoint: u64,
        /// The connection's number.
        link: u64,
        /// The grant's number.
        grant: u32,
        /// Bytes of its range.
        bytes: u64,
        /// `RIGHT_*` bits.
        rights: u32,
    }
    /// A grant is being taken back.
    fn grant_revoke() -> GrantRevoke {
        /// The endpoint's serial.
        endpoint: u64,
        /// The connection's number.
        link: u64,
        /// The grant's number.
        grant: u32,
        /// One of `GRANT_END_*`.
        why: u32,
    }
    /// A grant's access has ended.
    fn grant_ended() -> GrantEnded {
        /// The endpoint's serial.
        endpoint: u64,
        /// The connection's number.
        link: u64,
        /// The grant's number.
        grant: u32,
        /// One of `GRANT_END_*`.
        why: u32,
    }
    /// An entry was taken from a submission ring.
    fn op_submit() -> OpSubmit {
        /// Its owner's trace id.
        trace_id: u64,
        /// Its owner's name for it.
        user_data: u64,
        /// One of `OP_*`, or what stood in its place.
        op: u32,
        /// What its owner calls the endpoint.
        endpoint_handle: u32,
        /// What its owner calls the buffer.
        buffer_handle: u32,
        /// Its length.
        bytes: u32,
    }
    /// An operation was handed to the provider.
    fn op_post() -> OpPost {
        /// Its owner's trace id.
        trace_id: u64,
        /// The endpoint's serial.
        endpoint: u64,
        /// The connection's number.
        link: u64,
        /// One of `OP_*`.
        op: u32,
        /// Its number among what consumes receives of the peer's, else 0.
        seq: u32,
        /// Its length.
        bytes: u32,
        /// Time from acceptance to here.
        queued_ns: u64,
    }
    /// An operation has its completion.
    fn op_complete() -> OpComplete {
        /// Its owner's trace id.
        trace_id: u64,
        /// The endpoint's serial, 0 for none.
        endpoint: u64,
        /// The connection's number.
        link: u64,
        /// One of `OP_*`.
        op: u32,
        /// One of `STATE_*`.
        state: u32,
        /// Positive errno.
        error: i32,
        /// The provider's status.
        provider_status: u32,
        /// Bytes that it moved.
        bytes: u32,
        /// Time from acceptance to the provider.
        queued_ns: u64,
        /// Time in the provider.
        provider_ns: u64,
        /// Time from acceptance to here.
        total_ns: u64,
    }
    /// A WRITE_IMM or SEND of the peer's arrived.
    fn op_arrive() -> OpArrive {
        /// The receive's trace id, 0 if none waited.
        trace_id: u64,
        /// The endpoint's serial.
        endpoint: u64,
        /// The connection's number.
        link: u64,
        /// Its number among arrivals, which is the sender's as well.
        seq: u32,
        /// Its immediate.
        imm: u32,
        /// Its length.
        bytes: u32,
    }
    /// A control message goes to the peer.
    fn message_send() -> MessageSend {
        /// The endpoint's serial.
        endpoint: u64,
        /// The connection's number.
        link: u64,
        /// The wire format's kind.
        kind: u32,
        /// Its number on the connection.
        seq: u32,
        /// The grant's number, else 0.
        number: u32,
    }
    /// A control message of the peer's arrived.
    fn message_arrive() -> MessageArrive {
        /// The endpoint's serial.
        endpoint: u64,
        /// The connection's number.
        link: u64,
        /// The wire format's kind.
        kind: u32,
        /// Its number on the connection.
        seq: u32,
        /// The grant's number, else 0.
        number: u32,
    }
    /// Operations begin to wait for credits.
    fn credit_stall() -> CreditStall {
        /// The endpoint's serial.
        endpoint: u64,
        /// The connection's number.
        link: u64,
        /// Operations that wait.
        queued: u32,
    }
    /// Operations no longer wait for credits.
    fn credit_resume() -> CreditResume {
        /// The endpoint's serial.
        endpoint: u64,
        /// The connection's number.
        link: u64,
        /// Credits that are there now.
        credits: u32,
        /// How long they waited.
        stalled_ns: u64,
    }
    /// A connection is up.
    fn endpoint_up() -> EndpointUp {
        /// The endpoint's serial.
        endpoint: u64,
        /// The connection's number.
        link: u64,
        /// This side's port.
        local_port: u32,
        /// The peer's port.
        peer_port: u32,
    }
    /// A connection is over.
    fn endpoint_down() -> EndpointDown {
        /// The endpoint's serial.
        endpoint: u64,
        /// The connection's number.
        link: u64,
        /// The errno of its cause.
        why: u32,
    }
    /// The peer said that it ends.
    fn endpoint_last_will() -> EndpointLastWill {
        /// The endpoint's serial.
        endpoint: u64,
        /// The connection's number.
        link: u64,
        /// One of `PEER_END_*`.
        why: u32,
    }
    /// The peer broke the protocol.
    fn endpoint_violation() -> EndpointViolation {
        /// The endpoint's serial.
        endpoint: u64,
        /// The connection's number.
        link: u64,
        /// 0.
        why: u32,
    }
    /// Something begins to end.
    fn teardown_begin() -> TeardownBegin {
        /// What it is.
        object: u32,
        /// Its serial.
        id: u64,
    }
    /// Something has ended.
    fn teardown_end() -> TeardownEnd {
        /// What it is.
        object: u32,
        /// Its serial.
        id: u64,
        /// How long it took.
        nanoseconds: u64,
    }
}
