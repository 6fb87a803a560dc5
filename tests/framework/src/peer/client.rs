// SPDX-License-Identifier: MIT OR Apache-2.0

//! The test's side of a peer.

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::protocol::{Answer, Call, Failure, Id, Reply, Request};
use crate::gauges::{self, Gauges};
use crate::guest::Guest;
use crate::netns;
use crate::processors::Processors;
use crate::transfer::{Received, Tally};

/// Where the second guest's peers listen.
pub const PAIR_PORT: u16 = 7471;

/// A process on the other side of the network. Dropping it ends the process.
#[derive(Debug)]
pub struct Peer {
    socket: File,
    /// Read and not yet a whole line.
    input: Vec<u8>,
    /// Answers that arrived before anybody waited for them.
    early: BTreeMap<u64, Result<Reply, Failure>>,
    last: u64,
    limit: Duration,
    /// Where the peer runs on this machine.
    child: Option<Child>,
}

/// A request that was sent and not answered yet.
#[derive(Debug)]
#[must_use = "its answer has to be taken with `finish`"]
pub struct Pending(u64);

impl Peer {
    /// Starts a peer and lets it open the driver: in the namespace `dp1` of this guest, or in the
    /// second guest.
    ///
    /// # Errors
    /// When it cannot be started or reached, or has no driver.
    pub fn start(guest: &Guest) -> Result<Self> {
        let mut peer = Self::observer(guest)?;
        peer.ask(Request::Open)?;
        Ok(peer)
    }

    /// Starts a peer that has not opened the driver, so that no gauge counts it.
    ///
    /// # Errors
    /// When it cannot be started or reached.
    pub fn observer(guest: &Guest) -> Result<Self> {
        let (socket, child) = if guest.topology.is_pair() {
            let address = SocketAddr::new(guest.peer, PAIR_PORT);
            let socket = TcpStream::connect_timeout(&address, guest.limit(10))
                .with_context(|| format!("no peer agent at {address}"))?;
            socket.set_nodelay(true)?;
            (OwnedFd::from(socket), None)
        } else {
            let (child, socket) = netns::inside("dp1", spawn)??;
            (OwnedFd::from(socket), Some(child))
        };
        Ok(Self {
            socket: File::from(socket),
            input: Vec::new(),
            early: BTreeMap::new(),
            last: 0,
            limit: guest.limit(120),
            child,
        })
    }

    /// Sends a request without waiting for its answer.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn begin(&mut self, request: Request) -> Result<Pending> {
        self.last += 1;
        let mut line = serde_json::to_vec(&Call {
            number: self.last,
            request,
        })?;
        line.push(b'\n');
        self.socket.write_all(&line).context("the peer is gone")?;
        Ok(Pending(self.last))
    }

    /// Waits for the answer to a request.
    ///
    /// # Errors
    /// When the request failed ([`Failure`]), the peer died, or nothing came for too long.
    #[expect(clippy::needless_pass_by_value, reason = "an answer is taken once")]
    pub fn finish(&mut self, pending: Pending) -> Result<Reply> {
        let deadline = Instant::now() + self.limit;
        loop {
            if let Some(result) = self.early.remove(&pending.0) {
                return Ok(result?);
            }
            let answer = self.read_answer(deadline)?;
            self.early.insert(answer.number, answer.result);
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// As [`Peer::finish`].
    pub fn ask(&mut self, request: Request) -> Result<Reply> {
        let pending = self.begin(request)?;
        self.finish(pending)
    }

    /// Asks for a new object.
    ///
    /// # Errors
    /// As [`Peer::finish`].
    pub fn create(&mut self, request: Request) -> Result<Id> {
        match self.ask(request)? {
            Reply::Id(id) => Ok(id),
            other => Err(unexpected(&other)),
        }
    }

    /// Lets the peer listen on a free port of its RDMA device.
    ///
    /// # Errors
    /// As [`Peer::finish`].
    pub fn listen(&mut self, address: SocketAddr, backlog: u32) -> Result<(Id, SocketAddr)> {
        match self.ask(Request::Listen { address, backlog })? {
            Reply::Listening { id, address } => Ok((id, address)),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits for a grant of this side; gives its object and bytes.
    ///
    /// # Errors
    /// As [`Peer::finish`].
    pub fn wait_grant(&mut self, endpoint: Id) -> Result<(Id, u64)> {
        let limit_ms = self.limit_ms();
        match self.ask(Request::WaitGrant { endpoint, limit_ms })? {
            Reply::Granted { id, length, .. } => Ok((id, length)),
            other => Err(unexpected(&other)),
        }
    }

    /// Fails unless the first `length` bytes of the peer's buffer are the pattern of `seed`.
    ///
    /// # Errors
    /// Names the first wrong byte; or as [`Peer::finish`].
    pub fn verify(&mut self, buffer: Id, length: u64, seed: u64) -> Result<()> {
        match self.ask(Request::Verify {
            buffer,
            offset: 0,
            length,
            seed,
        })? {
            Reply::Mismatch(None) => Ok(()),
            Reply::Mismatch(Some(at)) => bail!("byte {at} of the peer's buffer is wrong"),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes the answer of [`Request::Send`].
    ///
    /// # Errors
    /// As [`Peer::finish`].
    pub fn sent(&mut self, pending: Pending) -> Result<Tally> {
        match self.finish(pending)? {
            Reply::Sent(tally) => Ok(tally),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes the answer of [`Request::Receive`].
    ///
    /// # Errors
    /// As [`Peer::finish`].
    pub fn received(&mut self, pending: Pending) -> Result<Received> {
        match self.finish(pending)? {
            Reply::Received(received) => Ok(received),
            other => Err(unexpected(&other)),
        }
    }

    /// The gauges of the peer's machine.
    ///
    /// # Errors
    /// As [`Peer::finish`].
    pub fn gauges(&mut self) -> Result<Gauges> {
        match self.ask(Request::Gauges)? {
            Reply::Gauges(gauges) => Ok(gauges),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads what the processors of the peer's machine did.
    ///
    /// # Errors
    /// As [`Peer::finish`].
    pub fn processors(&mut self) -> Result<Processors> {
        match self.ask(Request::Processors)? {
            Reply::Processors(processors) => Ok(processors),
            other => Err(unexpected(&other)),
        }
    }

    /// Completions that the peer's running stream has seen.
    ///
    /// # Errors
    /// As [`Peer::finish`].
    pub fn progress(&mut self) -> Result<u64> {
        match self.ask(Request::Progress)? {
            Reply::Progress(done) => Ok(done),
            other => Err(unexpected(&other)),
        }
    }

    /// Kills the peer (SIGKILL) without waiting for its end. Returns the time just before.
    ///
    /// # Errors
    /// When the signal, or on another machine the request for it, cannot be sent.
    pub fn start_kill(&mut self) -> Result<Instant> {
        let now = Instant::now();
        match &mut self.child {
            Some(child) => child.kill().context("cannot kill the peer")?,
            None => drop(self.begin(Request::Kill)?),
        }
        Ok(now)
    }

    /// Kills the peer (SIGKILL) and waits until its connection to the test has ended.
    ///
    /// # Errors
    /// When it does not die.
    pub fn kill(mut self) -> Result<()> {
        let _ = self.begin(Request::Kill)?;
        let deadline = Instant::now() + self.limit;
        while self.fill(deadline)? > 0 {}
        if let Some(mut child) = self.child.take() {
            child.wait().context("cannot wait for the killed peer")?;
        }
        Ok(())
    }

    /// Whether it runs on another machine.
    pub fn is_remote(&self) -> bool {
        self.child.is_none()
    }

    /// The limit of requests that wait, for the peer's own time limits: shorter than this side's.
    pub fn limit_ms(&self) -> u64 {
        u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX) / 2
    }

    fn read_answer(&mut self, deadline: Instant) -> Result<Answer> {
        loop {
            if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                return serde_json::from_slice(&line).context("the peer's answer makes no sense");
            }
            ensure!(self.fill(deadline)? > 0, "the peer died");
        }
    }

    /// Reads what is there; 0 bytes when the peer is gone.
    fn fill(&mut self, deadline: Instant) -> Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut fds, limit.as_ref()) {
            Ok(0) => bail!("the peer does not answer"),
            Ok(_) => {}
            Err(Errno::INTR) => return self.fill(deadline),
            Err(errno) => return Err(anyhow!("cannot wait for the peer: {errno}")),
        }
        let mut piece = [0; 64 << 10];
        let count = match self.socket.read(&mut piece) {
            Ok(count) => count,
            // A killed peer in another guest may reset the connection instead of closing it.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error).context("cannot read from the peer"),
        };
        self.input.extend_from_slice(&piece[..count]);
        Ok(count)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It ends by itself when its connection ends; a test that fails does not wait for that.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until the second guest of a pair has no object of the driver's. A peer there may live on
/// after its connection to the test has ended, and the kernel may still be closing what it had.
///
/// # Errors
/// When it is not rid of them after `limit`; names each kind that is left.
pub fn settle(guest: &Guest, limit: Duration) -> Result<()> {
    if !guest.topology.is_pair() {
        return Ok(());
    }
    let mut observer = Peer::observer(guest)?;
    gauges::settle_as(&Gauges::default(), limit, || observer.gauges())
        .context("on the second guest")
}

/// An answer of another kind than was asked for.
pub fn unexpected(reply: &Reply) -> anyhow::Error {
    anyhow!("the peer gave an answer to another question: {reply:?}")
}

/// The errno of a request that the peer's driver refused.
pub fn errno(error: &anyhow::Error) -> Option<Errno> {
    let failure = error.downcast_ref::<Failure>()?;
    failure.errno.map(Errno::from_raw_os_error)
}

fn spawn() -> Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair().context("no socket pair")?;
    let program = program()?;
    let child = Command::new(&program)
        .arg("--serve")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    Ok((child, ours))
}

/// `dmaplane-peer`: in DMAPLANE_BIN_DIR, else beside the folder of this test's program.
///
/// # Errors
/// When it is not there.
pub fn program() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("DMAPLANE_BIN_DIR") {
        return Ok(PathBuf::from(folder).join("dmaplane-peer"));
    }
    let own = env::current_exe().context("cannot find this program")?;
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("dmaplane-peer"));
    let found = beside.into_iter().find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no dmaplane-peer near {}: build it, or set DMAPLANE_BIN_DIR",
            own.display()
        )
    })
}
