// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the machine has, as sysfs tells it: NUMA nodes and RDMA devices.

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
        devices.push(RdmaDevice {
            name: file_name(&path).to_owned(),
            state: format!("{layer}, {state}"),
            netdev: read_line(&port.join("gid_attrs/ndevs/0")),
            numa_node: read_line(&path.join("device/numa_node")).and_then(|n| n.parse().ok()),
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
    }
}
