// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Checks of ranges, and the cutting of a transfer along segments of memory regions.

use core::num::NonZero;

/// Whether `offset..offset + length` is a non-empty range below `limit`, without overflow.
pub fn within(offset: u64, length: u64, limit: u64) -> bool {
    length > 0
        && match offset.checked_add(length) {
            Some(end) => end <= limit,
            None => false,
        }
}

/// One work request's worth of a transfer: it stays in one segment on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Segment of the local region.
    pub local_segment: u64,
    /// Start in that segment, bytes.
    pub local_offset: u64,
    /// Segment of the remote grant.
    pub remote_segment: u64,
    /// Start in that segment, bytes.
    pub remote_offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Cuts a transfer wherever either side's segment ends.
#[derive(Clone, Debug)]
pub struct Pieces {
    local: u64,
    remote: u64,
    left: u64,
    local_segment_bytes: NonZero<u64>,
    remote_segment_bytes: NonZero<u64>,
}

impl Pieces {
    /// `local` and `remote` are byte offsets into the registered memory on each side; the caller has
    /// checked both ranges.
    pub fn new(
        local: u64,
        local_segment_bytes: NonZero<u64>,
        remote: u64,
        remote_segment_bytes: NonZero<u64>,
        length: u64,
    ) -> Self {
        Self {
            local,
            remote,
            left: length,
            local_segment_bytes,
            remote_segment_bytes,
        }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.left == 0 {
            return None;
        }
        let local_offset = self.local % self.local_segment_bytes;
        let remote_offset = self.remote % self.remote_segment_bytes;
        let length = self
            .left
            .min(self.local_segment_bytes.get() - local_offset)
            .min(self.remote_segment_bytes.get() - remote_offset);
        let piece = Piece {
            local_segment: self.local / self.local_segment_bytes,
            local_offset,
            remote_segment: self.remote / self.remote_segment_bytes,
            remote_offset,
            length,
        };
        self.local += length;
        self.remote += length;
        self.left -= length;
        Some(piece)
    }
}
