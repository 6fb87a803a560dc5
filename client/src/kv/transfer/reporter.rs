// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the receiver says to the sender: that it is at work, and in the end its verdict.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::message::{self, MAX_MESSAGE, Verdict};
use super::{Done, TransferError, full, wait};
use crate::kv::Imm;
use crate::{Buffer, Channel, Context, Entry, Placement, RemoteGrant};

/// How often the sender hears of work that moves no byte over the wire. Its limit of silence is a second or more.
const INTERVAL: Duration = Duration::from_millis(200);

/// The way to the sender, beside that of the data.
#[derive(Debug)]
pub(super) struct Reporter {
    /// Of its own: it is used by another thread, and receives complete on the transfer's.
    channel: Channel,
    buffer: Buffer,
    to: RemoteGrant,
    idle: Duration,
    /// A keepalive has not completed: the sender has no receive for another one.
    in_flight: bool,
    last: Instant,
}

impl Reporter {
    /// Writes to this grant of the sender's.
    pub(super) fn new(context: &Context, to: RemoteGrant, idle: Duration) -> Done<Self> {
        Ok(Self {
            channel: Channel::builder().entries(2).build(context)?,
            buffer: Buffer::create(context, MAX_MESSAGE, Placement::Any)?,
            to,
            idle,
            in_flight: false,
            last: Instant::now(),
        })
    }

    /// Does work that may block for long, while the sender hears of it.
    pub(super) fn during<T>(&mut self, work: impl FnOnce() -> T) -> T {
        thread::scope(|scope| {
            let (working, ended) = mpsc::channel::<()>();
            scope.spawn(move || {
                while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    self.keep_alive();
                }
            });
            let result = work();
            drop(working);
            result
        })
    }

    /// To be called again and again by work that does not block.
    pub(super) fn tick(&mut self) {
        if self.last.elapsed() >= INTERVAL {
            self.keep_alive();
        }
    }

    /// Sends a keepalive unless the last one is still under way. What is wrong with the connection shows in the transfer's
    /// own operations.
    fn keep_alive(&mut self) {
        if self.channel.next_completion().is_some() {
            self.in_flight = false;
        }
        if self.in_flight {
            return;
        }
        self.last = Instant::now();
        let entry = Entry::write_imm(
            self.buffer.range(0, 1),
            self.to.at(0),
            Imm::Working.encode(),
        );
        self.in_flight = self.channel.push(entry).is_ok() && self.channel.submit().is_ok();
    }

    /// Sends the verdict and waits until it is there: hanging up comes after it.
    pub(super) fn verdict(&mut self, verdict: &Verdict) -> Done<()> {
        let doing = || "telling the sender the verdict".to_owned();
        if self.in_flight {
            wait(&mut self.channel, self.idle, doing)?;
            self.in_flight = false;
        }
        let message = message::encode(verdict)?;
        self.buffer.write_at(0, &message);
        let from = self.buffer.range(0, message.len() as u32);
        let entry = Entry::write_imm(from, self.to.at(0), Imm::Verdict.encode());
        self.channel.push(entry).map_err(full)?;
        let done = wait(&mut self.channel, self.idle, doing)?.result();
        done.map_err(|cause| TransferError::Operation {
            doing: doing(),
            cause,
        })?;
        Ok(())
    }
}
