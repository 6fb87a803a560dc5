// SPDX-License-Identifier: MIT OR Apache-2.0

//! No late writes: once a grant is taken back, nothing of the peer's arrives in its range, however busily the peer
//! writes, and the peer is notified.

use std::time::Instant;

use dmaplane::{Buffer, EndpointState, Placement, Rights};
use dmaplane_guest_tests::{Connection, patient_answers};
use dmaplane_testkit::pattern::{self, Numbers};
use dmaplane_testkit::peer::client::unexpected;
use dmaplane_testkit::peer::protocol::{Reply, Request};
use dmaplane_testkit::transfer::STOP;
use dmaplane_testkit::{ErrorContext as _, Guest, Result, ensure, seed, test};

const PAGE: u64 = 4096;
/// Bytes of a grant.
const LENGTH: u64 = 2 * PAGE;
/// Bytes of one write.
const CHUNK: u32 = 2048;
/// Writes that the peer has under way.
const DEPTH: u32 = 8;
/// Granted in turn, so that each is watched for the next few grants after its own was taken back.
const BUFFERS: usize = 4;
/// Bytes that are looked at in one go.
const PIECE: u64 = 512;
/// What the peer writes.
const THEIRS: u64 = 0x7e57;

/// Buffers whose grants were taken back: each holds a pattern of this side's, which must stay.
struct Fenced {
    buffers: Vec<Buffer>,
    /// Of each one's pattern.
    seeds: Vec<u64>,
    /// The next piece to look at.
    cursor: u64,
    /// Pieces looked at.
    looks: u64,
}

impl Fenced {
    fn fill(&mut self, at: usize, seed: u64) {
        pattern::fill_memory(&self.buffers[at], 0, LENGTH, seed, 0);
        self.seeds[at] = seed;
    }

    /// Whether the peer has written the first bytes of a buffer that is granted.
    fn is_written(&self, at: usize) -> bool {
        pattern::mismatch_in_memory(&self.buffers[at], 0, 8, self.seeds[at], 0).is_some()
    }

    fn check(&mut self, at: usize, offset: u64, length: u64) -> Result<()> {
        self.looks += 1;
        let (buffer, seed) = (&self.buffers[at], self.seeds[at]);
        let wrong = pattern::mismatch_in_memory(buffer, offset, length, seed, offset);
        ensure!(
            wrong.is_none(),
            "a late write into buffer {at}, whose grant was taken back in round {seed}: byte {} changed",
            offset + wrong.unwrap_or(0)
        );
        Ok(())
    }

    /// Looks at the next piece of all buffers but the one that is granted.
    fn look(&mut self, granted: usize) -> Result<()> {
        let pieces = LENGTH / PIECE;
        self.cursor += 1;
        let others = BUFFERS as u64 - 1;
        let nth = usize::try_from(self.cursor / pieces % others)?;
        let at = (granted + 1 + nth) % BUFFERS;
        self.check(at, self.cursor % pieces * PIECE, PIECE)
    }
}

/// One grant, taken back at a random moment. Says whether the peer was seen writing.
fn round(
    guest: &Guest,
    connection: &Connection,
    fenced: &mut Fenced,
    numbers: &mut Numbers,
    number: u64,
) -> Result<bool> {
    let at = usize::try_from(number)? % BUFFERS;
    // The last look after the rounds of all the others.
    fenced.check(at, 0, LENGTH)?;
    let grant = connection.endpoint.grant(
        &fenced.buffers[at],
        0..LENGTH,
        Rights::WRITE,
        number,
        guest.limit(10),
    )?;
    // Now and then before the peer even knows of it.
    let waits = numbers.below(16) != 0;
    let start = Instant::now();
    while waits && !fenced.is_written(at) {
        fenced.look(at)?;
        ensure!(start.elapsed() < guest.limit(20), "nothing ever arrives");
    }
    for _ in 0..numbers.below(32) {
        fenced.look(at)?;
    }
    drop(grant);
    // From here on the memory is this side's alone, and what it writes there must stay.
    fenced.fill(at, number + 1);
    Ok(waits)
}

#[test]
fn late_write_none_at_any_moment() {
    test(|guest| {
        let seed = seed()?;
        let mut numbers = Numbers::new(seed);
        let mut connection = Connection::to_peer(guest)?;
        let buffer = |_| Buffer::create(&connection.context, LENGTH, Placement::Any);
        let mut fenced = Fenced {
            buffers: (0..BUFFERS).map(buffer).collect::<Result<_, _>>()?,
            seeds: vec![0; BUFFERS],
            cursor: 0,
            looks: 0,
        };
        for at in 0..BUFFERS {
            fenced.fill(at, 0);
        }
        let source = connection
            .peer
            .create(Request::CreateBuffer { bytes: LENGTH })?;
        connection.peer.ask(Request::Fill {
            buffer: source,
            offset: 0,
            length: LENGTH,
            seed: THEIRS,
        })?;
        let writing = connection.peer.begin(Request::WriteLoop {
            endpoint: connection.remote,
            buffer: source,
            chunk: CHUNK,
            depth: DEPTH,
            limit_ms: connection.peer.limit_ms(),
        })?;
        // A guest that stands still for a second would lose the connection, and with it the tight loop of writes.
        let _patient = patient_answers(guest)?;
        let rounds = guest.rounds(10_000, 200);
        let start = Instant::now();
        let mut seen = 0;
        for number in 0..rounds {
            let written = round(guest, &connection, &mut fenced, &mut numbers, number)
                .with_context(|| format!("seed {seed}, round {number}"))?;
            seen += u64::from(written);
        }
        let took = start.elapsed();
        // The end of the peer's loop, which is not written.
        let last = Buffer::create(&connection.context, PAGE, Placement::Any)?;
        let stop =
            connection
                .endpoint
                .grant(&last, 0..PAGE, Rights::WRITE, STOP, guest.limit(10))?;
        let written = match connection.peer.finish(writing)? {
            Reply::Written(written) => written,
            other => return Err(unexpected(&other)),
        };
        drop(stop);
        for at in 0..BUFFERS {
            fenced.check(at, 0, LENGTH)?;
        }
        println!(
            "{rounds} grants taken back in {took:?}, {seen} after the peer was seen writing; {} looks at memory",
            fenced.looks
        );
        println!("the peer: {written:?}");
        ensure!(written.revoked == written.grants, "{written:?}");
        ensure!(
            written.grants >= seen,
            "of {seen} grants that were written: {written:?}"
        );
        let state = connection.endpoint.query()?.state;
        ensure!(
            state == EndpointState::Up,
            "the connection ended: {state:?}"
        );
        Ok(())
    });
}
