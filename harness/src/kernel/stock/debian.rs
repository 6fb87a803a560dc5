// SPDX-License-Identifier: MIT OR Apache-2.0
//! A folder with the packages of Debian 13 that build modules for its kernel, and programs run in it.
//!
//! The packages are unpacked, not installed: no package manager, no scripts of packages, and no rights beyond those
//! over one's own namespaces. Their programs want a newer C library than Debian 12 has, so they run with the folder as
//! their root (`chroot` in a mount namespace, which a user namespace allows to anybody). They see nothing of the
//! machine's own tools.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};

use super::pin::StockPin;
use crate::ctx::Ctx;
use crate::exec::{self, Lock};
use crate::kernel::pin::KernelPin;
use crate::setup::{apt, package};
use crate::{exit, hash};

/// Raised when the way the folder is made changes.
const RECIPE: &str = "1";
/// The folders that Debian has merged into `usr`.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
/// Folders that no build reads.
const LEFT_OUT: [&str; 4] = ["doc", "man", "locale", "info"];
/// Runs a program with another root: `$1` is the root, then the folders that are seen there too, `--`, the program.
const ENTER: &str = "\
PATH=$PATH:/usr/sbin:/sbin
root=$1; shift
mount --rbind /dev \"$root/dev\"
mount --rbind /proc \"$root/proc\"
while [ \"$1\" != -- ]; do mkdir -p \"$root$1\"; mount --rbind \"$1\" \"$root$1\"; shift; done; shift
exec chroot \"$root\" /usr/bin/env -i PATH=/usr/bin:/usr/sbin LC_ALL=C.UTF-8 HOME=/tmp \"$@\"";

/// The folder.
#[derive(Clone, Debug)]
pub struct Debian {
    root: PathBuf,
    /// Folders of the machine that programs inside see under the same paths.
    shared: Vec<PathBuf>,
}

impl Debian {
    /// The folder from the cache, else made of downloaded packages.
    ///
    /// # Errors
    /// What could not be fetched, did not verify or did not unpack.
    pub fn ensure(ctx: &Ctx, stock: &StockPin, source: &KernelPin) -> Result<Self> {
        let parent = ctx.cache_sub("debian")?;
        Self::made(ctx, &parent, &name(stock, source), |dir| {
            let mut packages = download(ctx, stock, dir)?;
            let remedy = "Put the package into the cache's folder dl, or see vm/kernel/pin.toml.";
            packages.push(package::fetch(ctx, &source.package, remedy)?);
            Ok(packages)
        })
    }

    /// A folder with packages that no pin names, given as apt-get takes them, and all their dependencies; apt verifies
    /// them. `name` is the folder's name below `parent`.
    ///
    /// # Errors
    /// What could not be fetched or did not unpack.
    pub(super) fn unpinned(
        ctx: &Ctx,
        parent: &Path,
        name: &str,
        apt: &apt::Private<'_>,
        packages: &[String],
    ) -> Result<Self> {
        Self::made(ctx, parent, name, |dir| {
            apt.download_with_dependencies(packages, dir)
                .map_err(|err| {
                    exit::environment(format!("cannot fetch {}: {err:#}", packages.join(", ")))
                })
        })
    }

    /// The folder `name` of `parent`; if it is missing, it is made from the packages whose paths `fetch` returns.
    fn made(
        ctx: &Ctx,
        parent: &Path,
        name: &str,
        fetch: impl FnOnce(&Path) -> Result<Vec<PathBuf>>,
    ) -> Result<Self> {
        let root = parent.join(name);
        let debian = Self {
            root: root.clone(),
            shared: vec![ctx.cache.clone(), ctx.root.clone()],
        };
        if root.is_dir() {
            return Ok(debian);
        }
        let _lock = Lock::take(ctx, &parent.join("lock"), "Debian's compilers")?;
        if root.is_dir() {
            return Ok(debian);
        }
        let temporary = exec::scratch(parent)?;
        let packages = fetch(&temporary.path().join("packages"))?;
        let unpacked = temporary.path().join("root");
        prepare(&unpacked)?;
        let progress = ctx.ui.spinner("unpacking Debian's compilers");
        unpack_all(packages.iter().map(PathBuf::as_path), &unpacked)?;
        progress.done();
        // Unpacked beside its place and then renamed: it is there completely or not at all.
        fs::rename(&unpacked, &root)
            .with_context(|| format!("cannot move the packages to {}", root.display()))?;
        debian.check()?;
        Ok(debian)
    }

    /// A file of the folder, by its path inside.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// A program of the folder. It sees the cache and the checkout under the same paths, and no variable of ours.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "--", "sh", "-euc", ENTER, "sh"]);
        command.arg(&self.root).args(&self.shared);
        command.args(["--", program]);
        command
    }

    /// Whether programs run in it at all: this machine may forbid namespaces.
    fn check(&self) -> Result<()> {
        let mut command = self.command("rustc");
        exec::output(command.arg("--version")).map(drop).map_err(|err| {
            exit::environment(format!(
                "Debian's compilers do not run: {err:#}\nThey need a mount namespace (and, without root, a user \
                 namespace). In a container: --privileged, or --cap-add SYS_ADMIN; on Ubuntu: sysctl \
                 kernel.apparmor_restrict_unprivileged_userns=0. Or use --profile base, which builds a kernel with \
                 this machine's own compilers."
            ))
        })
    }
}

/// The folder's name, made from everything that the folder is made of.
fn name(stock: &StockPin, source: &KernelPin) -> String {
    let mut parts = vec![RECIPE, &source.package.sha256];
    parts.extend(stock.programs.iter().map(String::as_str));
    parts.extend(stock.toolchain.iter().map(|exact| exact.sha256.as_str()));
    hash::texts(parts)[..12].to_owned()
}

/// The packages and all that they depend on, those of the pin verified.
fn download(ctx: &Ctx, stock: &StockPin, dir: &Path) -> Result<Vec<PathBuf>> {
    let mut wanted: Vec<String> = stock.programs.clone();
    for exact in &stock.toolchain {
        wanted.push(format!("{}={}", exact.name, exact.version));
    }
    let unavailable = |err: &anyhow::Error| {
        exit::environment(format!(
            "cannot fetch the packages that the stock kernel's modules are built with: {err:#}\nvm/kernel/stock.toml has \
             their versions. Where the mirror has others by now, take those of the pin from Debian's snapshot archive, or \
             use --profile base, which needs none of them."
        ))
    };
    let suites: Vec<&str> = stock.suites.iter().map(String::as_str).collect();
    let files = apt::Private::suites(ctx, "debian13", &suites)
        .and_then(|apt| apt.download_with_dependencies(&wanted, dir))
        .map_err(|err| unavailable(&err))?;
    for exact in &stock.toolchain {
        let prefix = format!("{}_{}_", exact.name, exact.version.replace(':', "%3a"));
        let file = files
            .iter()
            .find(|file| {
                file.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
            })
            .with_context(|| format!("apt-get downloaded no {prefix}*.deb"))?;
        hash::verify(file, &exact.sha256)?;
    }
    Ok(files)
}

/// The skeleton that packages are unpacked into.
fn prepare(root: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    for name in MERGED {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(Path::new("usr").join(name), root.join(name))?;
    }
    for name in ["dev", "proc", "tmp"] {
        fs::create_dir_all(root.join(name))?;
    }
    // Normally a script of the package makes it.
    symlink("mawk", root.join("usr/bin/awk"))?;
    Ok(())
}

/// Unpacks with as many workers as there are processors.
fn unpack_all<'a>(packages: impl Iterator<Item = &'a Path> + Send, root: &Path) -> Result<()> {
    let left = Mutex::new(packages);
    let next = || left.lock().ok().and_then(|mut left| left.next());
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            while let Some(package) = next() {
                unpack(package, root)?;
            }
            Ok(())
        };
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for worker in running {
            match worker.join() {
                Ok(done) => done?,
                Err(_) => bail!("a worker that unpacks packages panicked"),
            }
        }
        Ok(())
    })
}

fn unpack(package: &Path, root: &Path) -> Result<()> {
    let mut dpkg = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb; install dpkg")?;
    let mut tar = Command::new("tar");
    tar.args([
        "-x",
        "--keep-directory-symlink",
        "--no-same-owner",
        "-f",
        "-",
    ]);
    for name in LEFT_OUT {
        tar.arg(format!("--exclude=./usr/share/{name}"));
    }
    tar.arg("-C").arg(root);
    if let Some(archive) = dpkg.stdout.take() {
        tar.stdin(archive);
    }
    let out = tar.output().context("cannot start tar")?;
    let unpacked = dpkg.wait()?;
    if !unpacked.success() || !out.status.success() {
        return Err(exit::environment(format!(
            "cannot unpack {}: {}",
            package.display(),
            String::from_utf8_lossy(&out.stderr).trim()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gets_its_root_its_folders_and_no_variables() {
        let debian = Debian {
            root: PathBuf::from("/c/debian/x"),
            shared: vec![PathBuf::from("/c"), PathBuf::from("/work tree")],
        };
        let mut command = debian.command("make");
        command.arg("-j2");
        let words: Vec<_> = command
            .get_args()
            .map(|arg| arg.to_string_lossy())
            .collect();
        let at = words.iter().position(|word| word == "sh").unwrap();
        assert!(words[..at].iter().any(|word| word == "--mount"));
        let tail = ["sh", "/c/debian/x", "/c", "/work tree", "--", "make", "-j2"];
        assert!(words.ends_with(&tail.map(Into::into)), "{words:?}");
        assert!(ENTER.contains("env -i "));
        assert_eq!(
            debian.path("/usr/bin/x"),
            Path::new("/c/debian/x/usr/bin/x")
        );
    }

    #[test]
    fn the_skeleton_has_the_merged_folders() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        prepare(&root).unwrap();
        for name in MERGED {
            assert!(root.join(name).is_dir());
            assert_eq!(
                fs::read_link(root.join(name)).unwrap(),
                Path::new("usr").join(name)
            );
        }
    }
}
