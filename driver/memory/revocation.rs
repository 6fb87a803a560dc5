// SPDX-License-Identifier: GPL-2.0-only

//! How memory is taken away from everybody who uses it. One mechanism for every cause: its owner's wish, the removal of
//! the device that it belongs to, the invalidation by the exporter that it was imported from.
//!
//! Whoever uses memory holds a [`Guard`], from the acceptance of an operation to its completion. What lasts (regions,
//! grants, mappings, exports) holds none: the revocation ends it.
//!
//! | step | what | why there |
//! |---|---|---|
//! | 1 | nobody enters any more | each later step looks at what is there, once |
//! | 2 | operations that the driver still has end in REVOKED; peers are asked for their grants | neither waits for anybody |
//! | 3 | grants end, their watches are told [`uapi::GRANT_END_MEMORY`] | their connections live on |
//! | 4 | what the provider has gets a second to come back | most of it does, and its connection lives on |
//! | 5 | endpoints that still have some of it are torn down, which ends it in REVOKED | a bounded end, whatever the provider does |
//! | 6 | regions are deregistered, on every domain | no work request refers to them any more |
//! | 7 | CPU mappings are emptied: a touch gives SIGBUS | faults entered before 1 have left by now |
//! | 8 | exports are invalidated, then a device has its range back | importers have what they need to hear, and who takes the range next shares it with nobody |
//! | 9 | buffers' watches complete, with the cause | all of the above is true when they are read |
//!
//! # Contexts
//! Process context, which may sleep: an ioctl, a device's removal, an exporter's invalidation, which holds a `dma_resv`
//! lock. So nothing that holds a guard, and nothing that the steps wait for, may take such a lock or the mmap lock:
//! faults hold the latter when they enter, which is the other order. The turn is the outermost lock of the driver.

use super::{Home, Memory, Watches};
use crate::{
    kx::{
        pages::at_will,
        signal::Signal,
        space::{Place, Space},
    },
    logic::revocation::{Closed, Life, Stage},
    rdma::Domains,
    tuning::TUNING,
    uapi,
    windows::WINDOWS,
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

/// Why memory is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Cause {
    /// Its owner asked for it.
    Owner = uapi::REVOKE_OWNER,
    /// The device that it belongs to goes.
    Device = uapi::REVOKE_DEVICE,
    /// The exporter that it was imported from invalidates it.
    Exporter = uapi::REVOKE_EXPORTER,
}

/// Something that lasts and hears of the revocation of the memory that it holds, such as an export.
pub(crate) trait Follower: Send + Sync {
    /// The memory is used by nobody any more, and this must not give it to anybody. Called once, in the contexts that
    /// the file's head tells, without a lock but the turn.
    fn revoked(&self, cause: Cause);
    /// An RDMA device may go on using the memory for ever: nobody else may get it. Called before [`Self::revoked`].
    fn kept(&self) {}
    /// Whether somebody has the memory through it who cannot be told to let go.
    fn is_held(&self) -> bool {
        false
    }
}

/// A follower and the number by which it leaves.
type Followed = (u64, Arc<dyn Follower>);

/// Memory's life, and all that a revocation needs of it: whoever may revoke it keeps this and not the memory. Locks: `turn`
/// is held during the whole of a revocation, so that whoever comes second returns when all is done; `followers` is taken
/// outside the locks of followers.
#[pin_data]
pub(crate) struct Tenure {
    word: Atomic<u32>,
    cause: Atomic<u32>,
    /// Of its context: who may have something under way on it.
    domains: Arc<Domains>,
    /// Of its context: where its mappings are found.
    space: Arc<Space>,
    /// Set when the last user has left after the beginning of the revocation.
    quiet: Arc<Signal>,
    place: Place,
    #[pin]
    turn: Mutex<()>,
    #[pin]
    followers: Mutex<(u64, KVec<Followed>)>,
    #[pin]
    pub(super) watches: Watches,
}

impl Tenure {
    /// Of memory of so many pages. The turn of imported memory is taken inside that of the memory that it is imported from.
    pub(super) fn new(pages: usize, home: &Home, imported: bool) -> Result<Arc<Self>> {
        let (name, class) = if imported {
            (c"Memory::turn of an import", static_lock_class!())
        } else {
            (c"Memory::turn", static_lock_class!())
        };
        let init = try_pin_init!(Self {
            word: Atomic::new(Life::new().word()),
            cause: Atomic::new(0),
            domains: home.domains.clone(),
            space: home.space.clone(),
            quiet: Signal::new()?,
            place: Place::new(pages),
            turn <- Mutex::new((), name, class),
            followers <- new_mutex!((1, KVec::new()), "Memory::followers"),
            watches <- Watches::new(),
        });
        Arc::try_pin_init(init, at_will())
    }

    /// By what others tell its memory from other memory, as long as they hold it.
    pub(crate) fn key(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// Where its mappings are found.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Applies a step of the life until nobody came between.
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

/// A use of memory. As long as it lives, a revocation waits: so it lives for a bounded time only, whatever the user does,
/// or is with an operation that the revocation finds and ends.
pub(crate) struct Guard {
    memory: Arc<Memory>,
}

impl Guard {
    /// What is used.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let tenure = &self.memory.tenure;
        let left = tenure.step(|life| Ok::<_, core::convert::Infallible>(life.leave()));
        if let Ok(true) = left {
            tenure.quiet.set();
        }
    }
}

impl Memory {
    /// Begins a use. `ESTALE` once the memory is being revoked.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Guard> {
        let entered = self
            .tenure
            .step(|life| life.enter().map(|after| (after, ())));
        entered.map_err(|closed| match closed {
            Closed::Revoked => ESTALE,
            Closed::Full => EBUSY,
        })?;
        let guard = Guard {
            memory: self.clone(),
        };
        WINDOWS.entered.pass();
        Ok(guard)
    }

    /// Whether it is being revoked, or was.
    pub(crate) fn is_revoked(&self) -> bool {
        self.tenure.stage() != Stage::Live
    }

    /// One of `MEMORY_*` and one of `REVOKE_*`, as a query tells them.
    pub(crate) fn standing(&self) -> (u32, u32) {
        let stage = match self.tenure.stage() {
            Stage::Live => uapi::MEMORY_LIVE,
            Stage::Revoking => uapi::MEMORY_REVOKING,
            Stage::Revoked => uapi::MEMORY_REVOKED,
        };
        (stage, self.tenure.cause.load(Relaxed))
    }

    /// Its life, which revokes it.
    pub(crate) fn tenure(&self) -> &Arc<Tenure> {
        &self.tenure
    }
}

impl Tenure {
    /// Has a follower hear of the revocation; the number by which it leaves with [`Self::forget`], which it must do
    /// before it lets go of the memory. `ESTALE` when it is too late.
    pub(crate) fn follow(&self, follower: Arc<dyn Follower>) -> Result<u64> {
        let mut followers = self.followers.lock();
        // The lock is taken when they are told as well: a revocation that has begun either finds it, or is seen here.
        if self.stage() != Stage::Live {
            return Err(ESTALE);
        }
        let (next, list) = &mut *followers;
        let number = *next;
        list.push((number, follower), at_will())?;
        *next += 1;
        Ok(number)
    }

    /// Takes a follower off. It may be hearing of the revocation meanwhile.
    pub(crate) fn forget(&self, number: u64) {
        let mut followers = self.followers.lock();
        let list = &mut followers.1;
        let at = list.iter().position(|(other, _)| *other == number);
        let follower = at.and_then(|at| list.remove(at).ok());
        drop(followers);
        drop(follower);
    }

    /// Whether somebody has the memory through a dma-buf who cannot be told to let go, or has not done so.
    pub(crate) fn is_held(&self) -> bool {
        let followers = self.followers.lock();
        followers.1.iter().any(|(_, follower)| follower.is_held())
    }

    /// Takes the memory away from everybody, as the file's head tells. When this returns, nobody uses it, nobody ever
    /// will, and everybody has been told; whoever calls it second returns when the first is done.
    pub(crate) fn revoke(&self, cause: Cause) {
        let tenure = self;
        let _turn = tenure.turn.lock();
        // Before anybody can see that it has begun.
        if tenure.stage() == Stage::Live {
            tenure.cause.store(cause as u32, Relaxed);
        }
        let Ok(users) =
            tenure.step(|life| life.begin().map(|after| (after, after.users())).ok_or(()))
        else {
            return;
        };
        if users == 0 {
            tenure.quiet.set();
        }
        WINDOWS.revoking.pass();
        let (domains, key) = (&self.domains, self.key());
        domains.each_endpoint(|endpoint| endpoint.sweep(key));
        domains.each_endpoint(|endpoint| endpoint.fence_memory(key));
        if !tenure.quiet.wait_at_most(TUNING.come_back_ms()) {
            domains.each_endpoint(|endpoint| endpoint.give_up(key));
            tenure.quiet.wait();
        }
        // Those that were being given when it began.
        domains.each_endpoint(|endpoint| endpoint.fence_memory(key));
        if domains.revoke_regions(key) {
            let followers = tenure.followers.lock();
            followers.1.iter().for_each(|(_, follower)| follower.kept());
        }
        WINDOWS.quiet.pass();
        self.space.zap(&tenure.place);
        // The last first: whom the memory belongs to came first, and gives it to somebody else when the rest have let go.
        let mut last = u64::MAX;
        loop {
            let next = {
                let followers = tenure.followers.lock();
                let mut before = followers.1.iter().filter(|(number, _)| *number < last);
                before.next_back().cloned()
            };
            let Some((number, follower)) = next else {
                break;
            };
            follower.revoked(cause);
            last = number;
        }
        // The last user has left, and nobody entered: so this cannot fail.
        let _ended = tenure.step(|life| life.end().map(|after| (after, ())).ok_or(()));
        tenure.watches.tell(cause as u32);
    }
}
