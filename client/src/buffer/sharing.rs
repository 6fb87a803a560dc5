// SPDX-License-Identifier: MIT OR Apache-2.0

//! What others may do with a buffer, and what can be done with theirs.

/// What others may do through a dma-buf of a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ExportAccess {
    /// Processes and devices read and write.
    #[default]
    ReadWrite,
    /// Processes and devices read; other drivers cannot map it into the kernel.
    ReadOnly,
}

/// What an imported buffer lacks that entries and grants need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImportLack {
    /// Its exporter gives no kernel mapping.
    Mapping,
    /// It is not memory, but registers of a device.
    Memory,
    /// The kernel does not manage the memory: it is, for example, a device's.
    Pages,
    /// Something that this library does not know.
    Other(u32),
}

/// What can be done with an imported buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportInfo {
    /// Whether it can be mapped.
    pub mappable: bool,
    /// Whether it may be written.
    pub writable: bool,
    /// Whether COPY and SEND can name it; they can name a device's memory even where it lacks pages.
    pub copied: bool,
    /// Why entries and grants cannot name it, apart from what `copied` allows; `None` when they can.
    pub lack: Option<ImportLack>,
}
