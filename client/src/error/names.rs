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
        Errno::MSGSIZE => "EMSGSIZE",
        Errno::NOBUFS => "ENOBUFS",
        Errno::OVERFLOW => "EOVERFLOW",
        Errno::NOSYS => "ENOSYS",
        Errno::EXIST => "EEXIST",
        Errno::ISDIR => "EISDIR",
        Errno::NOTDIR => "ENOTDIR",
        Errno::ROFS => "EROFS",
        Errno::FBIG => "EFBIG",
        Errno::PIPE => "EPIPE",
        Errno::NETUNREACH => "ENETUNREACH",
        Errno::NETDOWN => "ENETDOWN",
        Errno::NFILE => "ENFILE",
        Errno::DESTADDRREQ => "EDESTADDRREQ",
        Errno::SHUTDOWN => "ESHUTDOWN",
        Errno::SRCH => "ESRCH",
        Errno::BADMSG => "EBADMSG",
        other => return format!("errno {}", other.raw_os_error()),
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The interface's documentation, in which an errno stands in backquotes.
    const HEADER: &str = include_str!("../../../uapi/include/dmaplane.h");

    #[test]
    fn every_documented_errno_has_a_name() {
        let documented: BTreeSet<_> = HEADER
            .split('`')
            .filter(|word| {
                let rest = word.strip_prefix('E').unwrap_or_default();
                rest.len() > 1
                    && rest
                        .chars()
                        .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
            })
            .collect();
        assert!(documented.len() > 30, "{documented:?}");
        let named: BTreeSet<_> = (1..134)
            .map(|n| name(Errno::from_raw_os_error(n)))
            .collect();
        let unnamed: Vec<_> = documented
            .iter()
            .filter(|word| !named.contains(**word))
            .collect();
        assert!(unnamed.is_empty(), "{unnamed:?}");
    }
}
