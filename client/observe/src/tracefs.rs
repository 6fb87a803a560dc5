// SPDX-License-Identifier: MIT OR Apache-2.0

//! Recording trace events, in an instance of tracefs that nobody else uses. Needs root.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::lockdown;
use super::trace::{self, EVENTS, Event};
use dmaplane::terminal;

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

/// How the instances of recordings begin; a number follows.
const PREFIX: &str = "dmaplane-";

/// A recording that is under way. A drop ends it and discards its events. The next recording removes what is left of
/// one whose process was killed.
#[derive(Debug)]
pub struct Recording {
    instance: PathBuf,
    /// Locked as long as the recording lives, which is how others see that it does.
    _alive: File,
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
        // Reported before the missing events: without root neither can be seen.
        let own = root.join("events");
        at(&own, fs::read_dir(&own).map(drop))?;
        if !own.join("dmaplane").is_dir() {
            return Err(Error::NoEvents);
        }
        let (instance, alive) = make_instance(&root.join("instances"))?;
        let recording = Self {
            instance,
            _alive: alive,
        };
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

    /// Records for `duration` and returns what came.
    ///
    /// # Errors
    /// What tracefs says.
    pub fn run(self, duration: Duration) -> Result<String, Error> {
        std::thread::sleep(duration);
        self.stop()
    }

    /// Ends the recording and returns what came.
    ///
    /// # Errors
    /// What tracefs says.
    pub fn stop(self) -> Result<String, Error> {
        self.write("tracing_on", "0")?;
        self.text()
    }
}

/// Makes an instance that nobody else uses, after removing the instances of recorders that were killed.
fn make_instance(instances: &Path) -> Result<(PathBuf, File), Error> {
    // Held by whoever makes or removes one: between its creation and its lock, an instance looks like one left behind.
    let all = at(instances, File::open(instances))?;
    at(instances, lock(&all))?;
    remove_left_behind(instances);
    for number in 0.. {
        let instance = instances.join(format!("{PREFIX}{number}"));
        match fs::create_dir(&instance) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return at(&instance, Err(error)),
            Ok(()) => {
                let alive = File::open(&instance).and_then(|alive| {
                    lock(&alive)?;
                    Ok(alive)
                });
                return Ok((instance.clone(), at(&instance, alive)?));
            }
        }
    }
    Err(Error::NoTracefs)
}

/// Locks a folder. The lock ends with the process, however that ends.
fn lock(folder: &File) -> io::Result<()> {
    loop {
        match flock(folder, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Removes the instances of recorders that no longer live. One that cannot be removed is being read.
fn remove_left_behind(instances: &Path) {
    for entry in fs::read_dir(instances).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let folder = File::open(entry.path());
        let left = folder
            .is_ok_and(|folder| flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok());
        if left {
            let _ = remove_instance(&entry.path());
        }
    }
}

fn remove_instance(instance: &Path) -> io::Result<()> {
    // Without the module, there is nothing to disable.
    let _ = fs::write(instance.join("events/dmaplane/enable"), "0");
    fs::remove_dir(instance)
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Err(error) = remove_instance(&self.instance) {
            terminal::note(format_args!(
                "dmaplane: cannot remove {}: {error}",
                self.instance.display()
            ));
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

    #[test]
    fn what_a_killed_recorder_left_is_removed_and_a_live_one_is_kept() {
        // Folders stand in for tracefs, which has the same locks.
        let instances = tempfile::tempdir().unwrap();
        let path = |number| instances.path().join(format!("{PREFIX}{number}"));
        let (first, alive) = make_instance(instances.path()).unwrap();
        assert_eq!(first, path(0));
        fs::create_dir(path(7)).unwrap();
        fs::create_dir(instances.path().join("other")).unwrap();
        let (second, _second) = make_instance(instances.path()).unwrap();
        assert_eq!(second, path(1));
        assert!(first.exists() && !path(7).exists());
        // As the end of its process does.
        drop(alive);
        let (third, _third) = make_instance(instances.path()).unwrap();
        assert_eq!(third, path(0));
        assert!(second.exists() && instances.path().join("other").exists());
    }
}
