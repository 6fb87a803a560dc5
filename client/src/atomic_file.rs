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

/// Names that are tried for a file that has none yet; one that is taken is drawn anew.
const ATTEMPTS: u32 = 16;

/// A file that has no name yet, or one that nobody else chooses. [`AtomicFile::publish`] gives it its own; dropped before,
/// it is gone. Several writers of one name have a file each: the last to publish wins, as a whole.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    /// What it will be called.
    path: PathBuf,
    /// The folder of that.
    folder: PathBuf,
    /// What it is called now; `None` while it has no name, so that not even a killed process leaves it behind.
    temporary: Option<PathBuf>,
}

impl AtomicFile {
    /// Starts a file that will be called `path`, in the folder where it will be. What has that name is kept until then; a
    /// symbolic link to a file is followed.
    ///
    /// # Errors
    /// When the folder is not there or cannot be written, or `path` is there and no regular file.
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

    /// As [`AtomicFile::create`], where the file system has no files without names.
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

    /// Gives the file its name, in the place of what had it. When this returns, both its bytes and its name outlive a loss
    /// of power, as far as the file system keeps its promises.
    ///
    /// # Errors
    /// When the bytes or the name cannot be made safe. What had the name before is then still there, unless it is the
    /// folder that could not be synchronised.
    pub fn publish(mut self) -> Result<()> {
        // Errors of writing that the kernel had put off come out here.
        self.file.sync_all().map_err(at("write", &self.path))?;
        let temporary = match self.temporary.take() {
            Some(temporary) => temporary,
            None => self.link()?,
        };
        let renamed = fs::rename(&temporary, &self.path).map_err(at("rename to", &self.path));
        if renamed.is_err() {
            // A leftover is only untidy, and the cause is reported.
            let _ = fs::remove_file(&temporary);
        }
        renamed?;
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(at("synchronise the folder", &self.folder))
    }

    /// Gives a file without a name one. Only a rename replaces what is there, and only names can be renamed.
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
            // A leftover is only untidy, and there is nobody to tell.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Writes a whole file at once: it appears when all of it is there. What is there and no regular file, such as a terminal
/// or a pipe, is written to instead.
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

/// Whether `path` is there and neither a regular file nor a folder.
fn is_stream(path: &Path) -> bool {
    let metadata = fs::metadata(path);
    metadata.is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// What `path` stands for, if a regular file may be there.
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
            "it is there and no regular file",
        ))),
        // A file that is new, or a link to nothing, which it replaces.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(error) => Err(at("find", path)(error)),
    }
}

/// A file without a name, where the file system has such and it can be given one later. What else is wrong with the folder
/// shows when a name is tried.
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
