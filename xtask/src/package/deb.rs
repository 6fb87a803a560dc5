// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Debian package: its files, its control files, and dpkg-deb's work on them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Identity;
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exec;

/// A file of a package.
struct Entry {
    mode: u32,
    bytes: Vec<u8>,
}

/// A package before dpkg-deb has seen it.
pub(super) struct Package {
    name: &'static str,
    files: BTreeMap<String, Entry>,
    control: BTreeMap<&'static str, Entry>,
    words: Vec<(&'static str, String)>,
}

impl Package {
    /// An empty one. `words` replace `@WORD@` in every text that is added.
    pub(super) fn new(name: &'static str, words: Vec<(&'static str, String)>) -> Self {
        Self {
            name,
            files: BTreeMap::new(),
            control: BTreeMap::new(),
            words,
        }
    }

    /// Adds a file as it is. What ends in `.gz` is given as plain text and compressed later.
    pub(super) fn add(&mut self, path: impl Into<String>, mode: u32, bytes: impl Into<Vec<u8>>) {
        let entry = Entry {
            mode,
            bytes: bytes.into(),
        };
        self.files.insert(path.into(), entry);
    }

    /// Adds a text with its words replaced.
    ///
    /// # Errors
    /// When a word has no replacement.
    pub(super) fn add_text(
        &mut self,
        path: impl Into<String>,
        mode: u32,
        text: &str,
    ) -> Result<()> {
        let text = fill(text, &self.words)?;
        self.add(path, mode, text);
        Ok(())
    }

    /// Adds a control file, such as `control` or `postinst`, with its words replaced.
    ///
    /// # Errors
    /// When a word has no replacement.
    pub(super) fn add_control(&mut self, name: &'static str, text: &str) -> Result<()> {
        let mut words = self.words.clone();
        words.push(("SIZE", self.installed_kib().to_string()));
        let script = matches!(name, "preinst" | "postinst" | "prerm" | "postrm");
        let entry = Entry {
            mode: if script { 0o755 } else { 0o644 },
            bytes: fill(text, &words)?.into_bytes(),
        };
        self.control.insert(name, entry);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn file(&self, path: &str) -> Option<&[u8]> {
        Some(&self.files.get(path)?.bytes)
    }

    #[cfg(test)]
    pub(super) fn control_file(&self, name: &str) -> Option<&[u8]> {
        Some(&self.control.get(name)?.bytes)
    }

    /// What `Installed-Size` says: each file rounded up to KiB, and one for each folder.
    fn installed_kib(&self) -> u64 {
        let folders: std::collections::BTreeSet<&Path> = self
            .files
            .keys()
            .flat_map(|path| Path::new(path).ancestors().skip(1))
            .collect();
        let files: u64 = self
            .files
            .values()
            .map(|entry| (entry.bytes.len() as u64).div_ceil(1024))
            .sum();
        files + folders.len() as u64
    }

    /// Writes the tree, which stays for inspection, and makes the package of it.
    ///
    /// # Errors
    /// What could not be written, or what dpkg-deb said.
    pub(super) fn build(&self, ctx: &Ctx, identity: &Identity, output: &Path) -> Result<PathBuf> {
        let tree = output.join("tree").join(self.name);
        if tree.exists() {
            fs::remove_dir_all(&tree)
                .with_context(|| format!("cannot remove {}", tree.display()))?;
        }
        for (path, entry) in &self.files {
            write(&tree.join(path), entry)?;
        }
        let sums = sums(&tree)?;
        for (name, entry) in &self.control {
            write(&tree.join("DEBIAN").join(name), entry)?;
        }
        let entry = Entry {
            mode: 0o644,
            bytes: sums.into_bytes(),
        };
        write(&tree.join("DEBIAN/md5sums"), &entry)?;
        open_folders(&tree)?;

        let deb = output.join(format!("{}_{}_amd64.deb", self.name, identity.version));
        let mut command = Command::new("dpkg-deb");
        command
            // One thread, since several would split the data and change the bytes.
            .args(["--root-owner-group", "-Zxz", "--threads-max=1", "--build"])
            .args([&tree, &deb])
            .env("SOURCE_DATE_EPOCH", &identity.epoch);
        exec::output(&mut command)?;
        ctx.ui.detail(format!("{} is built", deb.display()));
        Ok(deb)
    }
}

/// Writes a file with its mode.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write_file(path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
    let entry = Entry {
        mode,
        bytes: bytes.to_owned(),
    };
    write(path, &entry)
}

/// Writes a file, compressed if its name says so.
fn write(path: &Path, entry: &Entry) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let compress = path.extension().is_some_and(|e| e == "gz");
    let plain = if compress {
        path.with_extension("")
    } else {
        path.to_owned()
    };
    fs::write(&plain, &entry.bytes).with_context(|| format!("cannot write {}", plain.display()))?;
    if compress {
        // Neither name nor time: they would differ from build to build.
        exec::output(Command::new("gzip").arg("-9n").arg(&plain))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(entry.mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// Sets the mode of all folders: the builder's umask must not show in the package.
fn open_folders(dir: &Path) -> Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}

/// dpkg's list of checksums.
fn sums(tree: &Path) -> Result<String> {
    let mut paths = Vec::new();
    list(tree, tree, &mut paths)?;
    paths.sort();
    let text = exec::output(Command::new("md5sum").args(&paths).current_dir(tree))?;
    Ok(text + "\n")
}

fn list(tree: &Path, dir: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            list(tree, &path, paths)?;
        } else {
            paths.push(path.strip_prefix(tree)?.to_owned());
        }
    }
    Ok(())
}

/// Replaces every `@WORD@`.
///
/// # Errors
/// When a word is left that nobody has replaced.
pub(super) fn fill(text: &str, words: &[(&str, String)]) -> Result<String> {
    let mut filled = text.to_owned();
    for (word, value) in words {
        filled = filled.replace(&format!("@{word}@"), value);
    }
    for line in filled.lines() {
        let mut parts = line.split('@').skip(1);
        if let Some(word) = parts.find(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
        }) && line.contains(&format!("@{word}@"))
        {
            bail!("nothing replaces @{word}@ in `{line}`");
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            version: "1.2.3".into(),
            series: "7.3".into(),
            epoch: "1700000000".into(),
            maintainer: "A <a@b.example>".into(),
        }
    }

    fn package() -> Package {
        let mut package = Package::new("some", identity().words());
        package
            .add_text("usr/share/doc/some/version", 0o644, "@VERSION@\n")
            .unwrap();
        package.add("usr/share/doc/some/text.gz", 0o644, "plain\n");
        package.add("usr/bin/some", 0o755, "x".repeat(1500));
        let control = "Package: some\nVersion: @VERSION@\nArchitecture: amd64\n\
                       Maintainer: @MAINTAINER@\nInstalled-Size: @SIZE@\nDescription: some\n";
        package.add_control("control", control).unwrap();
        package.add_control("postinst", "#!/bin/sh\n").unwrap();
        package
    }

    #[test]
    fn words_are_replaced_and_forgotten_ones_are_found() {
        let words = [("A", "1".to_owned())];
        assert_eq!(fill("x@A@y a@b.c", &words).unwrap(), "x1y a@b.c");
        let err = fill("@A@\n@B@", &words).unwrap_err().to_string();
        assert!(err.contains("@B@"), "{err}");
    }

    #[test]
    fn a_package_has_its_files_modes_and_sums_and_is_the_same_twice() {
        if exec::which("dpkg-deb").is_none() {
            eprintln!("not a Debian machine: dpkg-deb is missing");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let ctx = Ctx {
            root: dir.path().to_owned(),
            cache: dir.path().to_owned(),
            verbose: 0,
            ui: dmaplane_vmtest::ui::Ui::new(0),
        };
        let build = |name: &str| {
            package()
                .build(&ctx, &identity(), &dir.path().join(name))
                .unwrap()
        };
        let (first, second) = (build("a"), build("b"));
        assert!(first.ends_with("a/some_1.2.3_amd64.deb"));
        assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());

        let list = exec::output(Command::new("dpkg-deb").arg("-c").arg(&first)).unwrap();
        assert!(list.contains("-rwxr-xr-x root/root"), "{list}");
        assert!(list.contains("2023-11-14"), "{list}");
        assert!(list.contains("./usr/share/doc/some/text.gz"), "{list}");
        let field = exec::output(Command::new("dpkg-deb").arg("-f").arg(&first)).unwrap();
        // Two KiB of program, one each of two texts; usr, bin, share, doc, some and the root.
        assert!(field.contains("Installed-Size: 10"), "{field}");
        let tree = dir.path().join("a/tree/some");
        let sums = fs::read_to_string(tree.join("DEBIAN/md5sums")).unwrap();
        assert_eq!(sums.lines().count(), 3, "{sums}");
        assert!(sums.contains("  usr/bin/some\n"), "{sums}");
        let mode = fs::metadata(tree.join("DEBIAN/postinst")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o755);
    }
}
