// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which mappings are accepted: the same for a buffer, an import of it and its dma-buf.

use std::fs::File;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use dmaplane::{Buffer, Channel, Context, Placement};
use dmaplane_guest_tests::raw::Argument;
use dmaplane_testkit::sys::{self, process::with_read_implies_exec};
use dmaplane_testkit::{ErrorContext as _, Result, ensure, test};
use dmaplane_uapi as abi;
use rustix::mm::{MapFlags, ProtFlags};

const PAGE: u64 = 4096;

fn map(fd: BorrowedFd<'_>, offset: u64, prot: ProtFlags) -> Result<(), dmaplane::Errno> {
    sys::try_map(fd, offset, PAGE as usize, MapFlags::SHARED, prot)
}

#[test]
fn mappings_of_programs_with_executable_data_are_made() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, PAGE, Placement::Any)?;
        let export = buffer.export()?;
        let import = Buffer::import_unmapped(&context, export.as_fd())?;
        let both = ProtFlags::READ | ProtFlags::WRITE;
        for (name, fd, offset) in [
            ("buffer", context.as_fd(), buffer.mmap_offset()),
            ("import", context.as_fd(), import.mmap_offset()),
            ("dma-buf", export.as_fd(), 0),
        ] {
            let mapped = with_read_implies_exec(|| map(fd, offset, both))?;
            ensure!(mapped.is_ok(), "{name} with READ_IMPLIES_EXEC: {mapped:?}");
            let asked = map(fd, offset, both | ProtFlags::EXEC);
            ensure!(asked.is_err(), "{name} is mapped for execution");
        }
        // Rings are mapped as well, and work.
        let channel = with_read_implies_exec(|| Channel::builder().entries(8).build(&context))??;
        drop(channel);
        Ok(())
    });
}

#[test]
fn mappings_of_a_file_for_reading_are_made_for_reading() {
    test(|_| {
        let file = File::open("/dev/dmaplane").context("/dev/dmaplane")?;
        let size = size_of::<abi::BufferCreate>();
        let mut create = Argument::new(abi::IOC_BUFFER_CREATE, size)
            .put64(offset_of!(abi::BufferCreate, bytes), PAGE)
            .put32(offset_of!(abi::BufferCreate, node), u32::MAX);
        create.call(file.as_fd())?;
        let handle = create.get32(offset_of!(abi::BufferCreate, handle));
        let size = size_of::<abi::BufferExport>();
        let mut export = Argument::new(abi::IOC_BUFFER_EXPORT, size)
            .put32(4, abi::EXPORT_CLOEXEC)
            .put32(offset_of!(abi::BufferExport, buffer), handle)
            .put64(offset_of!(abi::BufferExport, length), PAGE);
        export.call(file.as_fd())?;
        let dmabuf = sys::own(
            export
                .get32(offset_of!(abi::BufferExport, fd))
                .cast_signed(),
        );
        let size = size_of::<abi::BufferImport>();
        let mut import = Argument::new(abi::IOC_BUFFER_IMPORT, size).put32(
            offset_of!(abi::BufferImport, fd),
            dmabuf.as_raw_fd().cast_unsigned(),
        );
        import.call(file.as_fd())?;
        for (name, offset) in [
            (
                "buffer",
                create.get64(offset_of!(abi::BufferCreate, mmap_offset)),
            ),
            (
                "import",
                import.get64(offset_of!(abi::BufferImport, mmap_offset)),
            ),
        ] {
            let read = map(file.as_fd(), offset, ProtFlags::READ);
            ensure!(read.is_ok(), "{name} for reading: {read:?}");
            let write = map(file.as_fd(), offset, ProtFlags::READ | ProtFlags::WRITE);
            ensure!(write.is_err(), "{name} is mapped for writing");
        }
        Ok(())
    });
}
