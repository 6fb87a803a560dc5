// SPDX-License-Identifier: MIT OR Apache-2.0
//! The receiver's half.

use std::time::{Duration, Instant};

use super::home::Memory;
use super::message::{self, End, MAX_MESSAGE, Verdict};
use super::options::{ReceiveOptions, Stats, ms};
use super::{Done, LABEL_CONTROL, LABEL_DATA, LABEL_VERDICT, TransferError, full, ring_entries};
use super::{wait, wait_grant};
use crate::kv::{ChunkPlan, Error, Imm, Manifest, TensorView, Tracker, manifest::MAX_JSON};
use crate::{
    Buffer, Channel, Completion, Context, Endpoint, Entry, FrozenBuffer, Listener, LocalGrant,
    MemoryInfo, Placement, RemoteGrant, Rights,
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
    pub fn layer(&self, layer: usize) -> crate::kv::Result<(TensorView<'_>, TensorView<'_>)> {
        if layer >= self.manifest.layers().len() {
            return Err(Error::View(format!("the cache has no layer {layer}")));
        }
        self.manifest.layer_views(layer, &self.data)
    }
}

/// Waits for a sender; signals do not end the wait.
///
/// # Errors
/// [`TransferError::Driver`], as [`Listener::accept`].
pub fn accept(listener: &Listener, options: &ReceiveOptions) -> Done<Endpoint> {
    let limit = options.limits.connect;
    let deadline = Instant::now().checked_add(limit);
    loop {
        let left = deadline.map_or(limit, |end| end.saturating_duration_since(Instant::now()));
        match listener.accept(options.depth.max(1), left) {
            Err(error) if error.is_interrupted() => {}
            other => return Ok(other?),
        }
    }
}

/// Receives a cache. `layer_done` is told each layer when it is complete and verified, in the order
/// in which that happens.
///
/// # Errors
/// The error of the step that failed; the sender has been told the reason if it could be reached.
pub fn receive(
    context: &Context,
    endpoint: &Endpoint,
    options: &ReceiveOptions,
    layer_done: impl FnMut(u32, &Tracker),
) -> Done<Received> {
    let idle = options.limits.idle;
    let depth = options
        .depth
        .clamp(1, context.limits().max_recv_depth.max(1));
    // Beside the receives: the verdict.
    let entries = ring_entries(depth.saturating_add(1), context)?;
    let mut receiver = Receiver {
        channel: Channel::builder().entries(entries).build(context)?,
        context,
        endpoint,
        options,
        depth,
        progress: (0, 0),
    };
    let control = Buffer::create(context, MAX_JSON as u64, Placement::Any)?;
    // The receive goes before the grant, so that the manifest never lacks a credit.
    receiver.post_receive()?;
    receiver.channel.submit()?;
    let range = 0..control.len();
    let access = endpoint.grant(&control, range, Rights::WRITE, LABEL_CONTROL, idle)?;
    let verdict_to = wait_grant(endpoint, LABEL_VERDICT, MAX_MESSAGE, idle)?;

    // Until the sender has been told, it keeps its access: writes under way into a range that is
    // closed would end the connection, and with it the way to tell.
    let mut held = None;
    let outcome = receiver.run(&control, &mut held, layer_done);
    let (chunks, bytes) = receiver.progress;
    match outcome {
        Ok(received) => {
            let verdict = Verdict {
                ok: true,
                error: None,
                chunks,
                bytes,
            };
            receiver.tell(&verdict_to, &verdict)?;
            access.revoke();
            Ok(received)
        }
        Err(error) => {
            // The reason matters more than whether the sender could be told.
            if !error.is_disconnect() {
                let _ = receiver.tell(&verdict_to, &Verdict::refuse(&error, chunks, bytes));
            }
            Err(error)
        }
    }
}

struct Receiver<'a> {
    channel: Channel,
    context: &'a Context,
    endpoint: &'a Endpoint,
    options: &'a ReceiveOptions,
    depth: u32,
    /// Chunks and bytes that have arrived.
    progress: (u64, u64),
}

impl Receiver<'_> {
    fn run(
        &mut self,
        control: &Buffer,
        held: &mut Option<(LocalGrant, Memory)>,
        layer_done: impl FnMut(u32, &Tracker),
    ) -> Done<Received> {
        let begin = Instant::now();
        let (_, length) = self.next(Imm::Manifest, || "waiting for the manifest".into())?;
        if length > MAX_JSON as u64 {
            return Err(Error::ManifestTooLong {
                bytes: length as usize,
                limit: MAX_JSON,
            }
            .into());
        }
        let manifest = Manifest::from_json(&control.to_vec(0..length))?;
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
        let memory = Memory::new(self.context, manifest.bytes(), self.options.home)?;
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
                // A credit is worth nothing until the driver has it: not only when we next wait.
                self.channel.submit()?;
            }
            if arrival.layer_complete {
                let begin = Instant::now();
                let layer = arrival.chunk.layer;
                verify_layer(manifest, buffer, layer)?;
                verify += begin.elapsed();
                layer_done(layer, tracker);
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

    /// Writes the verdict to the sender and waits until it is there: hanging up comes after it.
    fn tell(&mut self, to: &RemoteGrant, verdict: &Verdict) -> Done<()> {
        /// Receives have 0.
        const TAG: u64 = 1;
        let message = message::encode(verdict)?;
        let buffer = Buffer::create(self.context, MAX_MESSAGE, Placement::Any)?;
        buffer.write_at(0, &message);
        let from = buffer.range(0, message.len() as u32);
        let entry = Entry::write_imm(from, to.at(0), Imm::Verdict.encode()).user_data(TAG);
        self.channel.push(entry).map_err(full)?;
        let doing = || "telling the sender the verdict".to_owned();
        loop {
            let completion = wait(&mut self.channel, self.options.limits.idle, doing)?;
            // After an error, chunks may still arrive.
            if completion.user_data() == TAG {
                let done = completion.result();
                done.map_err(|cause| TransferError::Operation {
                    doing: doing(),
                    cause,
                })?;
                return Ok(());
            }
        }
    }
}

/// Compares a complete layer with its digest. The bytes are copied out of the buffer first, since
/// the sender may still write other layers and the memory is shared.
fn verify_layer(manifest: &Manifest, buffer: &Buffer, layer: u32) -> crate::kv::Result<()> {
    let region = &manifest.layers()[layer as usize];
    let bytes = buffer.to_vec(region.offset()..region.offset() + region.bytes());
    let (k, v) = bytes.split_at(region.k.bytes as usize);
    let (found, expected) = (crate::kv::Digest::of_layer(k, v), region.digest);
    if found == expected {
        return Ok(());
    }
    Err(Error::DigestMismatch {
        what: format!("layer {layer}"),
        found,
        expected,
    })
}
