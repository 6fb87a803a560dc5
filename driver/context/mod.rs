// SPDX-License-Identifier: GPL-2.0-only

//! Contexts: what one open file owns.

mod debugfs;
mod device;
mod fdinfo;
mod ioctl;
mod list;
mod pools;
mod show;
mod stats;
mod table;

pub(crate) use debugfs::{debugfs, State};
pub(crate) use device::Node;
pub(crate) use list::ContextsLife;

use crate::{
    base::{
        gauges::{Held, GAUGES},
        quota::Quota,
        readiness::Readiness,
    },
    buffer::{Buffer, Pool},
    channel::Channel,
    dispatch::Objects,
    kx::{charged::GFP_CHARGED, mapping_space::MappingSpace, miscdev::Ready},
    logic::{handle::MmapTarget, outcome::Down},
    memory::{Memory, MemoryOwner},
    observe::Teardown,
    rdma::{Domains, Endpoint, Grant, Listener, PeerGrant},
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex,
    },
};
use table::Table;

/// An object that a handle names.
#[derive(Clone)]
enum Object {
    Buffer(Arc<Buffer>),
    Pool(Arc<Pool>),
    Channel(Arc<Channel>),
    Listener(Arc<Listener>),
    Endpoint(Arc<Endpoint>),
    Grant(Arc<Grant>),
    PeerGrant(Arc<PeerGrant>),
}

impl Object {
    /// Ends the object now, even if something else still refers to it.
    fn end(self) {
        match self {
            Object::Listener(listener) => listener.close(),
            Object::Endpoint(endpoint) => endpoint.shutdown(Down::Local),
            Object::Channel(channel) => channel.end(),
            Object::Buffer(buffer) => buffer.end(),
            Object::Grant(grant) => grant.end(),
            Object::Pool(_) | Object::PeerGrant(_) => {}
        }
    }
}

/// What can be mapped.
enum Mappable {
    /// A buffer's memory.
    Memory(Arc<Memory>),
    /// A channel's rings.
    Rings(Arc<Channel>),
}

/// A context. Lock: `table`, taken for look-ups only, never while an object is used or ended.
#[pin_data]
pub(crate) struct Context {
    #[pin]
    table: Mutex<Table>,
    domains: Arc<Domains>,
    quota: Arc<Quota>,
    /// Where user mappings of its memory are.
    space: Arc<MappingSpace>,
    readiness: Arc<Readiness>,
    /// Identifies it in debugfs, fdinfo and trace events.
    serial: u64,
    /// The process that opened it.
    pid: i32,
    /// Whether its file has been closed.
    closing: Atomic<u32>,
    _count: Held,
}

/// Serial of the next context.
static SERIALS: Atomic<u64> = Atomic::new(1);

impl Context {
    /// An empty context.
    fn new() -> Result<Arc<Self>> {
        let quota = Quota::new()?;
        let space = MappingSpace::new()?;
        let domains = Domains::new()?;
        let readiness = Readiness::new()?;
        Arc::pin_init(
            pin_init!(Self {
                quota: quota,
                space: space,
                domains: domains,
                readiness: readiness,
                serial: SERIALS.fetch_add(1, Relaxed),
                pid: kernel::current!().tgid(),
                closing: Atomic::new(0),
                table <- new_mutex!(Table::new(), "Context::table"),
                _count: GAUGES.contexts.hold(1),
            }),
            GFP_CHARGED,
        )
    }

    /// What memory of this context needs of it.
    pub(crate) fn owner(&self) -> MemoryOwner {
        MemoryOwner {
            quota: self.quota.clone(),
            users: self.domains.clone(),
            space: self.space.clone(),
        }
    }

    /// Gives an object a handle. `EMFILE` when there are too many; the object is then ended.
    fn insert(&self, object: Object) -> Result<u32> {
        let result = self.table.lock().insert(object);
        result.map_err(|(object, error)| {
            object.end();
            error
        })
    }

    /// The channel that a handle names.
    fn channel(&self, handle: u32) -> Result<Arc<Channel>> {
        match self.table.lock().get(handle)? {
            Object::Channel(channel) => Ok(channel.clone()),
            _ => Err(ENOENT),
        }
    }

    /// The listener that a handle names.
    fn listener(&self, handle: u32) -> Result<Arc<Listener>> {
        match self.table.lock().get(handle)? {
            Object::Listener(listener) => Ok(listener.clone()),
            _ => Err(ENOENT),
        }
    }

    fn each<T>(&self, pick: impl Fn(&Object) -> Option<T>, mut look: impl FnMut(T)) {
        let mut from = 0;
        loop {
            let next = self.table.lock().find_from(from, &pick);
            let Some((index, object)) = next else {
                return;
            };
            look(object);
            from = index + 1;
        }
    }

    /// What the file is ready for: readable while a channel has completions, or is broken.
    fn ready(&self) -> Ready {
        let mut ready = Ready::default();
        let mut from = 0;
        loop {
            let next = self.table.lock().channel_from(from);
            let Some((index, channel)) = next else {
                return ready;
            };
            match channel.available() {
                _ if channel.is_broken() => ready = ready.with(Ready::READABLE).with(Ready::BROKEN),
                Ok(0) => {}
                Ok(_) => ready = ready.with(Ready::READABLE),
                Err(_) => ready = ready.with(Ready::READABLE).with(Ready::BROKEN),
            }
            from = index + 1;
        }
    }

    /// What an mmap offset names.
    fn mappable(&self, target: &MmapTarget) -> Result<Mappable> {
        match self.table.lock().by_offset(target)? {
            // No reference to the buffer itself or to others is taken: dropping a grant may wait, and dropping a buffer
            // deregisters it. mmap(2), which has the process's mmap lock, must do neither.
            Object::Buffer(buffer) => Ok(Mappable::Memory(buffer.memory().clone())),
            Object::Channel(channel) => Ok(Mappable::Rings(channel.clone())),
            _ => Err(ENODEV),
        }
    }

    /// Removes a handle and ends its object.
    fn destroy(&self, handle: u32) -> Result {
        let object = self.table.lock().remove(handle)?;
        object.end();
        Ok(())
    }

    /// Ends the context when its file is closed, for whatever reason. Nobody else uses the context any more. Ends first
    /// what brings new work, then what carries it, then what it is made of; each step waits until it is done.
    fn close(&self) {
        let _teardown = Teardown::of_context(self.serial);
        self.closing.store(1, Relaxed);
        let objects = self.table.lock().take_all();
        let listeners = objects
            .iter()
            .filter(|object| matches!(object, Object::Listener(_)));
        listeners.cloned().for_each(Object::end);
        // Notifies all peers before waiting for the first.
        for object in objects.iter() {
            if let Object::Endpoint(endpoint) = object {
                endpoint.send_last_will_for(Down::Local);
            }
        }
        // Endpoints first: what a polling thread waits for ends with them.
        let endpoints = objects
            .iter()
            .filter(|object| matches!(object, Object::Endpoint(_)));
        endpoints.cloned().for_each(Object::end);
        objects.iter().cloned().for_each(Object::end);
        drop(objects);
        self.domains.close();
        // Last, so that debugfs shows what this waits for when it is stuck.
        list::leave(self);
    }
}

impl Objects for Context {
    fn buffer(&self, handle: u32) -> Result<Arc<Buffer>> {
        match self.table.lock().get(handle)? {
            Object::Buffer(buffer) => Ok(buffer.clone()),
            _ => Err(ENOENT),
        }
    }

    fn endpoint(&self, handle: u32) -> Result<Arc<Endpoint>> {
        match self.table.lock().get(handle)? {
            Object::Endpoint(endpoint) => Ok(endpoint.clone()),
            _ => Err(ENOENT),
        }
    }

    fn grant(&self, handle: u32) -> Result<Arc<Grant>> {
        match self.table.lock().get(handle)? {
            Object::Grant(grant) => Ok(grant.clone()),
            _ => Err(ENOENT),
        }
    }

    fn peer_grant(&self, handle: u32) -> Result<Arc<PeerGrant>> {
        match self.table.lock().get(handle)? {
            Object::PeerGrant(grant) => Ok(grant.clone()),
            _ => Err(ENOENT),
        }
    }

    fn each_endpoint(&self, mut look: impl FnMut(&Endpoint)) {
        let endpoint = |object: &Object| match object {
            Object::Endpoint(endpoint) => Some(endpoint.clone()),
            _ => None,
        };
        self.each(endpoint, |endpoint| look(&endpoint));
    }

    fn each_buffer(&self, mut look: impl FnMut(&Buffer)) {
        let buffer = |object: &Object| match object {
            Object::Buffer(buffer) => Some(buffer.clone()),
            _ => None,
        };
        self.each(buffer, |buffer| look(&buffer));
    }
}
