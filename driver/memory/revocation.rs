// SPDX-License-Identifier: GPL-2.0-only

//! How memory is revoked from everybody who uses it. There is one mechanism for every cause: its owner's request, the
//! removal of the device that it belongs to, the invalidation by the exporter that it was imported from.
//!
//! Whoever uses memory holds a [`Guard`], from the acceptance of an operation to its completion. Long-lived objects
//! (regions, grants, mappings, exports) hold none: the revocation ends them.
//!
//! | step | what | why there |
//! |---|---|---|
//! | 1 | no use begins any more | each later step needs to look only once at what is there |
//! | 2 | operations that the driver still has end in REVOKED; peers are asked for their grants | neither waits for anybody |
//! | 3 | grants end, and their watches complete with [`uapi::GRANT_END_MEMORY`] | their connections live on |
//! | 4 | operations that the provider has get a second to complete | most do, and their connections live on |
//! | 5 | endpoints with operations left are torn down: these end in REVOKED | bounds the wait, whatever providers do |
//! | 6 | regions are deregistered, on every domain | no work request refers to them any more |
//! | 7 | CPU mappings are emptied: a touch gives SIGBUS | page faults that began before step 1 are over |
//! | 8 | all exports are invalidated, then importers have a second to let go; last, a device gets its range back | its next owner shares the range with nobody |
//! | 9 | buffers' watches complete, with the cause | all of the above is true when they are read |
//!
//! # Contexts
//! Process context, which may sleep: an ioctl, a device's removal, an exporter's invalidation, which holds a `dma_resv`
//! lock. So nothing that holds a guard, and nothing that the steps wait for, may take such a lock or the mmap lock:
//! page faults hold the latter when they enter, which is the opposite order. The turn is the outermost lock of the
//! driver.

use super::{Memory, MemoryOwner, Watches};
use crate::{
    base::{delay_points::DELAY_POINTS, tuning::TUNING, wait::Deadline},
    kx::{
        charged::GFP_CHARGED,
        completion::Completion,
        mapping_space::{MappingSpace, Place},
    },
    logic::revocation::{Closed, Life, Stage},
    uapi,
};
use kernel::{
    new_mutex,
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{ordering, Atomic, Relaxed},
        Arc, Mutex,
    },
};

/// Why memory is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Cause {
    /// Its owner asked for it.
    Owner = uapi::REVOKE_OWNER,
    /// The device that it belongs to is removed.
    Device = uapi::REVOKE_DEVICE,
    /// The exporter that it was imported from invalidates it.
    Exporter = uapi::REVOKE_EXPORTER,
}

/// A long-lived object that is notified of the revocation of the memory that it holds, such as an export.
pub(crate) trait Follower: Send + Sync {
    /// Called once, when nobody uses the memory any more; must not give it to anybody. Notifies those who have it
    /// through this follower, and does not wait until they have let go. Called in the contexts that the file's head
    /// lists, with no lock but the turn.
    fn close(&self) {}
    /// Called once, when all followers are closed. Waits for those who had the memory through it and can let go; only until
    /// `let_go` if the memory stays without them. Contexts and locks as for [`Self::close`].
    fn revoked(&self, let_go: Deadline);
    /// Called before [`Self::revoked`] if an RDMA device may go on using the memory for ever: nobody else may get it.
    fn kept(&self) {}
    /// Whether somebody who cannot be made to let go has the memory through it.
    fn is_held(&self) -> bool {
        false
    }
}

/// The endpoints that may have operations on memory, and the domains on which it may be registered: a context's. Memory
/// is named by its [`MemoryLifetime::key`]. Called in the contexts that the file's head lists.
pub(crate) trait MemoryUsers: Send + Sync {
    /// Ends the operations that the driver still has, and asks the peers for their grants. Waits for nobody.
    fn sweep(&self, memory: usize);
    /// Ends the grants of it. Waits for peers that were asked for them, as long as an answer may take.
    fn fence_memory(&self, memory: usize);
    /// Tears down the endpoints that have operations on it left. When it returns, they have ended.
    fn give_up(&self, memory: usize);
    /// Deregisters it everywhere. True if an RDMA device may go on using it for ever.
    fn revoke_regions(&self, memory: usize) -> bool;
}

/// Most followers of one piece of memory: its exports, and a device's range.
const MAX_FOLLOWERS: usize = 4096;

/// Longest wait for importers that can let go, of all exports of one piece of memory together, in milliseconds.
const LET_GO_MS: u32 = 1000;

/// A follower and the number by which it leaves.
type Followed = (u64, Arc<dyn Follower>);

/// The lifetime of memory, and all that a revocation needs of it: whoever may revoke the memory keeps this and not the
/// memory. Locks: `turn` is held during the whole revocation, so that a second revoker returns when all is done; only
/// [`Self::revoke_all`] takes the first two steps before it. `followers` is taken outside the followers' own locks.
#[pin_data]
pub(crate) struct MemoryLifetime {
    word: Atomic<u32>,
    cause: Atomic<u32>,
    /// Who may have operations on it.
    users: Arc<dyn MemoryUsers>,
    /// The context's space, where its mappings are found.
    space: Arc<MappingSpace>,
    /// Set when the last user has left after the beginning of the revocation.
    drained: Arc<Completion>,
    place: Place,
    #[pin]
    turn: Mutex<()>,
    #[pin]
    followers: Mutex<(u64, KVec<Followed>)>,
    #[pin]
    watches: Watches,
}

impl MemoryLifetime {
    /// The lifetime of memory of `pages` pages. The turn of imported memory is taken inside that of the memory that it
    /// is imported from.
    pub(super) fn new(pages: usize, owner: &MemoryOwner, imported: bool) -> Result<Arc<Self>> {
        let (name, class) = if imported {
            (c"Memory::turn of an import", static_lock_class!())
        } else {
            (c"Memory::turn", static_lock_class!())
        };
        let init = try_pin_init!(Self {
            word: Atomic::new(Life::new().word()),
            cause: Atomic::new(0),
            users: owner.users.clone(),
            space: owner.space.clone(),
            drained: Completion::new()?,
            place: Place::new(pages),
            turn <- Mutex::new((), name, class),
            followers <- new_mutex!((1, KVec::new()), "Memory::followers"),
            watches <- Watches::new(),
        });
        Arc::try_pin_init(init, GFP_CHARGED)
    }

    /// A key that identifies its memory for those who hold it, as long as they do.
    pub(crate) fn key(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// The watches of it.
    pub(crate) fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Where its mappings are found.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Applies a step of the life, and repeats it until no other thread interfered.
    fn step<T, E>(
        &self,
        step: impl Fn(Life) -> core::result::Result<(Life, T), E>,
    ) -> core::result::Result<T, E> {
        let mut word = self.word.load(Relaxed);
        loop {
            let (after, result) = step(Life::from_word(word))?;
            match self.word.cmpxchg(word, after.word(), ordering::Full) {
                Ok(_) => return Ok(result),
                Err(now) => word = now,
            }
        }
    }

    fn stage(&self) -> Stage {
        Life::from_word(self.word.load(ordering::Acquire)).stage()
    }
}

/// A use of memory. A revocation waits until it is dropped. So it lives for a bounded time only, whatever the user
/// does, or it belongs to an operation that the revocation finds and ends.
pub(crate) struct Guard {
    memory: Arc<Memory>,
}

impl Guard {
    /// The memory that is used.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let lifetime = &self.memory.lifetime;
        let left = lifetime.step(|life| Ok::<_, core::convert::Infallible>(life.leave()));
        if let Ok(true) = left {
            lifetime.drained.set();
        }
    }
}

impl Memory {
    /// Begins a use. `ESTALE` once the memory is being revoked.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Guard> {
        let entered = self
            .lifetime
            .step(|life| life.enter().map(|after| (after, ())));
        entered.map_err(|closed| match closed {
            Closed::Revoked => ESTALE,
            Closed::Full => EBUSY,
        })?;
        let guard = Guard {
            memory: self.clone(),
        };
        DELAY_POINTS.use_begun.pass();
        Ok(guard)
    }

    /// Whether it is being revoked, or was.
    pub(crate) fn is_revoked(&self) -> bool {
        self.lifetime.stage() != Stage::Live
    }

    /// One of `MEMORY_*` and one of `REVOKE_*`, as a query reports them.
    pub(crate) fn standing(&self) -> (u32, u32) {
        let stage = match self.lifetime.stage() {
            Stage::Live => uapi::MEMORY_LIVE,
            Stage::Revoking => uapi::MEMORY_REVOKING,
            Stage::Revoked => uapi::MEMORY_REVOKED,
        };
        (stage, self.lifetime.cause.load(Relaxed))
    }

    /// Its lifetime, through which it is revoked.
    pub(crate) fn lifetime(&self) -> &Arc<MemoryLifetime> {
        &self.lifetime
    }
}

impl MemoryLifetime {
    /// Registers a follower, which is then notified of the revocation. Returns its number for [`Self::forget`], which
    /// it must call before it lets go of the memory. `ESTALE` when it is too late, `EDQUOT` when there are too many.
    pub(crate) fn follow(&self, follower: Arc<dyn Follower>) -> Result<u64> {
        let mut followers = self.followers.lock();
        if followers.1.len() >= MAX_FOLLOWERS {
            return Err(EDQUOT);
        }
        // A revocation takes this lock too when it notifies followers: one that has begun either finds this follower,
        // or is seen here.
        if self.stage() != Stage::Live {
            return Err(ESTALE);
        }
        let (next, list) = &mut *followers;
        let number = *next;
        list.push((number, follower), GFP_CHARGED)?;
        *next += 1;
        Ok(number)
    }

    /// Removes a follower. It may be being notified of the revocation meanwhile.
    pub(crate) fn forget(&self, number: u64) {
        let mut followers = self.followers.lock();
        let list = &mut followers.1;
        // Numbers ascend in the list.
        let at = list.binary_search_by_key(&number, |(other, _)| *other);
        let follower = at.ok().and_then(|at| list.remove(at).ok());
        drop(followers);
        drop(follower);
    }

    /// Whether somebody who cannot be made to let go, or has not done so yet, has the memory through a dma-buf.
    pub(crate) fn is_held(&self) -> bool {
        let followers = self.followers.lock();
        followers.1.iter().any(|(_, follower)| follower.is_held())
    }

    /// The first two steps, which wait for nobody. The first cause is the one that is reported.
    fn begin(&self, cause: Cause) {
        // Set before anybody can see that it has begun.
        let _ = self.cause.cmpxchg(0, cause as u32, Relaxed);
        let begun = self.step(|life| life.begin().map(|after| (after, after.users())).ok_or(()));
        if let Ok(users) = begun {
            if users == 0 {
                self.drained.set();
            }
            DELAY_POINTS.revocation_begun.pass();
        }
        self.users.sweep(self.key());
    }

    /// Revokes the memory from everybody, in the steps that the file's head lists. When this returns, nobody uses it,
    /// nobody ever will, and everybody has been notified. A second call returns when the first is done.
    pub(crate) fn revoke(&self, cause: Cause) {
        self.revoke_by(cause, &mut None);
    }

    /// Revokes several pieces of memory, as [`Self::revoke`] does. The waits overlap: all peers are asked for their grants,
    /// and all operations are on their way back, before the first is waited for.
    pub(crate) fn revoke_all(lifetimes: &[Arc<Self>], cause: Cause) {
        lifetimes.iter().for_each(|lifetime| lifetime.begin(cause));
        lifetimes
            .iter()
            .for_each(|lifetime| lifetime.users.fence_memory(lifetime.key()));
        // Set by the first one, when the grants of all of them have ended.
        let mut come_back = None;
        lifetimes
            .iter()
            .for_each(|lifetime| lifetime.revoke_by(cause, &mut come_back));
    }

    /// Revokes it. Operations that the provider has not completed by `come_back` are given up; without a deadline, this
    /// sets one when the grants have ended.
    fn revoke_by(&self, cause: Cause, come_back: &mut Option<Deadline>) {
        let _turn = self.turn.lock();
        if self.stage() == Stage::Revoked {
            return;
        }
        // Also when somebody else has begun: whoever has the turn finishes it, and may be ahead of that thread.
        self.begin(cause);
        let (users, key) = (&self.users, self.key());
        users.fence_memory(key);
        let come_back =
            *come_back.get_or_insert_with(|| Deadline::within_ms(TUNING.come_back_ms()));
        let left_ms = come_back.left_ms().unwrap_or(0);
        if !self.drained.wait_timeout(left_ms) {
            users.give_up(key);
            self.drained.wait();
        }
        // Ends the grants that were being made when it began.
        users.fence_memory(key);
        if users.revoke_regions(key) {
            let followers = self.followers.lock();
            followers.1.iter().for_each(|(_, follower)| follower.kept());
        }
        DELAY_POINTS.drained.pass();
        self.space.zap(&self.place);
        // All are closed before one is waited for.
        self.each_follower(|follower| follower.close());
        let let_go = Deadline::within_ms(LET_GO_MS);
        self.each_follower(|follower| follower.revoked(let_go));
        // The last user has left, and nobody entered: so this cannot fail.
        let _ended = self.step(|life| life.end().map(|after| (after, ())).ok_or(()));
        self.watches.notify(self.cause.load(Relaxed));
    }

    /// Calls `notify` for each follower, in reverse order: the memory's owner came first, and may give it to somebody else
    /// once all others have let go.
    fn each_follower(&self, notify: impl Fn(&dyn Follower)) {
        let mut last = u64::MAX;
        loop {
            let next = {
                let followers = self.followers.lock();
                let list = &followers.1;
                let before = list.partition_point(|(number, _)| *number < last);
                before.checked_sub(1).and_then(|at| list.get(at).cloned())
            };
            let Some((number, follower)) = next else {
                break;
            };
            notify(&*follower);
            last = number;
        }
    }
}
