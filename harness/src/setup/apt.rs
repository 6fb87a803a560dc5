// SPDX-License-Identifier: MIT OR Apache-2.0
//! Installing packages, and reading suites that the machine's sources do not list.
//!
//! A suite such as `trixie-backports` is read through a private apt configuration in the cache,
//! built from the mirror that the machine's own sources name. `/etc/apt` is left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::sources::{self, Source};
use crate::ctx::Ctx;
use crate::exec;

/// Whether this process may install packages.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The distribution, from os-release.
pub struct Distribution {
    /// `debian`, `ubuntu`, ...
    pub id: String,
    /// `bookworm`, `noble`, ...
    pub codename: String,
}

impl Distribution {
    /// Reads `/etc/os-release`; unknown fields are empty.
    pub fn probe() -> Self {
        let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
        Self {
            id: os_release(&text, "ID"),
            codename: os_release(&text, "VERSION_CODENAME"),
        }
    }

    /// Whether packages can be installed by apt.
    pub fn has_apt(&self) -> bool {
        matches!(self.id.as_str(), "debian" | "ubuntu") && exec::which("apt-get").is_some()
    }
}

fn os_release(text: &str, name: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_default()
        .trim_matches('"')
        .to_owned()
}

/// `apt-get` with options that suit a program.
fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args([
            "-y",
            "-q",
            "-o",
            "Acquire::Retries=3",
            "-o",
            "DPkg::Lock::Timeout=300",
        ])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C");
    if is_root() {
        // apt would drop its rights for downloads, and then could not enter a root-only cache.
        command.args(["-o", "APT::Sandbox::User=root"]);
    }
    command
}

/// Runs apt-get with a spinner and a log.
fn run(ctx: &Ctx, command: Command, what: &str) -> Result<()> {
    let log = ctx.log_dir()?.join("apt.log");
    let mut progress = ctx.ui.spinner(what);
    exec::logged(ctx, command, what, &log, |line| progress.message(line))?;
    progress.done();
    Ok(())
}

/// Brings the machine's own package lists up to date.
///
/// # Errors
/// What apt-get said.
pub fn update(ctx: &Ctx) -> Result<()> {
    let mut command = apt_get();
    command.arg("update");
    run(ctx, command, "reading the package lists")
}

/// Installs packages from the machine's own sources.
///
/// # Errors
/// What apt-get said.
pub fn install(ctx: &Ctx, packages: &[&str]) -> Result<()> {
    let mut command = apt_get();
    command
        .args(["install", "--no-install-recommends"])
        .args(packages);
    run(ctx, command, &format!("installing {}", packages.join(" ")))
}

/// Whether these packages could be installed from the machine's own sources; a simulation finds
/// out.
pub fn can_install(packages: &[&str]) -> bool {
    let mut command = apt_get();
    command
        .args(["-s", "install", "--no-install-recommends"])
        .args(packages);
    exec::output(&mut command).is_ok()
}

/// The version that the machine's own sources would install.
pub fn candidate(package: &str) -> Option<String> {
    let mut command = Command::new("apt-cache");
    let text = exec::output(command.args(["policy", package]).env("LC_ALL", "C")).ok()?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
}

/// A private configuration with suites of its own.
pub struct Private<'a> {
    ctx: &'a Ctx,
    dir: PathBuf,
}

impl<'a> Private<'a> {
    /// Only the suite `suite`, for downloads.
    ///
    /// # Errors
    /// When the machine's sources name no mirror, or the mirror does not have the suite.
    pub fn suite(ctx: &'a Ctx, suite: &str) -> Result<Self> {
        Self::with(ctx, suite, &[suite])
    }

    /// Several suites, for downloads; `name` is the folder of their lists.
    ///
    /// # Errors
    /// As for [`Private::suite`].
    pub fn suites(ctx: &'a Ctx, name: &str, suites: &[&str]) -> Result<Self> {
        Self::with(ctx, name, suites)
    }

    /// The machine's own suite and its backports, for installing.
    ///
    /// # Errors
    /// As for [`Private::suite`].
    pub fn backports(ctx: &'a Ctx, codename: &str) -> Result<Self> {
        let backports = format!("{codename}-backports");
        let updates = format!("{codename}-updates");
        Self::with(
            ctx,
            &format!("with-{backports}"),
            &[codename, &updates, &backports],
        )
    }

    fn with(ctx: &'a Ctx, name: &str, suites: &[&str]) -> Result<Self> {
        if exec::which("apt-get").is_none() {
            bail!("there is no apt-get on this machine");
        }
        let mirror = mirror()?;
        let dir = ctx.cache_sub(Path::new("apt").join(name))?;
        for sub in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        // apt takes the format from the extension.
        fs::write(dir.join("private.sources"), mirror.stanza(suites))?;
        let private = Self { ctx, dir };
        let mut command = private.apt_get();
        // For apt-get an unreachable mirror is only a warning; here it must be an error.
        command.args(["-o", "APT::Update::Error-Mode=any", "update"]);
        run(
            ctx,
            command,
            &format!("reading the package lists of {}", suites.join(", ")),
        )?;
        Ok(private)
    }

    fn apt_get(&self) -> Command {
        self.configured(apt_get())
    }

    fn configured(&self, mut command: Command) -> Command {
        for (option, value) in [
            ("Dir::Etc::SourceList", self.dir.join("private.sources")),
            ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
            ("Dir::Etc::Preferences", PathBuf::from("/dev/null")),
            ("Dir::Etc::PreferencesParts", PathBuf::from("/dev/null")),
            ("Dir::State::Lists", self.dir.join("lists")),
            ("Dir::Cache", self.dir.join("cache")),
        ] {
            command
                .arg("-o")
                .arg(format!("{option}={}", value.display()));
        }
        command
    }

    /// The packages whose names begin with `start`, with every version of each, the newest of a package first.
    ///
    /// # Errors
    /// What apt-cache said.
    pub fn versions(&self, start: &str) -> Result<Vec<(String, String)>> {
        let ask = || {
            let mut command = self.configured(Command::new("apt-cache"));
            command.env("LC_ALL", "C");
            command
        };
        let names = exec::output(ask().args(["pkgnames", start]))?;
        let names: Vec<_> = names.lines().collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        Ok(madison(&exec::output(ask().arg("madison").args(names))?))
    }

    /// Downloads one version of a package into a folder.
    ///
    /// # Errors
    /// What apt-get said.
    pub fn download(&self, name: &str, version: &str, dir: &Path) -> Result<()> {
        let mut command = self.apt_get();
        command
            .args(["download", &format!("{name}={version}")])
            .current_dir(dir);
        run(
            self.ctx,
            command,
            &format!("apt-get download {name}={version}"),
        )
    }

    /// Downloads packages and all that they depend on, as if nothing at all were installed, into `dir`.
    ///
    /// A package is named as apt-get takes it: `name` or `name=version`.
    ///
    /// # Errors
    /// What apt-get said.
    pub fn download_with_dependencies(
        &self,
        packages: &[String],
        dir: &Path,
    ) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(dir.join("partial"))?;
        let nothing = dir.join("status");
        fs::write(&nothing, "")?;
        let mut command = self.apt_get();
        command
            .arg("-o")
            .arg(format!("Dir::State::status={}", nothing.display()))
            .arg("-o")
            .arg(format!("Dir::Cache::archives={}", dir.display()))
            .args(["install", "--download-only", "--no-install-recommends"])
            .args(packages);
        run(self.ctx, command, "downloading packages and what they need")?;
        let mut files = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                files.push(path);
            }
        }
        Ok(files)
    }

    /// Installs packages, preferring those of `suite`.
    ///
    /// # Errors
    /// What apt-get said.
    pub fn install(&self, suite: &str, packages: &[&str]) -> Result<()> {
        let mut command = self.apt_get();
        command
            .args(["install", "--no-install-recommends", "-t", suite])
            .args(packages);
        run(
            self.ctx,
            command,
            &format!("installing {} from {suite}", packages.join(" ")),
        )
    }
}

/// Name and version of each line of `apt-cache madison`: `name | version | where`.
fn madison(text: &str) -> Vec<(String, String)> {
    let fields = text.lines().filter_map(|line| {
        let mut fields = line.split('|').map(str::trim);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    });
    fields.collect()
}

/// The machine's own entry for its suite, whose mirror has all other suites too.
///
/// # Errors
/// When this is not Debian, or its sources name no mirror.
pub fn mirror() -> Result<Source> {
    let distribution = Distribution::probe();
    if distribution.id != "debian" {
        bail!(
            "only Debian's mirrors carry it, and this machine's distribution is `{}`",
            distribution.id
        );
    }
    let all = machine_sources(Path::new("/etc/apt"))?;
    let mirror = sources::choose(&all, &distribution.codename).with_context(|| {
        format!(
            "the machine's apt sources name no mirror for {}",
            distribution.codename
        )
    })?;
    Ok(mirror.clone())
}

/// All entries of `sources.list` and `sources.list.d`.
fn machine_sources(etc: &Path) -> Result<Vec<Source>> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc.join("sources.list.d")) {
        for entry in entries {
            files.push(entry?.path());
        }
    }
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => all.extend(sources::parse_deb822(&text)),
            Some("list") => all.extend(sources::parse_one_line(&text)),
            _ => {}
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_values_lose_their_quotes() {
        let text =
            "PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\nVERSION_CODENAME=\"bookworm\"\n";
        assert_eq!(os_release(text, "ID"), "debian");
        assert_eq!(os_release(text, "VERSION_CODENAME"), "bookworm");
        assert_eq!(os_release(text, "NAME"), "");
    }

    #[test]
    fn versions_are_read_from_what_apt_prints() {
        let text = " linux-headers-7.3-amd64 | 7.3~rc7-1~exp1 | http://a.example experimental/main amd64 Packages\n\
                    linux-headers-7.2 |   7.2.12-1 | http://a.example forky/main amd64 Packages\n";
        let pairs = madison(text);
        assert_eq!(pairs[0].1, "7.3~rc7-1~exp1");
        assert_eq!(pairs[1].0, "linux-headers-7.2");
        assert_eq!(pairs[1].1, "7.2.12-1");
        assert!(madison("N: nothing\n").is_empty());
    }

    #[test]
    fn both_formats_are_gathered_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let parts = dir.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        fs::write(
            dir.path().join("sources.list"),
            "deb http://a.example a main\n",
        )
        .unwrap();
        let stanza = "Types: deb\nURIs: http://b.example\nSuites: b\nComponents: main\n";
        fs::write(parts.join("b.sources"), stanza).unwrap();
        fs::write(parts.join("c.list.save"), "deb http://c.example c main\n").unwrap();
        let suites: Vec<_> = machine_sources(dir.path())
            .unwrap()
            .into_iter()
            .flat_map(|s| s.suites)
            .collect();
        assert_eq!(suites, ["a", "b"]);
    }
}
