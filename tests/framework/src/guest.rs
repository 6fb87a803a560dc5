// SPDX-License-Identifier: MIT OR Apache-2.0

//! The guest that a test runs in, as the runner describes it in the environment.

use std::env;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::run::Skip;

/// How guests and networks are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One guest of two NUMA nodes; the peer is in the network namespace `dp1`.
    Numa2,
    /// One guest of four NUMA nodes; the peer is in the network namespace `dp1`.
    Numa4,
    /// One guest behind an IOMMU; the peer is in the network namespace `dp1`.
    Iommu,
    /// One guest whose DMA goes through bounce buffers; likewise.
    Swiotlb,
    /// One guest with one CPU, whose device comes and goes; likewise.
    Unplug,
    /// Two guests; the peer is in the second.
    Pair,
}

impl Topology {
    /// Whether the peer is in another guest, with a kernel of its own.
    pub fn is_pair(self) -> bool {
        self == Self::Pair
    }
}

/// What the kernel was configured for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Debian's kernel, as people have it. It cannot inject faults.
    Stock,
    /// Fast, with fault injection.
    Base,
    /// With KASAN, lockdep and the like; about sixty times slower when emulated.
    Debug,
}

/// The guest that the test runs in.
#[derive(Clone, Debug)]
pub struct Guest {
    /// How guests and networks are arranged.
    pub topology: Topology,
    /// What the kernel was configured for.
    pub profile: Profile,
    /// Address of this side's RDMA device.
    pub local: IpAddr,
    /// Address of the peer's RDMA device.
    pub peer: IpAddr,
    /// What time limits are multiplied by.
    pub time_scale: u32,
    /// Whether this is a run in full length, as every night.
    pub long: bool,
}

impl Guest {
    /// Reads the environment.
    ///
    /// # Errors
    /// When a variable is missing or not understood: then this is no guest of the runner's.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| {
            variable(name).with_context(|| {
                format!("{name} is not set: these tests run in guests, by `cargo xtask vm-test`")
            })
        };
        let address = |name| -> Result<IpAddr> {
            let text = get(name)?;
            text.parse()
                .with_context(|| format!("{name}={text} is no address"))
        };
        let topology = match get("DMAPLANE_TOPOLOGY")?.as_str() {
            "numa2" => Topology::Numa2,
            "numa4" => Topology::Numa4,
            "iommu" => Topology::Iommu,
            "swiotlb" => Topology::Swiotlb,
            "unplug" => Topology::Unplug,
            "pair" => Topology::Pair,
            other => bail!("DMAPLANE_TOPOLOGY={other} is no topology that the tests know"),
        };
        let profile = match get("DMAPLANE_PROFILE")?.as_str() {
            "stock" => Profile::Stock,
            "base" => Profile::Base,
            "debug" => Profile::Debug,
            other => bail!("DMAPLANE_PROFILE={other} is none of stock, base and debug"),
        };
        let scale = get("DMAPLANE_TIME_SCALE")?;
        let time_scale: u32 = scale
            .parse()
            .ok()
            .filter(|scale| *scale > 0)
            .with_context(|| format!("DMAPLANE_TIME_SCALE={scale} is no positive number"))?;
        Ok(Self {
            topology,
            profile,
            local: address("DMAPLANE_LOCAL_IP")?,
            peer: address("DMAPLANE_PEER_IP")?,
            time_scale,
            long: variable("DMAPLANE_LONG").is_some(),
        })
    }

    /// A time limit for something that takes `seconds` at most on a fast machine.
    pub fn limit(&self, seconds: u64) -> Duration {
        Duration::from_secs(seconds) * self.time_scale
    }

    /// One value for the fast profiles, another for the debug profile.
    pub fn pick<T>(&self, fast: T, debug: T) -> T {
        match self.profile {
            Profile::Stock | Profile::Base => fast,
            Profile::Debug => debug,
        }
    }

    /// Rounds of something that is repeated with random choices: all of them in runs of full length, a third elsewhere,
    /// where other runs go on with other choices.
    pub fn rounds(&self, fast: u64, debug: u64) -> u64 {
        let all = self.pick(fast, debug);
        if self.long { all } else { all.div_ceil(3) }
    }

    /// Where this side can listen: a free port of its RDMA device.
    pub fn local_any_port(&self) -> SocketAddr {
        SocketAddr::new(self.local, 0)
    }

    /// Where the peer can listen: a free port of its RDMA device.
    pub fn peer_any_port(&self) -> SocketAddr {
        SocketAddr::new(self.peer, 0)
    }

    /// Skips the test unless it runs on one of these topologies.
    ///
    /// # Errors
    /// A [`Skip`], to be passed on.
    pub fn require(&self, topologies: &[Topology], why: &str) -> Result<()> {
        if topologies.contains(&self.topology) {
            return Ok(());
        }
        Err(Skip::new(format!("{why}; this is {:?}", self.topology)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Option<String> {
        let value = match name {
            "DMAPLANE_TOPOLOGY" => "pair",
            "DMAPLANE_PROFILE" => "debug",
            "DMAPLANE_LOCAL_IP" => "10.77.0.1",
            "DMAPLANE_PEER_IP" => "10.77.0.2",
            "DMAPLANE_TIME_SCALE" => "15",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn the_environment_describes_the_guest() {
        let guest = Guest::from_variables(variable).expect("complete");
        assert_eq!(guest.topology, Topology::Pair);
        assert_eq!(guest.limit(2), Duration::from_secs(30));
        assert_eq!(guest.pick(64, 1), 1);
        assert_eq!((guest.rounds(64, 10), guest.rounds(64, 1)), (4, 1));
        let long = Guest {
            long: true,
            ..guest.clone()
        };
        assert_eq!(long.rounds(64, 10), 10);
        let skip = guest
            .require(&[Topology::Numa4], "needs four nodes")
            .expect_err("a skip");
        let skip: Skip = skip.downcast().expect("a typed skip");
        assert_eq!(skip.to_string(), "needs four nodes; this is Pair");
    }

    #[test]
    fn a_missing_or_silly_variable_is_named() {
        for (name, value) in [
            ("DMAPLANE_PROFILE", None),
            ("DMAPLANE_TIME_SCALE", Some("0")),
        ] {
            let error = Guest::from_variables(|asked| {
                if asked == name {
                    value.map(str::to_owned)
                } else {
                    variable(asked)
                }
            })
            .expect_err("not a guest");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
