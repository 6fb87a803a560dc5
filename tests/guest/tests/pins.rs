// SPDX-License-Identifier: MIT OR Apache-2.0

//! Revocation of memory whose pages somebody has pinned through an earlier mapping: the pins are reported as long as
//! they last.

use std::mem::offset_of;
use std::os::fd::{AsFd as _, BorrowedFd};

use dmaplane::{Buffer, Context, Errno, Placement, Pool};
use dmaplane_guest_tests::raw::Argument;
use dmaplane_guest_tests::{device, refusal};
use dmaplane_testkit::sys::pins::{FixedBuffer, vmsplice};
use dmaplane_testkit::{Result, ensure, test};
use dmaplane_uapi as abi;

const PAGE: u64 = 4096;

/// `HELD_*` bits and the state, as the driver reports them.
fn held(buffer: &Buffer, fd: BorrowedFd<'_>) -> Result<(u32, u32)> {
    let mut query = Argument::new(abi::IOC_MEMORY_QUERY, size_of::<abi::MemoryQuery>())
        .put32(offset_of!(abi::MemoryQuery, handle), buffer.raw_handle());
    query.call(fd)?;
    let get = |at| query.get32(at);
    Ok((
        get(offset_of!(abi::MemoryQuery, held)),
        get(offset_of!(abi::MemoryQuery, state)),
    ))
}

/// Revokes memory while something keeps it, and again when that has let go.
fn revoke_around(
    buffer: &Buffer,
    context: &Context,
    let_go: impl FnOnce() -> Result<()>,
) -> Result<()> {
    ensure!(held(buffer, context.as_fd())? == (0, abi::MEMORY_LIVE));
    let refused = refusal(buffer.revoke())?;
    ensure!(refused == Errno::BUSY, "{refused}");
    let now = held(buffer, context.as_fd())?;
    ensure!(now == (abi::HELD_PAGES, abi::MEMORY_REVOKED), "{now:?}");
    let_go()?;
    buffer.revoke()?;
    let now = held(buffer, context.as_fd())?;
    ensure!(now == (0, abi::MEMORY_REVOKED), "{now:?}");
    Ok(())
}

#[test]
fn pins_of_fixed_buffers_are_reported_by_revocation() {
    test(|_| {
        let context = Context::open()?;
        for bytes in [PAGE, 64 * PAGE, 4 << 20] {
            let buffer = Buffer::create(&context, bytes, Placement::Any)?;
            // One page of a large folio is enough.
            let last = buffer.as_ptr().wrapping_add((bytes - PAGE) as usize);
            let fixed = FixedBuffer::register(last, PAGE as usize)?;
            revoke_around(&buffer, &context, || Ok(fixed.release()?))?;
        }
        Ok(())
    });
}

#[test]
fn pins_of_pipes_are_reported_by_revocation() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, 2 * PAGE, Placement::Any)?;
        buffer.write_at(0, &[7; 4096]);
        let (read, write) = rustix::pipe::pipe()?;
        let spliced = vmsplice(write.as_fd(), buffer.as_ptr(), PAGE as usize)?;
        ensure!(spliced == PAGE as usize, "{spliced}");
        revoke_around(&buffer, &context, || {
            let mut bytes = [0; PAGE as usize];
            ensure!(rustix::io::read(&read, &mut bytes)? == bytes.len());
            ensure!(bytes == [7; PAGE as usize]);
            Ok(())
        })
    });
}

#[test]
fn pins_through_a_dmabuf_mapping_are_reported_by_revocation() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, 2 * PAGE, Placement::Any)?;
        let import = Buffer::import(&context, buffer.export()?.as_fd())?;
        let fixed = FixedBuffer::register(import.as_ptr(), PAGE as usize)?;
        revoke_around(&buffer, &context, || Ok(fixed.release()?))
    });
}

#[test]
fn pins_of_what_is_given_to_others_are_refused() {
    test(|guest| {
        let context = Context::open()?;
        let pool = Pool::builder(16 * PAGE).create(&context)?;
        let carved = pool.carve(4 * PAGE)?;
        carved.write_at(0, &[1]);
        let mut all = vec![carved];
        if let Ok(info) = device::device(guest, &context) {
            for tier in info.tiers.iter().filter(|tier| tier.bytes > 0) {
                let buffer = Buffer::on_device(&context, info.number, tier.tier, PAGE, None)?;
                buffer.write_at(0, &[1]);
                all.push(buffer);
            }
        }
        for buffer in &all {
            let pinned = FixedBuffer::register(buffer.as_ptr(), PAGE as usize);
            ensure!(pinned.is_err(), "{buffer:?} was pinned");
            let (_read, write) = rustix::pipe::pipe()?;
            let spliced = vmsplice(write.as_fd(), buffer.as_ptr(), PAGE as usize);
            ensure!(spliced.is_err(), "{buffer:?} was put into a pipe");
            buffer.revoke()?;
            ensure!(held(buffer, context.as_fd())?.0 == 0);
        }
        Ok(())
    });
}
