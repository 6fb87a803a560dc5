// SPDX-License-Identifier: GPL-2.0-only

//! The ioctls: each checks its argument, does one thing, and writes its results back.

use super::{table::MAX_HANDLES, Context, Object};
use crate::base::quota::Kind;
use crate::{
    base::wait::Deadline,
    buffer::Buffer,
    channel::{Channel, Polling, MAX_OP_BYTES},
    device,
    dispatch::{dispatch, Objects},
    kx::{
        dmabuf::DmaBuf,
        nodes::node_ids,
        pages::PAGE_BYTES,
        user::{write_u64s, Arg},
    },
    logic::{
        flow::MAX_DEPTH,
        handle::{Handle, MMAP_SHIFT},
        range, ring,
        wire::SEND_BYTES,
    },
    memory::{Cause, Memory, Placement},
    module_parameters,
    rdma::{self, connect, queue_bytes, window_of, Listener, Terms, MAX_TTL_NS, REGISTRY},
    uapi,
};
use kernel::{prelude::*, sync::Arc};

/// Checks that these values in the user's structure are 0.
pub(super) fn zero(values: &[u32]) -> Result {
    if values.iter().all(|value| *value == 0) {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// Largest buffer, in bytes: the administrator's limit, and what one mapping can reach.
pub(super) fn max_buffer_bytes() -> u64 {
    let mib: u64 = module_parameters::max_buffer_mib.value();
    mib.saturating_mul(1 << 20).min(1 << MMAP_SHIFT)
}

impl Context {
    /// Carries out an ioctl. `ENOTTY` for unknown ones.
    pub(super) fn ioctl(self: &Arc<Self>, cmd: u32, arg: usize) -> Result {
        match cmd {
            uapi::IOC_QUERY => query(arg),
            uapi::IOC_DESTROY => self.ioctl_destroy(arg),
            uapi::IOC_BUFFER_CREATE => self.buffer_create(arg),
            uapi::IOC_BUFFER_QUERY => self.buffer_query(arg),
            uapi::IOC_BUFFER_FOLIOS => self.buffer_folios(arg),
            uapi::IOC_POOL_CREATE => self.pool_create(arg),
            uapi::IOC_POOL_CARVE => self.pool_carve(arg),
            uapi::IOC_POOL_QUERY => self.pool_query(arg),
            uapi::IOC_BUFFER_REVOKE => self.buffer_revoke(arg),
            uapi::IOC_DEVICE_QUERY => device_query(arg),
            uapi::IOC_RDMA_QUERY => rdma_query(arg),
            uapi::IOC_DEVICE_ALLOC => self.device_alloc(arg),
            uapi::IOC_MEMORY_QUERY => self.memory_query(arg),
            uapi::IOC_BUFFER_EXPORT => self.buffer_export(arg),
            uapi::IOC_BUFFER_IMPORT => self.buffer_import(arg),
            uapi::IOC_CHANNEL_CREATE => self.channel_create(arg),
            uapi::IOC_ENTER => self.enter(arg),
            uapi::IOC_LISTEN => self.listen(arg),
            uapi::IOC_ACCEPT => self.accept(arg),
            uapi::IOC_CONNECT => self.connect(arg),
            uapi::IOC_ENDPOINT_QUERY => self.endpoint_query(arg),
            uapi::IOC_GRANT_CREATE => self.grant_create(arg),
            uapi::IOC_GRANT_WAIT => self.grant_wait(arg),
            uapi::IOC_STATS_QUERY => self.stats_query(arg),
            _ => Err(ENOTTY),
        }
    }

    /// Writes the results back. Destroys the new object if copy_to_user() fails.
    pub(super) fn hand_out<T: crate::kx::user::Abi>(&self, arg: &Arg<T>, handle: u32) -> Result {
        arg.write().inspect_err(|_| {
            // It may be gone already, if another thread guessed its handle.
            let _ = self.destroy(handle);
        })
    }

    fn ioctl_destroy(&self, arg: usize) -> Result {
        let arg = Arg::<uapi::Destroy>::read(arg)?;
        zero(&[arg.value.flags, arg.value.reserved])?;
        self.destroy(arg.value.handle)
    }

    fn buffer_create(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::BufferCreate>::read(arg)?;
        let want = &mut arg.value;
        let known = uapi::BUFFER_COHERENT | uapi::BUFFER_STRICT;
        zero(&[want.flags & !known, want.reserved])?;
        if want.bytes == 0 {
            return Err(EINVAL);
        }
        if want.bytes > max_buffer_bytes() {
            return Err(E2BIG);
        }
        let policy = (want.placement, want.node);
        let placement = Placement::new(policy, &want.near, want.flags, rdma::node_of)?;
        let memory = Memory::new(want.bytes, placement, self.owner())?;
        want.bytes = memory.bytes();
        want.handle = self.insert(Object::Buffer(Buffer::new(memory)?))?;
        want.mmap_offset = Handle::from_raw(want.handle).mmap_offset();
        let handle = want.handle;
        self.hand_out(&arg, handle)
    }

    fn buffer_query(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::BufferQuery>::read(arg)?;
        let query = &mut arg.value;
        zero(&[query.flags])?;
        let buffer = self.buffer(query.handle)?;
        let memory = buffer.memory();
        let (by_node, misplaced) = memory.census()?;
        if query.pages_by_node != 0 {
            let room = by_node.len().min(query.node_count as usize);
            write_u64s(query.pages_by_node, by_node.get(..room).ok_or(EINVAL)?)?;
        }
        query.node_count = node_ids();
        query.bytes = memory.bytes();
        (query.placement, query.node) = memory.placement().report();
        query.misplaced_pages = misplaced;
        query.mappings = memory.mappings() as u32;
        query.regions = buffer.regions() as u32;
        arg.write()
    }

    fn buffer_folios(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::BufferFolios>::read(arg)?;
        zero(&[arg.value.flags])?;
        if !(0..node_ids() as i32).contains(&arg.value.node) {
            return Err(EINVAL);
        }
        let buffer = self.buffer(arg.value.handle)?;
        buffer.memory().folios(&mut arg.value);
        arg.write()
    }

    fn buffer_revoke(&self, arg: usize) -> Result {
        let arg = Arg::<uapi::BufferRevoke>::read(arg)?;
        zero(&[arg.value.flags, arg.value.reserved])?;
        let buffer = self.buffer(arg.value.handle)?;
        let memory = buffer.memory();
        memory.lifetime().revoke(Cause::Owner);
        memory.wait_released();
        if memory.held() != 0 {
            return Err(EBUSY);
        }
        Ok(())
    }

    fn memory_query(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::MemoryQuery>::read(arg)?;
        zero(&[arg.value.flags])?;
        let buffer = self.buffer(arg.value.handle)?;
        (arg.value.state, arg.value.cause) = buffer.memory().standing();
        buffer.memory().describe(&mut arg.value);
        arg.value.held = buffer.memory().held();
        arg.write()
    }

    fn device_alloc(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::DeviceAlloc>::read(arg)?;
        let want = &mut arg.value;
        let page = PAGE_BYTES as u64;
        let chosen = want.flags & uapi::DEVICE_ALLOC_AT != 0;
        zero(&[want.flags & !uapi::DEVICE_ALLOC_AT])?;
        if want.bytes == 0 || (!chosen && want.offset != 0) || want.offset % page != 0 {
            return Err(EINVAL);
        }
        if want.bytes > max_buffer_bytes() {
            return Err(E2BIG);
        }
        let wanted = device::Want {
            tier: device::tier(want.tier)?,
            bytes: want.bytes,
            at: chosen.then_some(want.offset),
        };
        let memory = device::find(want.device)?.take(&wanted, self.owner())?;
        memory.clear()?;
        let mut info = uapi::MemoryQuery::default();
        memory.describe(&mut info);
        (want.bytes, want.offset) = (memory.bytes(), info.offset);
        want.handle = self.insert(Object::Buffer(Buffer::new(memory)?))?;
        want.mmap_offset = Handle::from_raw(want.handle).mmap_offset();
        let handle = want.handle;
        self.hand_out(&arg, handle)
    }

    fn buffer_export(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::BufferExport>::read(arg)?;
        let want = &arg.value;
        let known = uapi::EXPORT_CLOEXEC | uapi::EXPORT_READ_ONLY;
        let page = PAGE_BYTES as u64;
        let whole = want.offset % page == 0 && want.length % page == 0;
        if want.flags & !known != 0 || !whole || !range::within(want.offset, want.length, u64::MAX)
        {
            return Err(EINVAL);
        }
        let buffer = self.buffer(want.buffer)?;
        let memory = buffer.memory();
        if !range::within(want.offset, want.length, memory.bytes()) {
            return Err(ERANGE);
        }
        let writable = want.flags & uapi::EXPORT_READ_ONLY == 0;
        let cloexec = want.flags & uapi::EXPORT_CLOEXEC != 0;
        let dmabuf = memory.export(want.offset, want.length, writable)?;
        dmabuf.publish(cloexec, |fd| {
            arg.value.fd = fd;
            arg.write()
        })
    }

    fn buffer_import(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::BufferImport>::read(arg)?;
        let want = &mut arg.value;
        zero(&[want.flags])?;
        let dmabuf = DmaBuf::from_fd(want.fd)?;
        let memory = Memory::import(dmabuf, max_buffer_bytes(), self.owner())?;
        want.bytes = memory.bytes();
        (want.access, want.lack) = memory.reach();
        want.handle = self.insert(Object::Buffer(Buffer::new(memory)?))?;
        want.mmap_offset = Handle::from_raw(want.handle).mmap_offset();
        let handle = want.handle;
        self.hand_out(&arg, handle)
    }

    fn channel_create(self: &Arc<Self>, arg: usize) -> Result {
        let mut arg = Arg::<uapi::ChannelCreate>::read(arg)?;
        let want = &mut arg.value;
        let polling = Polling::of(want)?;
        let charge = self.quota.charge(Kind::Channels, 1)?;
        let readiness = self.readiness.clone();
        let channel = Channel::new(want, polling.is_some(), readiness, charge)?;
        if let Some(polling) = &polling {
            let charge = self.quota.charge(Kind::Pollers, 1)?;
            let context = self.clone();
            channel.start_polling(polling, charge, move |ticket, entry| {
                dispatch(&*context, ticket, entry);
            })?;
        }
        want.mmap_bytes = channel.memory().bytes() as u64;
        (want.sq_offset, want.cq_offset) = channel.offsets();
        want.handle = self.insert(Object::Channel(channel))?;
        want.mmap_offset = Handle::from_raw(want.handle).mmap_offset();
        let handle = want.handle;
        self.hand_out(&arg, handle)
    }

    fn enter(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::Enter>::read(arg)?;
        let enter = &mut arg.value;
        zero(&[enter.flags & !uapi::ENTER_WAKE, enter.reserved])?;
        let wake = enter.flags & uapi::ENTER_WAKE != 0;
        let channel = self.channel(enter.channel)?;
        if !channel.is_polled() {
            if wake {
                return Err(EINVAL);
            }
            // Who only waits does not wait for those who submit.
            if enter.to_submit != 0 || channel.may_be_corrupt() {
                enter.submitted = channel.submit(enter.to_submit, |ticket, entry| {
                    dispatch(self, ticket, entry);
                })?;
            }
        } else if enter.to_submit != 0 || (!wake && channel.is_broken()) {
            return Err(EINVAL);
        } else if wake {
            channel.wake_poller()?;
        }
        match channel.wait(enter.min_complete, enter.timeout_ns) {
            Ok(available) => enter.available = available,
            // Submitted entries must be reported.
            Err(_) if enter.submitted > 0 => enter.available = channel.available().unwrap_or(0),
            Err(error) => return Err(error),
        }
        arg.write()
    }

    fn listen(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::Listen>::read(arg)?;
        let want = &mut arg.value;
        zero(&[want.flags])?;
        let charge = self.quota.charge(Kind::Listeners, 1)?;
        let listener = Listener::new(&want.local, want.backlog, charge)?;
        want.local = listener.local();
        want.handle = self.insert(Object::Listener(listener))?;
        let handle = want.handle;
        self.hand_out(&arg, handle)
    }

    fn accept(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::Accept>::read(arg)?;
        let want = &mut arg.value;
        zero(&[want.flags, want.reserved])?;
        check_depth(want.recv_depth)?;
        let listener = self.listener(want.listener)?;
        let deadline = Deadline::after(want.timeout_ns);
        let terms = (
            want.recv_depth,
            window_of(want.window_high, want.window_low)?,
        );
        let provider_bytes = queue_bytes(want.recv_depth);
        let charge = || self.quota.charge_endpoint(provider_bytes);
        let accepted = listener.accept(&self.domains, terms, charge, deadline);
        let endpoint = match accepted {
            Err(error) if error == ERESTARTSYS => {
                // The call restarts with the time that is left, unless the signal's handler was set without SA_RESTART.
                want.timeout_ns = deadline.left_ns();
                arg.write()?;
                return Err(ERESTARTSYS);
            }
            accepted => accepted?,
        };
        want.peer = endpoint.peer();
        want.endpoint = self.insert(Object::Endpoint(endpoint.clone()))?;
        let handle = want.endpoint;
        endpoint.named(handle);
        self.hand_out(&arg, handle)
    }

    fn connect(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::Connect>::read(arg)?;
        let want = &mut arg.value;
        zero(&[want.flags])?;
        check_depth(want.recv_depth)?;
        let deadline = Deadline::after(want.timeout_ns);
        let provider_bytes = queue_bytes(want.recv_depth);
        let charge = self.quota.charge_endpoint(provider_bytes)?;
        let endpoint = connect(&self.domains, want, charge, deadline)?;
        want.endpoint = self.insert(Object::Endpoint(endpoint.clone()))?;
        let handle = want.endpoint;
        endpoint.named(handle);
        self.hand_out(&arg, handle)
    }

    fn endpoint_query(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::EndpointQuery>::read(arg)?;
        zero(&[arg.value.flags])?;
        let endpoint = self.endpoint(arg.value.handle)?;
        endpoint.describe(&mut arg.value);
        arg.write()
    }

    fn grant_create(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::GrantCreate>::read(arg)?;
        let want = &mut arg.value;
        zero(&[want.flags, want.reserved, want.reserved2])?;
        let aligned = want.offset % PAGE_BYTES as u64 == 0;
        let known = uapi::RIGHT_WRITE | uapi::RIGHT_READ;
        if want.rights == 0 || want.rights & !known != 0 || !aligned || want.ttl_ns > MAX_TTL_NS {
            return Err(EINVAL);
        }
        if !range::within(want.offset, want.length, u64::MAX) {
            return Err(EINVAL);
        }
        let endpoint = self.endpoint(want.endpoint)?;
        let buffer = self.buffer(want.buffer)?;
        if !range::within(want.offset, want.length, buffer.memory().bytes()) {
            return Err(ERANGE);
        }
        let terms = Terms {
            offset: want.offset,
            length: want.length,
            rights: want.rights,
            label: want.label,
            ttl_ns: want.ttl_ns,
            max_uses: want.max_uses,
        };
        let deadline = Deadline::after(want.timeout_ns);
        let grant = endpoint.grant(buffer.memory(), &terms, deadline)?;
        want.generation = grant.generation();
        want.handle = self.insert(Object::Grant(grant))?;
        let handle = want.handle;
        self.hand_out(&arg, handle)
    }

    fn grant_wait(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::GrantWait>::read(arg)?;
        let want = &mut arg.value;
        zero(&[want.flags, want.reserved])?;
        let endpoint = self.endpoint(want.endpoint)?;
        let deadline = Deadline::after(want.timeout_ns);
        let grant = match endpoint.wait_grant(deadline) {
            Err(error) if error == ERESTARTSYS => {
                // The call restarts with the time that is left, unless the signal's handler was set without SA_RESTART.
                want.timeout_ns = deadline.left_ns();
                arg.write()?;
                return Err(ERESTARTSYS);
            }
            waited => waited?,
        };
        want.length = grant.length();
        want.label = grant.label();
        want.rights = grant.rights();
        want.generation = grant.number();
        want.max_uses = grant.max_uses();
        let handed = grant
            .charge_to(&self.quota)
            .and_then(|()| self.insert(Object::PeerGrant(grant.clone())))
            .and_then(|handle| {
                arg.value.handle = handle;
                self.hand_out(&arg, handle)
            });
        handed.inspect_err(|_| endpoint.return_grant(grant))
    }
}

fn query(arg: usize) -> Result {
    let mut arg = Arg::<uapi::Query>::read(arg)?;
    zero(&[arg.value.flags])?;
    arg.value = uapi::Query {
        size: arg.value.size,
        flags: 0,
        abi_version: uapi::ABI_VERSION,
        node_ids: node_ids(),
        capabilities: uapi::CAP_HOST_BUFFERS
            | uapi::CAP_RDMA
            | uapi::CAP_POLL
            | uapi::CAP_SQPOLL
            | uapi::CAP_COALESCE
            | uapi::CAP_PLACEMENT
            | uapi::CAP_COHERENT
            | uapi::CAP_POOLS
            | uapi::CAP_REVOKE
            | uapi::CAP_DEVICE_MEMORY
            | uapi::CAP_STATS
            | uapi::CAP_RDMA_QUERY
            | uapi::CAP_DMABUF_EXPORT
            | uapi::CAP_DMABUF_IMPORT,
        max_buffer_bytes: max_buffer_bytes(),
        max_op_bytes: MAX_OP_BYTES.into(),
        max_ring_entries: ring::MAX_ENTRIES,
        max_recv_depth: MAX_DEPTH,
        max_handles: MAX_HANDLES as u32,
        page_bytes: PAGE_BYTES as u32,
        rdma_devices: REGISTRY.lock().devices() as u32,
        max_send_bytes: SEND_BYTES as u32,
        max_context_bytes: Kind::Bytes.limit(),
        max_endpoints: Kind::Endpoints.limit() as u32,
        max_channels: Kind::Channels.limit() as u32,
    };
    arg.write()
}

fn device_query(arg: usize) -> Result {
    let mut arg = Arg::<uapi::DeviceQuery>::read(arg)?;
    zero(&[arg.value.flags])?;
    device::after(arg.value.after)?.describe(&mut arg.value);
    arg.write()
}

fn rdma_query(arg: usize) -> Result {
    let mut arg = Arg::<uapi::RdmaQuery>::read(arg)?;
    zero(&[arg.value.flags])?;
    REGISTRY.lock().describe(&mut arg.value)?;
    arg.write()
}

/// Checks that the interface allows this depth of receives.
fn check_depth(depth: u32) -> Result {
    if (1..=MAX_DEPTH).contains(&depth) {
        Ok(())
    } else {
        Err(EINVAL)
    }
}
