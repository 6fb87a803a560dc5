// SPDX-License-Identifier: GPL-2.0-only

//! NUMA nodes, and the node of a device.
//!
//! Extends `kernel::alloc::NumaNode`.

use super::raw;
use kernel::prelude::*;

/// Whether a node exists and has memory for buffers. Memory that is movable only does not count, nor does that of nodes
/// beyond the caller's cpuset.
pub(crate) fn node_has_memory(nid: i32) -> bool {
    // SAFETY: Any integer may be passed; the wrapper checks its range.
    unsafe { raw::dmaplane_node_has_memory(nid) }
}

/// One more than the highest node id.
pub(crate) fn node_ids() -> u32 {
    // SAFETY: Reads a variable that is constant after boot.
    unsafe { raw::dmaplane_node_ids() }
}

/// Nodes that have such memory, by id.
pub(crate) fn memory_nodes() -> impl Iterator<Item = i32> {
    (0..node_ids() as i32).filter(|nid| node_has_memory(*nid))
}

/// Distance between nodes in the firmware's unit: 10 is local, more is farther.
pub(crate) fn distance(from: i32, to: i32) -> i32 {
    // SAFETY: Any integers may be passed: the wrapper refuses negative ones, and the callee knows the table's size.
    unsafe { raw::dmaplane_node_distance(from, to) }
}

/// Number of processors of a node.
pub(crate) fn cpus(nid: i32) -> usize {
    // SAFETY: Any integer may be passed; the wrapper checks its range.
    unsafe { raw::dmaplane_node_cpus(nid) as usize }
}

/// Number of processors that the calling thread may run on, by its cpuset and its own choice.
pub(crate) fn own_cpus() -> usize {
    // SAFETY: Reads the calling thread's mask, which exists as long as it runs.
    unsafe { raw::dmaplane_own_cpus() as usize }
}

/// A name of a device as user space gave it: text that ends in a zero byte.
pub(crate) struct DeviceName<'a>(&'a CStr);

impl<'a> DeviceName<'a> {
    /// Checks it: not empty, and only zeroes behind its end. `EINVAL` otherwise.
    pub(crate) fn new(bytes: &'a [u8; 64]) -> Result<Self> {
        let name = CStr::from_bytes_until_nul(bytes).map_err(|_| EINVAL)?;
        let length = name.to_bytes().len();
        let behind = bytes.get(length..).ok_or(EINVAL)?;
        if length == 0 || behind.iter().any(|byte| *byte != 0) {
            return Err(EINVAL);
        }
        Ok(Self(name))
    }

    /// The bytes before the end.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.to_bytes()
    }
}

/// The node that the firmware gave a PCI device, -1 for none. `ENODEV` when there is no such device.
pub(crate) fn of_pci_device(name: &DeviceName<'_>) -> Result<i32> {
    let mut nid = -1;
    // SAFETY: The name ends in a zero byte and is alive during the call, and so is the number.
    kernel::error::to_result(unsafe {
        raw::dmaplane_pci_device_node(name.0.as_char_ptr(), &mut nid)
    })?;
    Ok(nid)
}
