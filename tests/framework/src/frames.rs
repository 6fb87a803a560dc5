// SPDX-License-Identifier: MIT OR Apache-2.0

//! The page frames behind a mapping, as the kernel's own files show them: tests compare the driver's report with them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Bit of an entry of `pagemap`: the page is there.
const PRESENT: u64 = 1 << 63;
/// Bits of an entry of `pagemap` that are the frame's number.
const FRAME: u64 = (1 << 55) - 1;
/// Bits of an entry of `kpageflags`.
const COMPOUND_HEAD: u64 = 1 << 15;
const COMPOUND_TAIL: u64 = 1 << 16;

/// The frame of each of `count` pages from `start` on. They must have been touched.
///
/// # Errors
/// When the file cannot be read, which needs root, or a page is not there.
pub fn of(start: *const u8, count: usize) -> Result<Vec<u64>> {
    let file = File::open("/proc/self/pagemap").context("cannot open pagemap")?;
    let entries = read(&file, start.addr() as u64 / PAGE, count).context("pagemap")?;
    let frames = entries.into_iter().enumerate().map(|(index, entry)| {
        ensure!(entry & PRESENT != 0, "page {index} is not mapped");
        let frame = entry & FRAME;
        ensure!(frame != 0, "page {index} has no frame: is this root?");
        Ok(frame)
    });
    frames.collect()
}

/// How many of the frames belong to folios of each order, whose pages all must be there, in a row.
///
/// # Errors
/// When the file cannot be read, or a folio is not whole.
pub fn by_order(frames: &[u64]) -> Result<Vec<u64>> {
    let file = File::open("/proc/kpageflags").context("cannot open kpageflags")?;
    let mut orders = vec![0; 16];
    let mut at = 0;
    while at < frames.len() {
        let run = frames[at..]
            .windows(2)
            .take_while(|pair| pair[1] == pair[0] + 1);
        let run = run.count() + 1;
        let flags = read(&file, frames[at], run).context("kpageflags")?;
        let mut done = 0;
        while done < run {
            ensure!(
                flags[done] & COMPOUND_TAIL == 0,
                "page {} is in the middle of a folio",
                at + done
            );
            let head = flags[done] & COMPOUND_HEAD != 0;
            let tails = flags[done + 1..]
                .iter()
                .take_while(|flags| *flags & COMPOUND_TAIL != 0);
            let pages = if head { tails.count() + 1 } else { 1 };
            ensure!(
                pages.is_power_of_two(),
                "a folio of {pages} pages at page {}",
                at + done
            );
            orders[pages.ilog2() as usize] += pages as u64;
            done += pages;
        }
        at += run;
    }
    Ok(orders)
}

fn read(file: &File, first: u64, count: usize) -> Result<Vec<u64>> {
    let mut bytes = vec![0; count * 8];
    file.read_exact_at(&mut bytes, first * 8)?;
    let words = bytes.chunks_exact(8).map(|word| {
        let mut entry = [0; 8];
        entry.copy_from_slice(word);
        u64::from_ne_bytes(entry)
    });
    Ok(words.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untouched_page_is_reported() {
        let memory = vec![1u8; 3 * 4096];
        // Without root the frames are hidden, and the error says so.
        match of(memory.as_ptr(), 2) {
            Ok(frames) => assert_eq!(frames.len(), 2),
            Err(error) => assert!(error.to_string().contains("root"), "{error}"),
        }
    }
}
