// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Recorders against readings that empty, in every interleaving that loom finds: each value is in exactly one reading,
//! and no reading has a value above its highest.

use dmaplane_logic::histogram::{gather, place, record, Counter};
use loom::{
    model::Builder,
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
    thread,
};

struct Atomic(AtomicU64);

impl Counter for Atomic {
    fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Release);
    }
    fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Acquire)
    }
    // As the driver has it: an exchange that is repeated until it succeeds or is not needed.
    fn raise(&self, to: u64) {
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen < to {
            match self
                .0
                .compare_exchange(seen, to, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }
}

/// Buckets of the model, enough for the values that it records.
const FEW: usize = 3;
/// In the buckets 1 and 2.
const VALUES: [u64; 2] = [9, 17];

#[test]
fn each_value_is_in_one_reading() {
    let mut model = Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Arc::new((
            [(); FEW].map(|()| Atomic(AtomicU64::new(0))),
            Atomic(AtomicU64::new(0)),
        ));
        let recorders = VALUES.map(|value| {
            let shared = shared.clone();
            thread::spawn(move || record(&shared.0, &shared.1, value))
        });
        let mut first = [0; FEW];
        let highest = gather(&shared.0, &shared.1, true, &mut first);
        for value in VALUES {
            if first[place(value)] > 0 {
                assert!(highest >= value, "{value} is above {highest}");
            }
        }
        for recorder in recorders {
            recorder.join().expect("a recorder");
        }
        let mut second = [0; FEW];
        let _ = gather(&shared.0, &shared.1, true, &mut second);
        for value in VALUES {
            let at = place(value);
            assert_eq!(first[at] + second[at], 1, "the value {value}");
        }
    });
}
