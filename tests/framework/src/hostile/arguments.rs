// SPDX-License-Identifier: MIT OR Apache-2.0

//! Arguments of ioctls: valid ones, and how they are spoiled.

use std::mem::offset_of;
use std::net::IpAddr;

use dmaplane_uapi as abi;

use super::calls::CALLS;
use super::tables::{Kind, Known, Tables};
use crate::pattern::Numbers;
use crate::sys::Room;

/// Most nanoseconds that a call may wait: the number of calls is what matters.
const PATIENCE_NS: u64 = 50_000;
/// As above, for connections, which need some time.
const LONG_PATIENCE_NS: u64 = 20_000_000;
/// Largest buffer that is made. Beyond [`REFUSED`], they are refused without trying; what is between would only take the
/// guest's memory.
const BUFFER: u64 = 128 << 10;
const REFUSED: u64 = 1 << 40;
/// Most entries of a ring, for the same reason.
const ENTRIES: u32 = 256;

/// An ioctl with its argument.
#[derive(Clone, Debug)]
pub(super) struct Argument {
    pub(super) name: &'static str,
    pub(super) opcode: u32,
    pub(super) bytes: Vec<u8>,
}

impl Argument {
    /// A right argument with nothing but its size.
    pub(super) fn new(opcode: u32) -> Self {
        let call = CALLS.iter().find(|call| call.1 == opcode);
        let (name, _, bytes, _) = call.copied().unwrap_or(("unknown", 0, 128, 0));
        let mut argument = Self {
            name,
            opcode,
            bytes: vec![0; bytes],
        };
        argument.put32(0, bytes as u32);
        argument
    }

    /// A right argument of a random call, as far as handles are right.
    pub(super) fn random(
        numbers: &mut Numbers,
        tables: &Tables,
        file: usize,
        room: &Room,
        address: IpAddr,
    ) -> Self {
        let total = CALLS.iter().map(|call| call.3).sum();
        let mut at = numbers.below(total);
        let mut opcode = abi::IOC_QUERY;
        for &(_, candidate, _, weight) in CALLS {
            opcode = candidate;
            if at < weight {
                break;
            }
            at -= weight;
        }
        let mut argument = Self::new(opcode);
        argument.fill(numbers, tables, file, room, address);
        argument
    }

    fn fill(
        &mut self,
        numbers: &mut Numbers,
        tables: &Tables,
        file: usize,
        room: &Room,
        address: IpAddr,
    ) {
        let any = |kind, numbers: &mut Numbers| tables.pick(file, kind, numbers).handle;
        match self.opcode {
            abi::IOC_DESTROY => {
                let kinds = [
                    Kind::Buffer,
                    Kind::Channel,
                    Kind::Grant,
                    Kind::PeerGrant,
                    Kind::Pool,
                ];
                let kind = kinds[numbers.below(5) as usize];
                self.put32(offset_of!(abi::Destroy, handle), any(kind, numbers));
            }
            abi::IOC_BUFFER_CREATE => {
                self.put64(offset_of!(abi::BufferCreate, bytes), numbers.below(BUFFER));
                let placement = numbers.below(6) as u32;
                self.put32(offset_of!(abi::BufferCreate, placement), placement);
                let has_node = [abi::PLACE_PREFERRED, abi::PLACE_STRICT].contains(&placement);
                let node = if has_node {
                    numbers.below(2) as u32
                } else {
                    u32::MAX
                };
                self.put32(offset_of!(abi::BufferCreate, node), node);
                let near: &[u8] = match placement {
                    abi::PLACE_NEAR_RDMA => b"rxe0",
                    abi::PLACE_NEAR_PCI => b"0000:00:00.0",
                    _ => b"",
                };
                let at = offset_of!(abi::BufferCreate, near);
                self.bytes[at..at + near.len()].copy_from_slice(near);
                let flags = if numbers.below(4) == 0 {
                    numbers.below(4) as u32
                } else {
                    0
                };
                self.put32(offset_of!(abi::BufferCreate, flags), flags);
            }
            abi::IOC_BUFFER_QUERY => {
                let handle = any(Kind::Buffer, numbers);
                self.put32(offset_of!(abi::BufferQuery, handle), handle);
                self.put32(offset_of!(abi::BufferQuery, node_count), 8);
                self.put64(offset_of!(abi::BufferQuery, pages_by_node), room.array());
            }
            abi::IOC_POOL_CREATE => {
                let at = offset_of!(abi::PoolCreate, bytes);
                self.put64(at, numbers.below(4 * BUFFER));
                let turns = numbers.below(2) == 0;
                let placement = if turns {
                    abi::PLACE_INTERLEAVE
                } else {
                    abi::PLACE_ANY
                };
                self.put32(offset_of!(abi::PoolCreate, placement), placement);
                self.put32(offset_of!(abi::PoolCreate, node), u32::MAX);
                let flags = numbers.below(2) as u32;
                self.put32(offset_of!(abi::PoolCreate, flags), flags);
            }
            abi::IOC_POOL_CARVE => {
                let handle = any(Kind::Pool, numbers);
                self.put32(offset_of!(abi::PoolCarve, pool), handle);
                self.put64(offset_of!(abi::PoolCarve, bytes), numbers.below(BUFFER));
            }
            abi::IOC_POOL_QUERY => {
                let handle = any(Kind::Pool, numbers);
                self.put32(offset_of!(abi::PoolQuery, pool), handle);
            }
            abi::IOC_BUFFER_FOLIOS => {
                let handle = any(Kind::Buffer, numbers);
                self.put32(offset_of!(abi::BufferFolios, handle), handle);
            }
            abi::IOC_DEVICE_ALLOC => {
                self.put64(offset_of!(abi::DeviceAlloc, device), 1 + numbers.below(2));
                self.put64(offset_of!(abi::DeviceAlloc, bytes), numbers.below(BUFFER));
                let tier = numbers.below(4) as u32;
                self.put32(offset_of!(abi::DeviceAlloc, tier), tier);
            }
            abi::IOC_BUFFER_REVOKE | abi::IOC_MEMORY_QUERY => {
                // Both have it at the same place.
                let handle = any(Kind::Buffer, numbers);
                self.put32(offset_of!(abi::MemoryQuery, handle), handle);
            }
            abi::IOC_STATS_QUERY => {
                let handle = any(Kind::Endpoint, numbers);
                self.put32(offset_of!(abi::StatsQuery, handle), handle);
                self.put32(offset_of!(abi::StatsQuery, op), 1 + numbers.below(5) as u32);
                self.put32(offset_of!(abi::StatsQuery, stage), numbers.below(3) as u32);
                self.put32(offset_of!(abi::StatsQuery, bucket_count), 900);
                self.put64(offset_of!(abi::StatsQuery, buckets), room.array());
            }
            abi::IOC_BUFFER_EXPORT => {
                let buffer = tables.pick(file, Kind::Buffer, numbers);
                self.put32(offset_of!(abi::BufferExport, buffer), buffer.handle);
                let flags = numbers.below(4) as u32;
                self.put32(offset_of!(abi::BufferExport, flags), flags);
                let pages = (buffer.bytes / 4096).max(1);
                let offset = numbers.below(pages) * 4096;
                self.put64(offset_of!(abi::BufferExport, offset), offset);
                let length = (numbers.below(pages) + 1) * 4096;
                self.put64(offset_of!(abi::BufferExport, length), length);
            }
            abi::IOC_BUFFER_IMPORT => {
                // Whatever this process has open: exports, other files, nothing.
                let fd = numbers.below(64) as u32;
                self.put32(offset_of!(abi::BufferImport, fd), fd);
            }
            abi::IOC_CHANNEL_CREATE => {
                let entries = 1 << numbers.below(6);
                self.put32(offset_of!(abi::ChannelCreate, sq_entries), entries);
                self.put32(offset_of!(abi::ChannelCreate, cq_entries), 2 * entries);
                self.put32(offset_of!(abi::ChannelCreate, eventfd), u32::MAX);
                // Mostly over the limit of threads, which is the point of it.
                if numbers.below(4) == 0 {
                    self.put32(offset_of!(abi::ChannelCreate, flags), abi::CHANNEL_SQPOLL);
                    let node = numbers.below(4) as u32;
                    let at = offset_of!(abi::ChannelCreate, poll_node);
                    self.put32(at, node.wrapping_sub(1));
                    let idle = numbers.below(1000) as u32;
                    self.put32(offset_of!(abi::ChannelCreate, poll_idle_us), idle);
                }
            }
            abi::IOC_ENTER => {
                let handle = any(Kind::Channel, numbers);
                self.put32(offset_of!(abi::Enter, channel), handle);
                let submit = numbers.below(64) as u32;
                if numbers.below(4) == 0 {
                    self.put32(offset_of!(abi::Enter, flags), abi::ENTER_WAKE);
                } else {
                    self.put32(offset_of!(abi::Enter, to_submit), submit);
                }
                let wait = u32::from(numbers.below(8) == 0);
                self.put32(offset_of!(abi::Enter, min_complete), wait);
                self.put64(offset_of!(abi::Enter, timeout_ns), PATIENCE_NS);
            }
            abi::IOC_LISTEN => {
                self.put_address(offset_of!(abi::Listen, local), address);
                self.put32(offset_of!(abi::Listen, backlog), 4);
            }
            abi::IOC_ACCEPT => {
                let handle = any(Kind::Listener, numbers);
                self.put32(offset_of!(abi::Accept, listener), handle);
                self.put32(offset_of!(abi::Accept, recv_depth), 16);
            }
            abi::IOC_CONNECT => {
                let at = offset_of!(abi::Connect, remote);
                self.bytes[at..at + 24].copy_from_slice(&tables.listening(file));
                self.put32(offset_of!(abi::Connect, recv_depth), 16);
                self.put64(offset_of!(abi::Connect, timeout_ns), PATIENCE_NS);
            }
            abi::IOC_ENDPOINT_QUERY => {
                let handle = any(Kind::Endpoint, numbers);
                self.put32(offset_of!(abi::EndpointQuery, handle), handle);
            }
            abi::IOC_GRANT_CREATE => {
                let handle = any(Kind::Endpoint, numbers);
                self.put32(offset_of!(abi::GrantCreate, endpoint), handle);
                let buffer = tables.pick(file, Kind::Buffer, numbers);
                self.put32(offset_of!(abi::GrantCreate, buffer), buffer.handle);
                self.put64(offset_of!(abi::GrantCreate, length), buffer.bytes.max(1));
                self.put32(offset_of!(abi::GrantCreate, rights), abi::RIGHT_WRITE);
                self.put64(offset_of!(abi::GrantCreate, timeout_ns), LONG_PATIENCE_NS);
            }
            abi::IOC_GRANT_WAIT => {
                let handle = any(Kind::Endpoint, numbers);
                self.put32(offset_of!(abi::GrantWait, endpoint), handle);
            }
            _ => {}
        }
    }

    /// Spoils a few bytes.
    pub(super) fn mutate(&mut self, numbers: &mut Numbers) {
        for _ in 0..=numbers.below(3) {
            let words = self.bytes.len() as u64 / 4;
            let at = numbers.below(words) as usize * 4;
            let old = self.get32(at);
            let value = match numbers.below(8) {
                0 => old ^ (1 << numbers.below(32)),
                1 => old.wrapping_add(1),
                2 => old.wrapping_sub(1),
                3 => 0,
                4 => u32::MAX,
                5 => 1 << numbers.below(32),
                6 => numbers.below(8192) as u32,
                _ => numbers.next_u64() as u32,
            };
            self.put32(at, value);
        }
    }

    /// Takes out what would only cost time or memory, or harm the tester itself.
    pub(super) fn tame(&mut self, numbers: &mut Numbers, room: &Room) {
        let limit = |value: u64, most| {
            if value > most {
                value % (most + 1)
            } else {
                value
            }
        };
        match self.opcode {
            abi::IOC_BUFFER_CREATE | abi::IOC_POOL_CREATE => {
                // Both have it at the same place.
                let at = offset_of!(abi::BufferCreate, bytes);
                let bytes = self.get64(at);
                if bytes > BUFFER && bytes < REFUSED {
                    self.put64(at, bytes % BUFFER);
                }
            }
            abi::IOC_DEVICE_ALLOC => {
                let at = offset_of!(abi::DeviceAlloc, bytes);
                let bytes = self.get64(at);
                if bytes > BUFFER && bytes < REFUSED {
                    self.put64(at, bytes % BUFFER);
                }
            }
            abi::IOC_CHANNEL_CREATE => {
                for at in [
                    offset_of!(abi::ChannelCreate, sq_entries),
                    offset_of!(abi::ChannelCreate, cq_entries),
                ] {
                    let entries = self.get32(at);
                    // A few of the largest.
                    if entries > ENTRIES && numbers.below(64) != 0 {
                        self.put32(at, 1 << (entries % 9));
                    }
                }
            }
            abi::IOC_BUFFER_QUERY | abi::IOC_STATS_QUERY => {
                let at = crate::sys::address_in(self.opcode).unwrap_or(0);
                if !room.is_harmless(self.get64(at)) {
                    self.put64(at, room.array());
                }
            }
            _ => {}
        }
        let (at, most) = match self.opcode {
            abi::IOC_ENTER => (offset_of!(abi::Enter, timeout_ns), PATIENCE_NS),
            abi::IOC_ACCEPT => (offset_of!(abi::Accept, timeout_ns), LONG_PATIENCE_NS),
            abi::IOC_CONNECT => (offset_of!(abi::Connect, timeout_ns), LONG_PATIENCE_NS),
            abi::IOC_GRANT_CREATE => (offset_of!(abi::GrantCreate, timeout_ns), LONG_PATIENCE_NS),
            abi::IOC_GRANT_WAIT => (offset_of!(abi::GrantWait, timeout_ns), PATIENCE_NS),
            _ => return,
        };
        self.put64(at, limit(self.get64(at), most));
    }

    /// What a call that succeeded has made.
    pub(super) fn made(&self) -> Option<(Kind, Known)> {
        let handle = |kind, at| {
            let handle = self.get32(at);
            (
                kind,
                Known {
                    handle,
                    ..Default::default()
                },
            )
        };
        Some(match self.opcode {
            abi::IOC_BUFFER_CREATE => {
                let (kind, known) = handle(Kind::Buffer, offset_of!(abi::BufferCreate, handle));
                let known = Known {
                    mmap_offset: self.get64(offset_of!(abi::BufferCreate, mmap_offset)),
                    bytes: self.get64(offset_of!(abi::BufferCreate, bytes)),
                    ..known
                };
                (kind, known)
            }
            abi::IOC_BUFFER_IMPORT => {
                let (kind, known) = handle(Kind::Buffer, offset_of!(abi::BufferImport, handle));
                let known = Known {
                    mmap_offset: self.get64(offset_of!(abi::BufferImport, mmap_offset)),
                    bytes: self.get64(offset_of!(abi::BufferImport, bytes)),
                    ..known
                };
                (kind, known)
            }
            abi::IOC_POOL_CREATE => handle(Kind::Pool, offset_of!(abi::PoolCreate, handle)),
            abi::IOC_POOL_CARVE => {
                let (kind, known) = handle(Kind::Buffer, offset_of!(abi::PoolCarve, handle));
                let known = Known {
                    mmap_offset: self.get64(offset_of!(abi::PoolCarve, mmap_offset)),
                    bytes: self.get64(offset_of!(abi::PoolCarve, bytes)),
                    ..known
                };
                (kind, known)
            }
            abi::IOC_CHANNEL_CREATE => {
                let (kind, known) = handle(Kind::Channel, offset_of!(abi::ChannelCreate, handle));
                let known = Known {
                    mmap_offset: self.get64(offset_of!(abi::ChannelCreate, mmap_offset)),
                    bytes: self.get64(offset_of!(abi::ChannelCreate, mmap_bytes)),
                    entries: self.get32(offset_of!(abi::ChannelCreate, sq_entries)),
                    ..known
                };
                (kind, known)
            }
            abi::IOC_LISTEN => handle(Kind::Listener, offset_of!(abi::Listen, handle)),
            abi::IOC_ACCEPT => handle(Kind::Endpoint, offset_of!(abi::Accept, endpoint)),
            abi::IOC_CONNECT => handle(Kind::Endpoint, offset_of!(abi::Connect, endpoint)),
            abi::IOC_GRANT_CREATE => handle(Kind::Grant, offset_of!(abi::GrantCreate, handle)),
            abi::IOC_GRANT_WAIT => handle(Kind::PeerGrant, offset_of!(abi::GrantWait, handle)),
            _ => return None,
        })
    }

    /// The descriptor that a call that succeeded has made.
    pub(super) fn descriptor(&self) -> Option<i32> {
        let at = offset_of!(abi::BufferExport, fd);
        (self.opcode == abi::IOC_BUFFER_EXPORT).then(|| self.get32(at).cast_signed())
    }

    pub(super) fn put32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    pub(super) fn put64(&mut self, at: usize, value: u64) {
        self.bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }

    pub(super) fn put_address(&mut self, at: usize, address: IpAddr) {
        let (family, octets) = match address {
            IpAddr::V4(v4) => (abi::FAMILY_IPV4, v4.octets().to_vec()),
            IpAddr::V6(v6) => (abi::FAMILY_IPV6, v6.octets().to_vec()),
        };
        self.put32(at, u32::from(family));
        let start = at + offset_of!(abi::SockAddr, addr);
        self.bytes[start..start + octets.len()].copy_from_slice(&octets);
    }

    fn get32(&self, at: usize) -> u32 {
        let bytes = self.bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    }

    fn get64(&self, at: usize) -> u64 {
        let bytes = self.bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    }
}
