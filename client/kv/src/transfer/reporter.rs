// SPDX-License-Identifier: MIT OR Apache-2.0
//! The receiver's messages to the sender: keepalives while it works, and in the end its verdict.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::message::{self, MAX_MESSAGE, Verdict};
use super::{Done, TransferError, full, wait};
use crate::Imm;
use dmaplane::{Buffer, Channel, Context, Entry, Placement, RemoteGrant};

/// How often a keepalive is sent. The sender's limit of silence is a second or more.
const INTERVAL: Duration = Duration::from_millis(200);

/// Sends the receiver's messages. Keepalives come from a thread of its own: whatever the receiver does, and however
/// little of the processor it gets, delays only the receiver. A receiver that waits in vain gives up by its own limit.
#[derive(Debug)]
pub(super) struct Reporter {
    /// Dropped to end the thread.
    at_work: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<Voice>>,
    idle: Duration,
}

/// What is needed to send a message.
#[derive(Debug)]
struct Voice {
    /// A channel of its own: another thread uses it, and receives complete on the transfer's.
    channel: Channel,
    buffer: Buffer,
    to: RemoteGrant,
    /// A keepalive has not completed: the sender has no receive for another one.
    in_flight: bool,
}

impl Reporter {
    /// Writes to this grant of the sender's, from now on.
    pub(super) fn new(context: &Context, to: RemoteGrant, idle: Duration) -> Done<Self> {
        let mut voice = Voice {
            channel: Channel::builder().entries(2).build(context)?,
            buffer: Buffer::create(context, MAX_MESSAGE, Placement::Any)?,
            to,
            in_flight: false,
        };
        let (at_work, ended) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("kv-keepalive".into())
            .spawn(move || {
                while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    voice.keep_alive();
                }
                voice
            })
            .map_err(|cause| TransferError::Limit(format!("cannot start a thread: {cause}")))?;
        Ok(Self {
            at_work: Some(at_work),
            thread: Some(thread),
            idle,
        })
    }

    /// Sends the verdict and waits until it has arrived, since the connection ends after it.
    pub(super) fn verdict(&mut self, verdict: &Verdict) -> Done<()> {
        match self.end() {
            Some(mut voice) => voice.verdict(verdict, self.idle),
            None => Ok(()),
        }
    }

    /// Ends the keepalives.
    fn end(&mut self) -> Option<Voice> {
        drop(self.at_work.take());
        self.thread.take()?.join().ok()
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let _voice = self.end();
    }
}

impl Voice {
    /// Sends a keepalive unless the last one is still under way. An error of the connection shows in the transfer's own
    /// operations.
    fn keep_alive(&mut self) {
        if self.channel.next_completion().is_some() {
            self.in_flight = false;
        }
        if self.in_flight {
            return;
        }
        let entry = Entry::write_imm(
            self.buffer.range(0, 1),
            self.to.at(0),
            Imm::Working.encode(),
        );
        self.in_flight = self.channel.push(entry).is_ok() && self.channel.submit().is_ok();
    }

    fn verdict(&mut self, verdict: &Verdict, idle: Duration) -> Done<()> {
        let doing = || "sending the verdict".to_owned();
        if self.in_flight {
            wait(&mut self.channel, idle, doing)?;
            self.in_flight = false;
        }
        let message = message::encode(verdict)?;
        self.buffer.write_at(0, &message);
        let from = self.buffer.range(0, message.len() as u32);
        let entry = Entry::write_imm(from, self.to.at(0), Imm::Verdict.encode());
        self.channel.push(entry).map_err(full)?;
        let done = wait(&mut self.channel, idle, doing)?.result();
        done.map_err(|cause| TransferError::Operation {
            doing: doing(),
            cause,
        })?;
        Ok(())
    }
}
