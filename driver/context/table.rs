// SPDX-License-Identifier: GPL-2.0-only

//! The table of handles.

use super::Object;
use crate::logic::handle::{Handle, MmapTarget, MAX_SLOTS};
use kernel::prelude::*;

/// Most handles of one context: fewer than a process may have mappings by default, so that whoever maps them all
/// meets this limit first.
pub(crate) const MAX_HANDLES: usize = 1 << 15;
const _: () = assert!(MAX_HANDLES <= MAX_SLOTS);

/// One place in the table. `generation` is that of the object in it, or of the next one.
struct Slot {
    generation: u16,
    object: Option<Object>,
}

/// Handles and what they name. Its owner's lock protects it; nothing is dropped inside.
pub(super) struct Table {
    slots: KVVec<Slot>,
    free: KVVec<u32>,
}

impl Table {
    /// An empty table.
    pub(super) const fn new() -> Self {
        Self {
            slots: KVVec::new(),
            free: KVVec::new(),
        }
    }

    /// Names an object, or gives it back with the reason.
    pub(super) fn insert(&mut self, object: Object) -> Result<u32, (Object, Error)> {
        if self.free.is_empty() {
            if let Err(error) = self.grow() {
                return Err((object, error));
            }
        }
        let Some(index) = self.free.pop() else {
            return Err((object, EMFILE));
        };
        match self.slots.get_mut(index as usize) {
            Some(slot) => {
                slot.object = Some(object);
                let generation = slot.generation;
                Ok(Handle { index, generation }.to_raw())
            }
            None => Err((object, EINVAL)),
        }
    }

    /// Makes one more slot.
    fn grow(&mut self) -> Result {
        let index = self.slots.len();
        if index >= MAX_HANDLES {
            return Err(EMFILE);
        }
        // Room for every slot to be free at once, so that removing never allocates.
        self.free
            .reserve(index + 1 - self.free.len(), GFP_KERNEL_ACCOUNT)?;
        let slot = Slot {
            generation: 1,
            object: None,
        };
        self.slots.push(slot, GFP_KERNEL_ACCOUNT)?;
        Ok(self.free.push(index as u32, GFP_KERNEL_ACCOUNT)?)
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

    /// The first object from a place on of which `pick` makes something, and its place.
    pub(super) fn find_from<T>(
        &self,
        from: usize,
        pick: impl Fn(&Object) -> Option<T>,
    ) -> Option<(usize, T)> {
        let slots = self.slots.iter().enumerate().skip(from);
        let mut objects = slots.filter_map(|(index, slot)| Some((index, slot.object.as_ref()?)));
        objects.find_map(|(index, object)| Some((index, pick(object)?)))
    }

    /// Shows every object with its handle to `look`.
    pub(super) fn each(&self, mut look: impl FnMut(u32, &Object)) {
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(object) = &slot.object {
                look(self.handle_at(index), object);
            }
        }
    }

    /// The handle of a place.
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

    /// Takes a name away.
    pub(super) fn remove(&mut self, handle: u32) -> Result<Object> {
        self.get(handle)?;
        let index = Handle::from_raw(handle).index;
        let slot = self.slots.get_mut(index as usize).ok_or(ENOENT)?;
        let object = slot.object.take().ok_or(ENOENT)?;
        slot.generation = Handle::next_generation(slot.generation);
        // Reserved when the slot was made.
        let _ = self.free.push_within_capacity(index);
        Ok(object)
    }

    /// Takes everything, for the end of the context. The table may not be used afterwards.
    pub(super) fn take_all(&mut self) -> TakenObjects {
        self.free = KVVec::new();
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
