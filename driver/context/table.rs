// SPDX-License-Identifier: GPL-2.0-only

//! The table of handles.

use super::Object;
use crate::{
    channel::Channel,
    kx::charged::GFP_CHARGED,
    logic::handle::{FreeSlots, Handle, Links, MmapTarget, MAX_SLOTS},
};
use kernel::{prelude::*, sync::Arc};

/// Most handles of one context: fewer than a process may have mappings by default, so that a process that maps them all
/// reaches this limit first.
pub(crate) const MAX_HANDLES: usize = 1 << 15;
const _: () = assert!(MAX_HANDLES <= MAX_SLOTS);

/// A slot of the table. `generation` is that of the object in it, or of the next one.
struct Slot {
    generation: u32,
    object: Option<Object>,
    /// The next free slot, while this one is free.
    next: Option<u32>,
}

impl Links for KVVec<Slot> {
    fn next(&self, index: u32) -> Option<u32> {
        self.get(index as usize)?.next
    }

    fn set_next(&mut self, index: u32, next: Option<u32>) {
        if let Some(slot) = self.get_mut(index as usize) {
            slot.next = next;
        }
    }
}

/// Handles and what they name. Its owner's lock protects it; nothing is dropped under that lock.
pub(super) struct Table {
    slots: KVVec<Slot>,
    free: FreeSlots,
    /// Slots of channels, ascending: what poll(2) looks at.
    channels: KVec<u32>,
}

impl Table {
    /// An empty table.
    pub(super) const fn new() -> Self {
        Self {
            slots: KVVec::new(),
            free: FreeSlots::new(),
            channels: KVec::new(),
        }
    }

    /// Gives an object a handle, or returns it with the error.
    pub(super) fn insert(&mut self, object: Object) -> Result<u32, (Object, Error)> {
        if matches!(object, Object::Channel(_)) {
            if let Err(error) = self.channels.reserve(1, GFP_CHARGED) {
                return Err((object, error.into()));
            }
        }
        let index = match self.slot() {
            Ok(index) => index,
            Err(error) => return Err((object, error)),
        };
        if matches!(object, Object::Channel(_)) {
            let at = self.channels.partition_point(|other| *other < index);
            // Reserved above.
            let _ = self.channels.insert_within_capacity(at, index);
        }
        match self.slots.get_mut(index as usize) {
            Some(slot) => {
                slot.object = Some(object);
                let generation = slot.generation;
                Ok(Handle { index, generation }.to_raw())
            }
            None => Err((object, EINVAL)),
        }
    }

    /// A free slot: a new one as long as the table may grow, so that a handle that was given up stays unused as long as
    /// possible; then the one that was given up first.
    fn slot(&mut self) -> Result<u32> {
        let index = self.slots.len();
        let grown = if index < MAX_HANDLES {
            let slot = Slot {
                generation: 1,
                object: None,
                next: None,
            };
            self.slots.push(slot, GFP_CHARGED).map_err(Error::from)
        } else {
            Err(EMFILE)
        };
        match grown {
            Ok(()) => Ok(index as u32),
            Err(error) => self.free.take(&self.slots).ok_or(error),
        }
    }

    /// What a handle names.
    pub(super) fn get(&self, handle: u32) -> Result<&Object> {
        let handle = Handle::from_raw(handle);
        let slot = self.slots.get(handle.index as usize).ok_or(ENOENT)?;
        slot.object
            .as_ref()
            .filter(|_| slot.generation == handle.generation)
            .ok_or(ENOENT)
    }

    /// The first object from index `from` on for which `pick` returns something: its index, and what `pick` returned.
    pub(super) fn find_from<T>(
        &self,
        from: usize,
        pick: impl Fn(&Object) -> Option<T>,
    ) -> Option<(usize, T)> {
        let slots = self.slots.iter().enumerate().skip(from);
        let mut objects = slots.filter_map(|(index, slot)| Some((index, slot.object.as_ref()?)));
        objects.find_map(|(index, object)| Some((index, pick(object)?)))
    }

    /// The first channel from index `from` on, and its index.
    pub(super) fn channel_from(&self, from: usize) -> Option<(usize, Arc<Channel>)> {
        let at = self
            .channels
            .partition_point(|index| (*index as usize) < from);
        let index = *self.channels.get(at)? as usize;
        match self.slots.get(index)?.object.as_ref()? {
            Object::Channel(channel) => Some((index, channel.clone())),
            _ => None,
        }
    }

    /// Calls `look` for every object with its handle.
    pub(super) fn each(&self, mut look: impl FnMut(u32, &Object)) {
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(object) = &slot.object {
                look(self.handle_at(index), object);
            }
        }
    }

    /// The handle of the slot at an index.
    pub(super) fn handle_at(&self, index: usize) -> u32 {
        let slot = self.slots.get(index);
        let generation = slot.map_or(0, |slot| slot.generation);
        let index = index as u32;
        Handle { index, generation }.to_raw()
    }

    /// What an mmap offset names.
    pub(super) fn by_offset(&self, target: &MmapTarget) -> Result<&Object> {
        let slot = self.slots.get(target.index as usize).ok_or(ENOENT)?;
        slot.object
            .as_ref()
            .filter(|_| target.matches(slot.generation))
            .ok_or(ENOENT)
    }

    /// Removes a handle and returns its object.
    pub(super) fn remove(&mut self, handle: u32) -> Result<Object> {
        self.get(handle)?;
        let index = Handle::from_raw(handle).index;
        let slot = self.slots.get_mut(index as usize).ok_or(ENOENT)?;
        let object = slot.object.take().ok_or(ENOENT)?;
        slot.generation = Handle::next_generation(slot.generation);
        self.free.give_up(&mut self.slots, index);
        if let Ok(at) = self.channels.binary_search(&index) {
            let _ = self.channels.remove(at);
        }
        Ok(object)
    }

    /// Removes everything, for the end of the context. The table may not be used afterwards.
    pub(super) fn take_all(&mut self) -> TakenObjects {
        self.free = FreeSlots::new();
        self.channels = KVec::new();
        TakenObjects(core::mem::take(&mut self.slots))
    }
}

/// All objects of a context that is being closed.
pub(super) struct TakenObjects(KVVec<Slot>);

impl TakenObjects {
    /// The objects.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Object> {
        self.0.iter().filter_map(|slot| slot.object.as_ref())
    }
}
