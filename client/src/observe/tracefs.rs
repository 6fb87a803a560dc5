// SPDX-License-Identifier: MIT OR Apache-2.0

//! Recording trace events, in an instance of tracefs that nobody else uses. Needs root.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::lockdown;
use super::trace::{self, EVENTS, Event};

/// Where tracefs is mounted.
const ROOTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// KiB of the buffer of each CPU: some 100,000 events.
const BUFFER_KIB: &str = "16384";

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such event.
    #[error("there is no event {name}; there are: {}", EVENTS.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// tracefs is not there.
    #[error(
        "tracefs is not mounted on /sys/kernel/tracing: mount -t tracefs tracefs /sys/kernel/tracing; \
         a kernel without CONFIG_EVENT_TRACING has none (the guest profiles base and debug have it)"
    )]
    NoTracefs,
    /// The driver's events are not there.
    #[error(
        "the kernel has no events of dmaplane: load the module; one that was built with DMAPLANE_TRACE=n has none"
    )]
    NoEvents,
    /// tracefs refused something.
    #[error("{}: {source}{}", path.display(), hint(path, source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn hint(path: &Path, error: &io::Error) -> String {
    if let Some(why) = lockdown::explain(path, error) {
        return format!("; {why}");
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        return "; recording needs root".to_owned();
    }
    String::new()
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })
}

/// A recording that is under way. It ends and is forgotten when this is dropped.
#[derive(Debug)]
pub struct Recording {
    instance: PathBuf,
}

impl Recording {
    /// Starts to record these events; all of the driver's for an empty list.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(events: &[&str]) -> Result<Self, Error> {
        if let Some(name) = events.iter().find(|name| !EVENTS.contains(name)) {
            return Err(Error::Unknown {
                name: (*name).to_owned(),
            });
        }
        let root = ROOTS.map(Path::new).into_iter();
        let root = root
            .filter(|root| root.join("trace").exists() || fs::read_dir(root).is_err())
            .find(|root| root.exists());
        let root = root.ok_or(Error::NoTracefs)?;
        // Told before the missing events: without root neither can be seen.
        let own = root.join("events");
        at(&own, fs::read_dir(&own).map(drop))?;
        if !own.join("dmaplane").is_dir() {
            return Err(Error::NoEvents);
        }
        let instance = root.join(format!("instances/dmaplane-{}", std::process::id()));
        at(&instance, fs::create_dir(&instance))?;
        let recording = Self { instance };
        recording.write("buffer_size_kb", BUFFER_KIB)?;
        if events.is_empty() {
            recording.write("events/dmaplane/enable", "1")?;
        }
        for event in events {
            recording.write(&format!("events/dmaplane/{event}/enable"), "1")?;
        }
        Ok(recording)
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Error> {
        let path = self.instance.join(file);
        at(&path, fs::write(&path, text))
    }

    /// What has been recorded so far, as tracefs prints it.
    ///
    /// # Errors
    /// What tracefs says.
    pub fn text(&self) -> Result<String, Error> {
        let path = self.instance.join("trace");
        at(&path, fs::read_to_string(&path))
    }

    /// The events that have been recorded so far.
    ///
    /// # Errors
    /// What tracefs says.
    pub fn events(&self) -> Result<Vec<Event>, Error> {
        Ok(trace::parse(&self.text()?))
    }

    /// Records for so long and gives what came.
    ///
    /// # Errors
    /// What tracefs says.
    pub fn run(self, duration: Duration) -> Result<String, Error> {
        std::thread::sleep(duration);
        self.write("tracing_on", "0")?;
        self.text()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = self.write("events/dmaplane/enable", "0");
        if let Err(error) = fs::remove_dir(&self.instance) {
            eprintln!(
                "dmaplane: cannot remove {}: {error}",
                self.instance.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_event_gets_the_list() {
        let error = Recording::start(&["op_vanish"]).expect_err("no such event");
        let text = error.to_string();
        assert!(
            text.contains("op_vanish") && text.contains("op_submit, "),
            "{text}"
        );
    }
}
