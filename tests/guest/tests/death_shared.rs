// SPDX-License-Identifier: MIT OR Apache-2.0

//! kill -9 of a process that takes access away from a peer over a connection that is not its alone: another process
//! shares the file, or the process that takes the memory away has no part in the connection. The access ends, the
//! connection lives on.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::time::Duration;

use dmaplane::{
    Buffer, Channel, Context, EndpointState, Entry, GrantTerms, LocalGrant, Placement, RemoteGrant,
    State, Tier,
};
use dmaplane_guest_tests::device::{Bound, device, rebound};
use dmaplane_guest_tests::{Loopback, argument, complete, patient_answers};
use dmaplane_testkit::counters::Tuned;
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::faults::{self, Point};
use dmaplane_testkit::sys::{self, Forked, Room};
use dmaplane_testkit::{ErrorContext as _, Guest, Result, ensure, poll, test};
use dmaplane_uapi as abi;

/// Bytes of a grant, and of each write: an access that ends meets one that is under way.
const BYTES: u32 = 1 << 20;
/// Grants that are taken back at once, each in a process of its own.
const GRANTS: usize = 4;
/// Writes that are under way on each of them.
const WRITES: u32 = 4;

/// A connection with grants of the far side's, whose ends the far side watches. Fields are dropped from top to bottom.
struct Scene {
    here: Channel,
    mine: Buffer,
    there: Channel,
    own: Vec<LocalGrant>,
    given: Vec<RemoteGrant>,
    local: Loopback,
    _patient: [Tuned; 2],
}

impl Scene {
    fn new(guest: &Guest, local: Loopback, buffers: &[&Buffer]) -> Result<Self> {
        let mut there = Channel::builder().entries(16).build(&local.far_context)?;
        let here = Channel::builder().entries(64).build(&local.near_context)?;
        let mine = Buffer::create(&local.near_context, BYTES.into(), Placement::Any)?;
        let (mut own, mut given) = (Vec::new(), Vec::new());
        let limit = guest.limit(10);
        for buffer in buffers {
            let terms = GrantTerms::default();
            let grant = local.far.grant_on(buffer, 0..BYTES.into(), &terms, limit)?;
            there.push(Entry::watch_grant(&local.far, &grant))?;
            own.push(grant);
            given.push(local.near.wait_grant(limit)?);
        }
        there.submit()?;
        Ok(Self {
            here,
            mine,
            there,
            own,
            given,
            local,
            _patient: patient_answers(guest)?,
        })
    }

    /// The near side writes through every grant: more than can complete before the revocation reaches it.
    fn write(&mut self) -> Result<()> {
        for given in &self.given {
            for _ in 0..WRITES {
                let whole = self.mine.range(0, BYTES);
                self.here.push(Entry::write(whole, given.at(0)))?;
            }
        }
        self.here.submit()?;
        Ok(())
    }

    /// Kills the children once the peer was asked for all grants: they wait for its answers.
    fn kill(&self, guest: &Guest, children: Vec<Forked>) -> Result<()> {
        let asked = poll::until(guest.limit(10), || {
            let grants = std::fs::read_to_string("/sys/kernel/debug/dmaplane/state/grants")?;
            let waits = grants.matches("state=waits-for-peer").count();
            Ok((waits == self.own.len()).then_some(()))
        })?;
        asked.context("the grants are not taken back")?;
        // One after the other, but none of them waits for a peer any more.
        drop(children);
        Ok(())
    }

    /// All grants end in time, for this reason, and the writes end well or in REVOKED. The connection does not end.
    fn ended(&mut self, guest: &Guest, why: u32) -> Result<()> {
        let count = u32::try_from(self.own.len())?;
        for done in complete(&mut self.there, count, guest.limit(20))? {
            ensure!(done.is_ok() && done.imm() == why, "{done:?}");
        }
        let writes = WRITES * count;
        for done in complete(&mut self.here, writes, guest.limit(20))? {
            let well = matches!(done.state(), State::Ok | State::Revoked);
            ensure!(well, "{done:?}");
        }
        self.up()
    }

    fn up(&self) -> Result<()> {
        for side in [&self.local.near, &self.local.far] {
            let info = side.query()?;
            ensure!(info.state == EndpointState::Up, "{info:?}");
        }
        Ok(())
    }

    /// What was granted is gone, and the connection works.
    fn works(&mut self, guest: &Guest) -> Result<()> {
        let (mine, here) = (&self.mine, &mut self.here);
        for given in &self.given {
            here.push(Entry::write(mine.range(0, 8), given.at(0)))?;
        }
        let count = u32::try_from(self.given.len())?;
        for done in complete(here, count, guest.limit(10))? {
            ensure!(done.state() == State::Revoked, "{done:?}");
        }
        let (_theirs, _own, given) = self.local.granted(guest, &GrantTerms::default())?;
        here.push(Entry::write(mine.range(0, 8), given.at(0)))?;
        complete(here, 1, guest.limit(10))?[0].result()?;
        Ok(())
    }

    /// Processes that share the far side's file and take one grant back each.
    fn holders(&self) -> Result<Vec<Forked>> {
        let at = std::mem::offset_of!(abi::Destroy, handle);
        let holder = |grant: &LocalGrant| {
            // The child allocates nothing itself: it is a copy of one thread.
            let mut room = Room::default();
            let mut raw = argument(size_of::<abi::Destroy>(), &[(at, grant.raw_handle())]);
            let fd = self.local.far_context.as_fd();
            sys::fork(|| room.ioctl(fd, abi::IOC_DESTROY, &mut raw).is_ok())
        };
        self.own.iter().map(holder).collect()
    }
}

/// Kills whoever takes away memory that the far side has granted, with writes under way.
fn killed(
    guest: &Guest,
    (local, buffer): (Loopback, &Buffer),
    why: u32,
    start: impl FnOnce(&Scene) -> Result<Vec<Forked>>,
) -> Result<()> {
    let mut scene = Scene::new(guest, local, &[buffer; GRANTS])?;
    let late = DelayPoint::open(
        "message_received",
        Duration::from_millis(guest.pick(300, 600)),
    )?;
    scene.write()?;
    let children = start(&scene)?;
    scene.kill(guest, children)?;
    drop(late);
    scene.ended(guest, why)?;
    scene.works(guest)
}

/// It used to end the connection, for the process that lives on as well.
#[test]
fn death_of_one_holder_leaves_the_connection() {
    test(|guest| {
        for round in 0..guest.pick(4, 1) {
            let local = Loopback::new(guest)?;
            let buffer = Buffer::create(&local.far_context, BYTES.into(), Placement::Any)?;
            let why = abi::GRANT_END_REVOKED;
            killed(guest, (local, &buffer), why, Scene::holders)
                .with_context(|| format!("round {round}"))?;
        }
        Ok(())
    });
}

/// Nobody waits for the answer any more, and it never comes.
#[test]
fn death_of_one_holder_with_a_peer_that_is_silent() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let local = Loopback::new(guest)?;
        let buffer = Buffer::create(&local.far_context, BYTES.into(), Placement::Any)?;
        let mut scene = Scene::new(guest, local, &[&buffer; GRANTS])?;
        // Less than the ten seconds after which a silent peer counts as dead.
        let _patience = Tuned::set("answer_ms", 1000)?;
        let frozen = Point::once_here("freeze")?;
        let word = scene.mine.range(0, 8);
        scene.here.push(Entry::write(word, scene.given[0].at(0)))?;
        scene.here.submit()?;
        ensure!(frozen.fired()? > 0, "the peer is not frozen");
        drop(frozen);
        let holders = scene.holders()?;
        scene.kill(guest, holders)?;
        let count = u32::try_from(GRANTS)?;
        for done in complete(&mut scene.there, count, guest.limit(20))? {
            let well = done.is_ok() && done.imm() == abi::GRANT_END_REVOKED;
            ensure!(well, "{done:?}");
        }
        scene.up()
    });
}

/// Several grants of one killed thread, over memory that it takes away as a whole. It used to wait for their answers no
/// longer than for a last will, and then cut off what was under way.
#[test]
fn death_while_memory_is_taken_away() {
    test(|guest| {
        for round in 0..guest.pick(4, 1) {
            let local = Loopback::new(guest)?;
            let buffer = Buffer::create(&local.far_context, BYTES.into(), Placement::Any)?;
            let taker = |_: &Scene| Ok(vec![sys::fork(|| buffer.revoke().is_ok())?]);
            killed(guest, (local, &buffer), abi::GRANT_END_MEMORY, taker)
                .with_context(|| format!("round {round}"))?;
        }
        Ok(())
    });
}

/// The exporter of memory has no part in the connections of its importer.
#[test]
fn death_while_an_exporter_takes_back() {
    test(|guest| {
        for round in 0..guest.pick(4, 1) {
            let local = Loopback::new(guest)?;
            let exporter = Context::open()?;
            let original = Buffer::create(&exporter, BYTES.into(), Placement::Any)?;
            let import = Buffer::import(&local.far_context, original.export()?.as_fd())?;
            let taker = |_: &Scene| Ok(vec![sys::fork(|| original.revoke().is_ok())?]);
            killed(guest, (local, &import), abi::GRANT_END_MEMORY, taker)
                .with_context(|| format!("round {round}"))?;
        }
        Ok(())
    });
}

/// Nor has a process that unbinds a device.
#[test]
fn death_while_a_device_is_taken_away() {
    test(|guest| {
        for round in 0..guest.pick(4, 1) {
            let local = Loopback::new(guest)?;
            let far = &local.far_context;
            // Skips where there is none at all.
            device(guest, far)?;
            let device = rebound(guest, far, 0)?;
            let bound = Bound::of(&device)?;
            let number = device.number;
            let buffer = Buffer::on_device(far, number, Tier::Uncached, BYTES.into(), None)?;
            let unbind = File::options()
                .write(true)
                .open("/sys/bus/pci/drivers/dmaplane/unbind")?;
            let address = device.address.as_bytes();
            let taker = |_: &Scene| {
                let child = sys::fork(|| rustix::io::write(&unbind, address).is_ok())?;
                Ok(vec![child])
            };
            let tried = killed(guest, (local, &buffer), abi::GRANT_END_MEMORY, taker);
            // Bound again in any case, for the next test.
            bound.bind()?;
            tried.with_context(|| format!("round {round}"))?;
        }
        Ok(())
    });
}

/// A process that inherited a mapping, but no descriptor, used to keep the connections of its owner up: the peer saw no
/// end.
#[test]
fn death_is_reported_though_somebody_inherited_a_mapping() {
    test(|guest| {
        let Loopback {
            near,
            far,
            near_context,
            far_context,
        } = Loopback::new(guest)?;
        let buffer = Buffer::create(&near_context, 4096, Placement::Any)?;
        buffer.write_at(0, b"kept");
        let mapping = buffer.into_mapping();
        let rings = Channel::builder().entries(4).build(&near_context)?;
        let mut there = Channel::builder().entries(4).build(&far_context)?;
        there.push(Entry::watch(&far, 0, 0, 1))?;
        there.submit()?;
        let (ready, gone) = rustix::pipe::pipe()?;
        let heir = sys::fork(|| {
            let closed = sys::close_behind(near_context.as_fd()).is_ok();
            let mut word = [0];
            let notified = rustix::io::read(&ready, &mut word) == Ok(1);
            let mut seen = [0; 4];
            mapping.read_at(0, &mut seen);
            closed && notified && &seen == b"kept"
        })?;
        // As if the owner died: its descriptor goes before what it names.
        sys::close_behind(near_context.as_fd())?;
        drop((rings, mapping));
        let done = complete(&mut there, 1, guest.limit(5))?[0];
        ensure!(done.state() == State::PeerDead, "{done:?}");
        rustix::io::write(&gone, &[1])?;
        ensure!(heir.wait()?, "the heir lost the memory");
        drop((near, far));
        Ok(())
    });
}
