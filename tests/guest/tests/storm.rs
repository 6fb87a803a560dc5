// SPDX-License-Identifier: MIT OR Apache-2.0

//! A million operations of every kind, each with exactly one completion, while endpoints, grants, buffers, peers and the
//! RDMA device itself go and come back.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dmaplane::State;
use dmaplane_guest_tests::storm::field::Field;
use dmaplane_guest_tests::storm::ledger::Ledger;
use dmaplane_guest_tests::storm::worker::{Count, Worker};
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::rdma::Link;
use dmaplane_testkit::{ErrorContext as _, Guest, Result, anyhow, ensure, poll, seed, test};

/// Threads, half of them on each file.
const THREADS: u64 = 4;
/// Most operations between two checks of the connections; some checks come with a misfortune.
const PAUSE: u64 = 1000;

const OPERATIONS: [&str; 10] = [
    "NOP",
    "RECV",
    "WRITE",
    "WRITE_IMM",
    "READ",
    "SEND",
    "COPY",
    "FENCE",
    "CANCEL",
    "WATCH",
];

/// Ends and makes anew what the operations work on, until they have all been pushed. Counts what it did.
fn misfortunes(
    guest: &Guest,
    field: &Field,
    count: &Count,
    wanted: u64,
    numbers: &mut Numbers,
) -> Result<BTreeMap<&'static str, u64>> {
    let mut done = BTreeMap::new();
    let link = Link::only()?;
    loop {
        let next = count.pushed.load(Ordering::Relaxed) + numbers.below(PAUSE);
        // After a time as well: operations that all wait for each other need a misfortune to go on.
        poll::until(guest.limit(1) / 50, || {
            let pushed = count.pushed.load(Ordering::Relaxed);
            let over = pushed >= next.min(wanted) || count.stop.load(Ordering::Relaxed);
            Ok(over.then_some(()))
        })?;
        let pushed = count.pushed.load(Ordering::Relaxed);
        if pushed >= wanted || count.stop.load(Ordering::Relaxed) {
            return Ok(done);
        }
        let index = numbers.below(field.sides[0].len() as u64) as usize;
        let what = match numbers.below(256) {
            32.. => "looks",
            0..10 => {
                field.grant(guest, index)?;
                "grants"
            }
            10..18 => {
                field.reconnect(guest, index)?;
                "endpoints"
            }
            18..26 => {
                let file = numbers.below(2) as usize;
                field.exchange_buffer(file, index)?;
                "buffers"
            }
            26..30 => {
                field.kill_peer(guest, index)?;
                "peers"
            }
            _ => {
                link.delete()?;
                link.add()?;
                "links"
            }
        };
        *done.entry(what).or_default() += 1;
        *done.entry("repairs").or_default() += field.repair(guest)?;
    }
}

fn print(ledgers: &[Ledger]) {
    let mut ends: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for ((op, state, errno), count) in ledgers.iter().flat_map(|ledger| &ledger.ends) {
        let name = OPERATIONS.get(usize::from(*op)).unwrap_or(&"unknown");
        let states = ends.entry((*name).to_owned()).or_default();
        let state = match State::from(*state) {
            State::Error => format!("Error {errno}"),
            state => format!("{state:?}"),
        };
        *states.entry(state).or_default() += count;
    }
    for (name, states) in ends {
        println!("{name}: {states:?}");
    }
}

#[test]
fn storm_every_operation_has_one_completion() {
    test(|guest| {
        let seed = seed()?;
        let wanted = guest.rounds(1_000_000, 100_000);
        let field = Field::new(guest)?;
        field.repair(guest).context("the first connections")?;
        let count = Count::default();
        let start = Instant::now();
        let (ledgers, done) = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..THREADS)
                .map(|index| Worker {
                    field: &field,
                    file: (index % 2) as usize,
                    polled: index / 2 == 1,
                    count: &count,
                    numbers: Numbers::new(seed ^ (index + 1) << 56),
                    ledger: Ledger::new(index << 56),
                })
                .map(|worker| scope.spawn(|| worker.run(wanted, guest.limit(20))))
                .collect();
            let mut numbers = Numbers::new(seed);
            let done = misfortunes(guest, &field, &count, wanted, &mut numbers);
            // Whatever happened: nobody pushes any more, and what waits ends with its endpoint.
            count.stop.store(true, Ordering::Relaxed);
            let all = poll::until(guest.limit(60), || {
                let all = count.done.load(Ordering::Acquire) == THREADS;
                Ok(all.then_some(()))
            });
            field.clear_all();
            let ledgers: Result<Vec<_>> = workers
                .into_iter()
                .map(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
                .collect();
            let idle = all?.is_some();
            Ok::<_, dmaplane_testkit::Error>((ledgers, done, idle))
        })
        .and_then(|(ledgers, done, idle)| {
            let ledgers = ledgers.with_context(|| format!("seed {seed}"))?;
            let done = done.with_context(|| format!("seed {seed}: a misfortune"))?;
            ensure!(idle, "the workers hang");
            Ok((ledgers, done))
        })?;
        let took: Duration = start.elapsed();
        let pushed = count.pushed.load(Ordering::Relaxed);
        let completed: u64 = ledgers.iter().map(Ledger::completed).sum();
        println!("{pushed} operations, {completed} completions in {took:?}; misfortunes: {done:?}");
        print(&ledgers);
        // Every kind, and in earnest.
        for (op, name) in OPERATIONS.iter().enumerate() {
            let ends = ledgers.iter().flat_map(|ledger| &ledger.ends);
            let well = ends.filter(|((of, state, _), _)| {
                usize::from(*of) == op && State::from(*state) == State::Ok
            });
            let well: u64 = well.map(|(_, count)| count).sum();
            ensure!(well >= wanted / 5000, "only {well} {name} ended well");
        }
        ensure!(
            pushed == completed && pushed >= wanted,
            "{pushed} operations, {completed} completions"
        );
        Ok(())
    });
}
