// SPDX-License-Identifier: MIT OR Apache-2.0
//! The receiver's half.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::location::Memory;
use super::message::{self, End, MAX_MESSAGE, Verdict};
use super::options::{ReceiveOptions, Stats, ms};
use super::reporter::Reporter;
use super::{Done, LABEL_CONTROL, LABEL_DATA, LABEL_VERDICT, TransferError, full, ring_entries};
use super::{wait, wait_grant};
use crate::digest::Hasher;
use crate::{ChunkPlan, Digest, Error, Imm, Manifest, TensorView, Tracker, manifest::MAX_JSON};
use dmaplane::terminal::escape;
use dmaplane::{
    Buffer, Channel, Completion, Context, Endpoint, Entry, Errno, FrozenBuffer, Listener,
    LocalGrant, MemoryInfo, Placement, Rights,
};

/// A cache that has arrived, complete and verified. Nobody can write it any more.
#[derive(Debug)]
pub struct Received {
    /// What it is.
    pub manifest: Manifest,
    /// Its bytes, in the manifest's layout.
    pub data: FrozenBuffer,
    /// Whose memory that is, and how RDMA reached it.
    pub memory: MemoryInfo,
    /// What the transfer took.
    pub stats: Stats,
}

impl Received {
    /// The keys and the values of a layer, without a copy.
    ///
    /// # Errors
    /// [`Error::View`] when there is no such layer.
    pub fn layer(&self, layer: usize) -> crate::Result<(TensorView<'_>, TensorView<'_>)> {
        if layer >= self.manifest.layers().len() {
            return Err(Error::View(format!("the cache has no layer {layer}")));
        }
        self.manifest.layer_views(layer, &self.data)
    }
}

/// Whether an attempt to connect failed by a fault of the peer, so that the next one may succeed.
fn is_the_peers(error: &dmaplane::Error) -> bool {
    matches!(
        error.errno(),
        Some(Errno::CONNABORTED | Errno::CONNRESET | Errno::PROTO)
    )
}

/// Waits for a sender; neither signals nor those who fail to connect end the wait.
///
/// # Errors
/// [`TransferError::Driver`], as [`Listener::accept`].
pub fn accept(listener: &Listener, options: &ReceiveOptions) -> Done<Endpoint> {
    let limit = options.limits.connect;
    let deadline = Instant::now().checked_add(limit);
    loop {
        let left = deadline.map_or(limit, |end| end.saturating_duration_since(Instant::now()));
        match listener.accept(options.depth.max(1), left) {
            Err(error) if error.is_interrupted() || is_the_peers(&error) => {}
            other => return Ok(other?),
        }
    }
}

/// Receives a cache. `layer_done` is called with each layer when it is complete and verified, in the
/// order in which that happens.
///
/// # Errors
/// The error of the step that failed; the reason has been sent to the sender if it could be reached.
pub fn receive(
    context: &Context,
    endpoint: &Endpoint,
    options: &ReceiveOptions,
    layer_done: impl FnMut(u32, &Tracker),
) -> Done<Received> {
    let (received, ()) = receive_and_keep(context, endpoint, options, layer_done, |_| Ok(()))?;
    Ok(received)
}

/// As [`receive`]. Before the sender is notified of success, `keep` stores the cache where it is to stay, such as in a
/// file; the sender waits for it without a limit. An error of `keep` becomes the verdict.
///
/// # Errors
/// As [`receive`], and what `keep` returns; [`TransferError::Unconfirmed`] when everything succeeded, but the sender
/// could not be notified.
pub fn receive_and_keep<T>(
    context: &Context,
    endpoint: &Endpoint,
    options: &ReceiveOptions,
    layer_done: impl FnMut(u32, &Tracker),
    keep: impl FnOnce(&Received) -> Done<T>,
) -> Done<(Received, T)> {
    let idle = options.limits.idle;
    let depth = options
        .depth
        .clamp(1, context.limits().max_recv_depth.max(1));
    // Before anything that takes long, so that the sender gets keepalives meanwhile.
    let verdict_to =
        wait_grant(endpoint, LABEL_VERDICT, MAX_MESSAGE, idle).map_err(not_a_sender)?;
    let reporter = Reporter::new(context, verdict_to, idle)?;
    let control = Buffer::create(context, MAX_JSON as u64, Placement::Any)?;
    let entries = ring_entries(depth, context)?;
    let mut channel = Channel::builder().entries(entries).build(context)?;
    // The receive goes before the grant, so that the manifest never lacks a credit.
    channel.push(Entry::recv(endpoint)).map_err(full)?;
    channel.submit()?;
    let range = 0..control.len();
    let access = endpoint
        .grant(&control, range, Rights::WRITE, LABEL_CONTROL, idle)
        .map_err(|error| not_a_sender(error.into()))?;
    let mut receiver = Receiver {
        channel,
        context,
        endpoint,
        options,
        depth,
        reporter,
        progress: (0, 0),
    };

    // The sender keeps its access until it has the verdict: writes under way into a range whose
    // grant was revoked would end the connection, over which the verdict goes.
    let mut held = None;
    let manifest = receiver.take_manifest(&control);
    let outcome = manifest.map_err(not_a_sender).and_then(|manifest| {
        let received = receiver.run(manifest, &control, &mut held, layer_done)?;
        let kept = keep(&received)?;
        Ok((received, kept))
    });
    let (chunks, bytes) = receiver.progress;
    match outcome {
        Ok(done) => {
            let verdict = Verdict {
                ok: true,
                error: None,
                chunks,
                bytes,
            };
            let sent = receiver.reporter.verdict(&verdict);
            sent.map_err(|error| TransferError::Unconfirmed(Box::new(error)))?;
            access.revoke();
            Ok(done)
        }
        Err(error) => {
            // The reason matters more than whether it reached the sender.
            if !error.is_disconnect() {
                let verdict = Verdict::refuse(&error, chunks, bytes);
                let _ = receiver.reporter.verdict(&verdict);
            }
            Err(error)
        }
    }
}

/// Marks an error before the manifest as [`TransferError::NotASender`], unless it is this side that lacks something:
/// the next sender would fail the same way.
fn not_a_sender(error: TransferError) -> TransferError {
    let own = match &error {
        TransferError::Driver(cause) => {
            !matches!(cause.errno(), Some(Errno::NOTCONN | Errno::TIMEDOUT))
        }
        _ => false,
    };
    if own {
        error
    } else {
        TransferError::NotASender(Box::new(error))
    }
}

struct Receiver<'a> {
    channel: Channel,
    context: &'a Context,
    endpoint: &'a Endpoint,
    options: &'a ReceiveOptions,
    depth: u32,
    reporter: Reporter,
    /// Chunks and bytes that have arrived.
    progress: (u64, u64),
}

impl Receiver<'_> {
    /// Waits for the manifest.
    fn take_manifest(&mut self, control: &Buffer) -> Done<Manifest> {
        let (_, length) = self.next(Imm::Manifest, || "waiting for the manifest".into())?;
        if length > MAX_JSON as u64 {
            return Err(Error::ManifestTooLong {
                bytes: length as usize,
                limit: MAX_JSON,
            }
            .into());
        }
        Ok(Manifest::from_json(&control.to_vec(0..length))?)
    }

    fn run(
        &mut self,
        manifest: Manifest,
        control: &Buffer,
        held: &mut Option<(LocalGrant, Memory)>,
        layer_done: impl FnMut(u32, &Tracker),
    ) -> Done<Received> {
        let begin = Instant::now();
        let most = self
            .options
            .max_bytes
            .min(self.context.limits().max_buffer_bytes);
        if manifest.bytes() > most {
            return Err(TransferError::Limit(format!(
                "a cache of {} bytes is more than the receiver accepts ({most})",
                manifest.bytes()
            )));
        }
        let (context, location) = (self.context, self.options.location);
        let memory = Memory::new(context, manifest.bytes(), location)?;
        let plan = ChunkPlan::new(&manifest);
        // One for each chunk and one for the end, as far as the depth allows.
        let mut unposted = plan.total() + 1;
        for _ in 0..unposted.min(u64::from(self.depth)) {
            self.post_receive()?;
            unposted -= 1;
        }
        self.channel.submit()?;
        let range = 0..memory.wire().len();
        let idle = self.options.limits.idle;
        let access = self
            .endpoint
            .grant(memory.wire(), range, Rights::WRITE, LABEL_DATA, idle)?;
        let (_, memory) = held.insert((access, memory));
        let info = memory.info();
        let setup = begin.elapsed();

        let begin = Instant::now();
        let mut tracker = Tracker::new(plan);
        let verify = self.collect(&manifest, memory.wire(), &mut tracker, unposted, layer_done)?;
        let transfer = begin.elapsed();

        let (_, length) = self.next(Imm::End, || "waiting for the end".into())?;
        if length > MAX_MESSAGE {
            return Err(TransferError::Protocol(format!("an end of {length} bytes")));
        }
        let end: End = message::decode("end", &control.to_vec(0..length))?;
        if (end.chunks, end.bytes) != self.progress {
            return Err(TransferError::Protocol(format!(
                "it says that it sent {} chunks, {} bytes; {} and {} arrived",
                end.chunks, end.bytes, self.progress.0, self.progress.1
            )));
        }
        let settled = match held.take() {
            Some((access, memory)) => {
                access.revoke();
                memory.settle(idle)?
            }
            None => (None, Duration::ZERO),
        };
        let (Some(data), staging) = settled else {
            return Err(TransferError::Limit(
                "the received memory is still shared".into(),
            ));
        };
        let stats = Stats {
            layers: manifest.geometry().layers,
            chunks: tracker.chunks(),
            bytes: tracker.bytes(),
            setup_ms: ms(setup),
            transfer_ms: ms(transfer),
            verify_ms: ms(verify),
            staging_ms: ms(staging),
            ..Stats::default()
        };
        Ok(Received {
            manifest,
            data,
            memory: info,
            stats: stats.finish(),
        })
    }

    /// Takes chunks until all are there, and verifies each layer when it is complete. Returns the
    /// time that verifying took.
    fn collect(
        &mut self,
        manifest: &Manifest,
        buffer: &Buffer,
        tracker: &mut Tracker,
        mut unposted: u64,
        mut layer_done: impl FnMut(u32, &Tracker),
    ) -> Done<Duration> {
        let total = tracker.plan().total();
        let mut verify = Duration::ZERO;
        while !tracker.is_complete() {
            let doing = || format!("receiving chunks, {} of {total} here", tracker.chunks());
            let completion = wait(&mut self.channel, self.options.limits.idle, doing)?;
            let length = completion
                .result()
                .map_err(|cause| TransferError::Operation {
                    doing: doing(),
                    cause,
                })?;
            let arrival = tracker.accept(completion.imm(), length)?;
            self.progress = (tracker.chunks(), tracker.bytes());
            if unposted > 0 {
                unposted -= 1;
                self.post_receive()?;
                // The peer has the credit only once the driver has the receive: do not leave it to the next wait.
                self.channel.submit()?;
            }
            if arrival.layer_complete {
                let begin = Instant::now();
                let layer = arrival.chunk.layer;
                verify_layer(manifest, buffer, layer)?;
                verify += begin.elapsed();
                if layer < manifest.geometry().layers {
                    layer_done(layer, tracker);
                }
            }
        }
        Ok(verify)
    }

    fn post_receive(&mut self) -> Done<()> {
        self.channel.push(Entry::recv(self.endpoint)).map_err(full)
    }

    /// Takes the next receive, which must be this control message.
    fn next(&mut self, expected: Imm, doing: impl Fn() -> String) -> Done<(Completion, u64)> {
        let completion = wait(&mut self.channel, self.options.limits.idle, &doing)?;
        let length = completion
            .result()
            .map_err(|cause| TransferError::Operation {
                doing: doing(),
                cause,
            })?;
        let found = Imm::decode(completion.imm())?;
        if found == expected {
            return Ok((completion, length));
        }
        let expected = if expected == Imm::End {
            "the end"
        } else {
            "the manifest"
        };
        Err(Error::UnexpectedImmediate { expected, found }.into())
    }
}

/// Compares a complete layer with its digest; the auxiliary tensors are one more layer.
fn verify_layer(manifest: &Manifest, buffer: &Buffer, layer: u32) -> crate::Result<()> {
    if let Some(region) = manifest.layers().get(layer as usize) {
        let range = region.offset()..region.offset() + region.bytes();
        let what = || format!("layer {layer}");
        return verify(buffer, range, region.digest, what);
    }
    for (tensor, range) in manifest.auxiliary_ranges() {
        let what = || format!("the tensor `{}`", escape(&tensor.name));
        verify(buffer, range, tensor.digest, what)?;
    }
    Ok(())
}

/// Compares bytes with their digest. They are copied out of the buffer first, since the sender may still write others and
/// the memory is shared.
fn verify(
    buffer: &Buffer,
    range: Range<u64>,
    expected: Digest,
    what: impl Fn() -> String,
) -> crate::Result<()> {
    /// Bytes that are copied at a time.
    const PIECE: u64 = 1 << 20;
    let mut at = range.start;
    let mut piece = vec![0; PIECE.min(range.end - at) as usize];
    let mut hasher = Hasher::new();
    while at < range.end {
        let bytes = &mut piece[..PIECE.min(range.end - at) as usize];
        buffer.read_at(at, bytes);
        hasher.update(bytes);
        at += bytes.len() as u64;
    }
    let found = hasher.finish();
    if found == expected {
        return Ok(());
    }
    Err(Error::DigestMismatch {
        what: what(),
        found,
        expected,
    })
}
