// SPDX-License-Identifier: MIT OR Apache-2.0

//! Socket addresses between the standard library's form and the interface's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use dmaplane_uapi as abi;

/// The interface's form of `address`.
pub(crate) fn to_abi(address: SocketAddr) -> abi::SockAddr {
    let mut raw = abi::SockAddr {
        port: address.port(),
        ..Default::default()
    };
    match address {
        SocketAddr::V4(v4) => {
            raw.family = abi::FAMILY_IPV4;
            raw.addr[..4].copy_from_slice(&v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            raw.family = abi::FAMILY_IPV6;
            raw.scope_id = v6.scope_id();
            raw.addr = v6.ip().octets();
        }
    }
    raw
}

/// The standard library's form; `None` for an absent address.
pub(crate) fn from_abi(raw: &abi::SockAddr) -> Option<SocketAddr> {
    match raw.family {
        abi::FAMILY_IPV4 => {
            let [a, b, c, d, ..] = raw.addr;
            Some(SocketAddr::new(
                IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
                raw.port,
            ))
        }
        abi::FAMILY_IPV6 => {
            let ip = Ipv6Addr::from(raw.addr);
            Some(SocketAddr::V6(SocketAddrV6::new(
                ip,
                raw.port,
                0,
                raw.scope_id,
            )))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in [
            "10.77.0.1:7471",
            "0.0.0.0:0",
            "[fd77::2]:18515",
            "[fe80::1%3]:9",
        ] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(from_abi(&to_abi(address)), Some(address), "{text}");
        }
    }

    #[test]
    fn bytes_are_in_network_order_and_the_port_is_not() {
        let raw = to_abi(SocketAddr::from(([10, 77, 0, 1], 7471)));
        assert_eq!(raw.family, abi::FAMILY_IPV4);
        assert_eq!(raw.port, 7471);
        assert_eq!(raw.addr, [10, 77, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn an_absent_address_is_none() {
        assert_eq!(from_abi(&abi::SockAddr::default()), None);
    }
}
