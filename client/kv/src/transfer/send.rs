// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sender's half.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::location::{Memory, MemoryLocation};
use super::message::{self, End, MAX_MESSAGE, Verdict};
use super::options::{Limits, SendOptions, Stats, ms};
use super::{Done, LABEL_CONTROL, LABEL_DATA, LABEL_VERDICT, TransferError, full, ring_entries};
use super::{wait, wait_grant};
use crate::{ChunkPlan, Imm, Manifest, manifest::MAX_JSON};
use dmaplane::{
    Buffer, Channel, Completion, ConnectOptions, Context, Endpoint, Entry, Errno, MemoryInfo,
    Placement, RemoteGrant, Rights,
};

/// Marks the receives for the receiver's messages: keepalives, and the verdict.
const TAG_VERDICT: u64 = 0;
/// How many of these receives are posted: the verdict does not wait for a keepalive to be taken.
const WORDS: u32 = 2;
/// The longest wait for a grant before the next look at the receiver's messages.
const GRANT_WAIT: Duration = Duration::from_millis(100);
/// Marks the manifest and the end.
const TAG_CONTROL: u64 = 1;
/// Marks the first chunk; the others follow in the order of sending.
const TAG_CHUNKS: u64 = 2;

/// A cache in the driver's memory, ready to be sent.
#[derive(Debug)]
pub struct Source {
    manifest: Manifest,
    memory: Memory,
    staging: Duration,
}

impl Source {
    /// Copies a cache into a buffer of the driver's.
    ///
    /// # Errors
    /// [`TransferError::Driver`] when there is no such memory, [`TransferError::Limit`] when one
    /// chunk is more than an operation can move, [`TransferError::Protocol`] when `data` is not as
    /// long as the manifest says.
    pub fn new(
        context: &Context,
        manifest: Manifest,
        data: &[u8],
        location: MemoryLocation,
    ) -> Done<Self> {
        let (chunk, most) = (
            manifest.geometry().chunk_size,
            context.limits().max_op_bytes,
        );
        if chunk > most.min(u64::from(u32::MAX)) {
            return Err(TransferError::Limit(format!(
                "a chunk of {chunk} bytes is more than one operation can move ({most}). Choose a \
                 smaller chunk size"
            )));
        }
        if data.len() as u64 != manifest.bytes() {
            return Err(TransferError::Protocol(format!(
                "{} bytes of data, {} in the manifest",
                data.len(),
                manifest.bytes()
            )));
        }
        let memory = Memory::new(context, manifest.bytes(), location)?;
        let staging = memory.fill(data, Limits::default().idle)?;
        Ok(Self {
            manifest,
            memory,
            staging,
        })
    }

    /// What is sent.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whose memory it is in, and how RDMA reaches it.
    pub fn memory(&self) -> MemoryInfo {
        self.memory.info()
    }
}

/// Connects to a receiver. While nobody listens there, it tries again until the limit passes, so
/// that the two sides can be started in any order; every other error is final.
///
/// # Errors
/// [`TransferError::Driver`], as [`Endpoint::connect`].
pub fn connect(
    context: &Context,
    remote: SocketAddr,
    local: Option<SocketAddr>,
    limit: Duration,
) -> Done<Endpoint> {
    /// Nothing reports when a listener appears, so this is the interval of the attempts.
    const PAUSE: Duration = Duration::from_millis(100);
    let deadline = Instant::now().checked_add(limit);
    let mut refused = None;
    loop {
        let timeout = deadline.map_or(limit, |end| end.saturating_duration_since(Instant::now()));
        let options = ConnectOptions {
            local,
            timeout,
            ..ConnectOptions::default()
        };
        let error = match Endpoint::connect(context, remote, &options) {
            Ok(endpoint) => return Ok(endpoint),
            Err(error) => error,
        };
        if error.errno() == Some(Errno::CONNREFUSED) && timeout > PAUSE {
            refused = Some(error);
            std::thread::sleep(PAUSE);
        } else if error.is_timeout() {
            // `ECONNREFUSED` says more than the timeout of a last attempt that had little time.
            return Err(refused.unwrap_or(error).into());
        } else if !error.is_interrupted() {
            return Err(error.into());
        }
    }
}

/// Sends a cache and waits for the receiver's verdict. `progress` is called with the bytes sent so far.
///
/// # Errors
/// [`TransferError::Refused`] with the receiver's reason when it has one to give; otherwise the
/// error of the step that failed.
pub fn send(
    endpoint: &Endpoint,
    source: &Source,
    options: &SendOptions,
    progress: impl FnMut(u64),
) -> Done<Stats> {
    let context = source.memory.wire().context();
    let depth = options.depth.max(1);
    // Beside the chunks: the manifest or the end, and the receives for the receiver's messages.
    let entries = ring_entries(depth.saturating_add(1 + WORDS), context)?;
    let mut sender = Sender {
        channel: Channel::builder().entries(entries).build(context)?,
        verdict: Buffer::create(context, MAX_MESSAGE, Placement::Any)?,
        control: Buffer::create(context, MAX_JSON as u64, Placement::Any)?,
        endpoint,
        source,
        idle: options.limits.idle,
        verdict_over: false,
    };
    match sender.run(depth, options, progress) {
        // The receiver says why before it disconnects.
        Err(error) if error.is_disconnect() => Err(sender.last_words().unwrap_or(error)),
        other => other,
    }
}

struct Sender<'a> {
    channel: Channel,
    /// Where the receiver writes its verdict.
    verdict: Buffer,
    /// Where manifest and end are written from.
    control: Buffer,
    endpoint: &'a Endpoint,
    source: &'a Source,
    idle: Duration,
    /// The receive for the verdict has completed, in whatever way.
    verdict_over: bool,
}

impl Sender<'_> {
    fn run(
        &mut self,
        depth: u32,
        options: &SendOptions,
        mut progress: impl FnMut(u64),
    ) -> Done<Stats> {
        let begin = Instant::now();
        // The receives go before the grant, so that the verdict never lacks a credit.
        for _ in 0..WORDS {
            self.post_receive()?;
        }
        let range = 0..self.verdict.len();
        let (verdict, idle) = (&self.verdict, self.idle);
        let _access = self
            .endpoint
            .grant(verdict, range, Rights::WRITE, LABEL_VERDICT, idle)?;
        // The receiver's first message has the limit of the connection: the receiver may still be getting ready, and
        // cannot send keepalives before it has taken the grant.
        let first = options.limits.connect.max(idle);
        let control = self.wait_grant(LABEL_CONTROL, MAX_JSON as u64, first)?;
        let manifest = self.source.manifest.to_json()?;
        self.write_control(&control, &manifest, Imm::Manifest)?;
        let data = self.wait_grant(LABEL_DATA, self.source.manifest.bytes(), idle)?;
        let setup = begin.elapsed();

        let begin = Instant::now();
        let (chunks, bytes) = self.write_chunks(&data, depth, options, &mut progress)?;
        let transfer = begin.elapsed();

        let begin = Instant::now();
        self.write_control(
            &control,
            &message::encode(&End { chunks, bytes })?,
            Imm::End,
        )?;
        let doing = || "waiting for the verdict".to_owned();
        match self.next(doing)? {
            Event::Verdict(verdict) => verdict.check()?,
            Event::Completion(_) => {
                let what = "an operation completed that was not in flight";
                return Err(TransferError::Limit(what.into()));
            }
        };
        Ok(Stats {
            layers: self.source.manifest.geometry().layers,
            chunks,
            bytes,
            setup_ms: ms(setup),
            transfer_ms: ms(transfer),
            verify_ms: ms(begin.elapsed()),
            staging_ms: ms(self.source.staging),
            ..Stats::default()
        }
        .finish())
    }

    /// Writes a message to the control buffer and waits until it is there.
    fn write_control(&mut self, to: &RemoteGrant, message: &[u8], imm: Imm) -> Done<()> {
        self.control.write_at(0, message);
        let from = self.control.range(0, message.len() as u32);
        let entry = Entry::write_imm(from, to.at(0), imm.encode()).user_data(TAG_CONTROL);
        self.channel.push(entry).map_err(full)?;
        let doing = || format!("sending {imm:?}");
        let done = self.next_own(doing)?;
        done.result().map_err(|cause| TransferError::Operation {
            doing: doing(),
            cause,
        })?;
        Ok(())
    }

    fn write_chunks(
        &mut self,
        to: &RemoteGrant,
        depth: u32,
        options: &SendOptions,
        progress: &mut impl FnMut(u64),
    ) -> Done<(u64, u64)> {
        let plan = ChunkPlan::new(&self.source.manifest);
        let chunks = options.order.arrange(&plan);
        let (mut next, mut in_flight, mut done, mut bytes) = (0, 0, 0, 0);
        while done < chunks.len() {
            while in_flight < depth && next < chunks.len() {
                let chunk = &chunks[next];
                let from = self
                    .source
                    .memory
                    .wire()
                    .range(chunk.offset, chunk.len as u32);
                let entry = Entry::write_imm(from, to.at(chunk.offset), chunk.imm().encode());
                self.channel
                    .push(entry.user_data(TAG_CHUNKS + next as u64))
                    .map_err(full)?;
                next += 1;
                in_flight += 1;
            }
            let total = chunks.len();
            let doing = || format!("sending chunks, {done} of {total} done");
            let completion = self.next_own(doing)?;
            let moved = completion.result().map_err(|cause| {
                let chunk = usize::try_from(completion.user_data().wrapping_sub(TAG_CHUNKS))
                    .ok()
                    .and_then(|n| chunks.get(n));
                let which = chunk.map_or_else(String::new, |chunk| {
                    format!("layer {}, chunk {}: ", chunk.layer, chunk.index)
                });
                TransferError::Operation {
                    doing: format!("{which}{}", doing()),
                    cause,
                }
            })?;
            in_flight -= 1;
            done += 1;
            bytes += moved;
            progress(bytes);
        }
        Ok((done as u64, bytes))
    }

    fn post_receive(&mut self) -> Done<()> {
        let entry = Entry::recv(self.endpoint).user_data(TAG_VERDICT);
        self.channel.push(entry).map_err(full)?;
        self.channel.submit()?;
        Ok(())
    }

    /// Waits for the next event. Keepalives show that the receiver is not silent.
    fn next(&mut self, doing: impl Fn() -> String) -> Done<Event> {
        loop {
            let completion = wait(&mut self.channel, self.idle, &doing)?;
            if let Some(event) = self.event(completion, &doing)? {
                return Ok(event);
            }
        }
    }

    /// Waits for an operation of this side. A verdict in mid-transfer means that the receiver gave up.
    fn next_own(&mut self, doing: impl Fn() -> String) -> Done<Completion> {
        match self.next(doing)? {
            Event::Completion(completion) => Ok(completion),
            Event::Verdict(verdict) => Err(too_early(verdict)),
        }
    }

    /// Waits for a grant, as long as the receiver is at work.
    fn wait_grant(&mut self, label: u64, bytes: u64, limit: Duration) -> Done<RemoteGrant> {
        let doing = || format!("waiting for the grant `{}`", super::name(label));
        let mut begin = Instant::now();
        loop {
            let left = limit.saturating_sub(begin.elapsed());
            match wait_grant(self.endpoint, label, bytes, left.min(GRANT_WAIT)) {
                Err(TransferError::Driver(error)) if error.is_timeout() => {}
                other => return other,
            }
            while let Some(completion) = self.channel.next_completion() {
                match self.event(completion, doing)? {
                    Some(Event::Verdict(verdict)) => return Err(too_early(verdict)),
                    Some(Event::Completion(_)) => {}
                    None => begin = Instant::now(),
                }
            }
            if left.is_zero() && begin.elapsed() >= limit {
                let doing = doing();
                return Err(TransferError::Stalled { doing, limit });
            }
        }
    }

    /// What a completion is; `None` for a keepalive.
    fn event(&mut self, completion: Completion, doing: impl Fn() -> String) -> Done<Option<Event>> {
        if completion.user_data() != TAG_VERDICT {
            return Ok(Some(Event::Completion(completion)));
        }
        // Until it turns out to be a keepalive.
        self.verdict_over = true;
        let length = completion
            .result()
            .map_err(|cause| TransferError::Operation {
                doing: doing(),
                cause,
            })?;
        match Imm::decode(completion.imm())? {
            Imm::Working => {
                self.verdict_over = false;
                self.post_receive()?;
                Ok(None)
            }
            Imm::Verdict if length <= self.verdict.len() => {
                let json = self.verdict.to_vec(0..length);
                Ok(Some(Event::Verdict(message::decode("verdict", &json)?)))
            }
            found => {
                let expected = "the verdict";
                Err(crate::Error::UnexpectedImmediate { expected, found }.into())
            }
        }
    }

    /// Checks whether a verdict came before the connection ended. The end completes the receives for
    /// it as well, so this does not wait for long.
    fn last_words(&mut self) -> Option<TransferError> {
        while !self.verdict_over {
            let completion = wait(&mut self.channel, self.idle, String::new).ok()?;
            if let Some(Event::Verdict(verdict)) = self.event(completion, String::new).ok()? {
                return verdict.check().err();
            }
        }
        None
    }
}

/// An event of the sender's channel.
enum Event {
    /// An operation of the sender's own has ended.
    Completion(Completion),
    /// The receiver has decided.
    Verdict(Verdict),
}

/// The error when the receiver decides before everything has been sent.
fn too_early(verdict: Verdict) -> TransferError {
    let early = "it accepted the cache before everything had been sent";
    let refused = verdict.check().err();
    refused.unwrap_or_else(|| TransferError::Protocol(early.into()))
}
