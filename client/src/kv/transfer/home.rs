// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a cache lives while it is moved: in the host's memory or in a device's.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::{Done, TransferError, full, wait};
use crate::device::{DeviceInfo, RdmaPath, Tier};
use crate::{Buffer, Channel, Context, Entry, FrozenBuffer, MemoryInfo, Placement};

/// Whose memory a cache is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// The host's.
    Host(Placement),
    /// That of the first device with enough room, such as a GPU's behind its PCI BAR, mapped like this.
    Device(Tier),
}

impl Default for Home {
    fn default() -> Self {
        Self::Host(Placement::Any)
    }
}

/// Why a text is no home.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is host, device, device:uncached, device:write-combined or device:cached")]
pub struct HomeError;

impl FromStr for Home {
    type Err = HomeError;

    fn from_str(text: &str) -> Result<Self, HomeError> {
        let (whose, tier) = text.split_once(':').unwrap_or((text, "uncached"));
        let tier = Tier::ALL
            .into_iter()
            .find(|known| known.to_string() == tier);
        match (whose, tier) {
            _ if text == "host" => Ok(Self::default()),
            ("device", Some(tier)) => Ok(Self::Device(tier)),
            _ => Err(HomeError),
        }
    }
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(_) => f.write_str("host"),
            Self::Device(tier) => write!(f, "device:{tier}"),
        }
    }
}

/// A cache's memory. RDMA does not reach every device's: then it goes through host memory, and the driver's COPY moves it
/// between the two.
#[derive(Debug)]
pub(super) struct Memory {
    home: Buffer,
    /// What RDMA reaches instead.
    stage: Option<Buffer>,
    info: MemoryInfo,
}

impl Memory {
    /// Room for `bytes`.
    pub(super) fn new(context: &Context, bytes: u64, home: Home) -> Done<Self> {
        let buffer = match home {
            Home::Host(placement) => Buffer::create(context, bytes, placement)?,
            Home::Device(tier) => {
                let device = choose(&DeviceInfo::list(context)?, tier, bytes)?;
                Buffer::on_device(context, device, tier, bytes, None)?
            }
        };
        let info = buffer.memory()?;
        let stage = match info.rdma {
            RdmaPath::Direct => None,
            _ => Some(Buffer::create(context, bytes, Placement::Any)?),
        };
        Ok(Self {
            home: buffer,
            stage,
            info,
        })
    }

    /// What RDMA reads and writes.
    pub(super) fn wire(&self) -> &Buffer {
        self.stage.as_ref().unwrap_or(&self.home)
    }

    /// What the cache's memory is, and how RDMA reaches it.
    pub(super) fn info(&self) -> MemoryInfo {
        self.info
    }

    /// Puts a cache there, and to where RDMA reads it. How long the latter took.
    pub(super) fn fill(&self, data: &[u8], idle: Duration) -> Done<Duration> {
        self.home.write_at(0, data);
        let begin = Instant::now();
        if let Some(stage) = &self.stage {
            copy(&self.home, stage, idle)?;
        }
        Ok(begin.elapsed())
    }

    /// Brings home what RDMA wrote, and how long that took. `None` instead of the memory while a grant on it lives.
    pub(super) fn settle(self, idle: Duration) -> Done<(Option<FrozenBuffer>, Duration)> {
        let begin = Instant::now();
        if let Some(stage) = &self.stage {
            copy(stage, &self.home, idle)?;
        }
        let took = begin.elapsed();
        Ok((self.home.freeze().ok(), took))
    }
}

/// The number of a device that has so many bytes of this tier free.
fn choose(devices: &[DeviceInfo], tier: Tier, bytes: u64) -> Done<u64> {
    let mut most = None;
    for device in devices {
        let Some(info) = device.tier(tier) else {
            continue;
        };
        // Free bytes may be in pieces, which only the attempt tells.
        if info.free >= bytes {
            return Ok(device.number);
        }
        most = most.max(Some(info.free));
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

/// Moves all of a buffer by the driver's COPY.
fn copy(from: &Buffer, to: &Buffer, idle: Duration) -> Done<()> {
    /// Bytes of one operation: what is lost when the device goes meanwhile is one of them.
    const PIECE: u64 = 1 << 20;
    // Of its own, since receives complete on the transfer's.
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
    use crate::device::TierInfo;

    #[test]
    fn homes_are_read_from_text() {
        assert_eq!("host".parse(), Ok(Home::Host(Placement::Any)));
        assert_eq!("device".parse(), Ok(Home::Device(Tier::Uncached)));
        for tier in Tier::ALL {
            let home = Home::Device(tier);
            assert_eq!(home.to_string().parse(), Ok(home));
        }
        for wrong in ["", "gpu", "host:cached", "device:", "device:fast"] {
            assert_eq!(wrong.parse::<Home>(), Err(HomeError), "{wrong}");
        }
    }

    #[test]
    fn a_device_with_room_is_chosen_or_the_lack_of_one_explained() {
        let device = |number, free| DeviceInfo {
            number,
            node: None,
            address: String::new(),
            tiers: vec![TierInfo {
                tier: Tier::Uncached,
                bytes: 100,
                free,
                rdma: RdmaPath::Direct,
            }],
        };
        let devices = [device(3, 10), device(5, 80)];
        assert_eq!(choose(&devices, Tier::Uncached, 50).unwrap(), 5);
        let full = choose(&devices, Tier::Uncached, 90).unwrap_err();
        assert!(full.to_string().contains("at most 80"), "{full}");
        let none = choose(&devices, Tier::Cached, 1).unwrap_err();
        assert!(none.to_string().contains("no device with cached"), "{none}");
    }
}
