// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a connection depends on is removed: the interface, its address, the RDMA device. Under work, with a delay at
//! each step of the removal, and without.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dmaplane::{
    Buffer, Channel, ConnectOptions, Context, Endpoint, EndpointState, Entry, Errno, GrantTerms,
    Listener, Placement, Polling, State,
};
use dmaplane_guest_tests::{Connection, Loopback, complete, refusal, under_way};
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::disposable::{DisposableNetdev, LinkFault, SavedLinks};
use dmaplane_testkit::{
    ErrorContext as _, Guest, Profile, Result, Skip, anyhow, ensure, poll, seed, test,
};

/// Seconds until both sides must know, before scaling: retries and heartbeats have passed by then.
const SOON: u64 = 20;
const DEPTH: u64 = 16;

/// A connection over the disposable device. The device may take a moment to know its address: it does once a port where
/// nobody listens refuses.
fn connect(guest: &Guest, netdev: &DisposableNetdev) -> Result<Loopback> {
    let context = Context::open()?;
    let nobody = SocketAddr::new(netdev.address, 1);
    let mut last = None;
    let refused = poll::until(guest.limit(30), || {
        let options = ConnectOptions {
            timeout: guest.limit(5),
            ..Default::default()
        };
        last = Some(refusal(Endpoint::connect(&context, nobody, &options))?);
        Ok((last == Some(Errno::CONNREFUSED)).then_some(()))
    })?;
    ensure!(refused.is_some(), "{nobody} cannot be reached: {last:?}");
    Loopback::at(guest, SocketAddr::new(netdev.address, 0), (0, 0))
}

/// Whether an endpoint has ended because the device went: its own end, or the other's, whichever came first.
fn went_with_the_device(endpoint: &Endpoint) -> Result<()> {
    let state = endpoint.query()?.state;
    let ends = [Errno::NODEV, Errno::CONNRESET].map(EndpointState::Down);
    ensure!(ends.contains(&state), "{state:?}");
    Ok(())
}

/// Works over both sides until something fails: writes, receives, and fences. Every operation has its one completion.
/// Gives the states in which they ended.
fn work(local: &Loopback, guest: &Guest, polled: bool, progress: &AtomicU64) -> Result<Vec<State>> {
    let (_theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
    let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
    let mut builder = Channel::builder().entries(32);
    if polled {
        builder = builder.polling(Polling::default());
    }
    let mut here = builder.build(&local.near_context)?;
    let mut there = Channel::builder().entries(32).build(&local.far_context)?;
    let (mut open, mut ends) = (std::collections::HashSet::new(), Vec::new());
    let mut next = 0;
    for _ in 0..4 {
        there.push(Entry::recv(&local.far))?;
    }
    there.submit()?;
    loop {
        while ends.is_empty() && (open.len() as u64) < DEPTH {
            let entry = match next % 8 {
                7 => Entry::fence(&local.near),
                6 => Entry::write_imm(mine.range(0, 64), given.at(0), 0),
                _ => Entry::write(mine.range(0, 4096), given.at(0)),
            };
            here.push(entry.user_data(next))?;
            open.insert(next);
            next += 1;
        }
        if open.is_empty() {
            break;
        }
        let done = here.submit_and_wait(1, guest.limit(SOON))?;
        ensure!(done.available > 0, "{} operations hang", open.len());
        for done in here.completions() {
            ensure!(open.remove(&done.user_data()), "twice: {done:?}");
            if !done.is_ok() {
                ends.push(done.state());
            }
            progress.fetch_add(1, Ordering::Relaxed);
        }
        // Posts receives again, as long as they end well.
        let arrived: Vec<_> = there.completions().collect();
        for done in arrived {
            if done.is_ok() {
                there.push(Entry::recv(&local.far))?;
            }
        }
        there.submit()?;
    }
    Ok(ends)
}

/// Whether an operation of a survivor may end like this.
fn is_an_end(state: State) -> bool {
    matches!(state, State::PeerDead | State::Canceled | State::Error)
}

/// Injects a fault under work, and checks that all of it ends and that everything works again afterwards.
fn inject_and_recover(
    guest: &Guest,
    netdev: &DisposableNetdev,
    fault: LinkFault,
    polled: bool,
) -> Result<()> {
    inject(guest, netdev, fault, polled)?;
    netdev.restore()?;
    drop(connect(guest, netdev)?);
    Ok(())
}

/// Injects a fault under work, and checks that all of it ends.
fn inject(guest: &Guest, netdev: &DisposableNetdev, fault: LinkFault, polled: bool) -> Result<()> {
    let local = connect(guest, netdev)?;
    let progress = AtomicU64::new(0);
    let (ends, took) = thread::scope(|scope| -> Result<_> {
        let working = scope.spawn(|| work(&local, guest, polled, &progress));
        let started = under_way(&progress, 2 * DEPTH, guest.limit(20));
        let start = Instant::now();
        let injected = netdev.inject(fault, guest.limit(10));
        if injected.is_err() {
            // Otherwise the work would not end.
            netdev.inject(LinkFault::DeleteLink, guest.limit(10))?;
        }
        let ends = working.join().map_err(|_| anyhow!("the worker panicked"))?;
        injected?;
        started?;
        let ends = ends?;
        let took = start.elapsed();
        ensure!(took < guest.limit(5), "{fault:?}: {took:?}");
        Ok((ends, took))
    })?;
    ensure!(ends.iter().all(|state| is_an_end(*state)), "{ends:?}");
    println!(
        "{fault:?}: reported after {took:?}, {} operations cut off",
        ends.len()
    );
    for (side, endpoint) in [("near", &local.near), ("far", &local.far)] {
        let down = poll::until(guest.limit(SOON), || {
            let state = endpoint.query()?.state;
            Ok((state != EndpointState::Up).then_some(()))
        })?;
        down.with_context(|| format!("{fault:?}: the {side} side is up"))?;
        went_with_the_device(endpoint).context(side)?;
    }
    Ok(())
}

#[test]
fn death_of_the_own_interface() {
    test(|guest| {
        DisposableNetdev::with(|netdev| {
            for round in 0..guest.pick(6, 2) {
                inject_and_recover(guest, netdev, LinkFault::DeleteInterface, round % 2 == 1)?;
            }
            Ok(())
        })
    });
}

#[test]
fn death_of_the_own_interface_takes_long() {
    test(|guest| {
        // Longer than the kernel waits before it announces the removal again: rxe handles each announcement.
        let length = Duration::from_secs(1);
        DisposableNetdev::with(|netdev| {
            let _removing = DelayPoint::open("rdma_removal", length)?;
            let _down = DelayPoint::open("ending", length * 7 / 10)?;
            inject_and_recover(guest, netdev, LinkFault::DeleteInterface, false)
        })?;
        // No other device is affected.
        drop(Connection::to_peer(guest)?);
        drop(Connection::from_peer(guest)?);
        Ok(())
    });
}

#[test]
fn death_of_the_provider() {
    test(|guest| {
        if guest.profile == Profile::Debug {
            let why = "with lockdep, sockets of rxe hold its module, see docs/findings.md";
            return Err(Skip::new(why).into());
        }
        let saved = SavedLinks::note(guest)?;
        DisposableNetdev::with(|netdev| {
            for round in 0..4 {
                let polled = round % 2 == 1;
                inject(guest, netdev, LinkFault::UnloadProvider, polled)?;
                saved.restore()?;
                netdev.restore()?;
                drop(connect(guest, netdev)?);
            }
            Ok(())
        })
    });
}

#[test]
fn death_of_the_own_link_at_every_delay_point() {
    test(|guest| {
        let seed = seed()?;
        DisposableNetdev::with(|netdev| {
            let length = Duration::from_millis(guest.pick(20, 60));
            let delay_points = [
                "rdma_removal",
                "disconnect_event",
                "ending",
                "work_completed",
                "entry_accepted",
                "receive_completed",
            ];
            let names = [None].into_iter().chain(delay_points.into_iter().map(Some));
            for (nth, name) in names.enumerate() {
                let faults = [LinkFault::DeleteLink, LinkFault::DeleteInterface];
                // Both at each point in runs of full length, one or the other elsewhere.
                let turn = (nth as u64 + seed) as usize % 2;
                let faults = if guest.long {
                    &faults[..]
                } else {
                    &faults[turn..=turn]
                };
                for fault in faults.iter().copied() {
                    let local = connect(guest, netdev)?;
                    let delay = name
                        .map(|name| DelayPoint::open(name, length))
                        .transpose()?;
                    let progress = AtomicU64::new(0);
                    let over = AtomicBool::new(false);
                    let result = thread::scope(|scope| -> Result<()> {
                        let working = scope.spawn(|| work(&local, guest, false, &progress));
                        // Whatever comes up during the removal.
                        let coming = scope.spawn(|| -> Result<()> {
                            let context = Context::open()?;
                            let address = SocketAddr::new(netdev.address, 0);
                            while !over.load(Ordering::Relaxed) {
                                let listener = Listener::bind(&context, address, 1);
                                if listener.is_err() {
                                    thread::yield_now();
                                }
                            }
                            Ok(())
                        });
                        let started = under_way(&progress, DEPTH, guest.limit(20));
                        let injected = netdev.inject(fault, guest.limit(10));
                        let ends = working.join();
                        over.store(true, Ordering::Relaxed);
                        let came = coming.join();
                        started?;
                        injected?;
                        came.map_err(|_| anyhow!("the listener panicked"))??;
                        let ends = ends.map_err(|_| anyhow!("the worker panicked"))??;
                        ensure!(ends.iter().all(|state| is_an_end(*state)), "{ends:?}");
                        Ok(())
                    });
                    drop(delay);
                    result.with_context(|| format!("delay point {name:?}, {fault:?}"))?;
                    went_with_the_device(&local.near)?;
                    went_with_the_device(&local.far)?;
                    drop(local);
                    netdev.restore()?;
                }
            }
            Ok(())
        })
    });
}

#[test]
fn death_of_the_own_address() {
    test(|guest| {
        DisposableNetdev::with(|netdev| {
            for fault in [LinkFault::SetDown, LinkFault::RemoveAddress] {
                let local = connect(guest, netdev)?;
                let progress = AtomicU64::new(0);
                let over = AtomicBool::new(false);
                // Whether the device still carries traffic to itself is up to rxe: all ends, well or not.
                thread::scope(|scope| -> Result<()> {
                    let working = scope.spawn(|| until_over(&local, guest, &progress, &over));
                    let started = under_way(&progress, 2 * DEPTH, guest.limit(20));
                    let injected = netdev.inject(fault, guest.limit(10));
                    let seen = progress.load(Ordering::Relaxed);
                    let more = poll::until(guest.limit(SOON), || {
                        let more = progress.load(Ordering::Relaxed) > seen + DEPTH;
                        Ok((more || working.is_finished()).then_some(more))
                    });
                    over.store(true, Ordering::Relaxed);
                    let ends = working
                        .join()
                        .map_err(|_| anyhow!("the worker panicked"))??;
                    started?;
                    injected?;
                    println!("{fault:?}: {ends:?}, carried on: {:?}", more?);
                    Ok(())
                })?;
                drop(local);
                // Once its interface was down, rxe sends no more messages of the connection manager: makes it anew.
                netdev.inject(LinkFault::DeleteLink, guest.limit(10))?;
                netdev.restore()?;
                drop(connect(guest, netdev)?);
            }
            Ok(())
        })
    });
}

/// Writes until it is over or something fails; every operation has its one completion.
fn until_over(
    local: &Loopback,
    guest: &Guest,
    progress: &AtomicU64,
    over: &AtomicBool,
) -> Result<Vec<State>> {
    let (_theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
    let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
    let mut here = Channel::builder().entries(16).build(&local.near_context)?;
    let mut ends = Vec::new();
    while ends.is_empty() && !over.load(Ordering::Relaxed) {
        for name in 0..DEPTH {
            here.push(Entry::write(mine.range(0, 4096), given.at(0)).user_data(name))?;
        }
        for done in complete(&mut here, DEPTH as u32, guest.limit(SOON))? {
            if !done.is_ok() {
                ends.push(done.state());
            }
            progress.fetch_add(1, Ordering::Relaxed);
        }
    }
    ensure!(ends.iter().all(|state| is_an_end(*state)), "{ends:?}");
    Ok(ends)
}
