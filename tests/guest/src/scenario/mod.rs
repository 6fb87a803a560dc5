// SPDX-License-Identifier: MIT OR Apache-2.0

//! The whole life of a connection in one function, in which anything may fail: connect, grant, transfer in every way,
//! revoke, tear down. Whatever fails must fail as documented, and every accepted entry has exactly one completion.

mod completion_log;

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dmaplane::{
    Buffer, Channel, ConnectOptions, Context, Endpoint, EndpointState, Entry, Errno, GrantTerms,
    Listener, LocalGrant, Placement, Polling, RemoteGrant, Rights,
};
use dmaplane_testkit::faults::{self, Nth};
use dmaplane_testkit::{ErrorContext as _, Guest, Result, anyhow, ensure, poll};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::swept::{ALWAYS, CONNECTING, GRANTING, as_documented};
use completion_log::CompletionLog;

/// More than a region's segment holds: the operation takes two work requests.
pub const BIG: u64 = (2 << 20) + 4096;
/// One page.
const PAGE: u64 = 4096;
/// Time between two checks of the accepting side.
const LOOK: Duration = Duration::from_millis(50);
/// The bytes that fill memory: what the near side sends, what the far side has, and what nobody has written to yet.
const NEAR: u8 = 0xc5;
const FAR: u8 = 0x3a;
const BLANK: u8 = 0x11;
/// Bytes and immediate of the SEND.
const WORD: u32 = 8;
const SENT: u32 = 2;
/// Receives with memory for what a SEND brings.
const RECEIVES: [&str; 2] = ["first recv", "second recv"];

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Bytes of the WRITE_IMM.
    pub bytes: u64,
    /// If set, both sides stay connected without doing anything until this fault point was passed a few times.
    pub until: Option<&'static str>,
    /// Whether a kernel thread takes the near side's entries: then no call reports what fails.
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

/// Waits until both sides have passed a fault point twice, or until the connection has ended.
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

    /// Makes a call. Returns nothing if it failed, as every call may.
    fn call<T>(&mut self, work: impl FnOnce() -> dmaplane::Result<T>) -> Result<Option<T>> {
        self.call_or(&[], work)
    }

    /// As [`Self::call`], for a call that may fail with other errors too.
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
///
/// The first `bytes` of the near side's memory are sent; a page each is for the READ and for the COPY. The WRITE_IMM
/// fills the first `bytes` of the far side's memory; a page each is for the READ, the WRITE and the SEND.
struct Stage {
    given: RemoteGrant,
    own: LocalGrant,
    mine: Buffer,
    theirs: Buffer,
    bytes: u64,
}

impl Stage {
    /// Where the page `index` behind the bytes begins.
    fn page(&self, index: u64) -> u64 {
        self.bytes + index * PAGE
    }

    /// Where a receive's memory begins.
    fn word(&self, place: u64) -> u64 {
        self.page(2) + place * u64::from(WORD)
    }

    /// Fails unless the data of every operation that ended well is where it belongs.
    fn verify(&self, here: &CompletionLog, there: &CompletionLog) -> Result<()> {
        let same = |buffer: &Buffer, at: u64, bytes: u64, byte: u8| {
            let found = buffer.to_vec(at..at + bytes);
            found.iter().all(|found| *found == byte)
        };
        for (what, buffer, at, bytes, byte) in [
            ("write", &self.theirs, self.page(1), PAGE, NEAR),
            ("write imm", &self.theirs, 0, self.bytes, NEAR),
            ("read", &self.mine, self.page(0), PAGE, FAR),
            ("copy", &self.mine, self.page(1), PAGE, NEAR),
        ] {
            let right = !here.was_ok(what) || same(buffer, at, bytes, byte);
            ensure!(right, "{what}: ended well, and the data is wrong");
        }
        // A receive with memory may take either. A WRITE_IMM leaves its memory as it was.
        for (place, name) in (0..).zip(RECEIVES) {
            let Some(done) = there.ended.get(name).filter(|done| done.is_ok()) else {
                continue;
            };
            let sent = done.imm() == SENT;
            let byte = if sent { NEAR } else { FAR };
            let right = same(&self.theirs, self.word(place), WORD.into(), byte);
            ensure!(right, "{name}: the memory of {done:?} is wrong");
            ensure!(!sent || done.length() == u64::from(WORD), "{done:?}");
        }
        Ok(())
    }
}

fn stage(
    guest: &Guest,
    steps: &mut Steps<'_>,
    plan: &Plan,
    (near, far): (&Endpoint, &Endpoint),
    (near_context, far_context): (&Context, &Context),
) -> Result<Option<Stage>> {
    let limit = guest.limit(1);
    let total = plan.bytes + 3 * PAGE;
    let Some(mine) = steps.call(|| Buffer::create(near_context, total, Placement::Any))? else {
        return Ok(None);
    };
    let Some(theirs) = steps.call(|| Buffer::create(far_context, total, Placement::Any))? else {
        return Ok(None);
    };
    mine.write_at(0, &vec![BLANK; usize::try_from(total)?]);
    mine.write_at(0, &vec![NEAR; usize::try_from(plan.bytes)?]);
    theirs.write_at(0, &vec![FAR; usize::try_from(total)?]);
    let terms = GrantTerms {
        rights: Rights::from_bits(Rights::WRITE.bits() | Rights::READ.bits()),
        ..Default::default()
    };
    let whole = 0..total;
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
        bytes: plan.bytes,
    }))
}

/// The transfers: one operation of each kind.
fn transfer(
    guest: &Guest,
    steps: &mut Steps<'_>,
    plan: &Plan,
    stage: &Stage,
    (near, far): (&Endpoint, &Endpoint),
    (here, there): (&mut CompletionLog, &mut CompletionLog),
) -> Result<()> {
    let limit = guest.limit(1);
    // The SEND takes the second, or the first if the WRITE_IMM fails.
    for (place, name) in (0..).zip(RECEIVES) {
        let word = stage.theirs.range(stage.word(place), WORD);
        there.push(name, Entry::recv_into(far, word))?;
    }
    there.push("extra recv", Entry::recv(far))?;
    there.push("watch", Entry::watch(far, 0, 0, 2))?;
    if steps.call(|| there.channel.submit())?.is_none() {
        there.channel.submit()?;
    }
    // They do not come if a fault prevents it.
    poll::until(limit, || {
        let credits = near.query().map_or(0, |query| query.send_credits);
        Ok((credits >= 3).then_some(()))
    })?;
    let (mine, given) = (&stage.mine, &stage.given);
    let length = u32::try_from(plan.bytes)?;
    let (page, read, copied) = (mine.range(0, 4096), stage.page(0), stage.page(1));
    here.push("write", Entry::write(page, given.at(stage.page(1))))?;
    here.push(
        "write imm",
        Entry::write_imm(mine.range(0, length), given.at(0), 1),
    )?;
    here.push("send", Entry::send(near, mine.range(0, WORD), SENT))?;
    let target = mine.range(read, 4096);
    here.push("read", Entry::read(target, given.at(stage.page(0))))?;
    here.push("copy", Entry::copy(page, mine, copied))?;
    here.push("fence", Entry::fence(near))?;
    here.push("nop", Entry::nop())?;
    steps.call(|| here.channel.submit_and_wait(7, limit))?;
    here.take()?;
    if here.was_ok("write imm") && here.was_ok("send") {
        // Both have arrived, and are reported unless a fault prevents it.
        poll::until(limit, || {
            there.take()?;
            let all = RECEIVES.iter().all(|name| there.ended.contains_key(name));
            Ok(all.then_some(()))
        })?;
    }
    stage.verify(here, there)?;
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

/// Runs the whole scenario.
///
/// # Errors
/// When something fails otherwise than documented, a completion is lost or comes twice, or data is wrong.
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
    let (mut here, mut there) = (
        CompletionLog::new(here, plan.polled),
        CompletionLog::new(there, false),
    );
    let Some((near, far)) = connected(guest, steps, &near_context, &listener)? else {
        return Ok(());
    };
    let contexts = (&near_context, &far_context);
    let stage = stage(guest, steps, plan, (&near, &far), contexts)?;
    if let Some(stage) = stage {
        let logs = (&mut here, &mut there);
        transfer(guest, steps, plan, &stage, (&near, &far), logs)?;
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
            ..
        } = stage;
        steps.quietly(|| drop(given))?;
        steps.quietly(|| drop(own))?;
        steps.quietly(|| drop(mine))?;
        steps.quietly(|| drop(theirs))?;
    }
    steps.quietly(|| drop(near))?;
    steps.quietly(|| drop(far))?;
    // If a fault prevented their destruction, their handles are still there: this ends their operations.
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
