// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is in each package. The texts are in `packaging/`.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Identity;
use super::deb::Package;
use super::tool::Tool;
use crate::lint::source::tracked;
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exec;

/// Folders of the driver's source, as `driver/` expects them beside it.
const SOURCE: &[&str] = &["driver/", "logic/src/", "uapi/src/abi/"];

/// `dmaplane-dkms`.
///
/// # Errors
/// What could not be read.
pub(super) fn driver(ctx: &Ctx, identity: &Identity) -> Result<Package> {
    let mut package = Package::new("dmaplane-dkms", identity.words());
    let folder = format!("usr/src/dmaplane-{}", identity.version);
    for name in tracked(ctx)? {
        if !SOURCE.iter().any(|dir| name.starts_with(dir)) {
            continue;
        }
        // A name without a file is one that was removed and not yet committed.
        let Ok(bytes) = fs::read(ctx.root.join(&name)) else {
            continue;
        };
        package.add(format!("{folder}/{name}"), 0o644, bytes);
    }
    let text = |name| text(ctx, &format!("dmaplane-dkms/{name}"));
    package.add_text(format!("{folder}/dkms.conf"), 0o644, &text("dkms.conf")?)?;
    package.add(format!("{folder}/build.sh"), 0o755, text("build.sh")?);
    package.add(
        "usr/lib/modules-load.d/dmaplane.conf",
        0o644,
        text("modules-load.conf")?,
    );
    common(ctx, identity, &mut package, "dmaplane-dkms")?;
    for name in ["postinst", "prerm", "postrm", "triggers", "control"] {
        package.add_control(name, &text(name)?)?;
    }
    Ok(package)
}

/// `dmaplane`.
///
/// # Errors
/// What could not be read.
pub(super) fn tool(ctx: &Ctx, identity: &Identity, tool: &Tool) -> Result<Package> {
    let mut words = identity.words();
    words.push(("GLIBC", tool.glibc.clone()));
    let mut package = Package::new("dmaplane", words);
    package.add("usr/bin/dmaplane", 0o755, tool.program.clone());
    for (name, page) in &tool.pages {
        package.add(format!("usr/share/man/man1/{name}.gz"), 0o644, page.clone());
    }
    let text = |name| text(ctx, &format!("dmaplane/{name}"));
    package.add(
        "usr/lib/udev/rules.d/60-dmaplane.rules",
        0o644,
        text("udev.rules")?,
    );
    package.add(
        "usr/lib/sysusers.d/dmaplane.conf",
        0o644,
        text("sysusers.conf")?,
    );
    package.add(
        "usr/share/doc/dmaplane/crates",
        0o644,
        tool.crates.clone().into_bytes(),
    );
    common(ctx, identity, &mut package, "dmaplane")?;
    for name in ["postinst", "postrm", "control"] {
        package.add_control(name, &text(name)?)?;
    }
    Ok(package)
}

/// What every package has: licence, changelog, and lintian overrides.
fn common(ctx: &Ctx, identity: &Identity, package: &mut Package, name: &str) -> Result<()> {
    let doc = format!("usr/share/doc/{name}");
    package.add(format!("{doc}/copyright"), 0o644, text(ctx, "copyright")?);
    package.add(
        format!("{doc}/changelog.gz"),
        0o644,
        changelog(name, identity)?,
    );
    let overrides = ctx
        .root
        .join("packaging")
        .join(name)
        .join("lintian-overrides");
    if let Ok(bytes) = fs::read(overrides) {
        package.add(format!("usr/share/lintian/overrides/{name}"), 0o644, bytes);
    }
    Ok(())
}

/// The changelog of this version, in Debian's format.
fn changelog(name: &str, identity: &Identity) -> Result<String> {
    let date = exec::output(
        Command::new("date")
            .args(["-u", "-R", "-d"])
            .arg(format!("@{}", identity.epoch))
            .env("LC_ALL", "C"),
    )
    .context("SOURCE_DATE_EPOCH is no number of seconds")?;
    Ok(format!(
        "{name} ({}) unstable; urgency=medium\n\n  * The source's history has the changes.\n\n -- {}  {date}\n",
        identity.version, identity.maintainer
    ))
}

fn text(ctx: &Ctx, name: &str) -> Result<String> {
    let path = ctx.root.join("packaging").join(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn ctx(cache: &Path) -> Ctx {
        Ctx {
            root: Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
            cache: cache.to_owned(),
            verbose: 0,
            ui: dmaplane_vmtest::ui::Ui::new(0),
        }
    }

    fn identity() -> Identity {
        Identity {
            version: "1.2.3".into(),
            series: "7.3".into(),
            epoch: "1700000000".into(),
            maintainer: "A <a@b.example>".into(),
        }
    }

    #[test]
    fn the_driver_has_every_file_that_it_includes_and_its_scripts_are_well_formed() {
        let cache = tempfile::tempdir().unwrap();
        let package = driver(&ctx(cache.path()), &identity()).unwrap();
        let folder = "usr/src/dmaplane-1.2.3";
        for name in [
            "dkms.conf",
            "build.sh",
            "driver/Kbuild",
            "driver/dmaplane_main.rs",
            "uapi/src/abi/mod.rs",
        ] {
            let path = format!("{folder}/{name}");
            assert!(package.file(&path).is_some(), "{path}");
        }
        let logic = package.file(&format!("{folder}/driver/logic.rs")).unwrap();
        let mut included = 0;
        for line in String::from_utf8_lossy(logic).lines() {
            if let Some(name) = line.trim().strip_prefix("#[path = \"../") {
                let name = name.trim_end_matches("\"]");
                assert!(
                    package.file(&format!("{folder}/{name}")).is_some(),
                    "{name}"
                );
                included += 1;
            }
        }
        assert!(included > 5, "{included}");
        for name in ["postinst", "prerm", "postrm"] {
            let script = cache.path().join(name);
            fs::write(&script, package.control_file(name).unwrap()).unwrap();
            exec::output(Command::new("sh").arg("-n").arg(&script)).unwrap();
        }
    }

    #[test]
    fn what_the_driver_depends_on_is_what_its_kernel_was_built_with() {
        let stock = include_str!("../../../vm/kernel/stock.toml");
        let control = include_str!("../../../packaging/dmaplane-dkms/control");
        for name in ["rustc", "rust-src", "bindgen"] {
            let (_, rest) = stock
                .split_once(&format!("name = \"{name}\"\nversion = \""))
                .unwrap();
            let version: String = rest
                .chars()
                .take_while(|c| c.is_ascii_digit() || *c == '.')
                .collect();
            let dependency = format!("{name} (>= {version})");
            assert!(control.contains(&dependency), "{dependency} in {control}");
        }
    }

    #[test]
    fn the_changelog_has_the_time_of_the_commit() {
        let text = changelog("some", &identity()).unwrap();
        assert!(text.starts_with("some (1.2.3) unstable;"), "{text}");
        assert!(
            text.ends_with(" -- A <a@b.example>  Tue, 14 Nov 2023 22:13:20 +0000\n"),
            "{text}"
        );
    }
}
