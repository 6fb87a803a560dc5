// SPDX-License-Identifier: MIT OR Apache-2.0

//! A timed wait that a signal may cut short, so that a command can end in order what it began.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// The signals by which people and supervisors end a command, caught from its creation on.
pub(crate) struct Interrupt(UnixStream);

impl Interrupt {
    /// Catches the signals. Those that the process ignores, as under nohup, stay ignored.
    pub(crate) fn catch() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let ignored = ignored();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if ignored & (1 << (signal - 1)) == 0 {
                pipe::register(signal, write.try_clone()?)?;
            }
        }
        Ok(Self(read))
    }

    /// Whether one of the signals has arrived.
    pub(crate) fn came(&self) -> io::Result<bool> {
        self.0.set_nonblocking(true)?;
        let read = (&self.0).read(&mut [0]);
        self.0.set_nonblocking(false)?;
        match read {
            Ok(count) => Ok(count > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until `limit` has passed or one of the signals has arrived.
    pub(crate) fn wait(&self, limit: Duration) -> io::Result<()> {
        let begin = Instant::now();
        loop {
            let left = limit.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            self.0
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match (&self.0).read_exact(&mut [0]) {
                Ok(()) => return Ok(()),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
    }
}

/// The signals that this process ignores, as a mask whose lowest bit is signal 1.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_cuts_a_wait_short_and_time_ends_it_too() {
        let interrupt = Interrupt::catch().expect("signals can be caught");
        let begin = Instant::now();
        interrupt
            .wait(Duration::from_millis(20))
            .expect("no signal");
        assert!(begin.elapsed() >= Duration::from_millis(20));
        signal_hook::low_level::raise(SIGHUP).expect("a signal");
        interrupt.wait(Duration::from_secs(3600)).expect("a signal");
    }

    #[test]
    fn ignored_signals_are_seen() {
        // Rust's runtime ignores it.
        assert!(ignored() & (1 << (signal_hook::consts::SIGPIPE - 1)) != 0);
    }
}
