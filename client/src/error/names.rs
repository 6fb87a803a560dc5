// SPDX-License-Identifier: MIT OR Apache-2.0

//! The names of errnos.

use rustix::io::Errno;

/// The symbolic name, as manual pages have it.
pub(crate) fn name(errno: Errno) -> String {
    let known = match errno {
        Errno::ACCESS => "EACCES",
        Errno::AGAIN => "EAGAIN",
        Errno::PERM => "EPERM",
        Errno::ADDRINUSE => "EADDRINUSE",
        Errno::ADDRNOTAVAIL => "EADDRNOTAVAIL",
        Errno::AFNOSUPPORT => "EAFNOSUPPORT",
        Errno::BADF => "EBADF",
        Errno::CANCELED => "ECANCELED",
        Errno::CONNABORTED => "ECONNABORTED",
        Errno::CONNREFUSED => "ECONNREFUSED",
        Errno::CONNRESET => "ECONNRESET",
        Errno::DQUOT => "EDQUOT",
        Errno::OWNERDEAD => "EOWNERDEAD",
        Errno::BUSY => "EBUSY",
        Errno::FAULT => "EFAULT",
        Errno::HOSTUNREACH => "EHOSTUNREACH",
        Errno::INTR => "EINTR",
        Errno::INVAL => "EINVAL",
        Errno::IO => "EIO",
        Errno::MFILE => "EMFILE",
        Errno::NODEV => "ENODEV",
        Errno::NOENT => "ENOENT",
        Errno::NOMEM => "ENOMEM",
        Errno::NOSPC => "ENOSPC",
        Errno::NOTCONN => "ENOTCONN",
        Errno::NOTTY => "ENOTTY",
        Errno::OPNOTSUPP => "EOPNOTSUPP",
        Errno::NXIO => "ENXIO",
        Errno::PROTO => "EPROTO",
        Errno::STALE => "ESTALE",
        Errno::RANGE => "ERANGE",
        Errno::TIMEDOUT => "ETIMEDOUT",
        Errno::TOOBIG => "E2BIG",
        other => return format!("errno {}", other.raw_os_error()),
    };
    known.to_owned()
}
