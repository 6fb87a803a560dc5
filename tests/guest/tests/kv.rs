// SPDX-License-Identifier: MIT OR Apache-2.0

//! A KV cache is moved from and to every kind of memory, and both sides learn what is wrong with it.

use std::thread;

use dmaplane::{Context, Listener, MemoryKind, Placement, RdmaPath, Tier};
use dmaplane_guest_tests::device::device;
use dmaplane_kv::transfer::{
    self, Limits, MemoryLocation, Order, ReceiveOptions, SendOptions, Source,
};
use dmaplane_kv::transfer::{Received, Stats, TransferError};
use dmaplane_kv::{DType, Geometry, Layout, Manifest};
use dmaplane_testkit::{Guest, Result, anyhow, ensure, pattern, test};

/// Layers whose length is no multiple of a chunk's.
const GEOMETRY: Geometry = Geometry {
    model: String::new(),
    dtype: DType::F16,
    layout: Layout::KeysAndValues,
    layers: 3,
    kv_heads: 3,
    head_dim: 64,
    seq_len: 217,
    chunk_size: 16 << 10,
};

type Outcome<T> = std::result::Result<T, TransferError>;

/// A cache with a pattern, in which misplaced bytes show.
fn cache() -> Result<(Manifest, Vec<u8>)> {
    let bytes = usize::try_from(Manifest::new(GEOMETRY)?.bytes())?;
    let mut data = vec![0; bytes];
    pattern::fill(71, 0, &mut data);
    Ok((Manifest::describe(GEOMETRY, &data)?, data))
}

/// Moves a cache within the guest; returns the results of both sides.
fn move_cache(
    guest: &Guest,
    manifest: Manifest,
    data: &[u8],
    from: MemoryLocation,
    to: MemoryLocation,
) -> Result<(Outcome<Stats>, Outcome<Received>)> {
    let limits = Limits {
        connect: guest.limit(10),
        idle: guest.limit(10),
    };
    let (near, far) = (Context::open()?, Context::open()?);
    let listener = Listener::bind(&far, guest.local_any_port(), 1)?;
    let address = listener.local();
    thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let options = ReceiveOptions {
                // Fewer than chunks, so that receives are posted again.
                depth: 8,
                location: to,
                limits,
                ..Default::default()
            };
            let endpoint = transfer::accept(&listener, &options)?;
            transfer::receive(&far, &endpoint, &options, |_, _| {})
        });
        let source = Source::new(&near, manifest, data, from)?;
        let endpoint = transfer::connect(&near, address, None, limits.connect)?;
        let options = SendOptions {
            order: Order::Interleaved,
            limits,
            ..Default::default()
        };
        let sent = transfer::send(&endpoint, &source, &options, |_| {});
        let received = receiving.join();
        Ok((sent, received.map_err(|_| anyhow!("a thread panicked"))?))
    })
}

#[test]
fn kv_moves_between_all_kinds_of_memory() {
    test(|guest| {
        let (manifest, data) = cache()?;
        let host = MemoryLocation::Host(Placement::Any);
        let mut locations = vec![host];
        let context = Context::open()?;
        // Where there is no device, the host's memory is all there is. Not every machine has each tier.
        if let Ok(found) = device(guest, &context) {
            locations.extend(
                found
                    .tiers
                    .iter()
                    .map(|info| MemoryLocation::Device(info.tier)),
            );
        }
        let pairs = locations
            .iter()
            .flat_map(|location| [(*location, host), (host, *location), (*location, *location)]);
        for (from, to) in pairs {
            let (sent, received) = move_cache(guest, manifest.clone(), &data, from, to)?;
            let (sent, received) = (sent?, received?);
            ensure!(sent.bytes == manifest.bytes(), "{from} to {to}: {sent:?}");
            ensure!(received.data[..data.len()] == data, "{from} to {to}");
            let direct = matches!(
                to,
                MemoryLocation::Host(_) | MemoryLocation::Device(Tier::Uncached)
            );
            let memory = received.memory;
            ensure!((memory.rdma == RdmaPath::Direct) == direct, "{memory:?}");
            match (to, memory.kind) {
                (MemoryLocation::Host(_), MemoryKind::Host) => {}
                (MemoryLocation::Device(want), MemoryKind::Device { tier, .. }) if tier == want => {
                }
                (_, other) => return Err(anyhow!("{to} became {other:?}")),
            }
            let (keys, _) = received.layer(1)?;
            ensure!(keys.shape() == [3, 217, 64], "{:?}", keys.shape());
        }
        Ok(())
    });
}

#[test]
fn kv_with_a_wrong_byte_is_refused() {
    test(|guest| {
        let (manifest, mut data) = cache()?;
        let last = data.len() - 1;
        data[last] ^= 1;
        let host = MemoryLocation::default();
        let (sent, received) = move_cache(guest, manifest, &data, host, host)?;
        let (sent, received) = (sent.unwrap_err(), received.unwrap_err());
        ensure!(matches!(sent, TransferError::Refused(_)), "{sent}");
        for error in [sent, received] {
            ensure!(error.to_string().contains("layer 2"), "{error}");
        }
        Ok(())
    });
}

#[test]
fn kv_into_memory_that_is_not_there_is_refused() {
    test(|guest| {
        let (manifest, data) = cache()?;
        let host = MemoryLocation::default();
        let context = Context::open()?;
        // All of it is taken, or there is none.
        let _taken = match device(guest, &context) {
            Ok(device) => {
                let free = device.tier(Tier::Uncached).map_or(0, |tier| tier.free);
                let number = device.number;
                Some(dmaplane::Buffer::on_device(
                    &context,
                    number,
                    Tier::Uncached,
                    free,
                    None,
                )?)
            }
            Err(_) => None,
        };
        let to = MemoryLocation::Device(Tier::Uncached);
        let (sent, received) = move_cache(guest, manifest, &data, host, to)?;
        let (sent, received) = (sent.unwrap_err(), received.unwrap_err());
        ensure!(matches!(sent, TransferError::Refused(_)), "{sent}");
        ensure!(received.to_string().contains("host memory"), "{received}");
        Ok(())
    });
}
