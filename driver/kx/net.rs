// SPDX-License-Identifier: GPL-2.0-only

//! Socket addresses and the caller's network namespace.
//!
//! Extends `kernel::net`.

use super::raw;
use crate::uapi;
use core::ptr;
use kernel::{bindings, prelude::*};

/// A socket address in the kernel's representation.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Address([u8; STORAGE_BYTES]);

/// Bytes of `struct __kernel_sockaddr_storage`, whose alignment is a pointer's.
const STORAGE_BYTES: usize = 128;

#[repr(C)]
#[derive(Clone, Copy)]
struct Inet4 {
    family: u16,
    port: u16,
    addr: [u8; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Inet6 {
    family: u16,
    port: u16,
    flowinfo: u32,
    addr: [u8; 16],
    scope_id: u32,
}

const _: () = assert!(size_of::<Inet6>() <= STORAGE_BYTES);
const _: () = assert!(size_of::<Address>() == size_of::<raw::__kernel_sockaddr_storage>());
const _: () = assert!(size_of::<Inet6>() == size_of::<bindings::sockaddr_in6>());

impl Address {
    /// Translates user space's address; `EAFNOSUPPORT` for a family that is neither IPv4 nor IPv6.
    pub(crate) fn from_uapi(from: &uapi::SockAddr) -> Result<Self> {
        let mut address = Self([0; STORAGE_BYTES]);
        let to = ptr::from_mut(&mut address);
        let port = from.port.to_be();
        match from.family {
            uapi::FAMILY_IPV4 => {
                let [a, b, c, d, rest @ ..] = from.addr;
                if from.scope_id != 0 || rest != [0; 12] {
                    return Err(EINVAL);
                }
                let addr = Inet4 {
                    family: uapi::FAMILY_IPV4,
                    port,
                    addr: [a, b, c, d],
                };
                // SAFETY: The storage is larger and at least as aligned; both are plain integers.
                unsafe { to.cast::<Inet4>().write(addr) };
            }
            uapi::FAMILY_IPV6 => {
                let addr = Inet6 {
                    family: uapi::FAMILY_IPV6,
                    port,
                    flowinfo: 0,
                    addr: from.addr,
                    scope_id: from.scope_id,
                };
                // SAFETY: The storage is larger, as the assertion above shows, and at least as aligned; both are plain
                // integers.
                unsafe { to.cast::<Inet6>().write(addr) };
            }
            _ => return Err(EAFNOSUPPORT),
        }
        Ok(address)
    }

    /// Translates back; an unknown family becomes an absent address.
    pub(crate) fn to_uapi(self) -> uapi::SockAddr {
        let from = ptr::from_ref(&self);
        let mut to = uapi::SockAddr::default();
        // SAFETY: Every socket address starts with its family.
        match unsafe { from.cast::<u16>().read() } {
            uapi::FAMILY_IPV4 => {
                // SAFETY: The storage is larger and holds this family; any bytes are valid integers.
                let addr = unsafe { from.cast::<Inet4>().read() };
                let [a, b, c, d] = addr.addr;
                to.family = uapi::FAMILY_IPV4;
                to.port = u16::from_be(addr.port);
                to.addr = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            }
            uapi::FAMILY_IPV6 => {
                // SAFETY: The storage is larger and holds this family; any bytes are valid integers.
                let addr = unsafe { from.cast::<Inet6>().read() };
                to.family = uapi::FAMILY_IPV6;
                to.port = u16::from_be(addr.port);
                to.addr = addr.addr;
                to.scope_id = addr.scope_id;
            }
            _ => {}
        }
        to
    }

    /// Copies an address that the connection manager stores.
    pub(super) fn from_storage(storage: &raw::__kernel_sockaddr_storage) -> Self {
        // SAFETY: Same size, at most the same alignment, and bytes without a meaning of their own.
        unsafe { ptr::from_ref(storage).cast::<Self>().read() }
    }

    /// The address with the scope that it needs: a link-local one means nothing without the interface of its
    /// connection, which the connection manager fills in on the active side only. `interface` is 0 where it is not
    /// known.
    pub(super) fn scoped(mut self, interface: i32) -> Self {
        let at = ptr::from_mut(&mut self);
        // SAFETY: Every socket address starts with its family.
        if unsafe { at.cast::<u16>().read() } != uapi::FAMILY_IPV6 {
            return self;
        }
        // SAFETY: The storage is larger and holds this family; any bytes are valid integers.
        let mut inet6 = unsafe { at.cast::<Inet6>().read() };
        let link_local = matches!(inet6.addr, [0xfe, second, ..] if second & 0xc0 == 0x80);
        if link_local && inet6.scope_id == 0 {
            inet6.scope_id = u32::try_from(interface).unwrap_or(0);
            // SAFETY: The storage is larger and at least as aligned; both are plain integers.
            unsafe { at.cast::<Inet6>().write(inet6) };
        }
        self
    }

    /// The raw address, for callees that only read it.
    pub(super) fn as_ptr(&self) -> *mut bindings::sockaddr {
        ptr::from_ref(self).cast_mut().cast()
    }
}

/// The network namespace of the calling process, valid as long as the caller's system call.
pub(super) fn current_net() -> *mut bindings::net {
    // SAFETY: A process in a system call has a namespace proxy, which cannot change under itself.
    unsafe { raw::dmaplane_current_net() }
}
