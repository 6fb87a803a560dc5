// SPDX-License-Identifier: MIT OR Apache-2.0

//! Bad networks: the data of every operation that ended well is there, right and in order; all others end in a
//! documented state.

use std::time::Instant;

use dmaplane::{Buffer, Channel, Entry, Placement, RemoteGrant, Rights, State as End};
use dmaplane_guest_tests::{Connection, holds, one};
use dmaplane_observe::state::State;
use dmaplane_testkit::iproute2::ip;
use dmaplane_testkit::netem::Netem;
use dmaplane_testkit::peer::protocol::{Id, Reply, Request};
use dmaplane_testkit::rdma::Link;
use dmaplane_testkit::{
    ErrorContext as _, Guest, Result, anyhow, bail, ensure, netns, pattern, poll, test,
};

/// Bytes of an operation.
const CHUNK: u32 = 16 << 10;
/// Operations under way.
const DEPTH: u32 = 16;

/// Bytes of a SEND.
const WORD: u32 = 8;

/// What is done with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    WriteImm,
    Read,
    Send,
}

/// They take turns.
fn kind_of(chunk: u32) -> Kind {
    match chunk % 4 {
        0 => Kind::Write,
        1 => Kind::WriteImm,
        2 => Kind::Read,
        _ => Kind::Send,
    }
}

/// Whether the peer needs a receive for it, and reports its arrival.
fn arrives(chunk: u32) -> bool {
    matches!(kind_of(chunk), Kind::WriteImm | Kind::Send)
}

/// A connection over the network with something to write, to read and to send.
struct Way {
    given: RemoteGrant,
    mine: Buffer,
    theirs: Id,
    /// Where the peer's receives take what SENDs bring, in the order in which they were posted.
    words: Id,
    connection: Connection,
    chunks: u32,
}

impl Way {
    fn new(guest: &Guest) -> Result<Self> {
        let chunks = guest.pick(64, 16);
        let bytes = u64::from(chunks) * u64::from(CHUNK);
        let mut connection = Connection::to_peer(guest)?;
        let rights = Rights::from_bits(Rights::WRITE.bits() | Rights::READ.bits());
        let (theirs, given) = connection.remote_buffer_for(guest, bytes, rights)?;
        let mine = Buffer::create(&connection.context, bytes, Placement::Any)?;
        for chunk in 0..chunks {
            let offset = u64::from(chunk) * u64::from(CHUNK);
            let (length, seed) = (CHUNK.into(), seed_of(chunk));
            // Each chunk has a pattern of its own: one at a wrong place is wrong data.
            if kind_of(chunk) == Kind::Read {
                connection.peer.ask(Request::Fill {
                    buffer: theirs,
                    offset,
                    length,
                    seed,
                })?;
            } else {
                pattern::fill_memory(&mine, offset, length, seed, 0);
            }
        }
        let count = (0..chunks).filter(|chunk| arrives(*chunk)).count();
        let bytes = count as u64 * u64::from(WORD);
        let words = connection.peer.create(Request::CreateBuffer { bytes })?;
        connection.peer.ask(Request::PostReceivesInto {
            endpoint: connection.remote,
            buffer: words,
            count: u32::try_from(count)?,
            bytes: WORD,
        })?;
        Ok(Self {
            given,
            mine,
            theirs,
            words,
            connection,
            chunks,
        })
    }

    fn entry(&self, chunk: u32) -> Entry {
        let at = u64::from(chunk) * u64::from(CHUNK);
        let (mine, given) = (self.mine.range(at, CHUNK), self.given.at(at));
        match kind_of(chunk) {
            Kind::Write => Entry::write(mine, given),
            Kind::WriteImm => Entry::write_imm(mine, given, chunk),
            Kind::Read => Entry::read(mine, given),
            Kind::Send => Entry::send(&self.connection.endpoint, self.mine.range(at, WORD), chunk),
        }
    }

    /// Transfers every chunk once; returns how each ended. Calls `begin` when a quarter has ended, then submits more,
    /// so that something is under way at `finish`.
    fn transfer<T>(
        &self,
        guest: &Guest,
        begin: impl FnOnce() -> Result<T>,
        finish: impl FnOnce(T) -> Result<()>,
    ) -> Result<Vec<End>> {
        let mut channel = Channel::builder()
            .entries(DEPTH)
            .build(&self.connection.context)?;
        let mut states = vec![None; self.chunks as usize];
        let (mut begin, mut begun, mut finish) = (Some(begin), None, Some(finish));
        let (mut pushed, mut ended) = (0, 0);
        while ended < self.chunks {
            let most = match begin {
                Some(_) => self.chunks / 2,
                None => self.chunks,
            };
            while pushed < most && pushed - ended < DEPTH {
                channel.push(self.entry(pushed).user_data(pushed.into()))?;
                pushed += 1;
            }
            if let Some(begun) = begun.take()
                && let Some(finish) = finish.take()
            {
                channel.submit()?;
                finish(begun)?;
            }
            let done = channel.submit_and_wait(1, guest.limit(30))?;
            ensure!(done.available > 0, "{ended} of {pushed} ended, no more do");
            for done in channel.completions() {
                let name = usize::try_from(done.user_data())?;
                let before = states[name].replace(done.state());
                ensure!(before.is_none(), "a second completion: {done:?}");
                ended += 1;
            }
            if ended >= self.chunks / 4
                && let Some(begin) = begin.take()
            {
                begun = Some(begin()?);
            }
        }
        states
            .into_iter()
            .map(|state| state.context("a chunk without a completion"))
            .collect()
    }

    /// Fails unless each chunk whose transfer ended well is where it was to go, and what arrived came once and in order.
    fn verify(&mut self, states: &[End]) -> Result<()> {
        let mut arrived = Vec::new();
        for (chunk, state) in (0..).zip(states) {
            match state {
                End::Ok => {}
                End::PeerDead | End::Error | End::Canceled => continue,
                other => bail!("chunk {chunk} ended in {other:?}"),
            }
            if arrives(chunk) {
                arrived.push(chunk);
            }
            let wrong = self.wrong(chunk)?;
            let kind = kind_of(chunk);
            ensure!(
                wrong.is_none(),
                "chunk {chunk}, {kind:?}, is wrong: {wrong:?}"
            );
        }
        let count = (0..self.chunks).filter(|chunk| arrives(*chunk)).count();
        // Receives for which nothing comes any more end with their endpoint, which may have to notice the end first.
        let received = match self.connection.peer.ask(Request::WaitReceives {
            count: u32::try_from(count)?,
            limit_ms: self.connection.peer.limit_ms(),
        })? {
            Reply::Received(received) => received,
            other => bail!("{other:?}"),
        };
        let came = received.immediates;
        ensure!(came.is_sorted_by(|a, b| a < b), "not in order: {came:?}");
        // More may have arrived than this side knows of, but nothing that it did not send.
        let strange = came.iter().find(|chunk| !arrives(**chunk));
        ensure!(strange.is_none(), "{strange:?} came");
        let lost = arrived.iter().find(|chunk| !came.contains(chunk));
        ensure!(lost.is_none(), "{lost:?} ended well and never came");
        for (place, chunk) in (0..).zip(came) {
            if kind_of(chunk) == Kind::Send {
                let (offset, seed) = (place * u64::from(WORD), seed_of(chunk));
                let wrong = self.differs(self.words, offset, WORD.into(), seed)?;
                ensure!(wrong.is_none(), "what SEND {chunk} brought: {wrong:?}");
            }
        }
        Ok(())
    }

    /// Where a range of the peer's memory is not what it should be, if so.
    fn differs(&mut self, buffer: Id, offset: u64, length: u64, seed: u64) -> Result<Option<u64>> {
        match self.connection.peer.ask(Request::Verify {
            buffer,
            offset,
            length,
            seed,
        })? {
            Reply::Mismatch(wrong) => Ok(wrong),
            other => bail!("{other:?}"),
        }
    }

    /// Where a chunk is wrong at the side where it was to go, if it is.
    fn wrong(&mut self, chunk: u32) -> Result<Option<u64>> {
        let offset = u64::from(chunk) * u64::from(CHUNK);
        let (length, seed) = (u64::from(CHUNK), seed_of(chunk));
        match kind_of(chunk) {
            // Its place is that of the receive that took it.
            Kind::Send => Ok(None),
            Kind::Read => {
                let mine = &self.mine;
                Ok(pattern::mismatch_in_memory(mine, offset, length, seed, 0))
            }
            Kind::Write | Kind::WriteImm => self.differs(self.theirs, offset, length, seed),
        }
    }
}

fn seed_of(chunk: u32) -> u64 {
    0x6e65_7400 + u64::from(chunk)
}

/// Whether all ended well, else fails unless there is a break after which nothing did.
fn all_ok(states: &[End]) -> bool {
    states.iter().all(|state| *state == End::Ok)
}

fn works_again(guest: &Guest) -> Result<()> {
    let mut way = Way::new(guest).context("the next connection")?;
    let states = way.transfer(guest, || Ok(()), Ok)?;
    ensure!(all_ok(&states), "afterwards: {states:?}");
    way.verify(&states)
}

/// Whether an operation of this machine takes longer than any that gets through. If only packets to the peer are lost,
/// the peer may be heard all the same.
fn is_stuck(state: &State) -> bool {
    const SECOND_NS: u64 = 1_000_000_000;
    !state.stuck(SECOND_NS).is_empty()
}

/// Waits until what the driver shows is so.
fn seen(guest: &Guest, what: &str, is_so: impl Fn(&State) -> bool) -> Result<()> {
    let seen = poll::until(guest.limit(10), || Ok(is_so(&State::read()?).then_some(())))?;
    seen.with_context(|| format!("never seen: {what}"))
}

/// The own link and, where this process can reach it, the peer's.
fn both_links(guest: &Guest) -> Result<Vec<Link>> {
    let mut links = vec![Link::only()?];
    if !guest.topology.is_pair() {
        links.push(netns::inside("dp1", Link::only)??);
    }
    Ok(links)
}

/// Lets the interfaces of both do the same. Where the peer's silence counts, the links are looked up before.
fn both_ways(links: &[Link], words: &str) -> Result<Vec<Netem>> {
    let mut ways = Vec::new();
    for (at, link) in links.iter().enumerate() {
        let on = || Netem::on(link, words);
        ways.push(match at {
            0 => on()?,
            _ => netns::inside("dp1", on)??,
        });
    }
    Ok(ways)
}

/// Ends it in the namespaces where it began.
fn end(mut ways: Vec<Netem>) -> Result<()> {
    if ways.len() > 1 {
        let there = ways.pop();
        netns::inside("dp1", || drop(there))?;
    }
    drop(ways);
    Ok(())
}

#[test]
fn network_netem_loses_reorders_duplicates_and_corrupts() {
    test(|guest| {
        for words in [
            "loss 2%",
            "delay 2ms reorder 30% 50%",
            "duplicate 20%",
            "corrupt 2%",
            "delay 2ms 2ms loss 1% duplicate 5% corrupt 1%",
        ] {
            let mut way = Way::new(guest)?;
            let bad = both_ways(&both_links(guest)?, words)?;
            let states = way.transfer(guest, || Ok(()), Ok).context(words);
            end(bad)?;
            let states = states?;
            let ok = states.iter().filter(|state| **state == End::Ok).count();
            println!("{words}: {ok} of {} ended well", states.len());
            way.verify(&states).context(words)?;
        }
        works_again(guest)
    });
}

/// Lost packets are sent again, as often as it takes: no READ fails because of them, nor because of duplicates.
#[test]
fn network_reads_survive_losses() {
    const BYTES: u32 = 4096;
    test(|guest| {
        let count: u32 = guest.pick(48, 16);
        let mut connection = Connection::to_peer(guest)?;
        let rights = Rights::from_bits(Rights::WRITE.bits() | Rights::READ.bits());
        let whole = u64::from(count) * u64::from(BYTES);
        let (theirs, given) = connection.remote_buffer_for(guest, whole, rights)?;
        connection.peer.ask(Request::Fill {
            buffer: theirs,
            offset: 0,
            length: whole,
            seed: 78,
        })?;
        let mine = Buffer::create(&connection.context, whole, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&connection.context)?;
        for words in ["loss 3%", "duplicate 30%"] {
            pattern::fill_memory(&mine, 0, whole, 79, 0);
            let bad = both_ways(&both_links(guest)?, words)?;
            let read: Result<()> = (0..count).try_for_each(|index| {
                let at = u64::from(index) * u64::from(BYTES);
                let entry = Entry::read(mine.range(at, BYTES), given.at(at));
                let done = one(&mut channel, guest, entry)?;
                done.result()
                    .with_context(|| format!("{words}: READ {index}"))?;
                Ok(())
            });
            end(bad)?;
            read?;
            holds(&mine, whole, 78, 0).context(words)?;
        }
        Ok(())
    });
}

#[test]
fn network_partition_that_heals_in_time() {
    test(|guest| {
        let mut way = Way::new(guest)?;
        let links = both_links(guest)?;
        let begin = || Ok((Instant::now(), both_ways(&links, "loss 100%")?));
        let states = way.transfer(guest, begin, |(begun, bad)| {
            println!("{:?} until it is cut off", begun.elapsed());
            // Operations are stuck by then; the seconds after which the peer counts as dead are not over.
            seen(guest, "an operation that is stuck", is_stuck)?;
            println!("{:?} until it is stuck", begun.elapsed());
            end(bad)?;
            println!("{:?} until it is healed", begun.elapsed());
            Ok(())
        })?;
        ensure!(all_ok(&states), "{states:?}");
        way.verify(&states)
    });
}

#[test]
fn network_partition_that_lasts() {
    test(|guest| {
        let mut way = Way::new(guest)?;
        let mut bad = Vec::new();
        let links = both_links(guest)?;
        let begin = || both_ways(&links, "loss 100%");
        let states = way.transfer(guest, begin, |begun| {
            bad = begun;
            Ok(())
        });
        end(bad)?;
        let states = states?;
        let last = states.last().copied();
        ensure!(last == Some(End::PeerDead), "{states:?}");
        // The peer's memory holds what was written before, even if the peer has to be asked another way.
        way.verify(&states)?;
        drop(way);
        works_again(guest)
    });
}

#[test]
fn network_mtu_shrinks_and_grows() {
    test(|guest| {
        let link = Link::only()?;
        let mtu = |bytes: u32| ip(&format!("link set {} mtu {bytes}", link.netdev));
        let mut way = Way::new(guest)?;
        let states = way.transfer(
            guest,
            || mtu(1400),
            |()| {
                // Packets meet it: what is under way goes through in smaller ones, or is stuck.
                let through = |state: &State| {
                    let mut operations = state.operations.iter();
                    !operations.any(|line| line.text("op") != "recv")
                };
                seen(guest, "what is under way, through or lost", |state| {
                    through(state) || is_stuck(state)
                })?;
                mtu(4200)
            },
        );
        mtu(4200)?;
        let states = states?;
        println!("all well: {}", all_ok(&states));
        way.verify(&states)?;
        drop(way);
        // A connection that is made meanwhile uses the MTU of that time.
        mtu(1500)?;
        let small = works_again(guest);
        mtu(4200)?;
        small?;
        works_again(guest)
    });
}

#[test]
fn network_address_goes_and_comes_back() {
    test(|guest| {
        let link = Link::only()?;
        let address = format!("{}/24 dev {}", guest.local, link.netdev);
        let mut way = Way::new(guest)?;
        let states = way.transfer(guest, || ip(&format!("address del {address}")), Ok);
        ip(&format!("address add {address}")).map_err(|error| anyhow!("{error:#}"))?;
        let states = states?;
        println!("all well: {}", all_ok(&states));
        way.verify(&states)?;
        drop(way);
        works_again(guest)
    });
}
