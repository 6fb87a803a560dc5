// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a call writes into its structure: every result, so that nothing is left of what the caller had there. And how
//! short a structure may be.

use std::mem::offset_of;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use dmaplane::{Buffer, Channel, Context, Errno, GrantTerms, Placement, Polling, Pool};
use dmaplane_guest_tests::Loopback;
use dmaplane_guest_tests::raw::{Argument, GARBAGE};
use dmaplane_testkit::{ErrorContext as _, Gauges, Guest, Result, ensure, sys, test};
use dmaplane_uapi as abi;

const PAGE: u64 = 4096;

/// A result: its name, where it is, its bytes.
type Member = (&'static str, usize, usize);

/// A call that is right, and its results.
struct Case {
    name: &'static str,
    argument: Argument,
    results: Vec<Member>,
}

impl Case {
    /// What the caller left in the results is garbage.
    fn with_garbage(&self) -> Argument {
        let spoil =
            |argument: Argument, (_, at, bytes): &Member| argument.put(*at, &vec![GARBAGE; *bytes]);
        self.results.iter().fold(self.argument.clone(), spoil)
    }

    /// Fails when some of the garbage is still there.
    fn look(&self, answer: &Argument) -> Result<()> {
        for (name, at, bytes) in &self.results {
            let member = &answer.bytes[*at..at + bytes];
            let echoed = member.iter().all(|byte| *byte == GARBAGE);
            ensure!(
                !echoed,
                "{}::{name} is what the caller left: {member:x?}",
                self.name
            );
        }
        Ok(())
    }
}

macro_rules! case {
    ($opcode:ident, $name:ident [$($result:ident),*], $($member:ident = $value:expr),*) => {{
        let bytes = size_of::<abi::$name>();
        let argument = Argument::new(abi::$opcode, bytes)
            $(.put(offset_of!(abi::$name, $member), &$value.to_ne_bytes()))*;
        let like = abi::$name::default();
        let _ = &like;
        Case {
            name: stringify!($name),
            argument,
            results: vec![$((
                stringify!($result),
                offset_of!(abi::$name, $result),
                size_of_val(&like.$result),
            )),*],
        }
    }};
}

/// An address of the interface: family, port, scope, address.
fn address(address: SocketAddr) -> Vec<u8> {
    let (family, scope, mut bytes) = match address {
        SocketAddr::V4(v4) => (abi::FAMILY_IPV4, 0, v4.ip().octets().to_vec()),
        SocketAddr::V6(v6) => (abi::FAMILY_IPV6, v6.scope_id(), v6.ip().octets().to_vec()),
    };
    bytes.resize(16, 0);
    let mut raw = family.to_ne_bytes().to_vec();
    raw.extend(address.port().to_ne_bytes());
    raw.extend(scope.to_ne_bytes());
    raw.extend(bytes);
    raw
}

/// One file with an object of each kind.
struct World {
    local: Loopback,
    buffer: Buffer,
    grant: Buffer,
    pool: Pool,
    channel: Channel,
    polled: Channel,
    export: OwnedFd,
    device: Option<u64>,
}

impl World {
    fn new(guest: &Guest) -> Result<Self> {
        let local = Loopback::new(guest)?;
        let context = &local.near_context;
        let buffer = Buffer::create(context, PAGE, Placement::Any)?;
        Ok(Self {
            export: buffer.export()?,
            grant: Buffer::create(context, PAGE, Placement::Any)?,
            pool: Pool::builder(16 * PAGE).create(context)?,
            channel: Channel::builder().entries(8).build(context)?,
            polled: Channel::builder()
                .entries(8)
                .polling(Polling::default())
                .build(context)?,
            device: dmaplane::DeviceInfo::list(context)?
                .first()
                .map(|device| device.number),
            buffer,
            local,
        })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.local.near_context.as_fd()
    }

    /// Calls that need nobody else.
    fn cases(&self, guest: &Guest) -> Vec<Case> {
        let buffer = self.buffer.raw_handle();
        let endpoint = self.local.near.raw_handle();
        let mut cases = vec![
            case!(IOC_QUERY, Query [
                abi_version, node_ids, capabilities, max_buffer_bytes, max_op_bytes, max_ring_entries, max_recv_depth,
                max_handles, page_bytes, rdma_devices, max_send_bytes, max_context_bytes, max_endpoints, max_channels
            ],),
            case!(IOC_BUFFER_CREATE, BufferCreate [handle, mmap_offset], bytes = PAGE, node = -1i32),
            case!(IOC_BUFFER_QUERY, BufferQuery [bytes, placement, node, misplaced_pages, mappings, regions],
                handle = buffer),
            case!(IOC_BUFFER_FOLIOS, BufferFolios [
                pages_by_order, misplaced_pages, small_pages, orders, device_node
            ], handle = buffer),
            case!(
                IOC_BUFFER_EXPORT,
                BufferExport[fd],
                buffer = buffer,
                length = PAGE
            ),
            case!(IOC_BUFFER_IMPORT, BufferImport [handle, bytes, mmap_offset, access, lack],
                fd = self.export.as_raw_fd()),
            case!(IOC_MEMORY_QUERY, MemoryQuery [
                kind, state, cause, tier, rdma, reason, node, device, offset, held, reserved
            ], handle = buffer),
            case!(
                IOC_POOL_CREATE,
                PoolCreate[handle],
                bytes = 16 * PAGE,
                node = -1i32
            ),
            case!(IOC_POOL_CARVE, PoolCarve [handle, mmap_offset, offset],
                pool = self.pool.raw_handle(), bytes = PAGE),
            case!(IOC_POOL_QUERY, PoolQuery [
                carved, bytes, free_bytes, longest_bytes, carves, refusals, regions, placement, node
            ], pool = self.pool.raw_handle()),
            case!(IOC_CHANNEL_CREATE, ChannelCreate [handle, mmap_offset, mmap_bytes, sq_offset, cq_offset],
                sq_entries = 8u32, cq_entries = 8u32, eventfd = -1i32),
            case!(IOC_ENTER, Enter [submitted, available], channel = self.channel.raw_handle()),
            case!(IOC_ENTER, Enter [submitted, available], channel = self.polled.raw_handle()),
            case!(IOC_ENDPOINT_QUERY, EndpointQuery [
                state, error, send_credits, recv_posted, in_flight, local, peer, device, peer_end, posted, stalls,
                stalled_ns, not_ready, violations
            ], handle = endpoint),
            case!(IOC_GRANT_CREATE, GrantCreate [handle, generation], endpoint = endpoint,
                buffer = self.grant.raw_handle(), length = PAGE, rights = abi::RIGHT_READ, timeout_ns = u64::MAX),
            case!(IOC_RDMA_QUERY, RdmaQuery [
                device, name, node, protocol, lack, region_pages, queue_entries, reserved
            ],),
            case!(IOC_STATS_QUERY, StatsQuery [count, p50_ns, p99_ns, p999_ns, max_ns, lost],
                handle = endpoint, op = abi::OP_WRITE, stage = abi::STAGE_TOTAL),
        ];
        let mut listen = case!(IOC_LISTEN, Listen[handle], backlog = 4u32);
        let at = address(guest.local_any_port());
        listen.argument = listen.argument.put(offset_of!(abi::Listen, local), &at);
        cases.push(listen);
        if let Some(device) = self.device {
            cases.push(case!(IOC_DEVICE_QUERY, DeviceQuery [device, node, address, tiers],));
            cases.push(case!(IOC_DEVICE_ALLOC, DeviceAlloc [handle, mmap_offset], device = device, bytes = PAGE));
        }
        cases
    }

    /// Calls that are refused for their size before they wait for the other side.
    fn waiting(&self) -> Vec<Case> {
        let endpoint = self.local.near.raw_handle();
        vec![
            case!(IOC_ACCEPT, Accept [endpoint, peer], recv_depth = 8u32),
            case!(IOC_CONNECT, Connect[endpoint], recv_depth = 8u32),
            case!(IOC_GRANT_WAIT, GrantWait [handle, length, label, rights, generation, max_uses],
                endpoint = endpoint),
            case!(IOC_DESTROY, Destroy [], handle = self.buffer.raw_handle()),
            case!(IOC_BUFFER_REVOKE, BufferRevoke [], handle = self.buffer.raw_handle()),
        ]
    }
}

#[test]
fn structures_have_every_result_written() {
    test(|guest| {
        let world = World::new(guest)?;
        for case in world.cases(guest) {
            let mut argument = case.with_garbage();
            let called = argument.call(world.fd());
            called.with_context(|| format!("{}: {:x?}", case.name, argument.bytes))?;
            if argument.opcode == abi::IOC_BUFFER_EXPORT {
                let fd = argument.get32(offset_of!(abi::BufferExport, fd));
                drop(sys::own(fd.cast_signed()));
            }
            case.look(&argument)?;
        }
        Ok(())
    });
}

#[test]
fn structures_of_others_have_every_result_written() {
    test(|guest| {
        let context = Context::open()?;
        let mut listen = case!(IOC_LISTEN, Listen[handle], backlog = 4u32);
        let any = address(guest.local_any_port());
        listen.argument = listen.argument.put(offset_of!(abi::Listen, local), &any);
        listen.argument.call(context.as_fd())?;
        let listener = listen.argument.get32(offset_of!(abi::Listen, handle));
        let at = offset_of!(abi::Listen, local);
        let local = listen.argument.bytes[at..at + size_of::<abi::SockAddr>()].to_vec();
        let limit = u64::try_from(guest.limit(10).as_nanos())?;
        let accept = case!(IOC_ACCEPT, Accept [endpoint, peer],
            listener = listener, recv_depth = 8u32, timeout_ns = limit);
        let mut connect = case!(
            IOC_CONNECT,
            Connect[endpoint],
            recv_depth = 8u32,
            timeout_ns = limit
        );
        connect.argument = connect
            .argument
            .put(offset_of!(abi::Connect, remote), &local);
        let (accepted, connected) = std::thread::scope(|scope| {
            let accepting = scope.spawn(|| {
                let mut argument = accept.with_garbage();
                argument.call(context.as_fd()).map(|()| argument)
            });
            let mut argument = connect.with_garbage();
            let connected = argument.call(context.as_fd()).map(|()| argument);
            (accepting.join(), connected)
        });
        let accepted = accepted.ok().context("a panic")??;
        accept.look(&accepted)?;
        connect.look(&connected?)
    });
}

#[test]
fn structures_of_grants_have_every_result_written() {
    test(|guest| {
        let world = World::new(guest)?;
        let local = &world.local;
        let theirs = Buffer::create(&local.far_context, PAGE, Placement::Any)?;
        let _grant =
            local
                .far
                .grant_on(&theirs, 0..PAGE, &GrantTerms::default(), guest.limit(10))?;
        let limit = u64::try_from(guest.limit(10).as_nanos())?;
        let case = case!(IOC_GRANT_WAIT, GrantWait [handle, length, label, rights, generation, max_uses],
            endpoint = local.near.raw_handle(), timeout_ns = limit);
        let mut argument = case.with_garbage();
        argument.call(world.fd())?;
        case.look(&argument)
    });
}

#[test]
fn structures_of_device_memory_have_every_result_written() {
    test(|guest| {
        let context = Context::open()?;
        let device = dmaplane_guest_tests::device::device(guest, &context)?;
        for tier in device.tiers.iter().filter(|tier| tier.bytes > 0) {
            let buffer = Buffer::on_device(&context, device.number, tier.tier, PAGE, None)?;
            let import = Buffer::import(&context, buffer.export()?.as_fd())?;
            for buffer in [&buffer, &import] {
                for case in [
                    case!(IOC_BUFFER_QUERY, BufferQuery [
                        bytes, placement, node, misplaced_pages, mappings, regions
                    ], handle = buffer.raw_handle()),
                    case!(IOC_BUFFER_FOLIOS, BufferFolios [
                        pages_by_order, misplaced_pages, small_pages, orders, device_node
                    ], handle = buffer.raw_handle()),
                    case!(IOC_MEMORY_QUERY, MemoryQuery [
                        kind, state, cause, tier, rdma, reason, node, device, offset, held, reserved
                    ], handle = buffer.raw_handle()),
                ] {
                    let mut argument = case.with_garbage();
                    argument.call(context.as_fd())?;
                    case.look(&argument)?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn structures_shorter_than_the_first_version_are_refused() {
    test(|guest| {
        let world = World::new(guest)?;
        let before = Gauges::read()?;
        let mut cases = world.cases(guest);
        cases.extend(world.waiting());
        for case in &cases {
            for size in 0..case.argument.bytes.len() {
                let mut argument = case.argument.clone().put32(0, u32::try_from(size)?);
                let result = argument.call(world.fd());
                ensure!(
                    result == Err(Errno::INVAL),
                    "{} of {size} bytes: {result:?}",
                    case.name
                );
            }
        }
        // Nothing was made, and nothing ended.
        let now = Gauges::read()?;
        ensure!(now == before, "{before:?}, then {now:?}");
        Ok(())
    });
}

#[test]
fn structures_name_objects_that_are_gone_by_nothing() {
    test(|guest| {
        let context = Context::open()?;
        let mut seen = std::collections::HashSet::new();
        let mut stale = Vec::new();
        // More than a name's generations in the offset for mmap(2), and than 4,095.
        for _ in 0..guest.pick(6000, 300) {
            let mut create =
                case!(IOC_BUFFER_CREATE, BufferCreate [], bytes = PAGE, node = -1i32).argument;
            create.call(context.as_fd())?;
            let handle = create.get32(offset_of!(abi::BufferCreate, handle));
            let offset = create.get64(offset_of!(abi::BufferCreate, mmap_offset));
            ensure!(
                seen.insert(u64::from(handle)),
                "handle {handle:#x} comes again"
            );
            ensure!(seen.insert(offset), "offset {offset:#x} comes again");
            let mut destroy = case!(IOC_DESTROY, Destroy [], handle = handle).argument;
            destroy.call(context.as_fd())?;
            stale.push((handle, offset));
        }
        // One that lives does not answer to any of them.
        let buffer = Buffer::create(&context, PAGE, Placement::Any)?;
        for (handle, offset) in stale {
            let mut query = case!(IOC_BUFFER_QUERY, BufferQuery [], handle = handle).argument;
            let asked = query.call(context.as_fd());
            ensure!(asked == Err(Errno::NOENT), "handle {handle:#x}: {asked:?}");
            let mapped = sys::try_map(
                context.as_fd(),
                offset,
                4096,
                rustix::mm::MapFlags::SHARED,
                rustix::mm::ProtFlags::READ,
            );
            ensure!(
                mapped == Err(Errno::NOENT),
                "offset {offset:#x}: {mapped:?}"
            );
        }
        drop(buffer);
        Ok(())
    });
}
