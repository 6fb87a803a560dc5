// SPDX-License-Identifier: MIT OR Apache-2.0

//! Socket addresses in three forms: the standard library's, the driver interface's, and text for people.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::str::FromStr;

use dmaplane_uapi as abi;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice};

use crate::terminal;

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

/// A socket address as people write and read it: the scope of a link-local IPv6 address is the name of its interface,
/// as in `[fe80::1%eth0]:7471`. The interface's number is accepted, too, and is shown when the interface is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub SocketAddr);

/// The error of a text that is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It has another form.
    #[error("it is not an address and port, such as 10.77.0.2:7471 or [fe80::1%eth0]:7471")]
    Form,
    /// No interface of this network namespace has the name.
    #[error("no interface of this network namespace is called {}", terminal::escape(.0))]
    Interface(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        // The name may have a bracket in it.
        let scoped = text.strip_prefix('[').and_then(|rest| {
            let (inner, port) = rest.rsplit_once("]:")?;
            let (ip, scope) = inner.split_once('%')?;
            Some((ip, scope, port))
        });
        let Some((ip, scope, port)) = scoped else {
            return text.parse().map(Self).map_err(|_| AddressError::Form);
        };
        let ip: Ipv6Addr = ip.parse().map_err(|_| AddressError::Form)?;
        let port: u16 = port.parse().map_err(|_| AddressError::Form)?;
        // A name may consist of digits, so the name is tried before the number.
        let scope_id = interface_number(scope).or_else(|| scope.parse().ok());
        let unknown = || AddressError::Interface(scope.to_owned());
        let scope_id = scope_id.ok_or_else(unknown)?;
        Ok(Self(SocketAddrV6::new(ip, port, 0, scope_id).into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = match self.0 {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => {
                interface_name(v6.scope_id()).map(|name| (v6, name))
            }
            _ => None,
        };
        match named {
            Some((v6, name)) => {
                let name = terminal::escape(&name);
                f.pad(&format!("[{}%{name}]:{}", v6.ip(), v6.port()))
            }
            None => f.pad(&self.0.to_string()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self(address)
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A socket to query interfaces with: any socket sees those of its network namespace.
fn socket() -> Option<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok()
}

fn interface_number(name: &str) -> Option<u32> {
    netdevice::name_to_index(socket()?, name).ok()
}

fn interface_name(number: u32) -> Option<String> {
    netdevice::index_to_name(socket()?, number).ok()
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
    fn a_scope_is_a_name_or_a_number_and_is_shown_by_name() {
        let number = interface_number("lo").expect("every namespace has lo");
        let want = SocketAddrV6::new("fe80::1".parse().unwrap(), 7471, 0, number);
        for text in ["[fe80::1%lo]:7471", &format!("[fe80::1%{number}]:7471")] {
            let address: Address = text.parse().expect("an address");
            assert_eq!(address, Address(want.into()));
            assert_eq!(address.to_string(), "[fe80::1%lo]:7471");
        }
        // The interface may have gone since.
        let gone: Address = "[fe80::1%4000000000]:9".parse().expect("an address");
        assert_eq!(gone.to_string(), "[fe80::1%4000000000]:9");
        for plain in ["10.77.0.1:7471", "[fd77::2]:18515"] {
            let address: Address = plain.parse().expect("an address");
            assert_eq!(address.to_string(), plain);
        }
        assert_eq!(
            format!("{:>16}|", Address(([10, 0, 0, 1], 9).into())),
            "      10.0.0.1:9|"
        );
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_form_to_copy() {
        for wrong in [
            "",
            "eth0",
            "fe80::1%lo:1",
            "[fe80::1%lo]",
            "[10.0.0.1%lo]:1",
            "[fe80::1%lo]:x",
        ] {
            assert_eq!(wrong.parse::<Address>(), Err(AddressError::Form), "{wrong}");
        }
        let error = "[fe80::1%\u{1b}[2J]:1".parse::<Address>().unwrap_err();
        assert!(error.to_string().contains("\\u{1b}[2J"), "{error}");
    }

    #[test]
    fn an_absent_address_is_none() {
        assert_eq!(from_abi(&abi::SockAddr::default()), None);
    }
}
