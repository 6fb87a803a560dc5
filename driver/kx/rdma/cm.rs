// SPDX-License-Identifier: GPL-2.0-only

//! The RDMA connection manager.
//!
//! Would become part of `kernel::rdma`.

use super::{client::Device, raw, NAME};
use crate::kx::net::{current_net, Address};
use core::{marker::PhantomData, ptr, ptr::NonNull};
use kernel::{
    error::{from_err_ptr, to_result},
    ffi::{c_int, c_void},
    prelude::*,
    sync::Arc,
};

/// Most private data that is read, in bytes.
const MAX_PRIVATE: usize = 64;

/// log2 of the time that a queue pair waits for an acknowledgement, in units of 4.096 µs: 0.54 s.
const ACK_TIMEOUT: u8 = 17;

/// Retransmissions before a peer counts as unreachable; with [`ACK_TIMEOUT`] about 4 s. rxe would take one more for
/// "for ever": it applies the protocol's special value for receivers that are not ready to this one, too.
const RETRIES: u8 = 6;

/// RDMA READs that may be outstanding in one direction. All adapters support so many.
const READS: u8 = 16;

/// An event of an identifier.
pub(crate) enum Event<'a> {
    /// The remote address is resolved and a device chosen.
    AddressResolved,
    /// The route is resolved.
    RouteResolved,
    /// A step failed; a negative errno, or 0 when unknown.
    Failed(Error),
    /// The connection is up; the peer's private data, empty on the passive side.
    Established(&'a [u8]),
    /// The peer rejected the connection.
    Rejected,
    /// The peer closed, or the connection broke.
    Disconnected,
    /// The device goes away.
    DeviceRemoval,
}

/// The handler of an identifier's events. The connection manager calls one method at a time for an identifier, in
/// process context; the methods may sleep but must not drop the identifier that they are called for.
pub(crate) trait Handler: Send + Sync + Sized + 'static {
    /// Handles an event. `id` may be used to disconnect.
    fn event(&self, id: Active<'_>, event: Event<'_>);

    /// Handles a request to connect to this listening identifier. A request that is not taken is refused.
    fn request(&self, _request: Request<'_>) {}
}

/// An identifier during one of its events.
pub(crate) struct Active<'a>(NonNull<raw::rdma_cm_id>, PhantomData<&'a ()>);

impl Active<'_> {
    /// Moves the queue pair to the error state and notifies the peer.
    pub(crate) fn disconnect(self) {
        // SAFETY: The identifier is alive during its event. A failure means that it was not connected any more, as
        // wanted.
        let _ = unsafe { raw::rdma_disconnect(self.0.as_ptr()) };
    }
}

/// A request to connect, valid while its event is handled.
pub(crate) struct Request<'a> {
    id: NonNull<raw::rdma_cm_id>,
    private: &'a [u8],
    taken: &'a mut bool,
}

impl Request<'_> {
    /// The peer's private data; what follows the peer's own bytes is padding.
    pub(crate) fn private(&self) -> &[u8] {
        self.private
    }

    /// The device on which the request arrived.
    pub(crate) fn device(&self) -> Option<Device> {
        // SAFETY: During the event the identifier is bound to its device, whose removal waits for it.
        unsafe { Device::from_raw((*self.id.as_ptr()).device) }
    }

    /// Takes over the new identifier. It must not be dropped before the event handler has returned.
    pub(crate) fn take<H: Handler>(self, handler: Arc<H>) -> CmId<H> {
        *self.taken = true;
        // SAFETY: The new identifier is alive, and the manager's lock keeps others from it during its event.
        unsafe {
            (*self.id.as_ptr()).event_handler = Some(on_event::<H>);
            (*self.id.as_ptr()).context = Arc::as_ptr(&handler).cast_mut().cast();
        }
        // INVARIANT: A new identifier is alive and, as `taken` says, not destroyed by the manager.
        CmId {
            id: self.id,
            handler,
        }
    }
}

/// A connection identifier.
///
/// # Invariants
///
/// The identifier is alive and ours; its context is `handler`, its event handler `on_event::<H>`.
pub(crate) struct CmId<H: Handler> {
    id: NonNull<raw::rdma_cm_id>,
    handler: Arc<H>,
}

// SAFETY: The connection manager locks its identifiers.
unsafe impl<H: Handler> Send for CmId<H> {}
// SAFETY: The connection manager locks its identifiers.
unsafe impl<H: Handler> Sync for CmId<H> {}

impl<H: Handler> CmId<H> {
    /// A new identifier in the network namespace of the calling process, for reliable connections.
    pub(crate) fn new(handler: Arc<H>) -> Result<Self> {
        // SAFETY: The namespace is the caller's own and the identifier takes a reference. The context lives as
        // long as the identifier, since `Self` holds the handler.
        let id = from_err_ptr(unsafe {
            raw::__rdma_create_kernel_id(
                current_net(),
                Some(on_event::<H>),
                Arc::as_ptr(&handler).cast_mut().cast::<c_void>(),
                raw::rdma_ucm_port_space_RDMA_PS_TCP,
                raw::ib_qp_type_IB_QPT_RC,
                NAME.as_char_ptr(),
            )
        })?;
        Ok(Self {
            id: NonNull::new(id).ok_or(ENOMEM)?,
            handler,
        })
    }

    /// The raw identifier.
    pub(super) fn as_ptr(&self) -> *mut raw::rdma_cm_id {
        self.id.as_ptr()
    }

    /// The handler.
    pub(super) fn handler(&self) -> &Arc<H> {
        &self.handler
    }

    /// The device to which the identifier is bound.
    pub(crate) fn device(&self) -> Option<Device> {
        // SAFETY: The identifier is alive. While it is bound to a device, that device's removal waits for it;
        // whoever keeps the result has it checked by the registry of devices.
        unsafe { Device::from_raw((*self.as_ptr()).device) }
    }

    /// Starts to resolve `remote`, from `local` if given. Ends in an event. `ENODEV` when no RDMA device
    /// reaches it.
    pub(crate) fn resolve_address(
        &self,
        local: Option<&Address>,
        remote: &Address,
        limit_ms: u32,
    ) -> Result {
        let local = local.map_or(ptr::null_mut(), Address::as_ptr);
        // SAFETY: The identifier is alive; the addresses are only read.
        to_result(unsafe {
            raw::rdma_resolve_addr(self.as_ptr(), local, remote.as_ptr(), limit_ms as usize)
        })
    }

    /// Starts to resolve the route. Ends in an event.
    pub(crate) fn resolve_route(&self, limit_ms: u32) -> Result {
        // SAFETY: The identifier is alive.
        to_result(unsafe { raw::rdma_resolve_route(self.as_ptr(), limit_ms as usize) })
    }

    /// Starts to connect. The queue pair exists and receives are posted. Ends in an event.
    pub(crate) fn connect(&self, private: &[u8]) -> Result {
        let mut param = parameters(private)?;
        // SAFETY: The identifier is alive; the parameters are only read during the call.
        to_result(unsafe { raw::rdma_connect(self.as_ptr(), &mut param) })
    }

    /// Accepts a request that was taken. The queue pair exists and receives are posted.
    pub(crate) fn accept(&self, private: &[u8]) -> Result {
        let mut param = parameters(private)?;
        // SAFETY: The identifier is alive; the parameters are only read during the call. Accepting requires the
        // identifier's handler lock, which no caller holds, since events do not lead here.
        to_result(unsafe {
            raw::rdma_lock_handler(self.as_ptr());
            let result = raw::rdma_accept(self.as_ptr(), &mut param);
            raw::rdma_unlock_handler(self.as_ptr());
            result
        })
    }

    /// Binds to an address and listens. `ENODEV` or `EADDRNOTAVAIL` when no RDMA device has the address.
    pub(crate) fn listen(&self, local: &Address, backlog: u32) -> Result {
        let backlog = i32::try_from(backlog).map_err(|_| EINVAL)?;
        // SAFETY: The identifier is alive; the address is only read.
        to_result(unsafe { raw::rdma_bind_addr(self.as_ptr(), local.as_ptr()) })?;
        // SAFETY: The identifier is alive.
        to_result(unsafe { raw::rdma_listen(self.as_ptr(), backlog) })
    }

    /// Moves the queue pair to the error state and notifies the peer.
    pub(super) fn disconnect(&self) {
        // SAFETY: The identifier is alive. A failure means that it was not connected any more.
        let _ = unsafe { raw::rdma_disconnect(self.as_ptr()) };
    }

    /// Resets the queue pair of a connection that did not come up: what was posted is discarded without a completion,
    /// and nothing is left to drain. False if the reset failed. By the specification a drain would do, but rxe stops a
    /// queue pair's responder for good when it has no memory during the connection setup: its receives would never be
    /// flushed, and the drain would never end.
    pub(super) fn reset(&self) -> bool {
        let mut attributes = raw::ib_qp_attr {
            qp_state: raw::ib_qp_state_IB_QPS_RESET,
            ..Default::default()
        };
        // SAFETY: The identifier is alive, and so is its queue pair, if it has one: the caller holds the lock under which
        // it is destroyed. Providers lock their queue pairs.
        unsafe {
            let queue_pair = (*self.as_ptr()).qp;
            let state = raw::ib_qp_attr_mask_IB_QP_STATE as c_int;
            !queue_pair.is_null() && raw::ib_modify_qp(queue_pair, &mut attributes, state) == 0
        }
    }

    /// Sets how long a lost packet may go unnoticed. Called before the queue pair is made.
    pub(super) fn set_ack_timeout(&self) {
        // SAFETY: The identifier is alive. A failure leaves the provider's default, which is only slower.
        let _ = unsafe { raw::rdma_set_ack_timeout(self.as_ptr(), ACK_TIMEOUT) };
    }

    /// This side's address.
    pub(crate) fn local(&self) -> Address {
        // SAFETY: The identifier is alive. The address is set before any event that leads here.
        let address = Address::from_storage(unsafe { &(*self.as_ptr()).route.addr.src_addr });
        address.scoped(self.interface())
    }

    /// The peer's address.
    pub(crate) fn peer(&self) -> Address {
        // SAFETY: The identifier is alive. The address is set before any event that leads here.
        let address = Address::from_storage(unsafe { &(*self.as_ptr()).route.addr.dst_addr });
        address.scoped(self.interface())
    }

    /// Index of the interface that the connection uses, in the identifier's network namespace; 0 before that is known.
    fn interface(&self) -> i32 {
        // SAFETY: The identifier is alive. The index is set together with the addresses, before any event that leads
        // here.
        unsafe { (*self.as_ptr()).route.addr.dev_addr.bound_dev_if }
    }
}

impl<H: Handler> Drop for CmId<H> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is ours. The call waits for running events, after which the handler is not
        // called again. It is never made from an event of this identifier, as `Handler` demands.
        unsafe { raw::rdma_destroy_id(self.as_ptr()) };
    }
}

fn parameters(private: &[u8]) -> Result<raw::rdma_conn_param> {
    Ok(raw::rdma_conn_param {
        private_data: private.as_ptr().cast(),
        private_data_len: u8::try_from(private.len()).map_err(|_| EINVAL)?,
        retry_count: RETRIES,
        // Each side's READs wait for the other's responses, so both have the same limit.
        responder_resources: READS,
        initiator_depth: READS,
        // Credits keep receivers ready: a peer that is not ready is broken, and detected at once.
        rnr_retry_count: 0,
        ..Default::default()
    })
}

/// # Safety
///
/// Called by the connection manager for an identifier whose context is an `H` that outlives it.
unsafe extern "C" fn on_event<H: Handler>(
    id: *mut raw::rdma_cm_id,
    event: *mut raw::rdma_cm_event,
) -> c_int {
    // SAFETY: Both are alive during the event. The context was set with the event handler; a new
    // identifier has its listener's.
    let (handler, kind, status) =
        unsafe { (&*(*id).context.cast::<H>(), (*event).event, (*event).status) };
    let private = || -> &[u8] {
        // SAFETY: Events with connection parameters have this member of the union set.
        let (data, length) = unsafe {
            let conn = &(*event).param.conn;
            (
                conn.private_data.cast::<u8>(),
                usize::from(conn.private_data_len),
            )
        };
        if data.is_null() {
            return &[];
        }
        // SAFETY: The manager passes so many bytes, alive during the event.
        unsafe { core::slice::from_raw_parts(data, length.min(MAX_PRIVATE)) }
    };
    // The status of a refusal is a reason code of the connection manager; negative numbers are errno.
    let failed = || {
        Event::Failed(Error::from_errno(if status < 0 {
            status
        } else {
            -ETIMEDOUT_NR
        }))
    };
    // The peer chooses how long this side retries. A peer is refused if it demands waiting for receivers that are not
    // ready, which honest peers never need, or endless retries.
    let patience = || {
        // SAFETY: Events with connection parameters have this member of the union set.
        let conn = unsafe { &(*event).param.conn };
        (conn.retry_count, conn.rnr_retry_count)
    };
    let Some(pointer) = NonNull::new(id) else {
        return 0;
    };
    let event = match kind {
        raw::rdma_cm_event_type_RDMA_CM_EVENT_CONNECT_REQUEST => {
            let mut taken = false;
            let (retries, not_ready) = patience();
            if retries <= RETRIES && not_ready == 0 {
                handler.request(Request {
                    id: pointer,
                    private: private(),
                    taken: &mut taken,
                });
            }
            return if taken { 0 } else { ECONNREFUSED.to_errno() };
        }
        raw::rdma_cm_event_type_RDMA_CM_EVENT_ADDR_RESOLVED => Event::AddressResolved,
        raw::rdma_cm_event_type_RDMA_CM_EVENT_ROUTE_RESOLVED => Event::RouteResolved,
        raw::rdma_cm_event_type_RDMA_CM_EVENT_ESTABLISHED => {
            // An empty greeting counts as an invalid one.
            let honest = patience().1 == 0;
            Event::Established(if honest { private() } else { &[] })
        }
        raw::rdma_cm_event_type_RDMA_CM_EVENT_REJECTED => Event::Rejected,
        raw::rdma_cm_event_type_RDMA_CM_EVENT_DISCONNECTED => Event::Disconnected,
        raw::rdma_cm_event_type_RDMA_CM_EVENT_DEVICE_REMOVAL => Event::DeviceRemoval,
        raw::rdma_cm_event_type_RDMA_CM_EVENT_ADDR_ERROR
        | raw::rdma_cm_event_type_RDMA_CM_EVENT_ROUTE_ERROR
        | raw::rdma_cm_event_type_RDMA_CM_EVENT_CONNECT_ERROR
        | raw::rdma_cm_event_type_RDMA_CM_EVENT_UNREACHABLE => failed(),
        // The others (multicast, the end of the time-wait state, ...) do not matter to a connection.
        _ => return 0,
    };
    handler.event(Active(pointer, PhantomData), event);
    0
}

/// `ETIMEDOUT` as a number: the manager's only cause of a failure without an errno.
const ETIMEDOUT_NR: i32 = kernel::bindings::ETIMEDOUT as i32;
