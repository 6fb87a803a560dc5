// SPDX-License-Identifier: MIT OR Apache-2.0

//! Importers: who may have memory, and what holds for an import whose exporter took the memory back.

use dmaplane::{Buffer, Channel, Context, Entry, Errno, Placement, RevokeCause, Standing, State};
use dmaplane_testkit::dmabuf::vivid::{Kind, Vivid};
use dmaplane_testkit::guest::Topology;
use dmaplane_testkit::{Guest, Result, Skip, ensure};

use crate::{one, refusal};

const PAGE: u64 = 4096;

/// Whether DMA of this guest goes through bounce buffers. Then no device may have a dma-buf of the driver, whose memory
/// others write while it is mapped.
pub fn bounces(guest: &Guest) -> bool {
    guest.topology == Topology::Swiotlb
}

/// A camera that reaches memory by DMA. Skips the test where it may have none.
///
/// # Errors
/// When the kernel has no vivid.
pub fn device_camera(guest: &Guest) -> Result<Vivid> {
    if bounces(guest) {
        return Err(Skip::new("devices behind a bounce buffer are refused").into());
    }
    Vivid::open(Kind::Device)
}

/// Fails unless everything that can be done with an import says that it was taken back.
///
/// # Errors
/// What still works, or fails for another reason.
pub fn is_gone(guest: &Guest, context: &Context, import: &Buffer) -> Result<()> {
    let info = import.memory()?;
    ensure!(info.standing == Standing::Revoked, "{info:?}");
    ensure!(info.cause == Some(RevokeCause::Exporter), "{info:?}");
    let host = Buffer::create(context, PAGE, Placement::Any)?;
    let mut channel = Channel::builder().entries(8).build(context)?;
    for entry in [
        Entry::copy(import.range(0, 64), &host, 0),
        Entry::copy(host.range(0, 64), import, 0),
    ] {
        let done = one(&mut channel, guest, entry)?;
        ensure!(done.state() == State::Revoked, "{done:?}");
    }
    ensure!(refusal(import.export())? == Errno::STALE);
    ensure!(refusal(import.map(0..PAGE))? == Errno::STALE);
    Ok(())
}
