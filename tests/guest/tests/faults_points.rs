// SPDX-License-Identifier: MIT OR Apache-2.0

//! Each of the driver's fault points: alone, in the scenario that passes it, and several at once by seed.

use dmaplane::{Context, DeviceInfo, Errno};
use dmaplane_guest_tests::device::Bound;
use dmaplane_guest_tests::scenario::{BIG, Plan, Steps, scenario};
use dmaplane_guest_tests::swept::ordinary;
use dmaplane_testkit::faults::{self, Point, counts, names, record};
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::rdma::Link;
use dmaplane_testkit::{ErrorContext as _, Gauges, Guest, Result, ensure, gauges, seed, test};

/// What makes a point be passed, beside the usual scenario.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Nothing.
    Nothing,
    /// An operation of more than one work request.
    Big,
    /// A connection that stays up until heartbeats pass this point.
    Heartbeats(&'static str),
    /// That the RDMA device goes and comes.
    Device,
    /// That the driver takes a device with memory, which may fail.
    Bar,
}

fn needs(point: &str) -> Needs {
    match point {
        "post_part" | "complete_part" => Needs::Big,
        "heartbeat_lost" => Needs::Heartbeats("heartbeat_lost"),
        "timer_late" => Needs::Heartbeats("timer_late"),
        "alloc_device" | "remove_slow" => Needs::Device,
        "probe_bar" => Needs::Bar,
        _ => Needs::Nothing,
    }
}

/// The device with memory leaves the driver and is given back to it, by its address: it may have failed to take it last time.
fn bar_again(may_fail: bool) -> Result<()> {
    let there = DeviceInfo::list(&Context::open()?)?;
    let bound = Bound::any()?.context("no device with memory")?;
    if !there.is_empty() {
        bound.unbind()?;
    }
    let Err(error) = bound.bind() else {
        return Ok(());
    };
    let errno = error.root_cause().downcast_ref::<std::io::Error>();
    let errno = errno.and_then(std::io::Error::raw_os_error);
    let as_it_may = may_fail && errno == Some(Errno::NOMEM.raw_os_error());
    ensure!(as_it_may, "{error:#}");
    let there = DeviceInfo::list(&Context::open()?)?;
    ensure!(there.is_empty(), "not taken, but there: {there:?}");
    Ok(())
}

/// Goes through a scenario in which faults may happen; whether something failed.
fn go(guest: &Guest, needs: Needs, polled: bool) -> Result<bool> {
    let plan = Plan {
        polled,
        bytes: if needs == Needs::Big { BIG } else { 4096 },
        until: match needs {
            Needs::Heartbeats(point) => Some(point),
            _ => None,
        },
    };
    let link = Link::only()?;
    if needs == Needs::Device {
        link.delete()?;
        link.add()?;
    }
    if needs == Needs::Bar {
        bar_again(true)?;
    }
    let mut steps = Steps::new(None);
    let done = scenario(guest, &mut steps, &plan);
    if needs == Needs::Device {
        link.delete()?;
        link.add()?;
    }
    done.map(|()| steps.failed)
}

/// Makes the driver know the device again, if a fault kept it from that.
fn afresh(needs: Needs) -> Result<()> {
    if needs == Needs::Bar {
        bar_again(false)?;
    }
    if needs == Needs::Device {
        let link = Link::only()?;
        link.delete()?;
        link.add()?;
    }
    Ok(())
}

/// The points that were asked for by name (`cargo xtask vm-test --faults --point NAME`), else all.
fn chosen() -> Result<Vec<String>> {
    let all = names()?;
    let Ok(wanted) = std::env::var("DMAPLANE_POINTS") else {
        return Ok(all);
    };
    let wanted: Vec<String> = wanted.split(',').map(str::to_owned).collect();
    for name in &wanted {
        ensure!(
            all.contains(name),
            "no fault point {name}; there are {all:?}"
        );
    }
    Ok(wanted)
}

/// One point: the next time only, each time, and now and then.
fn alone(guest: &Guest, name: &str) -> Result<()> {
    let needs = needs(name);
    if needs == Needs::Bar && Bound::any()?.is_none() {
        println!("{name}: not passed, because this machine has no device with memory");
        return Ok(());
    }
    let idle = Gauges::read()?;
    let before = counts()?;
    let once = Point::once(name)?;
    go(guest, needs, false).context("once")?;
    drop(once);
    afresh(needs)?;
    let fired = counts()?[name].fired - before[name].fired;
    println!("{name}: fired {fired}");
    ensure!(fired > 0, "not fired: {:?}", counts()?[name]);
    let often = guest.pick(4, 1);
    if faults::full() {
        let always = Point::always(name)?;
        go(guest, needs, false).context("always")?;
        go(guest, needs, true).context("always, with a polling thread")?;
        drop(always);
        afresh(needs)?;
        for interval in 2..2 + often {
            let every = Point::every(name, interval)?;
            go(guest, needs, interval % 2 == 1).with_context(|| format!("each {interval}"))?;
            drop(every);
            afresh(needs)?;
        }
    }
    ordinary(guest).context("afterwards")?;
    gauges::settle(&idle, guest.limit(10))
}

#[test]
fn point_each_fires_and_nothing_is_lost() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let mut wrong = Vec::new();
        // Everyday runs on a kernel that checks everything look at a third of them, each time at another one.
        let stride = if faults::full() { 1 } else { guest.pick(1, 3) };
        let first = usize::try_from(seed()?)? % stride;
        for name in chosen()?.into_iter().skip(first).step_by(stride) {
            // One finding does not hide the others.
            if let Err(error) = alone(guest, &name) {
                wrong.push(format!("{name}: {error:#}"));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        record(|_| ())
    });
}

#[test]
fn point_storm_by_seed() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let seed = seed()?;
        let mut numbers = Numbers::new(seed);
        let all = chosen()?;
        let rounds = if faults::full() {
            guest.pick(150, 30)
        } else {
            guest.pick(15, 4)
        };
        let mut failed = 0;
        for round in 0..rounds {
            let mut points = Vec::new();
            let mut setup = Vec::new();
            let mut asked = Needs::Nothing;
            for _ in 0..1 + numbers.below(4) {
                let name = &all[numbers.below(all.len() as u64) as usize];
                // One scenario cannot meet the needs of all of them: it meets those of the first that has any.
                if asked == Needs::Nothing {
                    asked = needs(name);
                }
                // By counting, not by chance: so only the scheduling of the threads is not determined by the seed.
                let interval = 2 + numbers.below(40);
                // If a point comes twice, its last setting holds.
                points.push(Point::every(name, interval)?);
                setup.push(format!("{name} each {interval}"));
            }
            let big = numbers.below(16) == 0;
            let polled = numbers.below(4) == 0;
            let needs = if big { Needs::Big } else { asked };
            setup.extend(polled.then(|| "a polling thread".to_owned()));
            let once = go(guest, needs, polled)
                .with_context(|| format!("seed {seed}, round {round}: {}", setup.join(", ")))?;
            failed += u64::from(once);
            drop(points);
            afresh(needs)?;
        }
        println!("{failed} of {rounds} scenarios failed for their faults");
        record(|record| record.seeds.push(seed))?;
        ordinary(guest)
    });
}
