// SPDX-License-Identifier: MIT OR Apache-2.0

//! IPv6 link-local addresses: without the interface's index they mean nothing, and either side reports it.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use dmaplane::{ConnectOptions, Context, DEFAULT_RECV_DEPTH, Endpoint, Errno, Listener};
use dmaplane_testkit::iproute2::ip;
use dmaplane_testkit::peer::client::errno;
use dmaplane_testkit::peer::protocol::Request;
use dmaplane_testkit::rdma::Link;
use dmaplane_testkit::{
    ErrorContext as _, Guest, Peer, Result, Topology, bail, ensure, netns, poll, test,
};

/// A link-local address of the interface below this namespace's RDMA device, removed on drop.
struct LinkLocal {
    ip: Ipv6Addr,
    netdev: String,
    /// The interface's index, as this namespace counts.
    index: u32,
}

impl LinkLocal {
    fn add(ip_text: &str) -> Result<Self> {
        let netdev = Link::only()?.netdev;
        ip(&format!("address add {ip_text}/64 dev {netdev} nodad"))?;
        // Address, index, prefix, scope, flags, name.
        let table = std::fs::read_to_string("/proc/thread-self/net/if_inet6")?;
        let row = table
            .lines()
            .find(|line| line.trim_end().ends_with(&netdev));
        let index = row.and_then(|row| row.split_whitespace().nth(1));
        let index = u32::from_str_radix(index.context("no IPv6 on the interface")?, 16)?;
        Ok(Self {
            ip: ip_text.parse()?,
            netdev,
            index,
        })
    }

    /// The address, as somebody on this interface sees it.
    fn at(&self, port: u16, scope: u32) -> SocketAddr {
        SocketAddr::V6(SocketAddrV6::new(self.ip, port, 0, scope))
    }
}

impl Drop for LinkLocal {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("address del {}/64 dev {}", self.ip, self.netdev)) {
            eprintln!("{error:#}");
        }
    }
}

/// The RDMA device may take a moment to know an address.
fn when_known<T>(guest: &Guest, mut bind: impl FnMut() -> Result<T>) -> Result<T> {
    let bound = poll::until(guest.limit(10), || match bind() {
        Ok(bound) => Ok(Some(bound)),
        Err(error) if errno(&error) == Some(Errno::ADDRNOTAVAIL) => Ok(None),
        Err(error) => Err(error),
    })?;
    bound.context("the address never comes up")
}

fn scope_of(address: Option<SocketAddr>) -> Result<u32> {
    match address {
        Some(SocketAddr::V6(address)) => Ok(address.scope_id()),
        other => bail!("{other:?}"),
    }
}

#[test]
fn endpoint_link_local_addresses_keep_their_scope() {
    test(|guest| {
        let here = [Topology::Numa2, Topology::Numa4];
        guest.require(&here, "the peer's interface must be in reach")?;
        let mine = LinkLocal::add("fe80::77:1")?;
        let theirs = netns::inside("dp1", || LinkLocal::add("fe80::77:2"))??;
        let done = both_ways(guest, &mine, &theirs);
        netns::inside("dp1", || drop(theirs))?;
        done
    });
}

fn both_ways(guest: &Guest, mine: &LinkLocal, theirs: &LinkLocal) -> Result<()> {
    let context = Context::open()?;
    let mut peer = Peer::start(guest)?;
    let limit = guest.limit(10);
    let bind = || -> Result<_> { Ok(Listener::bind(&context, mine.at(0, mine.index), 4)?) };
    let listener = when_known(guest, bind)?;
    let limit_ms = peer.limit_ms();
    let connect = Request::Connect {
        address: mine.at(listener.local().port(), theirs.index),
        recv_depth: DEFAULT_RECV_DEPTH,
        limit_ms,
    };
    let connect = peer.begin(connect)?;
    let accepted = listener.accept(DEFAULT_RECV_DEPTH, limit)?;
    peer.finish(connect)?;
    // The index on this side, not the one that the peer used.
    let info = accepted.query()?;
    for (which, address) in [
        ("ACCEPT's peer", Some(accepted.peer())),
        ("the peer", info.peer),
        ("the local address", info.local),
    ] {
        let scope = scope_of(address)?;
        ensure!(
            scope == mine.index,
            "{which} has scope {scope}: {address:?}"
        );
    }
    let shown = std::fs::read_to_string("/sys/kernel/debug/dmaplane/state/endpoints")?;
    let wanted = format!("peer=[{}%{}]:", theirs.ip, mine.index);
    ensure!(shown.contains(&wanted), "no {wanted} in {shown}");

    // The accepting side can connect back to that address.
    let bind = || peer.listen(theirs.at(0, theirs.index), 4);
    let (remote, address) = when_known(guest, bind)?;
    let accept = peer.begin(Request::Accept {
        listener: remote,
        recv_depth: DEFAULT_RECV_DEPTH,
        limit_ms,
    })?;
    let mut back = accepted.peer();
    back.set_port(address.port());
    let options = ConnectOptions {
        timeout: limit,
        ..Default::default()
    };
    let endpoint = Endpoint::connect(&context, back, &options)?;
    peer.finish(accept)?;
    let info = endpoint.query()?;
    for address in [info.local, info.peer] {
        let scope = scope_of(address)?;
        ensure!(scope == mine.index, "scope {scope}: {address:?}");
    }
    Ok(())
}
