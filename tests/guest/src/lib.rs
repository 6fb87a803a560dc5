// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the suites share: a connection to the peer, with a buffer granted in either direction.

pub mod device;
pub mod import;
mod loopback;
pub mod numa;
pub mod race;
pub mod raw;
pub mod scenario;
pub mod storm;
pub mod swept;
pub mod tool;

pub use loopback::{GrantedLoopback, Loopback};

use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use dmaplane::{
    Buffer, Channel, Completion, ConnectOptions, Context, DEFAULT_RECV_DEPTH, Endpoint, Entry,
    Errno, Listener, LocalGrant, Placement, RemoteGrant, Rights,
};
use dmaplane_testkit::counters::Tuned;
use dmaplane_testkit::peer::client::unexpected;
use dmaplane_testkit::peer::protocol::{Id, Reply, Request};
use dmaplane_testkit::transfer::Tally;
use dmaplane_testkit::{ErrorContext as _, Guest, Peer, Result, ensure, pattern, poll, sys};
use dmaplane_uapi as abi;
use rustix::process::Pid;
use rustix::thread::gettid;

/// A connection between this process and a peer.
///
/// Fields are dropped from top to bottom: this side lets go before the peer ends.
#[derive(Debug)]
pub struct Connection {
    /// This side.
    pub endpoint: Endpoint,
    /// The file that this side belongs to.
    pub context: Context,
    /// The peer's side.
    pub remote: Id,
    /// The peer.
    pub peer: Peer,
}

impl Connection {
    /// The peer listens, this side connects.
    ///
    /// # Errors
    /// When either fails.
    pub fn to_peer(guest: &Guest) -> Result<Self> {
        let context = Context::open()?;
        let mut peer = Peer::start(guest)?;
        let (listener, address) = peer.listen(guest.peer_any_port(), 4)?;
        let limit_ms = peer.limit_ms();
        let recv_depth = DEFAULT_RECV_DEPTH;
        let accept = peer.begin(Request::Accept {
            listener,
            recv_depth,
            limit_ms,
        })?;
        let options = ConnectOptions {
            timeout: guest.limit(10),
            ..Default::default()
        };
        let endpoint = Endpoint::connect(&context, address, &options)?;
        let remote = match peer.finish(accept)? {
            Reply::Id(id) => id,
            other => return Err(unexpected(&other)),
        };
        peer.ask(Request::Close { id: listener })?;
        Ok(Self {
            endpoint,
            context,
            remote,
            peer,
        })
    }

    /// This side listens, the peer connects.
    ///
    /// # Errors
    /// When either fails.
    pub fn from_peer(guest: &Guest) -> Result<Self> {
        let context = Context::open()?;
        let mut peer = Peer::start(guest)?;
        let listener = Listener::bind(&context, guest.local_any_port(), 4)?;
        let limit_ms = peer.limit_ms();
        let recv_depth = DEFAULT_RECV_DEPTH;
        let address = listener.local();
        let connect = peer.begin(Request::Connect {
            address,
            recv_depth,
            limit_ms,
        })?;
        let endpoint = listener.accept(recv_depth, guest.limit(10))?;
        let remote = match peer.finish(connect)? {
            Reply::Id(id) => id,
            other => return Err(unexpected(&other)),
        };
        Ok(Self {
            endpoint,
            context,
            remote,
            peer,
        })
    }

    /// A buffer of the peer's that this side may write; its object there, and the grant.
    ///
    /// # Errors
    /// When it cannot be made or granted.
    pub fn remote_buffer(&mut self, guest: &Guest, bytes: u64) -> Result<(Id, RemoteGrant)> {
        self.remote_buffer_for(guest, bytes, Rights::WRITE)
    }

    /// As [`Connection::remote_buffer`], for other accesses.
    ///
    /// # Errors
    /// When it cannot be made or granted.
    pub fn remote_buffer_for(
        &mut self,
        guest: &Guest,
        bytes: u64,
        rights: Rights,
    ) -> Result<(Id, RemoteGrant)> {
        let buffer = self.peer.create(Request::CreateBuffer { bytes })?;
        self.grant_remote_for(buffer, 0..bytes, 0, rights)?;
        let grant = self.endpoint.wait_grant(guest.limit(10))?;
        ensure!(
            grant.length() == bytes,
            "a grant of {} bytes, not {bytes}",
            grant.length()
        );
        Ok((buffer, grant))
    }

    /// Lets the peer grant a range of its buffer; gives the grant's object there.
    ///
    /// # Errors
    /// When the peer cannot.
    pub fn grant_remote(&mut self, buffer: Id, offset: u64, length: u64, label: u64) -> Result<Id> {
        self.grant_remote_for(buffer, offset..offset + length, label, Rights::WRITE)
    }

    fn grant_remote_for(
        &mut self,
        buffer: Id,
        range: Range<u64>,
        label: u64,
        rights: Rights,
    ) -> Result<Id> {
        let limit_ms = self.peer.limit_ms();
        let endpoint = self.remote;
        self.peer.create(Request::Grant {
            endpoint,
            buffer,
            offset: range.start,
            length: range.end - range.start,
            rights: rights.bits(),
            label,
            limit_ms,
        })
    }

    /// A buffer of this side's that the peer may write; the peer's object for the grant last.
    ///
    /// # Errors
    /// When it cannot be made or granted.
    pub fn local_buffer(&mut self, guest: &Guest, bytes: u64) -> Result<(Buffer, LocalGrant, Id)> {
        let buffer = Buffer::create(&self.context, bytes, Placement::Any)?;
        let limit = guest.limit(10);
        let grant = self
            .endpoint
            .grant(&buffer, 0..bytes, Rights::WRITE, 0, limit)?;
        let (remote, length) = self.peer.wait_grant(self.remote)?;
        ensure!(
            length == bytes,
            "the peer got {length} bytes granted, not {bytes}"
        );
        Ok((buffer, grant, remote))
    }

    /// Lets the peer post receives, and waits until this side has the credits.
    ///
    /// # Errors
    /// When the credits do not come.
    pub fn post_remote(&mut self, guest: &Guest, count: u32) -> Result<()> {
        let before = self.endpoint.query()?.send_credits;
        self.peer.ask(Request::PostReceives {
            endpoint: self.remote,
            count,
        })?;
        let wanted = before + count;
        let credits = poll::until(guest.limit(10), || {
            let credits = self.endpoint.query()?.send_credits;
            Ok((credits >= wanted).then_some(credits))
        })?;
        ensure!(
            credits == Some(wanted),
            "credits {credits:?} instead of {wanted}"
        );
        Ok(())
    }
}

/// Fails unless memory holds what belongs at position `at` of `seed` onwards.
///
/// # Errors
/// The first byte that is wrong.
pub fn holds(memory: &impl pattern::Memory, bytes: u64, seed: u64, at: u64) -> Result<()> {
    let wrong = pattern::mismatch_in_memory(memory, 0, bytes, seed, at);
    ensure!(wrong.is_none(), "byte {wrong:?} of {bytes} is wrong");
    Ok(())
}

/// Carries one entry out and takes its completion.
///
/// # Errors
/// When none comes in time.
pub fn one(channel: &mut Channel, guest: &Guest, entry: Entry) -> Result<Completion> {
    channel.push(entry)?;
    Ok(complete(channel, 1, guest.limit(10))?[0])
}

/// Submits what was pushed and takes exactly `count` completions.
///
/// # Errors
/// When fewer come in time.
pub fn complete(channel: &mut Channel, count: u32, limit: Duration) -> Result<Vec<Completion>> {
    let done = channel.submit_and_wait(count, limit)?;
    ensure!(
        done.available >= count,
        "{} completions instead of {count}",
        done.available
    );
    Ok(channel.completions().take(count as usize).collect())
}

/// What the kernel says of the driver's polling threads under a word of their status.
///
/// # Errors
/// When /proc cannot be read, or a status lacks the word.
pub fn poller_status(word: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        // One that ends meanwhile has nothing to say.
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if status.starts_with("Name:\tdmaplane-poll\n") {
            let line = status.lines().find_map(|line| line.strip_prefix(word));
            found.push(line.context("no such word")?.trim().to_owned());
        }
    }
    Ok(found)
}

/// One of the module's limits, as an administrator reads it.
///
/// # Errors
/// When there is no such limit.
pub fn limit(name: &str) -> Result<usize> {
    let path = format!("/sys/module/dmaplane/limits/{name}");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.trim().parse()?)
}

/// An argument of an ioctl, as a program without the library would make it: its size and these 32-bit members.
pub fn argument(bytes: usize, members: &[(usize, u32)]) -> Vec<u8> {
    let mut raw = vec![0; bytes];
    raw[..4].copy_from_slice(&(bytes as u32).to_ne_bytes());
    for (at, value) in members {
        raw[*at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    raw
}

/// Destroys what `handle` names behind the library's back.
///
/// # Errors
/// The driver's errno.
pub fn destroy(context: &Context, handle: u32) -> Result<()> {
    let members = [(offset_of!(abi::Destroy, handle), handle)];
    let mut raw = argument(size_of::<abi::Destroy>(), &members);
    sys::ioctl(context.as_fd(), abi::IOC_DESTROY, &mut raw)?;
    Ok(())
}

/// The errno of a call that must fail.
///
/// # Errors
/// When it succeeds, or fails without one.
pub fn refusal<T: std::fmt::Debug>(result: dmaplane::Result<T>) -> Result<Errno> {
    match result {
        Ok(value) => dmaplane_testkit::bail!("this must fail, but gives {value:?}"),
        Err(error) => error.errno().ok_or_else(|| error.into()),
    }
}

/// Gives the last wills of this guest's endpoints the time that they take on this machine, until it is dropped: for tests
/// of what a will says. Those do not test the limit of 40 ms.
///
/// # Errors
/// When the driver has no such setting.
pub fn patient_wills(guest: &Guest) -> Result<Tuned> {
    tuned_to(guest, "will_ms", 1)
}

/// As [`patient_wills`], for answers to revocations and for operations that the provider must give back: for tests in
/// which connections must outlive many revocations.
///
/// # Errors
/// When the driver has no such setting.
pub fn patient_answers(guest: &Guest) -> Result<[Tuned; 2]> {
    Ok([
        tuned_to(guest, "answer_ms", 5)?,
        tuned_to(guest, "come_back_ms", 5)?,
    ])
}

fn tuned_to(guest: &Guest, name: &str, seconds: u64) -> Result<Tuned> {
    Tuned::set(name, u64::try_from(guest.limit(seconds).as_millis())?)
}

/// Waits until a stream that another thread runs has seen `count` completions.
///
/// # Errors
/// When it does not.
pub fn under_way(progress: &AtomicU64, count: u64, limit: Duration) -> Result<()> {
    let seen = poll::until(limit, || {
        let seen = progress.load(std::sync::atomic::Ordering::Relaxed);
        Ok((seen >= count).then_some(()))
    })?;
    ensure!(
        seen.is_some(),
        "fewer than {count} completions after {limit:?}"
    );
    Ok(())
}

/// Fails unless each operation of a broken stream ended well or because the peer was dead, and at
/// least one did so.
///
/// # Errors
/// Names what there was.
pub fn ended_by_death(tally: &Tally) -> Result<()> {
    let dead = tally.count(dmaplane::State::PeerDead);
    ensure!(
        dead > 0 && tally.ok() + dead == tally.total(),
        "states {:?}, first {:?}",
        tally.states,
        tally.first_error
    );
    Ok(())
}

/// A program that was built next to the tests' kit.
///
/// # Errors
/// When the runner did not say where that is.
pub fn guest_program(name: &str) -> Result<PathBuf> {
    let folder = std::env::var("DMAPLANE_BIN_DIR")?;
    Ok(PathBuf::from(folder).join(name))
}

/// Whether a thread of this process sleeps (proc_pid_stat(5)).
///
/// # Errors
/// When there is no such thread.
pub fn sleeps(thread: Pid) -> Result<bool> {
    let stat = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
    let stat = std::fs::read_to_string(&stat).with_context(|| stat.clone())?;
    let (_, fields) = stat.rsplit_once(')').context("no name of a command")?;
    Ok(fields.trim_start().starts_with(['S', 'D']))
}

/// Runs `work` in a thread of `scope`, and returns when that thread sleeps: it has reached what makes it wait.
///
/// # Errors
/// When it does not sleep within `limit`.
pub fn asleep<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<T>>> {
    let (sender, receiver) = mpsc::channel();
    let thread = scope.spawn(move || {
        sender.send(gettid())?;
        work()
    });
    let id = receiver.recv()?;
    let asleep = poll::until(limit, || Ok(sleeps(id)?.then_some(())))?;
    asleep.context("the thread does not wait")?;
    Ok(thread)
}
