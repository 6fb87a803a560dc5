// SPDX-License-Identifier: MIT OR Apache-2.0

//! The interface's conventions: versions, extensible structures, refusals.

use std::mem::offset_of;
use std::os::fd::AsFd as _;

use dmaplane::{Buffer, Channel, Context, Errno, Placement};
use dmaplane_testkit::{Skip, ensure, sys, test};
use dmaplane_uapi as abi;

/// Each ioctl with the size of its structure and where its reserved members are.
const IOCTLS: &[(u32, usize, &[usize])] = &[
    (abi::IOC_QUERY, size_of::<abi::Query>(), &[]),
    (
        abi::IOC_DESTROY,
        size_of::<abi::Destroy>(),
        &[offset_of!(abi::Destroy, reserved)],
    ),
    (
        abi::IOC_BUFFER_CREATE,
        size_of::<abi::BufferCreate>(),
        &[offset_of!(abi::BufferCreate, reserved)],
    ),
    (abi::IOC_BUFFER_QUERY, size_of::<abi::BufferQuery>(), &[]),
    (abi::IOC_BUFFER_EXPORT, size_of::<abi::BufferExport>(), &[]),
    (abi::IOC_BUFFER_IMPORT, size_of::<abi::BufferImport>(), &[]),
    (
        abi::IOC_CHANNEL_CREATE,
        size_of::<abi::ChannelCreate>(),
        &[],
    ),
    (
        abi::IOC_ENTER,
        size_of::<abi::Enter>(),
        &[offset_of!(abi::Enter, reserved)],
    ),
    (abi::IOC_LISTEN, size_of::<abi::Listen>(), &[]),
    (
        abi::IOC_ACCEPT,
        size_of::<abi::Accept>(),
        &[offset_of!(abi::Accept, reserved)],
    ),
    (abi::IOC_CONNECT, size_of::<abi::Connect>(), &[]),
    (
        abi::IOC_ENDPOINT_QUERY,
        size_of::<abi::EndpointQuery>(),
        &[],
    ),
    (
        abi::IOC_GRANT_CREATE,
        size_of::<abi::GrantCreate>(),
        &[
            offset_of!(abi::GrantCreate, reserved),
            offset_of!(abi::GrantCreate, reserved2),
        ],
    ),
    (
        abi::IOC_GRANT_WAIT,
        size_of::<abi::GrantWait>(),
        &[offset_of!(abi::GrantWait, reserved)],
    ),
    (abi::IOC_STATS_QUERY, size_of::<abi::StatsQuery>(), &[]),
    (abi::IOC_RDMA_QUERY, size_of::<abi::RdmaQuery>(), &[]),
    (
        abi::IOC_POOL_CREATE,
        size_of::<abi::PoolCreate>(),
        &[offset_of!(abi::PoolCreate, reserved)],
    ),
    (abi::IOC_POOL_CARVE, size_of::<abi::PoolCarve>(), &[]),
    (
        abi::IOC_POOL_QUERY,
        size_of::<abi::PoolQuery>(),
        &[offset_of!(abi::PoolQuery, reserved)],
    ),
];

/// An argument of `bytes` bytes whose size member says `size`.
fn argument(bytes: usize, size: usize) -> Vec<u8> {
    let mut argument = vec![0; bytes];
    let size = u32::try_from(size).unwrap_or(u32::MAX);
    argument[..4].copy_from_slice(&size.to_ne_bytes());
    argument
}

#[test]
fn smoke_open_and_query() {
    test(|_| {
        let context = Context::open()?;
        let info = context.query()?;
        ensure!(info.abi_version == abi::ABI_VERSION);
        ensure!(
            info.has(abi::CAP_HOST_BUFFERS | abi::CAP_RDMA),
            "{:#x}",
            info.capabilities
        );
        ensure!(
            info.page_bytes == 4096,
            "pages of {} bytes",
            info.page_bytes
        );
        ensure!(info.node_ids > 0 && info.rdma_devices > 0, "{info:?}");
        ensure!(
            info.max_buffer_bytes > 0 && info.max_op_bytes > 0,
            "{info:?}"
        );
        ensure!(info.max_ring_entries.is_power_of_two(), "{info:?}");
        ensure!(info.max_recv_depth > 0 && info.max_handles > 0, "{info:?}");
        Ok(())
    });
}

#[test]
fn smoke_many_files() {
    test(|guest| {
        let count = guest.pick(200, 50);
        let contexts: Vec<_> = (0..count)
            .map(|_| Context::open())
            .collect::<Result<_, _>>()?;
        let first = contexts[0].query()?;
        for context in &contexts {
            ensure!(context.query()? == first);
        }
        Ok(())
    });
}

#[test]
fn smoke_unknown_ioctl() {
    test(|_| {
        let context = Context::open()?;
        let foreign = (0xDB << 8) | (abi::IOC_QUERY & 0xff);
        for opcode in [abi::IOC_TYPE << 8 | 0xff, foreign, 0, u32::MAX] {
            let result = sys::ioctl(context.as_fd(), opcode, &mut argument(64, 64));
            ensure!(result == Err(Errno::NOTTY), "{opcode:#x}: {result:?}");
        }
        Ok(())
    });
}

#[test]
fn smoke_longer_structure() {
    test(|_| {
        let context = Context::open()?;
        for (opcode, bytes, _) in IOCTLS {
            let longer = bytes + 64;
            let mut unknown = argument(longer, longer);
            unknown[longer - 1] = 1;
            let result = sys::ioctl(context.as_fd(), *opcode, &mut unknown);
            ensure!(
                result == Err(Errno::TOOBIG),
                "{opcode:#x} with unknown bytes: {result:?}"
            );
        }
        let longer = size_of::<abi::Query>() + 64;
        let mut query = argument(longer, longer);
        sys::ioctl(context.as_fd(), abi::IOC_QUERY, &mut query)?;
        let at = offset_of!(abi::Query, abi_version);
        ensure!(query[at..at + 4] == abi::ABI_VERSION.to_ne_bytes());
        Ok(())
    });
}

#[test]
fn smoke_silly_sizes() {
    test(|_| {
        let context = Context::open()?;
        for (opcode, bytes, _) in IOCTLS {
            for size in [0, 1, 4, 7, 8, bytes - 1] {
                let result = sys::ioctl(context.as_fd(), *opcode, &mut argument(*bytes, size));
                ensure!(
                    result == Err(Errno::INVAL),
                    "{opcode:#x} of {size} bytes: {result:?}"
                );
            }
            for size in [4097, 1 << 20, u32::MAX as usize] {
                let result = sys::ioctl(context.as_fd(), *opcode, &mut argument(*bytes, size));
                ensure!(
                    result == Err(Errno::TOOBIG),
                    "{opcode:#x} of {size} bytes: {result:?}"
                );
            }
        }
        Ok(())
    });
}

#[test]
fn smoke_unknown_flags_and_reserved_members() {
    test(|_| {
        let context = Context::open()?;
        for (opcode, bytes, reserved) in IOCTLS {
            // The flags follow the size in every structure.
            for at in std::iter::once(&4).chain(*reserved) {
                for bit in [0, 7] {
                    // The one lowest flag that is looked at after the handle: it wakes a polling thread.
                    if (*opcode, *at, bit) == (abi::IOC_ENTER, 4, 0) {
                        continue;
                    }
                    let mut wrong = argument(*bytes, *bytes);
                    wrong[*at] = 1 << bit;
                    let result = sys::ioctl(context.as_fd(), *opcode, &mut wrong);
                    ensure!(
                        result == Err(Errno::INVAL),
                        "{opcode:#x}, byte {at}: {result:?}"
                    );
                }
            }
        }
        Ok(())
    });
}

#[test]
fn smoke_bad_address() {
    test(|_| {
        let context = Context::open()?;
        for (opcode, ..) in IOCTLS {
            let result = sys::ioctl_at_nothing(context.as_fd(), *opcode);
            ensure!(result == Err(Errno::FAULT), "{opcode:#x}: {result:?}");
        }
        let buffer = Buffer::create(&context, 4096, Placement::Any)?;
        let mut query = argument(size_of::<abi::BufferQuery>(), size_of::<abi::BufferQuery>());
        let at = offset_of!(abi::BufferQuery, handle);
        query[at..at + 4].copy_from_slice(&buffer.raw_handle().to_ne_bytes());
        let at = offset_of!(abi::BufferQuery, node_count);
        query[at..at + 4].copy_from_slice(&1u32.to_ne_bytes());
        let at = offset_of!(abi::BufferQuery, pages_by_node);
        for address in [8u64, 0xffff_8880_0000_0000] {
            query[at..at + 8].copy_from_slice(&address.to_ne_bytes());
            let result = sys::ioctl(context.as_fd(), abi::IOC_BUFFER_QUERY, &mut query.clone());
            ensure!(
                result == Err(Errno::FAULT),
                "an array at {address:#x}: {result:?}"
            );
        }
        Ok(())
    });
}

fn destroy(context: &Context, handle: u32) -> Result<(), Errno> {
    let bytes = size_of::<abi::Destroy>();
    let mut destroy = argument(bytes, bytes);
    let at = offset_of!(abi::Destroy, handle);
    destroy[at..at + 4].copy_from_slice(&handle.to_ne_bytes());
    sys::ioctl(context.as_fd(), abi::IOC_DESTROY, &mut destroy)
}

#[test]
fn smoke_handles_die_once() {
    test(|_| {
        let context = Context::open()?;
        for handle in [0, 1, 77, u32::MAX] {
            let result = destroy(&context, handle);
            ensure!(result == Err(Errno::NOENT), "handle {handle}: {result:?}");
        }
        let buffer = Buffer::create(&context, 4096, Placement::Any)?;
        destroy(&context, buffer.raw_handle())?;
        let result = destroy(&context, buffer.raw_handle());
        ensure!(result == Err(Errno::NOENT), "a second time: {result:?}");
        ensure!(
            buffer.residency().is_err(),
            "a destroyed buffer has no name"
        );
        Ok(())
    });
}

#[test]
fn smoke_handles_have_a_kind_and_an_owner() {
    test(|_| {
        let context = Context::open()?;
        let other = Context::open()?;
        let buffers: Vec<_> = (0..4)
            .map(|_| Buffer::create(&context, 4096, Placement::Any))
            .collect::<Result<_, _>>()?;
        let result = destroy(&other, buffers[3].raw_handle());
        ensure!(
            result == Err(Errno::NOENT),
            "another file's handle: {result:?}"
        );
        ensure!(buffers[3].residency()?.bytes == 4096, "it is still there");

        let channel = Channel::builder().entries(8).build(&context)?;
        let bytes = size_of::<abi::BufferQuery>();
        let mut query = argument(bytes, bytes);
        let at = offset_of!(abi::BufferQuery, handle);
        query[at..at + 4].copy_from_slice(&channel.raw_handle().to_ne_bytes());
        let result = sys::ioctl(context.as_fd(), abi::IOC_BUFFER_QUERY, &mut query);
        ensure!(
            result == Err(Errno::NOENT),
            "a channel queried as a buffer: {result:?}"
        );
        Ok(())
    });
}

#[test]
fn smoke_too_many_handles() {
    test(|guest| {
        if guest.pick(false, true) {
            // Minutes of a checking kernel's time for a number that is the same on either.
            return Err(
                Skip::new("filling the table of handles takes too long on a debug kernel").into(),
            );
        }
        let context = Context::open()?;
        let most = context.limits().max_handles as usize;
        let mut buffers = Vec::new();
        let error = loop {
            match Buffer::create(&context, 1, Placement::Any) {
                Ok(buffer) => buffers.push(buffer),
                Err(error) => break error,
            }
            ensure!(buffers.len() <= most, "more handles than {most}");
        };
        ensure!(error.errno() == Some(Errno::MFILE), "{error}");
        ensure!(
            buffers.len() == most,
            "{} handles instead of {most}",
            buffers.len()
        );
        buffers.pop();
        buffers.push(Buffer::create(&context, 1, Placement::Any)?);
        Ok(())
    });
}
