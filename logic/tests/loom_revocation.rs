// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Users and revokers of one piece of memory, in every interleaving that loom finds: the memory is never touched after
//! a revocation is over, exactly one revoker does the work, and the last user always wakes it.

use dmaplane_logic::revocation::{Life, Stage};
use loom::{
    cell::UnsafeCell,
    model::Builder,
    sync::{
        atomic::{AtomicU32, Ordering},
        Arc, Condvar, Mutex,
    },
    thread,
};

/// As the driver has it: the word, the signal of the last user, the revokers' turn, and the memory.
struct Memory {
    word: AtomicU32,
    quiet: (Mutex<bool>, Condvar),
    turn: Mutex<u32>,
    /// Loom fails the model when an access of a user's and the owner's reuse are not ordered.
    bytes: UnsafeCell<u32>,
}

impl Memory {
    fn new() -> Self {
        Self {
            word: AtomicU32::new(Life::new().word()),
            quiet: (Mutex::new(false), Condvar::new()),
            turn: Mutex::new(0),
            bytes: UnsafeCell::new(0),
        }
    }

    /// Applies a step, and repeats it until no other thread interfered.
    fn step<T>(&self, step: impl Fn(Life) -> Option<(Life, T)>) -> Option<T> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let (after, result) = step(Life::from_word(word))?;
            match self.word.compare_exchange(
                word,
                after.word(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(result),
                Err(now) => word = now,
            }
        }
    }

    fn wake(&self) {
        *self.quiet.0.lock().expect("no thread panics") = true;
        self.quiet.1.notify_all();
    }

    /// A user: enters, reads the memory, leaves. Returns whether it got in.
    fn use_it(&self) -> bool {
        let entered = self.step(|life| life.enter().ok().map(|after| (after, ())));
        if entered.is_none() {
            return false;
        }
        self.bytes.with(|_| ());
        let last = self.step(|life| Some(life.leave()));
        if last == Some(true) {
            self.wake();
        }
        true
    }

    /// A revoker. When it returns, the memory is its owner's alone.
    fn revoke(&self) {
        let mut turn = self.turn.lock().expect("no thread panics");
        let users = self.step(|life| life.begin().map(|after| (after, after.users())));
        let Some(users) = users else { return };
        if users == 0 {
            self.wake();
        }
        let mut quiet = self.quiet.0.lock().expect("no thread panics");
        while !*quiet {
            quiet = self.quiet.1.wait(quiet).expect("no thread panics");
        }
        drop(quiet);
        // The owner's reuse.
        self.bytes.with_mut(|_| ());
        let ended = self.step(|life| life.end().map(|after| (after, ())));
        assert!(ended.is_some(), "users are in after the last has left");
        *turn += 1;
    }
}

fn check(users: usize, revokers: usize) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let memory = Arc::new(Memory::new());
        let mut threads = Vec::new();
        for _ in 0..users {
            let memory = memory.clone();
            threads.push(thread::spawn(move || {
                memory.use_it();
            }));
        }
        for _ in 1..revokers {
            let memory = memory.clone();
            threads.push(thread::spawn(move || {
                memory.revoke();
                let stage = Life::from_word(memory.word.load(Ordering::Acquire)).stage();
                assert_eq!(stage, Stage::Revoked, "the second returned too early");
            }));
        }
        memory.revoke();
        assert!(!memory.use_it(), "somebody entered revoked memory");
        for thread in threads {
            thread.join().expect("no thread panics");
        }
        assert_eq!(
            *memory.turn.lock().expect("no thread panics"),
            1,
            "not exactly one revoked"
        );
    });
}

#[test]
fn users_against_a_revoker() {
    check(2, 1);
}

#[test]
fn a_user_against_two_revokers() {
    check(1, 2);
}
