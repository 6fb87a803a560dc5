// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a cache lives while it is moved: in the host's memory or in a device's.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::{Done, TransferError, full, wait};
use dmaplane::{Buffer, Channel, Context, Entry, FrozenBuffer, MemoryInfo, Placement};
use dmaplane::{DeviceInfo, RdmaPath, Tier};

/// Whose memory a cache is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLocation {
    /// The host's.
    Host(Placement),
    /// That of the first device with enough room, such as a GPU's behind its PCI BAR, mapped like this.
    Device(Tier),
}

impl Default for MemoryLocation {
    fn default() -> Self {
        Self::Host(Placement::Any)
    }
}

/// The error of a text that names no memory location.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is host, device, device:uncached, device:write-combined or device:cached")]
pub struct MemoryLocationError;

impl FromStr for MemoryLocation {
    type Err = MemoryLocationError;

    fn from_str(text: &str) -> Result<Self, MemoryLocationError> {
        let (whose, tier) = text.split_once(':').unwrap_or((text, "uncached"));
        let tier = Tier::ALL
            .into_iter()
            .find(|known| known.to_string() == tier);
        match (whose, tier) {
            _ if text == "host" => Ok(Self::default()),
            ("device", Some(tier)) => Ok(Self::Device(tier)),
            _ => Err(MemoryLocationError),
        }
    }
}

impl fmt::Display for MemoryLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(_) => f.write_str("host"),
            Self::Device(tier) => write!(f, "device:{tier}"),
        }
    }
}

/// A cache's memory. RDMA does not reach every device's memory: then the cache is staged in host memory, and the
/// driver's COPY moves it between the two.
#[derive(Debug)]
pub(super) struct Memory {
    buffer: Buffer,
    /// The host memory that RDMA reaches instead.
    stage: Option<Buffer>,
    info: MemoryInfo,
}

impl Memory {
    /// Room for `bytes`.
    pub(super) fn new(context: &Context, bytes: u64, location: MemoryLocation) -> Done<Self> {
        let buffer = match location {
            MemoryLocation::Host(placement) => Buffer::create(context, bytes, placement)?,
            MemoryLocation::Device(tier) => {
                let devices = DeviceInfo::list(context)?;
                let free = devices
                    .iter()
                    .filter_map(|device| Some((device.number, device.tier(tier)?.free)));
                let device = choose(free, tier, bytes)?;
                Buffer::on_device(context, device, tier, bytes, None)?
            }
        };
        let info = buffer.memory()?;
        let stage = match info.rdma {
            RdmaPath::Direct => None,
            _ => Some(Buffer::create(context, bytes, Placement::Any)?),
        };
        Ok(Self {
            buffer,
            stage,
            info,
        })
    }

    /// What RDMA reads and writes.
    pub(super) fn wire(&self) -> &Buffer {
        self.stage.as_ref().unwrap_or(&self.buffer)
    }

    /// What the cache's memory is, and how RDMA reaches it.
    pub(super) fn info(&self) -> MemoryInfo {
        self.info
    }

    /// Copies a cache there, and to the stage if RDMA reads it from there. Returns how long the latter took.
    pub(super) fn fill(&self, data: &[u8], idle: Duration) -> Done<Duration> {
        self.buffer.write_at(0, data);
        let begin = Instant::now();
        if let Some(stage) = &self.stage {
            copy(&self.buffer, stage, idle)?;
        }
        Ok(begin.elapsed())
    }

    /// Copies what RDMA wrote from the stage to the cache's own memory. Returns that memory, or `None` while a grant on
    /// it lives, and how long the copy took.
    pub(super) fn settle(self, idle: Duration) -> Done<(Option<FrozenBuffer>, Duration)> {
        let begin = Instant::now();
        if let Some(stage) = &self.stage {
            copy(stage, &self.buffer, idle)?;
        }
        let took = begin.elapsed();
        Ok((self.buffer.freeze().ok(), took))
    }
}

/// The number of a device that has enough bytes of a tier free. `devices` are those that have the tier, by number, and
/// how many bytes of it they have free.
fn choose(devices: impl Iterator<Item = (u64, u64)>, tier: Tier, bytes: u64) -> Done<u64> {
    let mut most = None;
    for (number, free) in devices {
        // Free bytes may be in pieces, which only the attempt shows.
        if free >= bytes {
            return Ok(number);
        }
        most = most.max(Some(free));
    }
    Err(TransferError::Limit(match most {
        Some(free) => format!(
            "no device has {bytes} bytes of {tier} memory free, at most {free}. Keep the cache in \
             host memory, or free some of the device's"
        ),
        None => format!(
            "there is no device with {tier} memory. Keep the cache in host memory, or bind a \
             device to the driver; `dmaplane info` lists those that are there"
        ),
    }))
}

/// Copies all of a buffer by the driver's COPY.
fn copy(from: &Buffer, to: &Buffer, idle: Duration) -> Done<()> {
    /// Bytes of one operation: when the device goes away meanwhile, one of these is lost.
    const PIECE: u64 = 1 << 20;
    // A channel of its own, since receives complete on the transfer's.
    let mut channel = Channel::builder().entries(2).build(from.context())?;
    let mut at = 0;
    while at < from.len() {
        let length = PIECE.min(from.len() - at);
        let doing = || format!("moving the cache between host and device memory, at byte {at}");
        let entry = Entry::copy(from.range(at, length as u32), to, at);
        channel.push(entry).map_err(full)?;
        let done = wait(&mut channel, idle, doing)?.result();
        done.map_err(|cause| TransferError::Operation {
            doing: doing(),
            cause,
        })?;
        at += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_from_text() {
        assert_eq!("host".parse(), Ok(MemoryLocation::Host(Placement::Any)));
        assert_eq!("device".parse(), Ok(MemoryLocation::Device(Tier::Uncached)));
        for tier in Tier::ALL {
            let location = MemoryLocation::Device(tier);
            assert_eq!(location.to_string().parse(), Ok(location));
        }
        for wrong in ["", "gpu", "host:cached", "device:", "device:fast"] {
            assert_eq!(
                wrong.parse::<MemoryLocation>(),
                Err(MemoryLocationError),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_device_with_room_is_chosen_or_the_lack_of_one_explained() {
        let devices = || [(3, 10), (5, 80)].into_iter();
        assert_eq!(choose(devices(), Tier::Uncached, 50).unwrap(), 5);
        let full = choose(devices(), Tier::Uncached, 90).unwrap_err();
        assert!(full.to_string().contains("at most 80"), "{full}");
        let none = choose([].into_iter(), Tier::Cached, 1).unwrap_err();
        assert!(none.to_string().contains("no device with cached"), "{none}");
    }
}
