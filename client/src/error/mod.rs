// SPDX-License-Identifier: MIT OR Apache-2.0

//! What can go wrong in a call, with its cause and what to do about it.

mod call;
mod names;
mod remedy;

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

pub use call::Call;
pub(crate) use names::name as errno_name;

/// Result of a call of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. Failures of single operations are [`OpError`](crate::OpError)s instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device node could not be opened.
    #[error("cannot open {}: {}", path.display(), open_hint(source))]
    Open {
        /// Path of the device node.
        path: PathBuf,
        /// What open(2) said.
        source: io::Error,
    },

    /// The driver speaks another version of the interface.
    #[error(
        "the driver speaks version {driver} of the interface and this library version {library}: \
         install the library and the driver of one release"
    )]
    Abi {
        /// Version that the driver reports.
        driver: u32,
        /// Version that this library was built for.
        library: u32,
    },

    /// The driver refused or ended a call.
    #[error(transparent)]
    Call(#[from] CallError),

    /// An object was made, but its memory could not be mapped.
    #[error("cannot map {bytes} bytes of {what}: {source}. {}", map_hint(*source))]
    Map {
        /// Kind of the object.
        what: &'static str,
        /// Bytes of the mapping.
        bytes: usize,
        /// What mmap(2) said.
        source: Errno,
    },

    /// An eventfd could not be made or read.
    #[error(
        "cannot use an eventfd: {0}. Raise the limit of open files (ulimit -n) when it is EMFILE"
    )]
    Event(#[source] Errno),
}

impl Error {
    pub(crate) fn call(call: Call, errno: Errno, subject: impl Into<String>) -> Self {
        Self::Call(CallError {
            call,
            errno,
            subject: subject.into(),
        })
    }

    /// The operating system's error, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Open { source, .. } => Errno::from_io_error(source),
            Self::Call(error) => Some(error.errno),
            Self::Map { source, .. } | Self::Event(source) => Some(*source),
            Self::Abi { .. } => None,
        }
    }

    /// Whether the time limit of a wait passed. The object is as before, the call can be repeated.
    pub fn is_timeout(&self) -> bool {
        self.errno() == Some(Errno::TIMEDOUT)
    }

    /// Whether a signal ended a wait. The object is as before, the call can be repeated.
    pub fn is_interrupted(&self) -> bool {
        self.errno() == Some(Errno::INTR)
    }
}

/// A call that the driver refused or ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {call}{subject}: {} ({}). {}", self.cause(), names::name(*errno), self.remedy())]
pub struct CallError {
    call: Call,
    errno: Errno,
    /// Starts with a space, or is empty.
    subject: String,
}

impl CallError {
    /// The call.
    pub fn call(&self) -> Call {
        self.call
    }

    /// What the driver returned.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// What it means for this call, as a part of a sentence.
    pub fn cause(&self) -> &'static str {
        remedy::explain(self.call, self.errno).0
    }

    /// What to do about it, as a sentence without its full stop.
    pub fn remedy(&self) -> &'static str {
        remedy::explain(self.call, self.errno).1
    }
}

fn open_hint(source: &io::Error) -> String {
    let hint = match source.kind() {
        io::ErrorKind::NotFound => "the driver is not loaded: load dmaplane.ko (insmod, modprobe)",
        io::ErrorKind::PermissionDenied => {
            "this user may not use the device: allow it by the node's mode or group (a udev rule)"
        }
        _ => "check that the path is dmaplane's device node",
    };
    format!("{source}. {hint}")
}

fn map_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::NOMEM => {
            "The address space is full or limited (ulimit -v), or has too many mappings"
        }
        Errno::STALE => "The memory was revoked",
        Errno::INVAL => "The range is not inside the object, or not a multiple of the page size",
        _ => "The object may have been destroyed by its handle",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_subject_cause_and_remedy() {
        let error = Error::call(Call::Connect, Errno::CONNREFUSED, " to 10.77.0.2:7471");
        assert_eq!(
            error.to_string(),
            "cannot connect to 10.77.0.2:7471: nobody listens there, or the listener's backlog is \
             full (ECONNREFUSED). Start the listener first, check the port, or raise its backlog"
        );
        assert_eq!(error.errno(), Some(Errno::CONNREFUSED));
        assert!(!error.is_timeout());
    }

    #[test]
    fn a_missing_node_says_that_the_driver_is_not_loaded() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        let error = Error::Open {
            path: "/dev/dmaplane".into(),
            source,
        };
        assert!(error.to_string().contains("not loaded"), "{error}");
    }

    #[test]
    fn waits_are_distinguished() {
        assert!(Error::call(Call::Accept, Errno::TIMEDOUT, "").is_timeout());
        assert!(Error::call(Call::GrantWait, Errno::INTR, "").is_interrupted());
    }
}
