// SPDX-License-Identifier: MIT OR Apache-2.0

//! kill -9 of a process that waits in the kernel for a late answer: the peer learns the reason all the same. Where the
//! peer has a kernel of its own, which these delay points do not affect, the kill comes at an arbitrary moment.

use std::time::Duration;

use dmaplane::{Buffer, Channel, EndpointState, Entry, Errno, Placement, State};
use dmaplane_guest_tests::{Connection, complete, patient_answers, patient_wills};
use dmaplane_testkit::counters::Tuned;
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::peer::protocol::{Id, Request};
use dmaplane_testkit::{
    ErrorContext as _, Gauges, Guest, Result, Skip, ensure, gauges, poll, test,
};
use dmaplane_uapi as abi;

const BYTES: u64 = 64 << 10;
/// What the driver shows of grants.
const GRANTS: &str = "/sys/kernel/debug/dmaplane/state/grants";
/// Writes of the survivor's: some milliseconds of them.
const WRITES: u32 = 64;

/// The name of the receive that reports the end.
const WORD: u64 = u64::MAX;

/// Kills the peer while this side goes on submitting `work`, if any, and checks that the death is reported as such.
fn kill_and_check(
    guest: &Guest,
    connection: &mut Connection,
    channel: &mut Channel,
    work: Option<Entry>,
) -> Result<()> {
    channel.push(Entry::recv(&connection.endpoint).user_data(WORD))?;
    for entry in (0..WRITES).filter_map(|_| work) {
        channel.push(entry)?;
    }
    channel.submit()?;
    let killed = connection.peer.start_kill()?;
    let mut word = None;
    while word.is_none() {
        ensure!(killed.elapsed() < guest.limit(10), "nothing reported");
        channel.submit_and_wait(1, guest.limit(1))?;
        while let Some(done) = channel.next_completion() {
            if done.user_data() == WORD {
                word = Some(done.state());
                continue;
            }
            let well = [State::Ok, State::Revoked, State::PeerDead].contains(&done.state());
            ensure!(well, "{done:?}");
            if done.is_ok()
                && let Some(entry) = work
            {
                channel.push(entry)?;
            }
        }
    }
    ensure!(word == Some(State::PeerDead), "the receive: {word:?}");
    let info = connection.endpoint.query()?;
    let well =
        info.state == EndpointState::Down(Errno::OWNERDEAD) && info.peer_end == abi::PEER_END_DIED;
    ensure!(well, "reported {:?}, {}", info.state, info.peer_end);
    Ok(())
}

/// The killed thread used to end the connection at once, without a last will.
#[test]
fn death_in_a_registration() {
    test(|guest| {
        let _patient = patient_wills(guest)?;
        let before = Gauges::read()?;
        for round in 0..guest.pick(10, 3) {
            // The previous peer must not be taken for this one.
            gauges::settle(&before, guest.limit(10))?;
            let mut connection = Connection::to_peer(guest)?;
            let (_buffer, _given, grant) = connection.local_buffer(guest, BYTES)?;
            let source = connection
                .peer
                .create(Request::CreateBuffer { bytes: BYTES })?;
            let mut channel = Channel::builder().entries(4).build(&connection.context)?;
            let delay = DelayPoint::open(
                "registration_done",
                Duration::from_millis(guest.pick(100, 500)),
            )?;
            send_for_ever(&mut connection, source, grant)?;
            kill_and_check(guest, &mut connection, &mut channel, None)
                .with_context(|| format!("round {round}"))?;
            drop(delay);
        }
        Ok(())
    });
}

/// The provider's answer comes later than the teardown of a killed process waits for its last will. The connection used to
/// end without one.
#[test]
fn death_in_a_registration_that_takes_long() {
    test(|guest| {
        if guest.topology.is_pair() {
            return Err(Skip::new("delay points do not affect another kernel").into());
        }
        let _patience = Tuned::set("will_ms", guest.pick(40, 300))?;
        let before = Gauges::read()?;
        for round in 0..guest.pick(5, 2) {
            gauges::settle(&before, guest.limit(10))?;
            let mut connection = Connection::to_peer(guest)?;
            let (_buffer, _given, grant) = connection.local_buffer(guest, BYTES)?;
            let source = connection
                .peer
                .create(Request::CreateBuffer { bytes: BYTES })?;
            let mut channel = Channel::builder().entries(4).build(&connection.context)?;
            let delay = DelayPoint::open("registration_done", Duration::from_secs(1))?;
            send_for_ever(&mut connection, source, grant)?;
            kill_and_check(guest, &mut connection, &mut channel, None)
                .with_context(|| format!("round {round}"))?;
            drop(delay);
        }
        Ok(())
    });
}

/// Has the peer write until it dies. Its answer never comes.
fn send_for_ever(connection: &mut Connection, buffer: Id, grant: Id) -> Result<()> {
    // Its first operation registers the source.
    let _ = connection.peer.begin(Request::Send {
        buffer,
        grant,
        length: BYTES,
        chunk: 4096,
        order_seed: 3,
        immediates: false,
        rounds: u64::MAX,
        depth: 16,
        limit_ms: u64::MAX,
    })?;
    if connection.peer.is_remote() {
        return Ok(());
    }
    // The granted region is one; the other one is being registered.
    let begun = poll::until(Duration::from_secs(30), || {
        Ok((Gauges::read()?.get("regions") > 1).then_some(()))
    })?;
    begun.context("nothing is registered")
}

/// What a killed revocation meets.
struct Scene {
    /// Bytes of each of the writes that are under way.
    bytes: u32,
    /// How late this side reads that the grant is taken back.
    late: Option<Duration>,
    /// Whether the memory is taken away as a whole.
    memory: bool,
}

/// The peer is killed while it takes a grant back that this side writes through.
fn killed_while_revoking(guest: &Guest, scene: &Scene) -> Result<()> {
    let bytes = scene.bytes.into();
    let mut connection = Connection::to_peer(guest)?;
    let theirs = connection.peer.create(Request::CreateBuffer { bytes })?;
    let own = connection.grant_remote(theirs, 0, bytes, 0)?;
    let grant = connection.endpoint.wait_grant(guest.limit(10))?;
    let mine = Buffer::create(&connection.context, bytes, Placement::Any)?;
    let mut channel = Channel::builder().entries(128).build(&connection.context)?;
    let write = Entry::write(mine.range(0, scene.bytes), grant.at(0));
    channel.push(write)?;
    complete(&mut channel, 1, guest.limit(10))?[0].result()?;
    let late = scene
        .late
        .map(|length| DelayPoint::open("message_received", length));
    let _late = late.transpose()?;
    let _ = connection.peer.begin(if scene.memory {
        Request::Revoke { buffer: theirs }
    } else {
        Request::Close { id: own }
    })?;
    if !guest.topology.is_pair() {
        let asked = poll::until(guest.limit(10), || {
            let grants = std::fs::read_to_string(GRANTS)?;
            Ok(grants.contains("state=waits-for-peer").then_some(()))
        })?;
        asked.context("the grant is not taken back")?;
    }
    kill_and_check(guest, &mut connection, &mut channel, Some(write))
}

/// The killed thread used to end the access at once, which broke the connection when this side was writing.
#[test]
fn death_in_a_revocation() {
    test(|guest| {
        let _patient = (patient_wills(guest)?, patient_answers(guest)?);
        let pair = guest.topology.is_pair();
        let scene = Scene {
            // Another kernel keeps its shorter limits.
            bytes: if pair { 4096 } else { 64 << 10 },
            late: (!pair).then(|| Duration::from_millis(guest.pick(100, 500))),
            memory: false,
        };
        let before = Gauges::read()?;
        for round in 0..guest.pick(10, 3) {
            // The previous peer must not be taken for this one.
            gauges::settle(&before, guest.limit(10))?;
            killed_while_revoking(guest, &scene).with_context(|| format!("round {round}"))?;
        }
        Ok(())
    });
}

/// With megabytes under way the answer takes longer than a killed thread waits. It used to end the access in mid-write
/// then, without a last will.
#[test]
fn death_in_a_revocation_that_is_not_answered() {
    test(|guest| {
        if guest.topology.is_pair() {
            return Err(Skip::new("another kernel answers when it likes").into());
        }
        // The answer comes after the delay, and the last will has the same time once more to arrive.
        let _patience = Tuned::set("will_ms", guest.pick(40, 300))?;
        let scene = Scene {
            bytes: 1 << 20,
            late: Some(Duration::from_millis(guest.pick(200, 1000))),
            memory: false,
        };
        let before = Gauges::read()?;
        for round in 0..guest.pick(5, 2) {
            gauges::settle(&before, guest.limit(10))?;
            killed_while_revoking(guest, &scene).with_context(|| format!("round {round}"))?;
        }
        Ok(())
    });
}

/// The same with memory that is taken away as a whole.
#[test]
fn death_in_a_revocation_of_memory() {
    test(|guest| {
        if guest.topology.is_pair() {
            return Err(Skip::new("another kernel answers when it likes").into());
        }
        let _patient = (
            patient_answers(guest)?,
            Tuned::set("will_ms", guest.pick(40, 300))?,
        );
        let scene = Scene {
            // The answer comes after all the data under way, which is slow on a debug kernel.
            bytes: guest.pick(1 << 20, 64 << 10),
            late: Some(Duration::from_millis(guest.pick(200, 1000))),
            memory: true,
        };
        let before = Gauges::read()?;
        for round in 0..guest.pick(5, 2) {
            gauges::settle(&before, guest.limit(10))?;
            killed_while_revoking(guest, &scene).with_context(|| format!("round {round}"))?;
        }
        Ok(())
    });
}
