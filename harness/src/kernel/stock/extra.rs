// SPDX-License-Identifier: MIT OR Apache-2.0
//! Modules of the kernel that Debian does not build, made from the same source outside of its tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::module_make;
use crate::ctx::Ctx;
use crate::exec::{self, Lock};
use crate::kernel::{Builder, Kernel};

/// A module, its folder in the kernel's source and its option.
struct Extra {
    name: &'static str,
    folder: &'static str,
    option: &'static str,
}

const EXTRAS: &[Extra] = &[
    // The second software provider of RDMA: iWARP over TCP.
    Extra {
        name: "siw",
        folder: "drivers/infiniband/sw/siw",
        option: "CONFIG_RDMA_SIW",
    },
];

/// Makes these modules loadable by name. Kernels that are built here have them already.
///
/// # Errors
/// What does not compile, or a name that is none of the kernel's modules.
pub fn provide(ctx: &Ctx, kernel: &Kernel, names: &[&str]) -> Result<()> {
    let (Builder::Debian(debian), Some(dir)) = (&kernel.builder, &kernel.unpacked) else {
        return Ok(());
    };
    for name in names {
        let ko = dir.join(format!("{name}.ko"));
        let Some(extra) = EXTRAS.iter().find(|extra| extra.name == *name) else {
            continue;
        };
        if ko.is_file() {
            continue;
        }
        fs::create_dir_all(dir)?;
        let _lock = Lock::take(
            ctx,
            &dir.join("extra.lock"),
            "modules that Debian does not build",
        )?;
        if ko.is_file() {
            continue;
        }
        let temporary = exec::scratch(dir)?;
        let source = unpack(&debian.path("usr/src"), extra, temporary.path())?;
        let mut make = module_make(debian, &kernel.release, &kernel.config)?;
        make.arg("-C")
            .arg(&kernel.build_dir)
            .arg(format!("M={}", source.display()))
            .arg(format!("{}=m", extra.option))
            .arg(format!(
                "-j{}",
                std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
            ))
            .arg("modules");
        let title = format!("building {name}, which Debian's kernel lacks");
        let progress = ctx.ui.spinner(&title);
        let log = ctx.log_dir()?.join(format!("extra-{name}.log"));
        exec::logged(ctx, make, &title, &log, |_| {})?;
        let built = source.join(format!("{name}.ko"));
        let mut strip = debian.command("x86_64-linux-gnu-strip");
        let stripped = temporary.path().join("stripped.ko");
        exec::output(
            strip
                .args(["--strip-debug", "-o"])
                .arg(&stripped)
                .arg(&built),
        )?;
        fs::rename(&stripped, &ko).with_context(|| format!("cannot write {}", ko.display()))?;
        progress.done();
    }
    Ok(())
}

/// Takes the module's folder out of the kernel's source.
fn unpack(sources: &Path, extra: &Extra, to: &Path) -> Result<PathBuf> {
    let mut tarballs = Vec::new();
    for entry in
        fs::read_dir(sources).with_context(|| format!("cannot read {}", sources.display()))?
    {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with("linux-source-") && name.ends_with(".tar.xz") {
            tarballs.push(path);
        }
    }
    let [tarball] = tarballs.as_slice() else {
        bail!(
            "{} holds {} sources of a kernel instead of one",
            sources.display(),
            tarballs.len()
        );
    };
    let name = tarball.file_name().unwrap_or_default().to_string_lossy();
    let top = name.trim_end_matches(".tar.xz");
    let mut tar = Command::new("tar");
    tar.arg("-xJf")
        .arg(tarball)
        .arg("-C")
        .arg(to)
        .arg(format!("{top}/{}", extra.folder));
    exec::output(&mut tar)?;
    Ok(to.join(top).join(extra.folder))
}
