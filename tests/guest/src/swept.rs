// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the runs with faults have in common: which errors are documented, and the transfer that must work afterwards.

use dmaplane::{Buffer, Channel, Entry, Errno, Error, GrantTerms, Placement};
use dmaplane_testkit::faults::{self, Swept, record, sweep};
use dmaplane_testkit::{ErrorContext as _, Gauges, Guest, Result, ensure, gauges, seed};

use crate::{Loopback, complete};

/// What every call may end in when the kernel has no memory, or user space none to copy from or to.
pub const ALWAYS: &[Errno] = &[Errno::NOMEM, Errno::FAULT];

/// What a connection may end in besides.
pub const CONNECTING: &[Errno] = &[
    Errno::ADDRNOTAVAIL,
    Errno::HOSTUNREACH,
    Errno::CONNREFUSED,
    Errno::CONNABORTED,
    Errno::TIMEDOUT,
    Errno::PROTO,
    Errno::NODEV,
];

/// What granting may end in besides.
pub const GRANTING: &[Errno] = &[Errno::NOTCONN, Errno::TIMEDOUT, Errno::IO];

/// Fails unless a call succeeded or failed as it may; whether it failed.
///
/// # Errors
/// Names what it ended in.
pub fn as_documented<T>(result: &dmaplane::Result<T>, besides: &[Errno]) -> Result<bool> {
    let Err(error) = result else { return Ok(false) };
    let known = match error {
        // mmap(2) and eventfd(2) have their own words for no memory.
        Error::Map { source, .. } => [Errno::NOMEM, Errno::AGAIN].contains(source),
        Error::Event(errno) => [Errno::NOMEM, Errno::MFILE].contains(errno),
        _ => error
            .errno()
            .is_some_and(|errno| ALWAYS.contains(&errno) || besides.contains(&errno)),
    };
    ensure!(known, "an error that is not documented: {error:?}");
    Ok(true)
}

/// Sweeps `round`, compares the gauges after each of its rounds, and notes the result under a name.
///
/// # Errors
/// As [`sweep`], or when something was left behind.
pub fn swept(
    guest: &Guest,
    name: &str,
    mut round: impl FnMut(&mut faults::Nth) -> Result<bool>,
) -> Result<Swept> {
    let before = Gauges::read()?;
    // Everyday runs test some of the steps, each time others.
    let stride = if faults::full() { 1 } else { guest.pick(4, 10) };
    let first = u32::try_from(seed()? % u64::from(stride))?;
    let mut done = Swept::default();
    // With few steps, the kernel may compensate for every failure of one turn: then the next steps are tested too.
    for turn in 0..stride {
        let more = sweep((1 + (first + turn) % stride, stride), |nth| {
            let result = round(nth);
            gauges::settle(&before, guest.limit(10))?;
            result
        })
        .with_context(|| name.to_owned())?;
        done.faults += more.faults;
        done.failures += more.failures;
        if done.failures > 0 {
            break;
        }
    }
    println!("{name}: {} faults, {} failures", done.faults, done.failures);
    record(|record| record.sweep(name, done))?;
    Ok(done)
}

/// An ordinary transfer, as a proof that all is well: a write, a send, a fence, and the data is right.
///
/// # Errors
/// What went wrong.
pub fn ordinary(guest: &Guest) -> Result<()> {
    let local = Loopback::new(guest).context("the next ordinary connection")?;
    let (theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
    let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
    mine.write_at(0, &[0x5a; 4096]);
    let mut here = Channel::builder().entries(8).build(&local.near_context)?;
    let mut there = Channel::builder().entries(8).build(&local.far_context)?;
    there.push(Entry::recv(&local.far))?;
    there.push(Entry::recv(&local.far))?;
    there.submit()?;
    local.credited(guest, 2)?;
    here.push(Entry::write_imm(mine.range(0, 4096), given.at(0), 7))?;
    here.push(Entry::send(&local.near, mine.range(0, 8), 8))?;
    here.push(Entry::fence(&local.near))?;
    for done in complete(&mut here, 3, guest.limit(20))? {
        done.result().context("the next ordinary transfer")?;
    }
    let came: Vec<u32> = complete(&mut there, 2, guest.limit(20))?
        .iter()
        .map(dmaplane::Completion::imm)
        .collect();
    ensure!(came == [7, 8], "the next ordinary arrivals: {came:?}");
    ensure!(
        theirs.to_vec(0..4096) == [0x5a; 4096],
        "the next ordinary transfer brought wrong data"
    );
    Ok(())
}
