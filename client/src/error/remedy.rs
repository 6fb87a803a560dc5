// SPDX-License-Identifier: MIT OR Apache-2.0

//! The table of causes and remedies: one line for each errno that a call is documented to give.

use rustix::io::Errno;

use super::call::Call;

/// Cause and remedy of `errno` from `call`.
pub(super) fn explain(call: Call, errno: Errno) -> (&'static str, &'static str) {
    specific(call, errno).unwrap_or_else(|| common(errno))
}

fn specific(call: Call, errno: Errno) -> Option<(&'static str, &'static str)> {
    use Call::{
        Accept, BufferCreate, BufferExport, BufferFolios, BufferImport, BufferQuery, BufferRevoke,
        ChannelCreate, Connect, DeviceAlloc, DeviceQuery, Enter, GrantCreate, GrantWait, Listen,
        PoolCarve, PoolCreate, RdmaQuery, StatsQuery,
    };
    let text = match (call, errno) {
        (BufferCreate | PoolCreate, Errno::INVAL) => (
            "the size is 0, the node does not exist or has no memory, or the policy and the flags do \
             not go together",
            "Give at least one byte, and a node that `dmaplane numa` lists with memory",
        ),
        (BufferCreate | PoolCreate, Errno::TOOBIG) => (
            "the size is beyond the driver's limit, or beyond the 2 MiB of a coherent buffer",
            "Ask for at most `max_buffer_bytes` of `dmaplane info`, in several buffers if need be",
        ),
        (BufferCreate | PoolCreate, Errno::NODEV) => (
            "there is no device of this name",
            "Name an RDMA device as `rdma link` does, a PCI device as `lspci -D` does",
        ),
        (BufferCreate | PoolCreate, Errno::NXIO) => (
            "the NUMA node of this device is unknown",
            "Name the node instead; `dmaplane numa` lists nodes and devices",
        ),
        (PoolCarve, Errno::TOOBIG) => (
            "the pool never has so much in a row",
            "Carve at most the largest power of two of pages in the pool, or make a larger pool",
        ),
        (PoolCarve, Errno::NOSPC) => (
            "the pool does not have so much in a row now",
            "Drop buffers of the pool, and wait for the transfers that use them",
        ),
        (BufferFolios, Errno::INVAL) => (
            "there is no such node",
            "Ask for nodes below `node_ids` of `dmaplane info`",
        ),
        (BufferCreate | PoolCreate, Errno::NOMEM) => (
            "no memory is free where the placement allows it, or the memory cgroup is at its limit",
            "Free memory on the node, choose a preferred placement, or raise memory.max",
        ),
        (DeviceAlloc, Errno::NODEV) => (
            "the device is not there, or is being removed",
            "Choose one that `DeviceInfo::list` lists now",
        ),
        (DeviceAlloc, Errno::OPNOTSUPP) => (
            "the device has no memory of this tier",
            "Choose a tier that `DeviceInfo::list` lists for it",
        ),
        (DeviceAlloc, Errno::RANGE) => (
            "the range ends beyond the tier's zone",
            "Choose a range inside the zone's bytes, or none",
        ),
        (DeviceAlloc, Errno::BUSY) => (
            "some of the chosen range is taken",
            "Choose another range, or none",
        ),
        (DeviceAlloc, Errno::NOMEM) => (
            "the tier's zone has no free range of this size",
            "Ask for less, free other buffers of the device, or choose another tier",
        ),
        (BufferQuery, Errno::FAULT) => (
            "the array for the nodes is not writable memory",
            "Pass an array of as many elements as `node_ids` of `dmaplane info`",
        ),
        (BufferImport, Errno::INVAL) => (
            "the descriptor is no dma-buf, or one of less than a page",
            "Pass a descriptor that a driver exported as a dma-buf",
        ),
        (BufferImport, Errno::BADF) => (
            "the descriptor is not open",
            "Pass a descriptor that is still open",
        ),
        (BufferImport, Errno::TOOBIG) => (
            "the dma-buf is beyond the driver's limit",
            "Import at most `max_buffer_bytes` of `dmaplane info`",
        ),
        (BufferImport, Errno::NODEV) => (
            "its exporter has taken the memory back",
            "Ask the exporter for another one",
        ),
        (BufferImport, Errno::TIMEDOUT) => (
            "other devices have work on it that does not end",
            "Wait for that work, then import it again",
        ),
        (BufferRevoke, Errno::BUSY) => (
            "it is revoked, but an importer, or whoever pinned its pages, still reaches it",
            "End that use and revoke again: until then the pages are not reused",
        ),
        (BufferExport, Errno::INVAL) => (
            "the range is empty or does not consist of whole pages",
            "Give a range whose start and length are multiples of `page_bytes` of `dmaplane info`",
        ),
        (BufferExport, Errno::RANGE) => (
            "the range goes beyond the buffer",
            "Give a range inside the buffer",
        ),
        (BufferExport, Errno::MFILE) => (
            "this process has reached its limit of open files",
            "Close some, or raise the limit of open files (ulimit -n)",
        ),
        (BufferExport, Errno::DQUOT) => (
            "4096 dma-bufs of this buffer are not released yet, or 4095 of a device's memory",
            "Close those that nobody needs, or export once and duplicate the descriptor",
        ),
        (BufferExport, Errno::OPNOTSUPP) => (
            "an imported buffer can only be exported as it came",
            "Export all of it, for reading and writing",
        ),
        (ChannelCreate, Errno::INVAL) => (
            "the rings' sizes are not powers of two, out of range, or the completion ring is the \
             smaller one; or the polling thread's node has no processors, a delay is too long, or \
             the descriptor is no eventfd",
            "Use powers of two up to `max_ring_entries`, with at least as many completions as \
             submissions, a node that `dmaplane numa` lists with processors, and an eventfd or \
             none",
        ),
        (BufferCreate | PoolCreate | DeviceAlloc | BufferImport, Errno::DQUOT) => (
            "this context has as many bytes of memory as the administrator allows",
            "Destroy buffers, or have the module's `max_context_mib` raised; `dmaplane info --json` has \
             the quota as `max_context_bytes`",
        ),
        (Accept | Connect, Errno::DQUOT) => (
            "this context has as many endpoints as the administrator allows, or its endpoints and \
             registrations as much of the RDMA device's own memory",
            "Drop endpoints or grants, or have the module's `max_endpoints` or `max_provider_mib` raised",
        ),
        (GrantCreate, Errno::DQUOT) => (
            "this context's endpoints and registrations have as much of the RDMA device's own memory as \
             the administrator allows",
            "Drop grants or endpoints, or have the module's `max_provider_mib` raised",
        ),
        (GrantWait, Errno::DQUOT) => (
            "what the driver keeps of the peer's grant counts as memory, and this context has as much \
             as the administrator allows",
            "Destroy buffers or drop grants, then take it again, or have the module's \
             `max_context_mib` raised",
        ),
        (Connect, Errno::ADDRINUSE) => (
            "the local address and port are taken",
            "Use another local port, or port 0 to get a free one",
        ),
        (Listen | Connect, Errno::ACCESS) => (
            "a local port below 1024 needs CAP_NET_BIND_SERVICE",
            "Use a port from 1024 on, or port 0 to get a free one",
        ),
        (GrantCreate, Errno::ACCESS) => (
            "the buffer was imported for reading, and the grant would allow writing",
            "Grant it for reading only, or import a dma-buf that was exported for writing",
        ),
        (GrantCreate, Errno::IO) => (
            "the RDMA device does not take this memory",
            "Grant a buffer of host memory, or use another RDMA device; the kernel's log may have \
             the provider's reason",
        ),
        (GrantCreate, Errno::MFILE) => (
            "this endpoint has as many grants, or as many regions under them, as it may have",
            "Drop grants, or grant larger ranges instead of many small ones",
        ),
        (GrantCreate, Errno::STALE) => (
            "the memory was revoked, or the time to live was over before the peer could be notified",
            "Grant other memory, or give a longer time to live",
        ),
        (GrantCreate, Errno::OVERFLOW) => (
            "this connection has had as many grants as it can number",
            "Connect again: the numbers start anew on the new connection",
        ),
        (GrantCreate, Errno::OPNOTSUPP) => (
            "RDMA does not reach this memory",
            "Grant a buffer of host memory, and copy between the two with COPY",
        ),
        (StatsQuery, Errno::INVAL) => (
            "operations of this kind have no endpoint or no such stage",
            "Ask for an operation of an endpoint, and a stage that it has",
        ),
        (DeviceQuery, Errno::NODEV) => (
            "no further device has memory",
            "Bind a device to the driver; `dmaplane info` lists those that are there",
        ),
        (ChannelCreate, Errno::DQUOT) => (
            "this context has as many channels or polling threads, or the machine as many polling \
             threads, as the administrator allows",
            "Destroy some, or have the module's `max_channels`, `max_context_pollers` or `max_pollers` \
             raised",
        ),
        (Listen, Errno::DQUOT) => (
            "this context has as many listeners as the administrator allows",
            "Destroy some, or have the module's `max_listeners` raised",
        ),
        (ChannelCreate, Errno::BADF) => (
            "the descriptor is not open",
            "Pass an eventfd that is still open, or none",
        ),
        (Enter, Errno::INVAL) => (
            "the ring's indices make no sense",
            "Write the ring through one channel object only; create a new channel to go on",
        ),
        (Enter, Errno::INTR) => ("a signal came first", "Call again: nothing was submitted"),
        (Listen, Errno::ADDRINUSE) => (
            "another listener has this address and port",
            "End the other listener, or use port 0 to get a free port",
        ),
        (Listen, Errno::ADDRNOTAVAIL) => (
            "no RDMA device has this address",
            "Use an address of an interface that `rdma link` names, in this network namespace",
        ),
        (Listen | Connect, Errno::NODEV) => (
            "there is no RDMA device",
            "Make one (`rdma link add NAME type rxe netdev IFACE`) or load the adapter's driver",
        ),
        (Listen | Connect | Accept, Errno::OPNOTSUPP) => (
            "the RDMA device lacks something that the driver needs, or its queues are too short for \
             this receive depth",
            "Use a device that `dmaplane info` lists as usable (it names what others lack), or a smaller \
             depth",
        ),
        (RdmaQuery, Errno::NODEV) => (
            "there is no further RDMA device",
            "Make one (`rdma link add NAME type rxe netdev IFACE`) or load the adapter's driver",
        ),
        (Accept, Errno::NODEV) => (
            "the listener's RDMA device went away",
            "Listen again when the device is back",
        ),
        (Accept, Errno::CONNABORTED) => (
            "the peer gave up before the connection was made",
            "Accept the next one; if it repeats, give the peer a longer time limit",
        ),
        (Accept | Connect, Errno::PROTO) => (
            "the peer speaks another version of the protocol",
            "Run drivers of one release on both sides",
        ),
        (Accept | Connect, Errno::INVAL) => (
            "the receive depth is 0 or beyond the driver's limit, or the window is out of range",
            "Use a depth of 1 to `max_recv_depth` of `dmaplane info`, and a window whose low mark is \
             not above its high one",
        ),
        (Listen, Errno::INVAL) => ("the backlog is 0 or above 128", "Use a backlog of 1 to 128"),
        (Accept, Errno::TIMEDOUT) => (
            "nobody connected within the time limit",
            "Start the peer, check that it uses this address and port, or wait longer",
        ),
        (Connect, Errno::TIMEDOUT) => (
            "the peer did not answer within the time limit",
            "Check that the peer accepts connections and that UDP port 4791 (RoCE) may pass, or \
             wait longer",
        ),
        (Connect, Errno::ADDRNOTAVAIL) => (
            "no RDMA device reaches this address",
            "Check the route (`ip route get`) and that its interface has an RDMA device (`rdma \
             link`)",
        ),
        (Connect, Errno::HOSTUNREACH) => (
            "the address does not answer",
            "Check the address, and that the machine is up and on this network",
        ),
        (Connect, Errno::CONNREFUSED) => (
            "nobody listens there, or the listener's backlog is full",
            "Start the listener first, check the port, or raise its backlog",
        ),
        (GrantCreate, Errno::INVAL) => (
            "the range is empty, overflows or starts inside a page, or the rights are unknown",
            "Give a range of at least one byte that starts on a page, and rights that this driver \
             knows",
        ),
        (GrantCreate, Errno::RANGE) => (
            "the range goes beyond the buffer",
            "Give a range inside the buffer",
        ),
        (GrantCreate, Errno::NOMEM) => (
            "there is no memory for the registration",
            "Free memory, or grant a smaller range",
        ),
        (GrantCreate, Errno::TIMEDOUT) => (
            "the message did not leave within the time limit",
            "The peer takes no messages: check that it still runs, or wait longer",
        ),
        (GrantWait, Errno::TIMEDOUT) => (
            "the peer gave no grant within the time limit",
            "Check that the peer grants on this connection, or wait longer",
        ),
        (GrantCreate | GrantWait, Errno::NOTCONN) => (
            "the connection has ended",
            "Ask the endpoint why (its query has the reason) and connect again",
        ),
        _ => return None,
    };
    Some(text)
}

/// What an errno means in every call.
fn common(errno: Errno) -> (&'static str, &'static str) {
    match errno {
        Errno::NOENT => (
            "the handle names no such object of this file",
            "The object was destroyed, or belongs to another context: create it again",
        ),
        Errno::NOTTY => (
            "the driver does not know this call",
            "Load the driver of this library's release",
        ),
        Errno::TOOBIG => (
            "the driver is older than this library and does not know this request",
            "Load the driver of this library's release",
        ),
        Errno::INVAL => (
            "an argument is not valid",
            "Compare the arguments with the limits of `dmaplane info`",
        ),
        Errno::MFILE => (
            "this context has reached its limit of objects",
            "Destroy some, or open another context",
        ),
        Errno::NOMEM => (
            "the kernel has no memory left",
            "Free memory, or ask for less",
        ),
        Errno::STALE => (
            "the memory was revoked",
            "Destroy the buffer: its owner took the memory back, or the device went away",
        ),
        Errno::INTR => ("a signal came first", "Call again"),
        Errno::AGAIN => ("it cannot be done at this moment", "Call again"),
        Errno::DQUOT => (
            "this context has as much as the administrator allows",
            "Destroy objects, or have the module's quotas raised (max_context_mib, max_endpoints, \
             max_channels)",
        ),
        Errno::ACCESS | Errno::PERM => (
            "this is not allowed",
            "Ask for fewer rights, or run with the privileges that it needs",
        ),
        Errno::BUSY => ("somebody else uses it", "End that use, then call again"),
        Errno::NOTCONN => (
            "the connection has ended",
            "Ask the endpoint why (its query has the reason) and connect again",
        ),
        Errno::OPNOTSUPP => (
            "this object or this driver cannot do that",
            "Compare the capabilities of `dmaplane info` with what is asked for",
        ),
        Errno::RANGE => (
            "the range goes beyond the object",
            "Give a range inside the object",
        ),
        Errno::IO => (
            "a device failed",
            "Look into the kernel's log for the device's reason",
        ),
        Errno::TIMEDOUT => (
            "the time limit passed",
            "Call again with a longer time limit",
        ),
        Errno::NODEV => ("the device went away", "Connect again when it is back"),
        Errno::AFNOSUPPORT => (
            "the address is neither IPv4 nor IPv6",
            "Use an IPv4 or IPv6 address",
        ),
        Errno::FAULT => (
            "the argument is not accessible memory",
            "This is a defect of the caller: report it",
        ),
        _ => (
            "the driver gave an undocumented error",
            "Report it with the kernel's log",
        ),
    }
}

#[cfg(test)]
#[path = "remedy_tests.rs"]
mod tests;
