// SPDX-License-Identifier: MIT OR Apache-2.0
//! Topologies: what a set of guests looks like, read from `vm/topologies/NAME.toml`.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The number of guests that a link joins; a veth pair needs only one.
const LINK_GUESTS: usize = 2;

/// A set of guests and what joins them.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// The file's stem.
    #[serde(skip_deserializing)]
    pub name: String,
    /// One line for lists.
    pub description: String,
    /// How RDMA reaches the other side.
    pub network: Network,
    /// The guests; tests run in the first one.
    #[serde(rename = "guest")]
    pub guests: Vec<Guest>,
}

/// How RDMA reaches the other side.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Network {
    /// Two network namespaces in one guest, joined by a veth pair.
    Veth {
        /// Bytes.
        mtu: u32,
        /// Addresses with prefix length of the namespace that tests run in.
        local: Vec<String>,
        /// Addresses with prefix length of the other one.
        peer: Vec<String>,
    },
    /// Two guests, joined by a socket that carries Ethernet frames.
    Link {
        /// Bytes.
        mtu: u32,
    },
}

/// One virtual machine.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Its name, for logs; also its host name.
    pub name: String,
    /// Addresses with prefix length of its interface on a link.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// NUMA nodes, numbered from 0.
    #[serde(rename = "node")]
    pub nodes: Vec<Node>,
    /// Distances between the nodes; without them, the firmware's defaults.
    #[serde(default)]
    pub distances: Distances,
    /// Whether an IOMMU translates the devices' accesses.
    #[serde(default)]
    pub iommu: bool,
    /// Whether the guest reaches QEMU's own monitor, to unplug and plug devices.
    #[serde(default)]
    pub monitor: bool,
    /// More of the kernel's command line.
    #[serde(default)]
    pub kernel_args: Vec<String>,
    /// PCI devices that are nothing but memory.
    #[serde(default, rename = "bar")]
    pub bars: Vec<Bar>,
    /// Network adapters that are connected to nothing, for tests of the `near` placements.
    #[serde(default, rename = "adapter")]
    pub adapters: Vec<Adapter>,
}

/// One NUMA node. Without memory and CPUs it can still hold a device.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// MiB.
    #[serde(default)]
    pub memory_mib: u32,
    /// CPUs, each a socket of its own, as no socket spans nodes.
    #[serde(default)]
    pub cpus: u32,
}

/// Distances between nodes, in the firmware's unit: 10 is local.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Distances {
    /// `matrix[i][j]` is from node i to node j.
    pub matrix: Vec<Vec<u8>>,
}

/// An ivshmem-plain device: device memory to test with.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bar {
    /// MiB, a power of two.
    pub size_mib: u32,
    /// The node that it is attached to.
    pub node: u32,
}

/// A virtio network adapter.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// The node that it is attached to.
    pub node: u32,
}

impl Topology {
    /// Reads the topology of this name from the checkout.
    pub fn load(root: &Path, name: &str) -> Result<Self> {
        let dir = root.join("vm/topologies");
        let known = names(&dir)?;
        if !known.iter().any(|known| known == name) {
            bail!(
                "there is no topology {name:?}; those in vm/topologies are {}",
                known.join(", ")
            );
        }
        let path = dir.join(format!("{name}.toml"));
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(name, &text).with_context(|| format!("vm/topologies/{name}.toml"))
    }

    /// All topologies of the checkout, by name.
    pub fn all(root: &Path) -> Result<Vec<Self>> {
        let names = names(&root.join("vm/topologies"))?;
        names.iter().map(|name| Self::load(root, name)).collect()
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut topology: Self = toml::from_str(text)?;
        topology.name = name.to_owned();
        topology.validate()?;
        Ok(topology)
    }

    fn validate(&self) -> Result<()> {
        match &self.network {
            Network::Veth { local, peer, .. } => {
                ensure!(
                    self.guests.len() == 1,
                    "a veth network needs exactly one guest"
                );
                ensure!(
                    !local.is_empty() && !peer.is_empty(),
                    "a veth network needs addresses for both `local` and `peer`"
                );
            }
            Network::Link { .. } => {
                ensure!(
                    self.guests.len() == LINK_GUESTS,
                    "a link joins exactly two guests"
                );
                for guest in &self.guests {
                    ensure!(
                        !guest.addresses.is_empty(),
                        "guest {} has no addresses",
                        guest.name
                    );
                }
            }
        }
        let mtu = self.mtu();
        ensure!(
            (1280..=9000).contains(&mtu),
            "an MTU of {mtu} is not between 1280 and 9000"
        );
        for (index, guest) in self.guests.iter().enumerate() {
            let twice = self.guests[..index]
                .iter()
                .any(|other| other.name == guest.name);
            ensure!(!twice, "two guests are called {}", guest.name);
            guest
                .validate()
                .with_context(|| format!("guest {}", guest.name))?;
        }
        Ok(())
    }

    /// Bytes.
    pub fn mtu(&self) -> u32 {
        match self.network {
            Network::Veth { mtu, .. } | Network::Link { mtu } => mtu,
        }
    }

    /// The address of the side that tests run on, without its prefix length.
    pub fn local_ip(&self) -> &str {
        match &self.network {
            Network::Veth { local, .. } => bare(local),
            Network::Link { .. } => bare(&self.guests[0].addresses),
        }
    }

    /// The address of the other side, without its prefix length.
    pub fn peer_ip(&self) -> &str {
        match &self.network {
            Network::Veth { peer, .. } => bare(peer),
            Network::Link { .. } => bare(&self.guests[1].addresses),
        }
    }
}

impl Guest {
    fn validate(&self) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        ensure!(
            !self.name.is_empty() && self.name.chars().all(plain),
            "a guest's name is made of letters, digits and `-`"
        );
        let word = |arg: &String| !arg.is_empty() && !arg.contains(char::is_whitespace);
        ensure!(
            self.kernel_args.iter().all(word),
            "a kernel argument is one word"
        );
        let nodes = self.nodes.len();
        ensure!(self.cpus() > 0, "no node has a CPU");
        ensure!(
            self.nodes
                .first()
                .is_some_and(|node| node.memory_mib >= 256),
            "node 0 needs 256 MiB at least: the kernel boots there"
        );
        let matrix = &self.distances.matrix;
        if !matrix.is_empty() {
            ensure!(
                matrix.len() == nodes && matrix.iter().all(|row| row.len() == nodes),
                "the distance matrix is not {nodes} by {nodes}"
            );
        }
        for (i, row) in matrix.iter().enumerate() {
            for (j, distance) in row.iter().enumerate() {
                let fits = if i == j {
                    *distance == 10
                } else {
                    *distance > 10
                };
                ensure!(
                    fits,
                    "the distance from {i} to {j} is {distance}; local is 10, others more"
                );
            }
        }
        for bar in &self.bars {
            ensure!(
                bar.size_mib.is_power_of_two(),
                "a BAR's size is a power of two"
            );
            ensure!(
                (bar.node as usize) < nodes,
                "a BAR is on node {}, which is not there",
                bar.node
            );
        }
        for adapter in &self.adapters {
            ensure!(
                (adapter.node as usize) < nodes,
                "an adapter is on node {}, which is not there",
                adapter.node
            );
        }
        Ok(())
    }

    /// CPUs on all nodes.
    pub fn cpus(&self) -> u32 {
        self.nodes.iter().map(|node| node.cpus).sum()
    }

    /// MiB on all nodes.
    pub fn memory_mib(&self) -> u32 {
        self.nodes.iter().map(|node| node.memory_mib).sum()
    }
}

fn bare(addresses: &[String]) -> &str {
    addresses
        .first()
        .and_then(|address| address.split('/').next())
        .unwrap_or_default()
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            names.extend(
                path.file_stem()
                    .map(|stem| stem.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"
        description = "one"
        network = { kind = "veth", mtu = 4200, local = ["10.0.0.1/24"], peer = ["10.0.0.2/24"] }
        [[guest]]
        name = "one"
        node = [{ memory_mib = 512, cpus = 1 }, { memory_mib = 512, cpus = 1 }]
    "#;

    fn root() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    #[test]
    fn the_topologies_of_the_checkout_are_valid() {
        let all = Topology::all(root()).unwrap();
        let names: Vec<_> = all.iter().map(|topology| topology.name.as_str()).collect();
        assert_eq!(
            names,
            ["iommu", "numa2", "numa4", "pair", "swiotlb", "unplug"]
        );
    }

    #[test]
    fn an_unknown_name_lists_those_that_exist() {
        let err = Topology::load(root(), "numa3").unwrap_err().to_string();
        assert!(
            err.contains("iommu, numa2, numa4, pair, swiotlb, unplug"),
            "{err}"
        );
    }

    #[test]
    fn sums_and_addresses() {
        let topology = Topology::parse("one", ONE).unwrap();
        assert_eq!(
            (topology.guests[0].cpus(), topology.guests[0].memory_mib()),
            (2, 1024)
        );
        assert_eq!(
            (topology.local_ip(), topology.peer_ip()),
            ("10.0.0.1", "10.0.0.2")
        );
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("mtu = 4200", "mtu = 100", "MTU of 100"),
            ("mtu = 4200", "mtu = 4200, mtv = 1", "mtv"),
            ("name = \"one\"", "name = \"a b\"", "letters"),
            (
                "name = \"one\"",
                "name = \"one\"\nbar = [{ size_mib = 3, node = 0 }]",
                "power of two",
            ),
            (
                "name = \"one\"",
                "name = \"one\"\nbar = [{ size_mib = 4, node = 7 }]",
                "node 7",
            ),
            (
                "name = \"one\"",
                "name = \"one\"\nadapter = [{ node = 2 }]",
                "node 2",
            ),
            (
                "name = \"one\"",
                "name = \"one\"\ndistances = { matrix = [[10]] }",
                "2 by 2",
            ),
            ("cpus = 1 }, {", "cpus = 0 }, {", ""),
            (
                "memory_mib = 512, cpus = 1 }, {",
                "memory_mib = 64, cpus = 1 }, {",
                "256 MiB",
            ),
            ("local = [\"10.0.0.1/24\"]", "local = []", "addresses"),
        ];
        for (from, to, want) in cases {
            assert!(ONE.contains(from), "{from}");
            let result = Topology::parse("one", &ONE.replace(from, to));
            if want.is_empty() {
                assert!(result.is_ok(), "{to}: {result:?}");
            } else {
                let err = format!("{:#}", result.unwrap_err());
                assert!(err.contains(want), "{to}: {err}");
            }
        }
    }
}
