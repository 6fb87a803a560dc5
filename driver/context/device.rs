// SPDX-License-Identifier: GPL-2.0-only

//! The device node `/dev/dmaplane`.

use super::{Context, Mappable};
use crate::{
    kx::{
        charged::GFP_CHARGED,
        miscdev::{PollTable, Polled, Ready},
        vma,
    },
    logic::handle::MmapTarget,
};
use kernel::{
    fs::File,
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    mm::virt::VmaNew,
    prelude::*,
    seq_file::SeqFile,
    sync::{Arc, ArcBorrow},
};

/// An open file. The context ends when the last descriptor is closed: mappings keep the memory that they show, and not
/// the file.
pub(crate) struct Node {
    pub(super) context: Arc<Context>,
}

#[vtable]
impl MiscDevice for Node {
    type Ptr = Arc<Self>;

    fn open(file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Self>> {
        let context = Context::new()?;
        context.space.adopt(file);
        let node = Arc::new(Self { context }, GFP_CHARGED)?;
        super::list::enter(&node.context)?;
        Ok(node)
    }

    fn release(node: Arc<Self>, _file: &File) {
        node.context.close();
    }

    fn mmap(node: ArcBorrow<'_, Self>, _file: &File, vma: &VmaNew) -> Result {
        let target = MmapTarget::from_offset(vma::offset(vma));
        match node.context.mappable(&target)? {
            // An import is mapped by its exporter, and the mapping keeps the dma-buf.
            Mappable::Memory(memory) if !memory.takes_messages() => {
                return memory.map(vma, target.start)
            }
            Mappable::Memory(memory) => memory.map(vma, target.start)?,
            Mappable::Rings(channel) => {
                vma::map(vma, channel.clone().memory(), target.start, channel)?;
            }
        }
        node.context.space.keep(vma);
        Ok(())
    }

    fn show_fdinfo(node: ArcBorrow<'_, Self>, lines: &SeqFile, _file: &File) {
        super::fdinfo::fdinfo(&node.context, lines);
    }

    fn ioctl(node: ArcBorrow<'_, Self>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        node.context.ioctl(cmd, arg)?;
        Ok(0)
    }
}

impl Polled for Node {
    fn poll(node: ArcBorrow<'_, Self>, file: &File, table: PollTable<'_>) -> Ready {
        node.context.readiness.watch(file, table);
        node.context.ready()
    }
}
