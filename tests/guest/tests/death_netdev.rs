// SPDX-License-Identifier: MIT OR Apache-2.0

//! What is below a connection goes: the interface, its address, the RDMA device. Under work, with each moment of the
//! removal forced open, and without.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dmaplane::{
    Buffer, Channel, ConnectOptions, Context, Endpoint, EndpointState, Entry, Errno, GrantTerms,
    Listener, Placement, Polling, State,
};
use dmaplane_guest_tests::{Connection, Local, complete, refusal, under_way};
use dmaplane_testkit::spare::{Foundations, Spare, Strike};
use dmaplane_testkit::window::Window;
use dmaplane_testkit::{
    ErrorContext as _, Guest, Profile, Result, Skip, anyhow, ensure, poll, test,
};

/// Seconds until both sides must know, before scaling: retries and heartbeats have passed by then.
const SOON: u64 = 20;
const DEPTH: u64 = 16;

/// A connection over the spare device. Its address may take a moment to be known there: then a port where nobody listens
/// refuses.
fn connect(guest: &Guest, spare: &Spare) -> Result<Local> {
    let context = Context::open()?;
    let nobody = SocketAddr::new(spare.address, 1);
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
    Local::at(guest, SocketAddr::new(spare.address, 0), (0, 0))
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
fn work(local: &Local, guest: &Guest, polled: bool, progress: &AtomicU64) -> Result<Vec<State>> {
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
        // Receives are there again, as long as they end well.
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

/// What survivors may hear.
fn is_an_end(state: State) -> bool {
    matches!(state, State::PeerDead | State::Canceled | State::Error)
}

/// Strikes while there is work, and looks that all ends and works again afterwards.
fn strike_and_recover(guest: &Guest, spare: &Spare, how: Strike, polled: bool) -> Result<()> {
    strike(guest, spare, how, polled)?;
    spare.restore()?;
    drop(connect(guest, spare)?);
    Ok(())
}

/// Strikes while there is work, and looks that all ends.
fn strike(guest: &Guest, spare: &Spare, strike: Strike, polled: bool) -> Result<()> {
    let local = connect(guest, spare)?;
    let progress = AtomicU64::new(0);
    let (ends, took) = thread::scope(|scope| -> Result<_> {
        let working = scope.spawn(|| work(&local, guest, polled, &progress));
        let started = under_way(&progress, 2 * DEPTH, guest.limit(20));
        let start = Instant::now();
        let struck = spare.strike(strike, guest.limit(10));
        if struck.is_err() {
            // Or the work has no end.
            spare.strike(Strike::DeleteLink, guest.limit(10))?;
        }
        let ends = working.join().map_err(|_| anyhow!("the worker panicked"))?;
        struck?;
        started?;
        let ends = ends?;
        let took = start.elapsed();
        ensure!(took < guest.limit(5), "{strike:?}: {took:?}");
        Ok((ends, took))
    })?;
    ensure!(ends.iter().all(|state| is_an_end(*state)), "{ends:?}");
    println!(
        "{strike:?}: told after {took:?}, {} operations cut off",
        ends.len()
    );
    for (side, endpoint) in [("near", &local.near), ("far", &local.far)] {
        let down = poll::until(guest.limit(SOON), || {
            let state = endpoint.query()?.state;
            Ok((state != EndpointState::Up).then_some(()))
        })?;
        down.with_context(|| format!("{strike:?}: the {side} side is up"))?;
        went_with_the_device(endpoint).context(side)?;
    }
    Ok(())
}

#[test]
fn death_of_the_own_interface() {
    test(|guest| {
        Spare::with(|spare| {
            for round in 0..guest.pick(6, 2) {
                strike_and_recover(guest, spare, Strike::DeleteInterface, round % 2 == 1)?;
            }
            Ok(())
        })
    });
}

#[test]
fn death_of_the_own_interface_takes_long() {
    test(|guest| {
        // Longer than the kernel waits before it announces the removal again, to which rxe listens.
        let length = Duration::from_secs(1);
        Spare::with(|spare| {
            let _removing = Window::open("removing", length)?;
            let _down = Window::open("down", length * 7 / 10)?;
            strike_and_recover(guest, spare, Strike::DeleteInterface, false)
        })?;
        // Nobody else notices.
        drop(Connection::to_peer(guest)?);
        drop(Connection::from_peer(guest)?);
        Ok(())
    });
}

#[test]
fn death_of_the_provider() {
    test(|guest| {
        if guest.profile == Profile::Debug {
            let why = "with lockdep, sockets of rxe hold its module, see ARCHITECTURE.md";
            return Err(Skip::new(why).into());
        }
        let foundations = Foundations::note(guest)?;
        Spare::with(|spare| {
            for round in 0..4 {
                let polled = round % 2 == 1;
                strike(guest, spare, Strike::UnloadProvider, polled)?;
                foundations.restore()?;
                spare.restore()?;
                drop(connect(guest, spare)?);
            }
            Ok(())
        })
    });
}

#[test]
fn death_of_the_own_link_in_every_window() {
    test(|guest| {
        Spare::with(|spare| {
            let length = Duration::from_millis(guest.pick(20, 60));
            let windows = ["removing", "told", "down", "landed", "accepted", "arrived"];
            for name in [None].into_iter().chain(windows.into_iter().map(Some)) {
                for strike in [Strike::DeleteLink, Strike::DeleteInterface] {
                    let local = connect(guest, spare)?;
                    let open = name.map(|name| Window::open(name, length)).transpose()?;
                    let progress = AtomicU64::new(0);
                    let over = AtomicBool::new(false);
                    let result = thread::scope(|scope| -> Result<()> {
                        let working = scope.spawn(|| work(&local, guest, false, &progress));
                        // Whatever comes up during the removal.
                        let coming = scope.spawn(|| -> Result<()> {
                            let context = Context::open()?;
                            let address = SocketAddr::new(spare.address, 0);
                            while !over.load(Ordering::Relaxed) {
                                let listener = Listener::bind(&context, address, 1);
                                if listener.is_err() {
                                    thread::yield_now();
                                }
                            }
                            Ok(())
                        });
                        let started = under_way(&progress, DEPTH, guest.limit(20));
                        let struck = spare.strike(strike, guest.limit(10));
                        let ends = working.join();
                        over.store(true, Ordering::Relaxed);
                        let came = coming.join();
                        started?;
                        struck?;
                        came.map_err(|_| anyhow!("the listener panicked"))??;
                        let ends = ends.map_err(|_| anyhow!("the worker panicked"))??;
                        ensure!(ends.iter().all(|state| is_an_end(*state)), "{ends:?}");
                        Ok(())
                    });
                    drop(open);
                    result.with_context(|| format!("window {name:?}, {strike:?}"))?;
                    went_with_the_device(&local.near)?;
                    went_with_the_device(&local.far)?;
                    drop(local);
                    spare.restore()?;
                }
            }
            Ok(())
        })
    });
}

#[test]
fn death_of_the_own_address() {
    test(|guest| {
        Spare::with(|spare| {
            for strike in [Strike::SetDown, Strike::RemoveAddress] {
                let local = connect(guest, spare)?;
                let progress = AtomicU64::new(0);
                let over = AtomicBool::new(false);
                // Whether the device still carries what is its own is rxe's affair: all ends well or not, but it ends.
                thread::scope(|scope| -> Result<()> {
                    let working = scope.spawn(|| until_over(&local, guest, &progress, &over));
                    let started = under_way(&progress, 2 * DEPTH, guest.limit(20));
                    let struck = spare.strike(strike, guest.limit(10));
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
                    struck?;
                    println!("{strike:?}: {ends:?}, carried on: {:?}", more?);
                    Ok(())
                })?;
                drop(local);
                // rxe sends no connection manager's messages any more after its interface was down: it is made anew.
                spare.strike(Strike::DeleteLink, guest.limit(10))?;
                spare.restore()?;
                drop(connect(guest, spare)?);
            }
            Ok(())
        })
    });
}

/// Writes until it is over or something fails; every operation has its one completion.
fn until_over(
    local: &Local,
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
