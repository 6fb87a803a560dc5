// SPDX-License-Identifier: MIT OR Apache-2.0

//! The whole life of a connection in one function, in which anything may fail: connect, grant, transfer in every way,
//! revoke, tear down. Whatever fails must fail as documented, and every accepted entry has exactly one completion.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dmaplane::{
    Buffer, Channel, Completion, ConnectOptions, Context, Endpoint, EndpointState, Entry, Errno,
    GrantTerms, Listener, LocalGrant, Placement, Polling, RemoteGrant, Rights, State,
};
use dmaplane_testkit::faults::{self, Nth};
use dmaplane_testkit::{ErrorContext as _, Guest, Result, anyhow, ensure, poll};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::swept::{ALWAYS, CONNECTING, GRANTING, as_documented};

/// More than a region's segment holds: the operation takes two work requests.
pub const BIG: u64 = (2 << 20) + 4096;
/// One page.
const PAGE: u64 = 4096;
/// Between two looks of somebody who accepts.
const LOOK: Duration = Duration::from_millis(50);
/// What the data looks like.
const BYTE: u8 = 0xc5;

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Bytes of the WRITE_IMM.
    pub bytes: u64,
    /// To stay connected without doing anything until this fault point of the driver's was passed a few times.
    pub until: Option<&'static str>,
    /// Whether a thread of the kernel's takes the near side's entries: what fails then fails in no call.
    pub polled: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            bytes: PAGE,
            until: None,
            polled: false,
        }
    }
}

/// Waits until a fault point was passed by both sides twice, or there is no connection any more that would pass it.
fn passed(guest: &Guest, point: &str, near: &Endpoint) -> Result<()> {
    let count = || -> Result<u64> {
        let counts = faults::counts()?;
        Ok(counts.get(point).map_or(0, |counts| counts.passed))
    };
    let before = count()?;
    let done = poll::until(guest.limit(10), || {
        let ended = near.query()?.state != EndpointState::Up;
        Ok((ended || count()? >= before + 4).then_some(()))
    })?;
    done.with_context(|| format!("{point} is not passed"))
}

/// The calls of a scenario, in some of which a fault may be injected.
#[derive(Debug)]
pub struct Steps<'a> {
    nth: Option<&'a mut Nth>,
    /// Whether something failed.
    pub failed: bool,
}

impl<'a> Steps<'a> {
    /// Steps with a fault in one of them, or without.
    pub fn new(nth: Option<&'a mut Nth>) -> Self {
        Self { nth, failed: false }
    }

    fn quietly<T>(&mut self, work: impl FnOnce() -> T) -> Result<T> {
        match &mut self.nth {
            Some(nth) => nth.step(work),
            None => Ok(work()),
        }
    }

    /// Makes a call; nothing if it failed, as every call may.
    fn call<T>(&mut self, work: impl FnOnce() -> dmaplane::Result<T>) -> Result<Option<T>> {
        self.call_or(&[], work)
    }

    /// As above, of a call that may fail with other errors too.
    fn call_or<T>(
        &mut self,
        besides: &[Errno],
        work: impl FnOnce() -> dmaplane::Result<T>,
    ) -> Result<Option<T>> {
        let result = self.quietly(work)?;
        self.failed |= as_documented(&result, besides)?;
        Ok(result.ok())
    }
}

/// A channel and the names of what was pushed into it.
struct Book {
    channel: Channel,
    open: HashMap<u64, &'static str>,
    ended: HashMap<&'static str, State>,
    next: u64,
}

impl Book {
    fn new(channel: Channel) -> Self {
        Self {
            channel,
            open: HashMap::new(),
            ended: HashMap::new(),
            next: 1,
        }
    }

    fn push(&mut self, what: &'static str, entry: Entry) -> Result<()> {
        self.channel.push(entry.user_data(self.next))?;
        self.open.insert(self.next, what);
        self.next += 1;
        Ok(())
    }

    fn take(&mut self) -> Result<()> {
        let done: Vec<Completion> = self.channel.completions().collect();
        for done in done {
            let what = self.open.remove(&done.user_data());
            let what = what.ok_or_else(|| anyhow!("a second or a wrong completion: {done:?}"))?;
            self.ended.insert(what, done.state());
        }
        Ok(())
    }

    /// Waits for what is left, which ends by itself.
    fn finish(&mut self, limit: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            self.take()?;
            if self.open.is_empty() {
                return Ok(());
            }
            ensure!(
                start.elapsed() < limit,
                "no completion after {limit:?}: {:?}, ended: {:?}",
                self.open,
                self.ended
            );
            self.channel.submit_and_wait(1, LOOK)?;
        }
    }

    fn was_ok(&self, what: &str) -> bool {
        self.ended.get(what) == Some(&State::Ok)
    }
}

/// The endpoints of both sides, if they came up.
fn connected(
    guest: &Guest,
    steps: &mut Steps<'_>,
    near: &Context,
    listener: &Listener,
) -> Result<Option<(Endpoint, Endpoint)>> {
    let stop = AtomicBool::new(false);
    let options = ConnectOptions {
        recv_depth: 64,
        timeout: guest.limit(10),
        ..Default::default()
    };
    let (near, far) = std::thread::scope(|scope| {
        let acceptor = scope.spawn(|| {
            loop {
                let accepted = listener.accept(64, LOOK);
                let late = accepted
                    .as_ref()
                    .err()
                    .is_some_and(|error| error.errno() == Some(Errno::TIMEDOUT));
                if !late || stop.load(Ordering::Acquire) {
                    return accepted;
                }
            }
        });
        let near = steps.call_or(CONNECTING, || {
            Endpoint::connect(near, listener.local(), &options)
        });
        stop.store(true, Ordering::Release);
        (near, acceptor.join())
    });
    let far = far.map_err(|_| anyhow!("the accepting thread panicked"))?;
    let failed = as_documented(&far, CONNECTING)?;
    steps.failed |= failed;
    Ok(near?.zip(far.ok()))
}

/// What both sides transfer with. Fields are dropped from top to bottom.
struct Stage {
    given: RemoteGrant,
    own: LocalGrant,
    mine: Buffer,
    theirs: Buffer,
}

fn stage(
    guest: &Guest,
    steps: &mut Steps<'_>,
    plan: &Plan,
    (near, far): (&Endpoint, &Endpoint),
    (near_context, far_context): (&Context, &Context),
) -> Result<Option<Stage>> {
    let limit = guest.limit(1);
    let Some(mine) = steps.call(|| Buffer::create(near_context, plan.bytes, Placement::Any))?
    else {
        return Ok(None);
    };
    let Some(theirs) = steps.call(|| Buffer::create(far_context, plan.bytes, Placement::Any))?
    else {
        return Ok(None);
    };
    mine.write_at(0, &vec![BYTE; usize::try_from(plan.bytes)?]);
    let terms = GrantTerms {
        rights: Rights::from_bits(Rights::WRITE.bits() | Rights::READ.bits()),
        ..Default::default()
    };
    let whole = 0..plan.bytes;
    let Some(own) = steps.call_or(GRANTING, || far.grant_on(&theirs, whole, &terms, limit))? else {
        return Ok(None);
    };
    let Some(given) = steps.call_or(GRANTING, || near.wait_grant(limit))? else {
        return Ok(None);
    };
    Ok(Some(Stage {
        given,
        own,
        mine,
        theirs,
    }))
}

/// The transfers: one operation of each kind.
fn transfer(
    guest: &Guest,
    steps: &mut Steps<'_>,
    plan: &Plan,
    stage: &Stage,
    (near, far): (&Endpoint, &Endpoint),
    (here, there): (&mut Book, &mut Book),
) -> Result<()> {
    let limit = guest.limit(1);
    for _ in 0..2 {
        there.push("recv", Entry::recv(far))?;
    }
    there.push("recv into", Entry::recv_into(far, stage.theirs.range(0, 8)))?;
    there.push("watch", Entry::watch(far, 0, 0, 2))?;
    if steps.call(|| there.channel.submit())?.is_none() {
        there.channel.submit()?;
    }
    // Not when a fault keeps them away.
    poll::until(limit, || {
        let credits = near.query().map_or(0, |query| query.send_credits);
        Ok((credits >= 3).then_some(()))
    })?;
    let (mine, given) = (&stage.mine, &stage.given);
    let length = u32::try_from(plan.bytes)?;
    here.push("write", Entry::write(mine.range(0, 4096), given.at(0)))?;
    here.push(
        "write imm",
        Entry::write_imm(mine.range(0, length), given.at(0), 1),
    )?;
    here.push("send", Entry::send(near, mine.range(0, 8), 2))?;
    here.push("read", Entry::read(mine.range(0, 4096), given.at(0)))?;
    here.push("copy", Entry::copy(mine.range(0, 2048), mine, 2048))?;
    here.push("fence", Entry::fence(near))?;
    here.push("nop", Entry::nop())?;
    steps.call(|| here.channel.submit_and_wait(7, limit))?;
    here.take()?;
    if here.was_ok("write") {
        let came = stage.theirs.to_vec(0..4096);
        ensure!(came.iter().all(|byte| *byte == BYTE), "wrong data arrived");
    }
    steps.call(|| near.query())?;
    steps.call(|| mine.residency())?;
    steps.call(|| mine.map(0..4096).map(drop))?;
    let file = mine.context().as_fd();
    let now = Timespec::default();
    let mut polled = [PollFd::new(&file, PollFlags::IN)];
    // poll(2) itself may find no memory.
    let polled = steps.quietly(|| rustix::event::poll(&mut polled, Some(&now)))?;
    if let Err(errno) = polled {
        ensure!(ALWAYS.contains(&errno), "poll(2): {errno:?}");
        steps.failed = true;
    }
    Ok(())
}

/// Goes through it all.
///
/// # Errors
/// When something fails otherwise than it may, a completion is lost or comes twice, or data is wrong.
pub fn scenario(guest: &Guest, steps: &mut Steps<'_>, plan: &Plan) -> Result<()> {
    let Some(near_context) = steps.call(Context::open)? else {
        return Ok(());
    };
    let Some(far_context) = steps.call(Context::open)? else {
        return Ok(());
    };
    let bind = || Listener::bind(&far_context, guest.local_any_port(), 4);
    let Some(listener) = steps.call_or(CONNECTING, bind)? else {
        return Ok(());
    };
    let mut builder = Channel::builder().entries(16).event();
    if plan.polled {
        builder = builder.polling(Polling::default());
    }
    let Some(here) = steps.call(|| builder.build(&near_context))? else {
        return Ok(());
    };
    let Some(there) = steps.call(|| Channel::builder().entries(16).build(&far_context))? else {
        return Ok(());
    };
    let (mut here, mut there) = (Book::new(here), Book::new(there));
    let Some((near, far)) = connected(guest, steps, &near_context, &listener)? else {
        return Ok(());
    };
    let contexts = (&near_context, &far_context);
    let stage = stage(guest, steps, plan, (&near, &far), contexts)?;
    if let Some(stage) = stage {
        let books = (&mut here, &mut there);
        transfer(guest, steps, plan, &stage, (&near, &far), books)?;
        if let Some(point) = plan.until {
            passed(guest, point, &near)?;
        }
        here.push("cancel", Entry::cancel_all().queued_only())?;
        there.push("cancel", Entry::cancel_all().queued_only())?;
        steps.call(|| here.channel.submit())?;
        steps.call(|| there.channel.submit())?;
        let Stage {
            given,
            own,
            mine,
            theirs,
        } = stage;
        steps.quietly(|| drop(given))?;
        steps.quietly(|| drop(own))?;
        steps.quietly(|| drop(mine))?;
        steps.quietly(|| drop(theirs))?;
    }
    steps.quietly(|| drop(near))?;
    steps.quietly(|| drop(far))?;
    // Their handles may still be there, where a fault kept them from being destroyed: this ends them.
    here.push("cancel", Entry::cancel_all())?;
    there.push("cancel", Entry::cancel_all())?;
    here.finish(guest.limit(20))?;
    there.finish(guest.limit(20))?;
    steps.quietly(|| drop(here))?;
    steps.quietly(|| drop(there))?;
    steps.quietly(|| drop(listener))?;
    steps.quietly(|| drop(near_context))?;
    steps.quietly(|| drop(far_context))
}
