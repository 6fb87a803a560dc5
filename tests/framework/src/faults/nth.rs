// SPDX-License-Identifier: MIT OR Apache-2.0

//! The fail-nth sweep: it repeats the same work, and each time the next one of its fallible steps fails, until there
//! are no more of them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// Most steps of one sweep. A sweep that reaches it never ends.
pub const CAP: u32 = 1000;

/// Most findings of one sweep.
const FINDINGS: usize = 20;

/// A round that takes longer is reported.
const SLOW: Duration = Duration::from_secs(2);

/// The calling thread's fault. It is armed inside [`Nth::step`] only, so that the test's own work is spared; what is
/// left is carried from one step to the next.
#[derive(Debug)]
pub struct Nth {
    file: File,
    left: u32,
    fired: bool,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Rounds in which a fault was injected.
    pub faults: u32,
    /// Those of them in which something failed because of it.
    pub failures: u32,
}

impl Nth {
    /// A fault at the `n`-th fallible step; 0 is none.
    fn new(n: u32) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .open("/proc/thread-self/fail-nth")
            .context("no fail-nth: this kernel lacks CONFIG_FAULT_INJECTION")?;
        Ok(Self {
            file,
            left: n,
            fired: n == 0,
        })
    }

    /// Whether the fault was injected.
    pub fn fired(&self) -> bool {
        self.fired
    }

    /// Does a part of what is swept.
    ///
    /// # Errors
    /// When the fault cannot be armed. What `work` gives is handed through.
    pub fn step<T>(&mut self, work: impl FnOnce() -> T) -> Result<T> {
        if self.fired {
            return Ok(work());
        }
        self.set(self.left)?;
        let done = work();
        // Reading and disarming copy from and to user space, and so may meet the fault themselves: reading if it was the
        // next step, disarming if it was the one after.
        let mut text = [0; 16];
        let read = self.file.read_at(&mut text, 0);
        self.set(0).or_else(|_| self.set(0))?;
        self.left = match read {
            Ok(count) => {
                let text = String::from_utf8_lossy(&text[..count]);
                text.trim().parse().context("fail-nth is no number")?
            }
            Err(_) => 1,
        };
        self.fired = self.left == 0;
        Ok(done)
    }

    fn set(&self, n: u32) -> std::io::Result<()> {
        // In a buffer of its own: writing must not allocate. No zeroes in front, which would say that it is octal.
        let mut text = [b'0'; 4];
        let (mut rest, mut first) = (n, text.len() - 1);
        for (at, digit) in text.iter_mut().enumerate().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
            if *digit != b'0' {
                first = at;
            }
        }
        self.file.write_at(&text[first..], 0).map(drop)
    }
}

/// Does `round` with a fault at its fallible step `first`, at the one `stride` behind it, and so on, until a round has
/// no such step: the last round has no fault. `round` checks everything else and returns whether something failed.
///
/// # Errors
/// The first of `round`, with the number of its step; when a fault changed nothing for [`CAP`] rounds; when the last
/// round, which has no fault, failed.
pub fn sweep(
    (first, stride): (u32, u32),
    mut round: impl FnMut(&mut Nth) -> Result<bool>,
) -> Result<Swept> {
    let mut swept = Swept::default();
    let mut wrong = Vec::new();
    for n in (first.max(1)..=CAP).step_by(stride.max(1) as usize) {
        let mut nth = Nth::new(n)?;
        let start = Instant::now();
        let failed = match round(&mut nth) {
            Ok(failed) => failed,
            // One finding does not hide the others.
            Err(error) if nth.fired() && wrong.len() < FINDINGS => {
                wrong.push(format!("with a fault at step {n}: {error:#}"));
                true
            }
            Err(error) => {
                wrong.push(format!("with a fault at step {n}: {error:#}"));
                bail!("{}", wrong.join("\n"));
            }
        };
        if start.elapsed() > SLOW {
            println!("a fault at step {n} took {:?}", start.elapsed());
        }
        if !nth.fired() {
            ensure!(!failed, "it failed without a fault, after {n} steps");
            ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
            return Ok(swept);
        }
        swept.faults += 1;
        swept.failures += u32::from(failed);
    }
    bail!("more than {CAP} fallible steps: this never ends")
}
