// SPDX-License-Identifier: MIT OR Apache-2.0

//! Soft-RoCE links of the calling thread's network namespace, through iproute2.

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::iproute2::rdma;

/// An rxe device and the interface below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Name of the RDMA device.
    pub name: String,
    /// Network interface.
    pub netdev: String,
}

impl Link {
    /// The only link of this namespace.
    ///
    /// # Errors
    /// When there is none or more than one.
    pub fn only() -> Result<Self> {
        let mut links = Self::all()?;
        ensure!(
            links.len() == 1,
            "one RDMA link is expected here, not {links:?}"
        );
        links.pop().context("a link")
    }

    /// All links of this namespace.
    ///
    /// # Errors
    /// What rdma(8) says.
    pub fn all() -> Result<Vec<Self>> {
        parse(&rdma("-j link show")?)
    }

    /// Deletes the device under whatever uses it.
    ///
    /// # Errors
    /// What rdma(8) says.
    pub fn delete(&self) -> Result<()> {
        rdma(&format!("link del {}", self.name)).map(drop)
    }

    /// Makes the device again.
    ///
    /// # Errors
    /// What rdma(8) says.
    pub fn add(&self) -> Result<()> {
        let Self { name, netdev } = self;
        rdma(&format!("link add {name} type rxe netdev {netdev}")).map(drop)
    }
}

fn parse(json: &str) -> Result<Vec<Link>> {
    #[derive(Deserialize)]
    struct Row {
        ifname: String,
        netdev: Option<String>,
    }
    let rows: Vec<Row> = serde_json::from_str(json).context("rdma's JSON is not understood")?;
    let link = |row: Row| {
        Some(Link {
            name: row.ifname,
            netdev: row.netdev?,
        })
    };
    Ok(rows.into_iter().filter_map(link).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_parsed_and_those_without_interface_ignored() {
        let json = r#"[{"ifindex":0,"ifname":"rxe1","port":1,"state":"ACTIVE",
            "physical_state":"LINK_UP","netdev":"veth1","netdev_index":2},
            {"ifindex":1,"ifname":"ib0","port":1,"state":"DOWN"}]"#;
        let links = parse(json).expect("links");
        assert_eq!(
            links,
            [Link {
                name: "rxe1".to_owned(),
                netdev: "veth1".to_owned()
            }]
        );
        assert!(parse("nothing").is_err());
    }
}
