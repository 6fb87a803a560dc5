// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the machine has, as sysfs reports it: NUMA nodes and RDMA devices.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NumaNode {
    /// Node id.
    pub id: u32,
    /// Its CPUs, as the kernel's list format has them (`0-3,8`); may be empty.
    pub cpus: String,
    /// Bytes of memory; 0 for a node of devices or CPUs only.
    pub total_bytes: u64,
    /// Bytes free now.
    pub free_bytes: u64,
    /// Distance to each online node, in order of their ids; 10 is local.
    pub distances: Vec<u32>,
}

/// An RDMA device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RdmaDevice {
    /// Name, as `rdma link` shows it.
    pub name: String,
    /// Link layer and state of its first port, as the kernel words them.
    pub state: String,
    /// Network interface of its first port, where it has one.
    pub netdev: Option<String>,
    /// NUMA node of the adapter, where it is known.
    pub numa_node: Option<u32>,
}

/// A PCI device's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PciBar {
    /// Address of the device, as `lspci -D` shows it.
    pub device: String,
    /// Which of its base address registers.
    pub index: u32,
    /// Bytes.
    pub bytes: u64,
    /// NUMA node of the device, where it is known.
    pub numa_node: Option<u32>,
}

/// The online NUMA nodes, by id.
///
/// # Errors
/// When sysfs is not mounted or its files are not as documented.
pub fn numa_nodes() -> io::Result<Vec<NumaNode>> {
    numa_nodes_at(Path::new("/sys"))
}

/// The RDMA devices of this network namespace, by name. None is not an error.
///
/// # Errors
/// When sysfs cannot be read.
pub fn rdma_devices() -> io::Result<Vec<RdmaDevice>> {
    rdma_devices_at(Path::new("/sys"))
}

/// Memory of PCI devices of at least a MiB, by address: smaller ones are registers.
///
/// # Errors
/// When sysfs cannot be read.
pub fn pci_bars() -> io::Result<Vec<PciBar>> {
    pci_bars_at(Path::new("/sys"))
}

fn pci_bars_at(sys: &Path) -> io::Result<Vec<PciBar>> {
    /// Flag of a resource that is memory.
    const MEMORY: u64 = 0x200;
    let folder = sys.join("bus/pci/devices");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut bars = Vec::new();
    for path in entries(&folder)? {
        let resources = fs::read_to_string(path.join("resource"))?;
        // The first six are the base address registers.
        for (index, line) in (0..6).zip(resources.lines()) {
            let hexadecimal = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16);
            let words: Vec<u64> = line.split(' ').flat_map(hexadecimal).collect();
            let [first, last, flags] = words[..] else {
                continue;
            };
            let bytes = last.saturating_sub(first) + 1;
            if flags & MEMORY != 0 && bytes >= 1 << 20 {
                bars.push(PciBar {
                    device: file_name(&path).to_owned(),
                    index,
                    bytes,
                    numa_node: node_of(&path),
                });
            }
        }
    }
    bars.sort_by(|a, b| (&a.device, a.index).cmp(&(&b.device, b.index)));
    Ok(bars)
}

/// The node that a device says it is on; none for -1.
fn node_of(device: &Path) -> Option<u32> {
    read_line(&device.join("numa_node"))?.parse().ok()
}

fn numa_nodes_at(sys: &Path) -> io::Result<Vec<NumaNode>> {
    let folder = sys.join("devices/system/node");
    let mut nodes = Vec::new();
    for path in entries(&folder)? {
        let Some(id) = file_name(&path)
            .strip_prefix("node")
            .and_then(|id| id.parse().ok())
        else {
            continue;
        };
        let meminfo = fs::read_to_string(path.join("meminfo"))?;
        let distance = fs::read_to_string(path.join("distance"))?;
        nodes.push(NumaNode {
            id,
            cpus: read_line(&path.join("cpulist")).unwrap_or_default(),
            total_bytes: meminfo_bytes(&meminfo, "MemTotal"),
            free_bytes: meminfo_bytes(&meminfo, "MemFree"),
            distances: distance
                .split_whitespace()
                .filter_map(|d| d.parse().ok())
                .collect(),
        });
    }
    nodes.sort_by_key(|node| node.id);
    Ok(nodes)
}

fn rdma_devices_at(sys: &Path) -> io::Result<Vec<RdmaDevice>> {
    let folder = sys.join("class/infiniband");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut devices = Vec::new();
    for path in entries(&folder)? {
        let port = path.join("ports/1");
        let layer = read_line(&port.join("link_layer")).unwrap_or_else(|| "unknown".to_owned());
        let state = read_line(&port.join("state")).unwrap_or_else(|| "no port".to_owned());
        let netdev = read_line(&port.join("gid_attrs/ndevs/0"));
        // A software device has no node of its own: it has that of the interface that carries it.
        let carrier = netdev
            .as_ref()
            .map(|netdev| sys.join("class/net").join(netdev).join("device"));
        devices.push(RdmaDevice {
            name: file_name(&path).to_owned(),
            state: format!("{layer}, {state}"),
            netdev,
            numa_node: node_of(&path.join("device"))
                .or_else(|| carrier.and_then(|carrier| node_of(&carrier))),
        });
    }
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(devices)
}

/// Bytes of a line such as `Node 0 MemTotal:  2048 kB`; 0 when there is none.
fn meminfo_bytes(meminfo: &str, key: &str) -> u64 {
    let mut words = meminfo
        .lines()
        .filter_map(|line| line.split_once(key))
        .flat_map(|(_, rest)| {
            rest.trim_start_matches(':')
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        });
    words.next().unwrap_or(0) * 1024
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect()
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

/// The first line, or `None` when the file is missing or empty: many of sysfs' files are optional.
fn read_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("create the folder");
        fs::write(path, text).expect("write the file");
    }

    #[test]
    fn nodes_are_read_and_sorted() {
        let sys = tempfile::tempdir().expect("a folder");
        for (id, total, cpus) in [(10, 0, ""), (2, 2048, "0-1")] {
            let node = format!("devices/system/node/node{id}");
            let meminfo =
                format!("Node {id} MemTotal:       {total} kB\nNode {id} MemFree:        12 kB\n");
            put(sys.path(), &format!("{node}/meminfo"), &meminfo);
            put(sys.path(), &format!("{node}/distance"), "10 21\n");
            put(sys.path(), &format!("{node}/cpulist"), &format!("{cpus}\n"));
        }
        put(sys.path(), "devices/system/node/possible", "0-15\n");
        let nodes = numa_nodes_at(sys.path()).expect("nodes");
        assert_eq!(nodes.iter().map(|n| n.id).collect::<Vec<_>>(), [2, 10]);
        assert_eq!(nodes[0].total_bytes, 2048 * 1024);
        assert_eq!(nodes[0].free_bytes, 12 * 1024);
        assert_eq!(nodes[0].cpus, "0-1");
        assert_eq!(nodes[0].distances, [10, 21]);
        assert_eq!(nodes[1].cpus, "");
    }

    #[test]
    fn rdma_devices_are_read_and_a_missing_class_is_empty() {
        let sys = tempfile::tempdir().expect("a folder");
        assert!(rdma_devices_at(sys.path()).expect("no devices").is_empty());
        let device = "class/infiniband/rxe0";
        put(
            sys.path(),
            &format!("{device}/ports/1/state"),
            "4: ACTIVE\n",
        );
        put(
            sys.path(),
            &format!("{device}/ports/1/link_layer"),
            "Ethernet\n",
        );
        put(
            sys.path(),
            &format!("{device}/ports/1/gid_attrs/ndevs/0"),
            "veth0\n",
        );
        put(sys.path(), &format!("{device}/device/numa_node"), "-1\n");
        let devices = rdma_devices_at(sys.path()).expect("devices");
        assert_eq!(devices.len(), 1);
        assert_eq!(devices[0].state, "Ethernet, 4: ACTIVE");
        assert_eq!(devices[0].netdev.as_deref(), Some("veth0"));
        assert_eq!(devices[0].numa_node, None);
        put(sys.path(), "class/net/veth0/device/numa_node", "3\n");
        let devices = rdma_devices_at(sys.path()).expect("devices");
        assert_eq!(devices[0].numa_node, Some(3));
    }

    #[test]
    fn bars_are_read_without_registers_and_ports() {
        let sys = tempfile::tempdir().expect("a folder");
        assert!(pci_bars_at(sys.path()).expect("no devices").is_empty());
        let device = "bus/pci/devices/0000:41:00.0";
        put(
            sys.path(),
            &format!("{device}/resource"),
            "0x00000000fe800000 0x00000000fe8000ff 0x0000000000040200\n\
             0x000000000000c000 0x0000000000ffffff 0x0000000000040101\n\
             0x0000000380000000 0x0000000383ffffff 0x000000000014220c\n\
             0x0000000000000000 0x0000000000000000 0x0000000000000000\n",
        );
        put(sys.path(), &format!("{device}/numa_node"), "2\n");
        let bars = pci_bars_at(sys.path()).expect("bars");
        assert_eq!(bars.len(), 1, "{bars:?}");
        assert_eq!((bars[0].index, bars[0].bytes), (2, 64 << 20));
        assert_eq!(bars[0].numa_node, Some(2));
    }
}
