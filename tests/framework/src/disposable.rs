// SPDX-License-Identifier: MIT OR Apache-2.0

//! A disposable network interface with an rxe device, which a test may break, and a guard that restores other links.

use std::ffi::CStr;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::iproute2::ip;
use crate::rdma::Link;
use crate::{Guest, module, netns, poll};

/// Longer than the removal of an RDMA device takes on the slowest kernel.
const GONE: Duration = Duration::from_secs(60);
/// The provider's module.
const PROVIDER: &CStr = c"rdma_rxe";

/// An interface that only reaches itself, with an rxe device on it. Dropping this removes both.
///
/// It has a network namespace of its own, which guest-runner makes: rxe may stop receiving in the whole namespace of an
/// interface that is removed, see docs/findings.md.
#[derive(Debug)]
pub struct DisposableNetdev {
    /// The device.
    pub link: Link,
    /// Its address.
    pub address: IpAddr,
}

/// A fault of a [`DisposableNetdev`] that a test can inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkFault {
    /// The interface is deleted under the device.
    DeleteInterface,
    /// The interface is set down.
    SetDown,
    /// The interface loses its address.
    RemoveAddress,
    /// The device is deleted.
    DeleteLink,
    /// The provider's module is unloaded, and with it every device of the machine.
    UnloadProvider,
}

impl DisposableNetdev {
    const NAMESPACE: &str = "dpspare";
    const NETDEV: &str = "spare0";
    const ADDRESS: &str = "10.99.0.1";

    /// Makes one, and runs `work` in a thread inside its network namespace.
    ///
    /// # Errors
    /// Those of `work`, and what ip(8) or rdma(8) says.
    pub fn with<T: Send>(work: impl FnOnce(&Self) -> Result<T> + Send) -> Result<T> {
        netns::inside(Self::NAMESPACE, || {
            let netdev = Self {
                link: Link {
                    name: "rxespare".to_owned(),
                    netdev: Self::NETDEV.to_owned(),
                },
                address: Self::ADDRESS.parse()?,
            };
            netdev.restore()?;
            work(&netdev)
        })?
    }

    /// Makes again whatever is missing.
    ///
    /// # Errors
    /// What ip(8) or rdma(8) says.
    pub fn restore(&self) -> Result<()> {
        let (netdev, address) = (&self.link.netdev, self.address);
        if !self.has_interface() {
            ip(&format!("link add {netdev} type dummy"))?;
            ip(&format!("link set {netdev} mtu 4200"))?;
        }
        ip(&format!("address replace {address}/24 dev {netdev}"))?;
        ip(&format!("link set {netdev} up"))?;
        if !Link::all()?.contains(&self.link) {
            self.link.add()?;
        }
        Ok(())
    }

    /// Injects a fault.
    ///
    /// # Errors
    /// What ip(8), rdma(8) or the kernel says.
    pub fn inject(&self, fault: LinkFault, limit: Duration) -> Result<()> {
        let netdev = &self.link.netdev;
        match fault {
            LinkFault::DeleteInterface => self.delete_interface(),
            LinkFault::SetDown => ip(&format!("link set {netdev} down")),
            LinkFault::RemoveAddress => ip(&format!("address flush dev {netdev}")),
            LinkFault::DeleteLink => self.link.delete(),
            LinkFault::UnloadProvider => module::unload_other(PROVIDER, limit),
        }
    }

    fn delete_interface(&self) -> Result<()> {
        ip(&format!("link delete {}", self.link.netdev))?;
        // A work queue removes the RDMA device afterwards.
        let device = Path::new("/sys/class/infiniband").join(&self.link.name);
        let gone = poll::until(GONE, || Ok((!device.exists()).then_some(())))?;
        gone.with_context(|| format!("{} is still there", device.display()))
    }

    /// Whether the interface is there. Asks ip(8): /sys shows another network namespace's interfaces.
    fn has_interface(&self) -> bool {
        ip(&format!("link show dev {}", self.link.netdev)).is_ok()
    }
}

impl Drop for DisposableNetdev {
    fn drop(&mut self) {
        // It may be gone already.
        if self.has_interface()
            && let Err(error) = self.delete_interface()
        {
            eprintln!("{error:#}");
        }
    }
}

/// The links that the other suites need. Dropping this makes them again, even after the provider's module was unloaded.
#[derive(Debug)]
pub struct SavedLinks(Vec<(Option<&'static str>, Vec<Link>)>);

impl SavedLinks {
    /// Notes the links that are there.
    ///
    /// # Errors
    /// What rdma(8) says.
    pub fn note(guest: &Guest) -> Result<Self> {
        let places: &[_] = match guest.topology.is_pair() {
            true => &[None],
            false => &[Some("dp0"), Some("dp1")],
        };
        let note = |place: &Option<_>| Ok((*place, standing(*place, Link::all)?));
        places.iter().map(note).collect::<Result<_>>().map(Self)
    }

    /// Loads the provider, and makes the missing links again.
    ///
    /// # Errors
    /// What the kernel or rdma(8) says.
    pub fn restore(&self) -> Result<()> {
        module::load_listed("DMAPLANE_PROVIDER", PROVIDER.to_str()?, "")?;
        for (place, links) in &self.0 {
            standing(*place, || {
                let left = Link::all()?;
                let mut missing = links.iter().filter(|link| !left.contains(link));
                missing.try_for_each(Link::add)
            })?;
        }
        Ok(())
    }
}

impl Drop for SavedLinks {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            eprintln!("{error:#}");
        }
    }
}

/// Runs `work` in a network namespace, the first one if it has no name.
fn standing<T: Send>(place: Option<&str>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    match place {
        Some(name) => netns::inside(name, work)?,
        None => netns::initial(work)?,
    }
}
