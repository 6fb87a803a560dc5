// SPDX-License-Identifier: MIT OR Apache-2.0

//! An open file of the driver, and the names of objects in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dmaplane_uapi as abi;
use rustix::io::Errno;

use crate::error::{Call, Error, Result};
use crate::sys;

/// Where the driver's device node is.
pub const DEVICE_PATH: &str = "/dev/dmaplane";

/// An open file of the driver: the owner of buffers, channels, listeners and endpoints.
///
/// A context is cheap to clone; clones name the same file, and every object keeps it open. When the
/// last of them is dropped, or the process dies, the driver ends whatever is left.
///
/// Its descriptor ([`AsFd`]) can be given to poll(2) and epoll(7): it is readable while a channel of it has completions that
/// were not taken, and has an error while a channel's ring was corrupted. Each completion is an edge.
///
/// ```no_run
/// # fn main() -> dmaplane::Result<()> {
/// let context = dmaplane::Context::open()?;
/// println!("{} NUMA node ids, {} RDMA devices", context.limits().node_ids,
///     context.query()?.rdma_devices);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Context {
    device: Arc<Device>,
}

#[derive(Debug)]
struct Device {
    fd: OwnedFd,
    limits: Info,
}

/// What the driver can do, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Info {
    /// Version of the interface.
    pub abi_version: u32,
    /// `CAP_*` bits of the interface; see [`Info::has`].
    pub capabilities: u64,
    /// One more than the highest NUMA node id.
    pub node_ids: u32,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Largest transfer of one operation in bytes.
    pub max_op_bytes: u64,
    /// Most entries of a submission or completion ring.
    pub max_ring_entries: u32,
    /// Most receives that one endpoint can hold.
    pub max_recv_depth: u32,
    /// Most objects of one context.
    pub max_handles: u32,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// RDMA devices that the driver can use now.
    pub rdma_devices: u32,
    /// Most bytes of a SEND.
    pub max_send_bytes: u32,
    /// Quota of buffers' bytes in one context.
    pub max_context_bytes: u64,
    /// Quota of endpoints in one context.
    pub max_endpoints: u32,
    /// Quota of channels in one context.
    pub max_channels: u32,
}

impl Info {
    /// Whether all of these `CAP_*` bits are there.
    pub fn has(&self, capabilities: u64) -> bool {
        self.capabilities & capabilities == capabilities
    }

    /// Names of the capabilities; those unknown to this library as hexadecimal bits.
    pub fn capability_names(&self) -> Vec<String> {
        const NAMES: &[(u64, &str)] = &[
            (abi::CAP_HOST_BUFFERS, "host-buffers"),
            (abi::CAP_RDMA, "rdma"),
            (abi::CAP_POLL, "poll"),
            (abi::CAP_SQPOLL, "sqpoll"),
            (abi::CAP_COALESCE, "coalesce"),
            (abi::CAP_PLACEMENT, "placement"),
            (abi::CAP_COHERENT, "coherent"),
            (abi::CAP_POOLS, "pools"),
            (abi::CAP_REVOKE, "revoke"),
            (abi::CAP_DEVICE_MEMORY, "device-memory"),
            (abi::CAP_STATS, "stats"),
            (abi::CAP_RDMA_QUERY, "rdma-query"),
            (abi::CAP_DMABUF_EXPORT, "dmabuf-export"),
            (abi::CAP_DMABUF_IMPORT, "dmabuf-import"),
        ];
        let known = NAMES
            .iter()
            .filter(|(bit, _)| self.has(*bit))
            .map(|(_, n)| (*n).to_owned());
        let rest = NAMES
            .iter()
            .fold(self.capabilities, |rest, (bit, _)| rest & !bit);
        known
            .chain((rest != 0).then(|| format!("{rest:#x}")))
            .collect()
    }
}

impl From<abi::Query> for Info {
    fn from(query: abi::Query) -> Self {
        Self {
            abi_version: query.abi_version,
            capabilities: query.capabilities,
            node_ids: query.node_ids,
            max_buffer_bytes: query.max_buffer_bytes,
            max_op_bytes: query.max_op_bytes,
            max_ring_entries: query.max_ring_entries,
            max_recv_depth: query.max_recv_depth,
            max_handles: query.max_handles,
            page_bytes: query.page_bytes,
            rdma_devices: query.rdma_devices,
            max_send_bytes: query.max_send_bytes,
            max_context_bytes: query.max_context_bytes,
            max_endpoints: query.max_endpoints,
            max_channels: query.max_channels,
        }
    }
}

impl Context {
    /// Opens [`DEVICE_PATH`].
    ///
    /// # Errors
    /// [`Error::Open`] when the driver is not loaded or the node is not accessible, [`Error::Abi`]
    /// when the driver is of another release.
    pub fn open() -> Result<Self> {
        Self::open_path(Path::new(DEVICE_PATH))
    }

    /// Opens a device node at another place.
    ///
    /// # Errors
    /// As [`Context::open`].
    pub fn open_path(path: &Path) -> Result<Self> {
        let fd = sys::open(path).map_err(|source| Error::Open {
            path: path.to_owned(),
            source,
        })?;
        let limits = query(fd.as_fd())?;
        if limits.abi_version != abi::ABI_VERSION {
            return Err(Error::Abi {
                driver: limits.abi_version,
                library: abi::ABI_VERSION,
            });
        }
        Ok(Self {
            device: Arc::new(Device { fd, limits }),
        })
    }

    /// Queries the driver again, which matters for [`Info::rdma_devices`]: devices come and go.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn query(&self) -> Result<Info> {
        query(self.as_fd())
    }

    /// What the driver answered when the context was opened.
    pub fn limits(&self) -> &Info {
        &self.device.limits
    }

    pub(crate) fn call<A: sys::Argument>(&self, argument: &mut A) -> Result<(), Errno> {
        sys::ioctl(self.as_fd(), argument)
    }

    /// Everything that a query lists which gives the first one behind a number: `query` makes its argument, and `number`
    /// takes the number out of its result. `ENODEV` is the end.
    pub(crate) fn list<A: sys::Argument>(
        &self,
        call: Call,
        query: impl Fn(u64) -> A,
        number: impl Fn(&A) -> u64,
    ) -> Result<Vec<A>> {
        let mut found = Vec::new();
        let mut after = 0;
        loop {
            let mut next = query(after);
            match self.call(&mut next) {
                Ok(()) => {}
                Err(Errno::NODEV) => return Ok(found),
                Err(errno) => return Err(Error::call(call, errno, "")),
            }
            after = number(&next);
            found.push(next);
        }
    }

    /// Wraps `raw`, so that a drop destroys it.
    pub(crate) fn adopt(&self, raw: u32) -> Handle {
        Handle {
            context: self.clone(),
            raw,
        }
    }
}

impl AsFd for Context {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.fd.as_fd()
    }
}

fn query(fd: BorrowedFd<'_>) -> Result<Info> {
    let mut query = abi::Query::default();
    sys::ioctl(fd, &mut query).map_err(|errno| Error::call(Call::Query, errno, ""))?;
    Ok(query.into())
}

/// The name of an object in a context, destroyed on drop.
#[derive(Debug)]
pub(crate) struct Handle {
    context: Context,
    raw: u32,
}

impl Handle {
    pub(crate) fn raw(&self) -> u32 {
        self.raw
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut destroy = abi::Destroy {
            handle: self.raw,
            ..Default::default()
        };
        // The driver always accepts this, unless the handle was destroyed behind the library's
        // back; then there is nothing left to do.
        let _ = self.context.call(&mut destroy);
    }
}

/// A time limit as the driver takes it: `Duration::MAX` and everything that does not fit wait forever.
pub(crate) fn nanoseconds(limit: Duration) -> u64 {
    u64::try_from(limit.as_nanos()).unwrap_or(abi::TIMEOUT_NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_limits_saturate() {
        assert_eq!(nanoseconds(Duration::ZERO), 0);
        assert_eq!(nanoseconds(Duration::from_millis(2)), 2_000_000);
        assert_eq!(nanoseconds(Duration::MAX), abi::TIMEOUT_NONE);
    }

    #[test]
    fn capabilities_have_names() {
        let query = abi::Query {
            capabilities: abi::CAP_RDMA | 1 << 40,
            ..Default::default()
        };
        let info = Info::from(query);
        assert!(info.has(abi::CAP_RDMA));
        assert!(!info.has(abi::CAP_RDMA | abi::CAP_HOST_BUFFERS));
        assert_eq!(info.capability_names(), ["rdma", "0x10000000000"]);
    }

    #[test]
    fn opening_something_else_says_what_to_do() {
        let error = Context::open_path(Path::new("/dev/dmaplane-that-is-not-there"))
            .expect_err("no such node");
        assert!(matches!(error, Error::Open { .. }), "{error}");
    }

    #[test]
    fn a_file_of_another_kind_is_refused() {
        let error = Context::open_path(Path::new("/dev/null")).expect_err("not a dmaplane node");
        assert_eq!(error.errno(), Some(Errno::NOTTY), "{error}");
    }
}
