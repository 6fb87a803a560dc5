// SPDX-License-Identifier: MIT OR Apache-2.0

//! The table of races: each event that ends something, against work that is under way, at random moments and with
//! delays at the driver's delay points. Whoever wins, every operation ends once, nothing is left, and the next transfer
//! works.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dmaplane::{
    Buffer, Channel, Context, Endpoint, Entry, GrantTerms, Placement, Polling, RemoteGrant, State,
    Tier,
};
use dmaplane_guest_tests::device::{Bound, device, rebound};
use dmaplane_guest_tests::swept::ordinary;
use dmaplane_guest_tests::{Connection, Loopback};
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::disposable::{DisposableNetdev, LinkFault};
use dmaplane_testkit::faults::{self, record};
use dmaplane_testkit::guest::Topology;
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::peer::protocol::Request;
use dmaplane_testkit::rdma::Link;
use dmaplane_testkit::run::test_without_gauges;
use dmaplane_testkit::{
    ErrorContext as _, Gauges, Guest, Result, anyhow, ensure, gauges, module, seed, sys, test,
};

const PAGE: u32 = 4096;
/// Operations under way.
const WORK: u64 = 32;
/// Rounds between two checks of the gauges.
const INTERVAL: u64 = 25;

/// How often each race is run, with and without delay points.
fn iterations(guest: &Guest) -> u64 {
    let asked = std::env::var("DMAPLANE_ITERATIONS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let full = guest.pick(1000, 100);
        if faults::full() {
            full
        } else {
            guest.pick(10, 2)
        }
    })
}

/// Runs a race so many times without a delay point, and so many times again with each of them in turn.
fn race(
    guest: &Guest,
    name: &str,
    delay_points: &[&str],
    mut once: impl FnMut(&mut Numbers) -> Result<()>,
) -> Result<()> {
    let seed = seed()?;
    let mut numbers = Numbers::new(seed);
    let before = Gauges::read()?;
    let count = iterations(guest);
    let length = Duration::from_micros(guest.pick(1_000, 10_000));
    for (kind, rounds) in [(None, count), (Some(delay_points), count)] {
        let start = Instant::now();
        for round in 0..rounds {
            let point = kind.and_then(|names| names.get(round as usize % names.len().max(1)));
            let _delay = point
                .map(|name| DelayPoint::open(name, length))
                .transpose()?;
            let done = once(&mut numbers);
            done.with_context(|| format!("seed {seed}, delay point {point:?}, round {round}"))?;
            if round % INTERVAL == 0 || round + 1 == rounds {
                gauges::settle(&before, guest.limit(10)).with_context(|| {
                    format!("seed {seed}, delay point {point:?}, round {round}")
                })?;
            }
        }
        let suffix = if kind.is_some() { ", delayed" } else { "" };
        let milliseconds = u64::try_from(start.elapsed().as_millis())?;
        println!("{name}{suffix}: {rounds} iterations in {milliseconds} ms");
        record(|record| record.race(&format!("{name}{suffix}"), rounds, milliseconds))?;
    }
    ordinary(guest)
}

/// Spins for a random time up to `microseconds`: meanwhile the operations proceed.
fn moment(numbers: &mut Numbers, microseconds: u64) {
    let end = Instant::now() + Duration::from_micros(numbers.below(microseconds));
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// What one side works with. Fields are dropped from top to bottom.
struct Work {
    channel: Channel,
    given: RemoteGrant,
    mine: Buffer,
}

impl Work {
    fn new(near: &Context, given: RemoteGrant, numbers: &mut Numbers) -> Result<Self> {
        let mine = Buffer::create(near, PAGE.into(), Placement::Any)?;
        Self::over(near, given, mine, numbers)
    }

    /// From this memory.
    fn over(
        near: &Context,
        given: RemoteGrant,
        mine: Buffer,
        numbers: &mut Numbers,
    ) -> Result<Self> {
        let mut builder = Channel::builder().entries(64);
        // The caller takes the entries, or a kernel thread by itself.
        if numbers.below(4) == 0 {
            builder = builder.polling(Polling::default());
        }
        Ok(Self {
            channel: builder.build(near)?,
            given,
            mine,
        })
    }

    /// Submits operations of every kind, each with a name of its own.
    fn submit(&mut self, near: &Endpoint) -> Result<()> {
        let (mine, given) = (&self.mine, &self.given);
        for name in 0..WORK {
            let entry = match name % 8 {
                0 => Entry::recv(near),
                1 => Entry::send(near, mine.range(0, 8), 0),
                2 => Entry::fence(near),
                3 => Entry::read(mine.range(0, PAGE), given.at(0)),
                4 => Entry::write_imm(mine.range(0, PAGE), given.at(0), 1),
                5 => Entry::copy(mine.range(0, 512), mine, 1024),
                6 => Entry::watch(near, 0, 0, u32::MAX),
                _ => Entry::write(mine.range(0, PAGE), given.at(0)),
            };
            self.channel.push(entry.user_data(name))?;
        }
        self.channel.submit()?;
        Ok(())
    }

    /// Waits until each operation has its one completion, all in `states`.
    fn finish(&mut self, guest: &Guest, states: &[State]) -> Result<()> {
        self.finish_and(guest, states, || Ok(()))
    }

    /// As [`Self::finish`]; calls `meanwhile` between two checks.
    fn finish_and(
        &mut self,
        guest: &Guest,
        states: &[State],
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let mut ended = [0u32; WORK as usize];
        let start = Instant::now();
        while ended.iter().sum::<u32>() < WORK as u32 {
            ensure!(
                start.elapsed() < guest.limit(20),
                "operations without a completion: {ended:?}"
            );
            meanwhile()?;
            self.channel
                .submit_and_wait(1, Duration::from_millis(100))?;
            let done: Vec<_> = self.channel.completions().collect();
            for done in done {
                ensure!(states.contains(&done.state()), "{done:?}");
                ended[usize::try_from(done.user_data())?] += 1;
            }
        }
        ensure!(ended.iter().all(|count| *count == 1), "{ended:?}");
        Ok(())
    }

    /// Cancels what would wait for the other side for ever, and finishes.
    fn cancel_and_finish(&mut self, guest: &Guest, states: &[State]) -> Result<()> {
        let near = self.mine.context().clone();
        let mut other = Channel::builder().entries(1).build(&near)?;
        let limit = guest.limit(10);
        // Again and again: a polling thread may take an entry after a cancel.
        self.finish_and(guest, states, || {
            other.push(Entry::cancel_all())?;
            other.submit_and_wait(1, limit)?;
            other.completions().for_each(drop);
            Ok(())
        })
    }
}

/// Both sides in this process, and the near one's work. Fields are dropped from top to bottom.
struct Field {
    work: Work,
    own: dmaplane::LocalGrant,
    theirs: Buffer,
    local: Loopback,
}

impl Field {
    fn new(guest: &Guest, numbers: &mut Numbers) -> Result<Self> {
        Self::of(guest, Loopback::new(guest)?, numbers)
    }

    fn of(guest: &Guest, local: Loopback, numbers: &mut Numbers) -> Result<Self> {
        let terms = GrantTerms {
            rights: dmaplane::Rights::from_bits(3),
            ..Default::default()
        };
        let (theirs, own, given) = local.granted(guest, &terms)?;
        let work = Work::new(&local.near_context, given, numbers)?;
        Ok(Self {
            work,
            own,
            theirs,
            local,
        })
    }
}

/// How operations end that were interrupted.
const CUT: &[State] = &[
    State::Ok,
    State::Canceled,
    State::PeerDead,
    State::Error,
    State::Revoked,
];

#[test]
fn race_close() {
    test(|guest| {
        race(
            guest,
            "close",
            &["entry_accepted", "work_completed", "ending", "dequeued"],
            |numbers| {
                let mut field = Field::new(guest, numbers)?;
                field.work.submit(&field.local.near)?;
                moment(numbers, 3000);
                // The file goes at once, and its mappings behind it.
                sys::close_behind(field.local.near_context.as_fd())?;
                drop(field);
                Ok(())
            },
        )
    });
}

#[test]
fn race_munmap() {
    test(|guest| {
        race(
            guest,
            "munmap",
            &["entry_accepted", "work_completed"],
            |numbers| {
                let mut field = Field::new(guest, numbers)?;
                let second = field.work.mine.map(0..PAGE.into())?;
                second.write_at(0, &[7; 64]);
                field.work.submit(&field.local.near)?;
                moment(numbers, 1000);
                drop(second);
                field.work.cancel_and_finish(guest, CUT)
            },
        )
    });
}

#[test]
fn race_destroy() {
    test(|guest| {
        race(
            guest,
            "destroy",
            &["entry_accepted", "work_completed", "ending", "dequeued"],
            |numbers| {
                let Field {
                    mut work,
                    own,
                    theirs,
                    local,
                } = Field::new(guest, numbers)?;
                let Loopback {
                    near,
                    far,
                    near_context: _near,
                    far_context: _far,
                } = local;
                let what = numbers.below(3);
                work.submit(&near)?;
                moment(numbers, 2000);
                match what {
                    0 => drop(near),
                    1 => drop(far),
                    _ => drop((theirs, own)),
                }
                work.cancel_and_finish(guest, CUT)
            },
        )
    });
}

#[test]
fn race_revoke() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let done = race(
            guest,
            "revoke",
            &["grant_returned", "work_completed", "entry_accepted"],
            |numbers| {
                let (theirs, own, given) = local.granted(guest, &GrantTerms::default())?;
                let mut channel = Channel::builder().entries(64).build(&local.near_context)?;
                let mine = Buffer::create(&local.near_context, PAGE.into(), Placement::Any)?;
                mine.write_at(0, &[0xee; PAGE as usize]);
                for name in 0..WORK {
                    channel.push(Entry::write(mine.range(0, PAGE), given.at(0)).user_data(name))?;
                }
                channel.submit()?;
                moment(numbers, 2000);
                drop(own);
                // From here on the memory is this side's alone.
                theirs.write_at(0, &[0x11; PAGE as usize]);
                let mut work = Work {
                    channel,
                    given,
                    mine,
                };
                work.finish(guest, &[State::Ok, State::Revoked])?;
                ensure!(
                    theirs.to_vec(0..PAGE.into()) == [0x11; PAGE as usize],
                    "a late write"
                );
                Ok(())
            },
        );
        drop(local);
        done
    });
}

#[test]
fn race_kill() {
    test(|guest| {
        race(
            guest,
            "kill -9",
            &["work_completed", "receive_completed", "ending"],
            |numbers| {
                let mut connection = Connection::to_peer(guest)?;
                let (_theirs, given) = connection.remote_buffer(guest, PAGE.into())?;
                let (_mine, _grant, taken) = connection.local_buffer(guest, PAGE.into())?;
                let source = connection
                    .peer
                    .create(Request::CreateBuffer { bytes: PAGE.into() })?;
                let limit_ms = connection.peer.limit_ms();
                let _unanswered = connection.peer.begin(Request::Send {
                    buffer: source,
                    grant: taken,
                    length: PAGE.into(),
                    chunk: PAGE,
                    order_seed: 0,
                    immediates: false,
                    rounds: u64::MAX,
                    depth: 16,
                    limit_ms,
                })?;
                let mut work = Work::new(&connection.context, given, numbers)?;
                work.submit(&connection.endpoint)?;
                moment(numbers, 5000);
                connection.peer.start_kill()?;
                work.finish(guest, CUT)
            },
        )
    });
}

#[test]
fn race_link_removal() {
    test(|guest| {
        let link = Link::only()?;
        race(
            guest,
            "rdma link del",
            &["ending", "work_completed", "entry_accepted"],
            |numbers| {
                let mut field = Field::new(guest, numbers)?;
                field.work.submit(&field.local.near)?;
                moment(numbers, 3000);
                let deleted = link.delete();
                let finished = field.work.finish(guest, CUT);
                // Made again in any case, for the next test.
                link.add()?;
                deleted?;
                finished
            },
        )
    });
}

#[test]
fn race_device_removal() {
    test(|guest| {
        let watching = Context::open()?;
        device(guest, &watching)?;
        race(
            guest,
            "PCI remove",
            &["device_removal", "revocation_begun", "use_begun", "drained"],
            |numbers| {
                let device = rebound(guest, &watching, 0)?;
                let bound = Bound::of(&device)?;
                let local = Loopback::new(guest)?;
                let near = &local.near_context;
                let mine =
                    Buffer::on_device(near, device.number, Tier::Uncached, PAGE.into(), None)?;
                let terms = GrantTerms {
                    rights: dmaplane::Rights::from_bits(3),
                    ..Default::default()
                };
                let (_theirs, _own, given) = local.granted(guest, &terms)?;
                let mut work = Work::over(near, given, mine, numbers)?;
                work.submit(&local.near)?;
                moment(numbers, 2000);
                let unbound = bound.unbind();
                let finished = work.cancel_and_finish(guest, CUT);
                // Bound again in any case, for the next test.
                bound.bind()?;
                unbound?;
                finished
            },
        )
    });
}

#[test]
fn race_netdev_removal() {
    test(|guest| {
        race(
            guest,
            "netdev removal",
            &["ending", "work_completed", "entry_accepted"],
            |numbers| {
                DisposableNetdev::with(|netdev| {
                    let address = SocketAddr::new(netdev.address, 0);
                    let local = Loopback::at(guest, address, (0, 0));
                    let mut field = Field::of(guest, local.context("connecting")?, numbers)?;
                    field.work.submit(&field.local.near)?;
                    moment(numbers, 3000);
                    netdev.inject(LinkFault::DeleteInterface, guest.limit(10))?;
                    field.work.finish(guest, CUT)
                })
            },
        )
    });
}

#[test]
fn race_unload() {
    test_without_gauges(|guest| {
        guest.require(
            &[Topology::Numa2, Topology::Numa4],
            "the module of the other guest stays",
        )?;
        let path = module::path()?;
        let limit = guest.limit(10);
        race(guest, "rmmod", &["work_completed", "ending"], |numbers| {
            let mut field = Field::new(guest, numbers)?;
            field.work.submit(&field.local.near)?;
            let closed = AtomicBool::new(false);
            let pause = numbers.below(3000);
            std::thread::scope(|scope| -> Result<()> {
                let unloader = scope.spawn(|| -> Result<()> {
                    // Refused while the module is in use; works as soon as the last user is gone.
                    loop {
                        let over = closed.load(Ordering::Acquire);
                        if module::try_unload().is_ok() {
                            return Ok(());
                        }
                        if over {
                            return module::unload(limit);
                        }
                    }
                });
                let mut own = Numbers::new(pause);
                moment(&mut own, pause + 1);
                drop(field);
                closed.store(true, Ordering::Release);
                unloader
                    .join()
                    .map_err(|_| anyhow!("the unloading thread panicked"))?
            })?;
            module::load(&path, limit)
        })
    });
}
