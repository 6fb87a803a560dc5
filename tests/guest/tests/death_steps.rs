// SPDX-License-Identifier: MIT OR Apache-2.0

//! kill -9 of the peer at every step of a transfer: all of the survivor's operations end, at once, and nothing is left
//! of the peer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dmaplane::{
    Buffer, Channel, EndpointState, Entry, Errno, LocalGrant, Placement, Polling, RemoteGrant,
    State,
};
use dmaplane_guest_tests::{Connection, patient_wills};
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::peer::protocol::{Id, Request};
use dmaplane_testkit::{
    ErrorContext as _, Gauges, Guest, Peer, Result, bail, ensure, gauges, poll, seed, test,
};
use dmaplane_uapi as abi;

const BYTES: u64 = 64 << 10;
const CHUNK: u32 = 4096;
const DEPTH: u32 = 16;
/// The survivor knows from a last will that the peer died.
const KNOWN: &str = "reason known";
/// The last will was lost.
const UNKNOWN: &str = "reason unknown";
/// Completions of a stream before the kill, at most.
const MOST: u64 = 100;

/// How far the transfer is when the peer is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Connected, and nothing else.
    Connected,
    /// The peer has granted, and this side has taken it.
    Granted,
    /// This side has granted, and the peer has taken it.
    Taken,
    /// The peer waits for a grant.
    WaitingForGrant,
    /// This side's writes wait for the peer's receives.
    WithoutCredits,
    /// The peer's receives are posted and wait.
    WithCredits,
    /// This side writes.
    Writing,
    /// This side writes with immediates, which the peer receives.
    WritingImm,
    /// The peer writes with immediates, which this side receives.
    Receiving,
    /// The peer writes, and this side takes the grant back at that moment.
    Revoking,
}

const STEPS: [Step; 10] = [
    Step::Connected,
    Step::Granted,
    Step::Taken,
    Step::WaitingForGrant,
    Step::WithoutCredits,
    Step::WithCredits,
    Step::Writing,
    Step::WritingImm,
    Step::Receiving,
    Step::Revoking,
];

/// Times from the kill on.
struct Figures {
    /// Until the survivor's last operation had its completion.
    seen: Duration,
    /// Until nothing was left of the peer's file.
    gone: Duration,
    /// Whether the survivor knows that the peer died.
    cause: &'static str,
}

/// What is kept while the transfer goes on.
#[derive(Default)]
struct Scene {
    buffers: Vec<Buffer>,
    given: Option<LocalGrant>,
    taken: Option<RemoteGrant>,
    /// Submitted again and again.
    stream: Option<Entry>,
}

/// Lets the peer write into a grant of this side's without end.
fn let_peer_write(connection: &mut Connection, grant: Id, immediates: bool) -> Result<()> {
    let source = connection
        .peer
        .create(Request::CreateBuffer { bytes: BYTES })?;
    // Its answer never comes.
    let _ = connection.peer.begin(Request::Send {
        buffer: source,
        grant,
        length: BYTES,
        chunk: CHUNK,
        order_seed: 3,
        immediates,
        rounds: u64::MAX,
        depth: DEPTH,
        limit_ms: u64::MAX,
    })?;
    Ok(())
}

/// Brings the transfer to the step.
fn set_up(guest: &Guest, connection: &mut Connection, step: Step) -> Result<Scene> {
    let mut scene = Scene::default();
    match step {
        Step::Connected => {}
        Step::WaitingForGrant => {
            let _ = connection.peer.begin(Request::WaitGrant {
                endpoint: connection.remote,
                limit_ms: u64::MAX,
            })?;
        }
        Step::Taken | Step::Receiving | Step::Revoking => {
            let (buffer, given, remote) = connection.local_buffer(guest, BYTES)?;
            scene.buffers.push(buffer);
            scene.given = Some(given);
            if step == Step::Receiving {
                let_peer_write(connection, remote, true)?;
                scene.stream = Some(Entry::recv(&connection.endpoint));
            } else if step == Step::Revoking {
                let_peer_write(connection, remote, false)?;
            }
        }
        Step::Granted
        | Step::WithoutCredits
        | Step::WithCredits
        | Step::Writing
        | Step::WritingImm => {
            let (_, grant) = connection.remote_buffer(guest, BYTES)?;
            let buffer = Buffer::create(&connection.context, BYTES, Placement::Any)?;
            let source = buffer.range(0, CHUNK);
            match step {
                Step::WithCredits => connection.post_remote(guest, DEPTH)?,
                Step::Writing => scene.stream = Some(Entry::write(source, grant.at(0))),
                Step::WritingImm => {
                    let _ = connection.peer.begin(Request::Receive {
                        endpoint: connection.remote,
                        count: u64::MAX,
                        depth: DEPTH,
                        limit_ms: u64::MAX,
                    })?;
                    scene.stream = Some(Entry::write_imm(source, grant.at(0), 1));
                }
                Step::WithoutCredits => {
                    scene.stream = Some(Entry::write_imm(source, grant.at(0), 1));
                }
                _ => {}
            }
            scene.buffers.push(buffer);
            scene.taken = Some(grant);
        }
    }
    Ok(scene)
}

/// The survivor's operations.
struct Survivor {
    channel: Channel,
    /// Numbers of those that are under way.
    open: std::collections::HashSet<u64>,
    next: u64,
    well: u64,
    dead: u64,
}

impl Survivor {
    fn push(&mut self, entry: Entry) -> Result<()> {
        self.channel.push(entry.user_data(self.next))?;
        self.open.insert(self.next);
        self.next += 1;
        Ok(())
    }

    /// Submits the stream's entry until so many are under way, and takes what has come.
    fn step(&mut self, stream: Option<Entry>, limit: Duration) -> Result<()> {
        while let Some(entry) = stream
            && self.dead == 0
            && self.open.len() < DEPTH as usize
        {
            self.push(entry)?;
        }
        self.channel.submit_and_wait(1, limit)?;
        while let Some(done) = self.channel.next_completion() {
            ensure!(self.open.remove(&done.user_data()), "twice: {done:?}");
            match done.state() {
                State::Ok if self.dead == 0 || done.op() != abi::OP_RECV => {
                    self.well += 1;
                }
                State::PeerDead => self.dead += 1,
                _ => bail!("{done:?} after {} ended well", self.well),
            }
        }
        Ok(())
    }
}

/// One connection, one kill.
fn kill_at(
    guest: &Guest,
    observer: &mut Peer,
    step: Step,
    polled: bool,
    numbers: &mut Numbers,
) -> Result<Figures> {
    let here_before = Gauges::read()?;
    let there_before = observer.gauges()?.get("contexts");
    let mut connection = Connection::to_peer(guest)?;
    let mut builder = Channel::builder().entries(32);
    if polled {
        builder = builder.polling(Polling::default());
        connection.peer.ask(Request::Polling)?;
    }
    let channel = builder.build(&connection.context)?;
    let mut survivor = Survivor {
        channel,
        open: std::collections::HashSet::new(),
        next: 0,
        well: 0,
        dead: 0,
    };
    let mut scene = set_up(guest, &mut connection, step)?;
    if step != Step::Receiving {
        // Whatever else is under way: these wait for the peer.
        for _ in 0..4 {
            survivor.push(Entry::recv(&connection.endpoint))?;
        }
        survivor.channel.submit()?;
    }
    let streams = matches!(step, Step::Writing | Step::WritingImm | Step::Receiving);
    let before = if streams { numbers.below(MOST) } else { 0 };
    while survivor.well < before {
        survivor.step(scene.stream, guest.limit(5))?;
    }
    survivor.step(scene.stream, Duration::ZERO)?;

    let killed = connection.peer.start_kill()?;
    if step == Step::Revoking {
        drop(scene.given.take());
        let took = killed.elapsed();
        ensure!(
            took < guest.limit(3),
            "the grant was taken back after {took:?}"
        );
    }
    // The peer's last writes may have used up every posted receive: a stream goes on until an operation reports the
    // death.
    while !survivor.open.is_empty() || (scene.stream.is_some() && survivor.dead == 0) {
        survivor.step(scene.stream, guest.limit(5))?;
        ensure!(
            killed.elapsed() < guest.limit(10),
            "{} operations have not ended",
            survivor.open.len()
        );
    }
    let seen = killed.elapsed();
    ensure!(survivor.dead > 0, "nothing ended in PEER_DEAD");
    let info = connection.endpoint.query()?;
    // A last will may be lost, but then the driver may report no more than that the connection has ended.
    let cause = match info.state {
        EndpointState::Down(Errno::OWNERDEAD) if info.peer_end == abi::PEER_END_DIED => KNOWN,
        EndpointState::Down(Errno::CONNRESET) if info.peer_end == abi::PEER_END_NONE => UNKNOWN,
        state => bail!("the survivor's endpoint: {state:?}, {}", info.peer_end),
    };
    // On one machine this side's context is counted too.
    let own = u64::from(!guest.topology.is_pair());
    let gone = poll::until(guest.limit(5), || {
        let contexts = observer.gauges()?.get("contexts");
        Ok((contexts == there_before + own).then(|| killed.elapsed()))
    })?;
    let gone = gone.context("the peer's context is not gone")?;
    drop(scene);
    drop(survivor);
    drop(connection);
    gauges::settle(&here_before, guest.limit(5))?;
    Ok(Figures { seen, gone, cause })
}

/// Smallest, median, nine in ten, largest.
fn distribution(mut times: Vec<Duration>) -> [Duration; 4] {
    times.sort_unstable();
    let at = |tenths: usize| times[(times.len() - 1) * tenths / 10];
    [at(0), at(5), at(9), at(10)]
}

#[test]
fn death_at_every_step() {
    test(|guest| {
        // The default of 40 ms on base; on debug the last will takes longer, and must come all the same.
        let _patient = guest
            .pick(None, Some(()))
            .map(|()| patient_wills(guest))
            .transpose()?;
        let seed = seed()?;
        let mut numbers = Numbers::new(seed);
        let mut observer = Peer::start(guest)?;
        let rounds = guest.pick(30, guest.rounds(6, 6));
        let (mut all_seen, mut all_gone) = (Vec::new(), Vec::new());
        let mut all_causes = BTreeMap::new();
        let start = Instant::now();
        for step in STEPS {
            let mut seen = Vec::new();
            let mut causes = BTreeMap::new();
            for round in 0..rounds {
                let figures = kill_at(guest, &mut observer, step, round % 2 == 1, &mut numbers)
                    .with_context(|| format!("seed {seed}, {step:?}, round {round}"))?;
                seen.push(figures.seen);
                all_gone.push(figures.gone);
                *causes.entry(figures.cause).or_insert(0) += 1;
            }
            println!(
                "{step:?}: ended after {:?}, {causes:?}",
                distribution(seen.clone())
            );
            for (cause, count) in causes {
                *all_causes.entry(cause).or_insert(0) += count;
            }
            all_seen.extend(seen);
        }
        let (seen, gone) = (distribution(all_seen), distribution(all_gone));
        let kills = rounds * STEPS.len() as u64;
        println!(
            "{kills} kills in {:?}; survivors {all_causes:?}",
            start.elapsed()
        );
        println!(
            "the survivor saw the death after {seen:?}; the peer's context was gone after {gone:?}"
        );
        let unknown = all_causes.get(UNKNOWN).copied().unwrap_or(0);
        // The limits of another kernel are not raised.
        let most = if guest.topology.is_pair() {
            kills / 20
        } else {
            kills.div_ceil(100)
        };
        ensure!(
            unknown <= most,
            "{unknown} of {kills} survivors do not know the reason"
        );
        if guest.pick(true, false) {
            // An emulated machine shares its host, so the limit holds for nine in ten.
            ensure!(seen[2] < Duration::from_millis(100), "seen after {seen:?}");
            ensure!(seen[3] < Duration::from_secs(1), "seen after {seen:?}");
            ensure!(gone[2] < Duration::from_secs(1), "gone after {gone:?}");
        }
        Ok(())
    });
}
