// SPDX-License-Identifier: MIT OR Apache-2.0

//! COPY between several names of the same pages: the result is that of memmove(3), whatever the names.

use std::os::fd::AsFd as _;

use dmaplane::{Buffer, Channel, Context, Entry, ExportAccess, Placement};
use dmaplane_guest_tests::{device, one};
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::{Guest, Result, dmabuf, ensure, test};

const PAGE: usize = 4096;
const PAGES: usize = 12;

/// Memory that is looked at from outside, page by page.
trait Ground {
    /// Writes all of it.
    fn fill(&self, bytes: &[u8]) -> Result<()>;
    /// Reads all of it.
    fn read(&self) -> Result<Vec<u8>>;
}

impl Ground for Buffer {
    fn fill(&self, bytes: &[u8]) -> Result<()> {
        self.write_at(0, bytes);
        Ok(())
    }

    fn read(&self) -> Result<Vec<u8>> {
        Ok(self.to_vec(0..self.len()))
    }
}

/// A file in memory.
struct File(std::os::fd::OwnedFd);

impl Ground for File {
    fn fill(&self, bytes: &[u8]) -> Result<()> {
        ensure!(rustix::io::pwrite(&self.0, bytes, 0)? == bytes.len());
        Ok(())
    }

    fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; PAGES * PAGE];
        ensure!(rustix::io::pread(&self.0, &mut bytes, 0)? == bytes.len());
        Ok(bytes)
    }
}

/// A name, and which of the underlying pages it shows.
struct Name<'a>(&'a Buffer, Vec<usize>);

impl Name<'_> {
    fn place(&self, at: usize) -> usize {
        self.1[at / PAGE] * PAGE + at % PAGE
    }
}

/// Copies between two names at random, and compares with a copy that reads everything first.
fn compare(
    guest: &Guest,
    channel: &mut Channel,
    ground: &dyn Ground,
    to: &Name<'_>,
    from: &Name<'_>,
) -> Result<()> {
    let mut numbers = Numbers::new(17);
    let mut model = vec![0u8; PAGES * PAGE];
    model.fill_with(|| numbers.next_u64() as u8);
    ground.fill(&model)?;
    let most = to.1.len().min(from.1.len()) * PAGE;
    for round in 0..guest.pick(150, 40) {
        let mut pick = |most: usize| (numbers.next_u64() as usize) % most;
        let bytes = if round % 3 == 0 {
            (1 + pick(most / PAGE)) * PAGE
        } else {
            1 + pick(most)
        };
        let align = if round % 3 == 0 { PAGE } else { 1 };
        let start = pick(from.1.len() * PAGE - bytes + 1) / align * align;
        let target = pick(to.1.len() * PAGE - bytes + 1) / align * align;
        let source = from.0.range(start as u64, u32::try_from(bytes)?);
        let done = one(channel, guest, Entry::copy(source, to.0, target as u64))?;
        ensure!(done.result()? == bytes as u64, "{done:?}");
        let read: Vec<u8> = (start..start + bytes)
            .map(|at| model[from.place(at)])
            .collect();
        for (at, byte) in (target..target + bytes).zip(read) {
            model[to.place(at)] = byte;
        }
        let now = ground.read()?;
        let wrong = (0..now.len()).find(|at| now[*at] != model[*at]);
        ensure!(
            wrong.is_none(),
            "round {round}: {bytes} bytes from {start} to {target}: byte {wrong:?} of the pages"
        );
    }
    Ok(())
}

#[test]
fn aliases_of_an_export_copy_as_memmove() {
    test(|guest| {
        let context = Context::open()?;
        let ground = Buffer::create(&context, (PAGES * PAGE) as u64, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        let whole = Buffer::import(&context, ground.export()?.as_fd())?;
        let tail = 3 * PAGE as u64..(PAGES * PAGE) as u64;
        let tail = ground.export_range(tail, ExportAccess::ReadWrite)?;
        let tail = Buffer::import(&context, tail.as_fd())?;
        let names = [
            Name(&ground, (0..PAGES).collect()),
            Name(&whole, (0..PAGES).collect()),
            Name(&tail, (3..PAGES).collect()),
        ];
        for to in &names {
            for from in &names {
                compare(guest, &mut channel, &ground, to, from)?;
            }
        }
        Ok(())
    });
}

#[test]
fn aliases_in_another_order_copy_as_memmove() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        let ground = File(dmabuf::sealed((PAGES * PAGE) as u64)?);
        let straight: Vec<usize> = (0..PAGES).collect();
        let reverse: Vec<usize> = (0..PAGES).rev().collect();
        let mixed: Vec<usize> = (0..PAGES).map(|page| page * 5 % PAGES).collect();
        let orders = [straight.clone(), straight, reverse, mixed];
        let mut buffers = Vec::new();
        for order in &orders {
            let pages: Vec<u64> = order.iter().map(|page| *page as u64).collect();
            let shared = dmabuf::udmabuf_of_pages(ground.0.as_fd(), &pages)?;
            buffers.push(Buffer::import_unmapped(&context, shared.as_fd())?);
        }
        let names: Vec<Name<'_>> = buffers
            .iter()
            .zip(orders)
            .map(|(buffer, order)| Name(buffer, order))
            .collect();
        for to in &names {
            for from in &names {
                compare(guest, &mut channel, &ground, to, from)?;
            }
        }
        Ok(())
    });
}

#[test]
fn aliases_of_device_memory_copy_as_memmove() {
    test(|guest| {
        let context = Context::open()?;
        let info = device::device(guest, &context)?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        for tier in info.tiers.iter().filter(|tier| tier.bytes > 0) {
            let bytes = (PAGES * PAGE) as u64;
            let ground = Buffer::on_device(&context, info.number, tier.tier, bytes, None)?;
            let alias = Buffer::import(&context, ground.export()?.as_fd())?;
            let names = [
                Name(&ground, (0..PAGES).collect()),
                Name(&alias, (0..PAGES).collect()),
            ];
            compare(guest, &mut channel, &ground, &names[0], &names[1])?;
            compare(guest, &mut channel, &ground, &names[1], &names[0])?;
        }
        Ok(())
    });
}
