// SPDX-License-Identifier: MIT OR Apache-2.0

//! Files that appear under their name when all of their bytes are safe, and never before.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// Why a file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {cause}", path.display())]
pub struct WriteError {
    /// What was being done.
    pub action: &'static str,
    /// To which file or folder.
    pub path: PathBuf,
    /// What the operating system said.
    pub cause: io::Error,
}

/// The result of writing a file.
pub type Result<T> = std::result::Result<T, WriteError>;

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WriteError {
    let path = path.to_owned();
    move |cause| WriteError {
        action,
        path,
        cause,
    }
}

/// How many random names are tried for a file that has none yet; a taken one is replaced by another.
const ATTEMPTS: u32 = 16;

/// A file that does not have its final name yet: it has no name, or a random one. [`AtomicFile::publish`] gives it its
/// name; dropping it earlier removes it. Several writers of one name have a file each: the last one to publish wins,
/// and its file replaces the others' as a whole.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    /// What it will be called.
    path: PathBuf,
    /// The folder of `path`.
    folder: PathBuf,
    /// What it is called now; `None` while it has no name, so that not even a killed process leaves it behind.
    temporary: Option<PathBuf>,
}

impl AtomicFile {
    /// Starts a file that will be called `path`, in the same folder. A file that has this name already is kept until
    /// then; a symbolic link to a file is followed.
    ///
    /// # Errors
    /// When the folder does not exist or cannot be written, or `path` exists and is not a regular file.
    pub fn create(path: &Path) -> Result<Self> {
        let path = target(path)?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let folder = parent.unwrap_or(Path::new(".")).to_owned();
        let file = match unnamed(&folder) {
            Some(file) => file,
            None => return Self::named(path, folder),
        };
        Ok(Self {
            file,
            path,
            folder,
            temporary: None,
        })
    }

    /// As [`AtomicFile::create`], where the file system does not support files without names.
    fn named(path: PathBuf, folder: PathBuf) -> Result<Self> {
        let (temporary, file) = with_free_name(&folder, |temporary| {
            let mut options = File::options();
            options.read(true).write(true).create_new(true);
            options.open(temporary)
        })
        .map_err(at("create a file in", &folder))?;
        Ok(Self {
            file,
            path,
            folder,
            temporary: Some(temporary),
        })
    }

    /// Checks that a file of this name could be written now, and changes nothing.
    ///
    /// # Errors
    /// As [`AtomicFile::create`].
    pub fn check(path: &Path) -> Result<()> {
        Self::create(path).map(drop)
    }

    /// The file, to be written.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// The name that the file will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name and replaces the file that had it. When this returns, both its bytes and its name
    /// survive a loss of power, as far as the file system keeps its promises.
    ///
    /// # Errors
    /// When the bytes or the name cannot be made durable. The file that had the name before is then still there, unless
    /// only synchronising the folder failed.
    pub fn publish(mut self) -> Result<()> {
        // The kernel reports deferred write errors here.
        self.file.sync_all().map_err(at("write", &self.path))?;
        let temporary = match self.temporary.take() {
            Some(temporary) => temporary,
            None => self.link()?,
        };
        let renamed = fs::rename(&temporary, &self.path).map_err(at("rename to", &self.path));
        if renamed.is_err() {
            // A leftover file does no harm, and the cause is returned.
            let _ = fs::remove_file(&temporary);
        }
        renamed?;
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(at("synchronise the folder", &self.folder))
    }

    /// Gives a file without a name a temporary one: only a rename replaces an existing file, and it needs a name.
    fn link(&self) -> Result<PathBuf> {
        let descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        with_free_name(&self.folder, |temporary| {
            let flags = AtFlags::SYMLINK_FOLLOW;
            Ok(rustix::fs::linkat(CWD, &descriptor, CWD, temporary, flags)?)
        })
        .map(|(temporary, ())| temporary)
        .map_err(at("create a file in", &self.folder))
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // A leftover file does no harm, and a drop cannot return an error.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Writes a whole file at once: it appears when all of it is written. A `path` that exists and is not a regular file,
/// such as a terminal or a pipe, is written to directly.
///
/// # Errors
/// As [`AtomicFile::create`] and [`AtomicFile::publish`].
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if is_stream(path) {
        return fs::write(path, bytes).map_err(at("write", path));
    }
    let mut file = AtomicFile::create(path)?;
    let written = file.file().write_all(bytes);
    written.map_err(at("write", path))?;
    file.publish()
}

/// Checks that [`write()`] to `path` could begin now.
///
/// # Errors
/// As [`AtomicFile::create`].
pub fn check(path: &Path) -> Result<()> {
    if is_stream(path) {
        let opened = File::options().write(true).open(path).map(drop);
        return opened.map_err(at("write", path));
    }
    AtomicFile::check(path)
}

/// Whether `path` exists and is neither a regular file nor a folder.
fn is_stream(path: &Path) -> bool {
    let metadata = fs::metadata(path);
    metadata.is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// The file that `path` names, after symbolic links, if it is a regular file or does not exist yet.
fn target(path: &Path) -> Result<PathBuf> {
    if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(at("write", path)(io::ErrorKind::IsADirectory.into()));
    }
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => fs::canonicalize(path).map_err(at("find", path)),
        Ok(metadata) if metadata.is_dir() => {
            Err(at("write", path)(io::ErrorKind::IsADirectory.into()))
        }
        Ok(_) => Err(at("write", path)(io::Error::other(
            "it exists and is not a regular file",
        ))),
        // A new file, or a dangling link, which the file replaces.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(error) => Err(at("find", path)(error)),
    }
}

/// A file without a name, where the file system supports that and a name can be given later. Any other error of the
/// folder shows when a name is tried.
fn unnamed(folder: &Path) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(folder, flags, Mode::from(0o666)).ok()?);
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::metadata(descriptor).is_ok().then_some(file)
}

/// Calls `make` with names in a folder until one is free.
fn with_free_name<T>(
    folder: &Path,
    mut make: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    let mut result = Err(Errno::EXIST.into());
    for attempt in 0..ATTEMPTS {
        // Each of these hashers has random keys.
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(attempt);
        let name = folder.join(format!(".dmaplane-{:016x}.tmp", hasher.finish()));
        result = make(&name).map(|made| (name, made));
        let taken = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
        if !result.as_ref().is_err_and(taken) {
            break;
        }
    }
    result
}

#[cfg(test)]
#[path = "atomic_file_tests.rs"]
mod tests;
