// SPDX-License-Identifier: MIT OR Apache-2.0
//! `kernel --check`: whether the driver builds for another of Debian's kernels, and what is in the way.
//!
//! Nothing of it is pinned: headers and source come in one version of the suites, the compilers in whatever version the
//! suites have on this day. All of it stays in a folder of the cache, named by the release.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;

use super::offer::{self, Offer};
use super::pin::StockPin;
use super::{Debian, metadata, symbols};
use crate::ctx::Ctx;
use crate::driver::{self, Refused};
use crate::kernel::{Builder, Kernel};
use crate::setup::{self, Need};
use crate::{exit, hash};

/// What builds the driver, besides the headers' own dependencies, which include the C compiler.
const COMPILERS: [&str; 3] = ["rustc", "rust-src", "bindgen"];
/// How many errors of a file are shown, and how many names of symbols.
const SHOWN: usize = 5;

/// Builds metadata and driver for the kernel that `wanted` names, and prints the result.
///
/// # Errors
/// When the packages cannot be downloaded.
pub fn check(ctx: &Ctx, wanted: &str) -> Result<ExitCode> {
    setup::ensure(ctx, Need::Stock)?;
    let stock = StockPin::load(&ctx.root)?;
    let (group, apt, offer) = offer::find(ctx, &stock, wanted)?;
    ctx.ui.step(format!(
        "Linux {} ({}) of {}",
        offer.release, offer.version, group.name
    ));
    let parent = ctx.cache_sub(Path::new("check").join(&offer.release))?;
    let packages = packages(&stock, &offer);
    let debian = Debian::unpinned(ctx, &parent, &folder(&packages), &apt, &packages)?;
    let build_dir = parent.join("build");
    if let Err(err) = metadata(ctx, &debian, &offer.release, &offer.version, &build_dir) {
        let said = format!("{err:#}");
        match refusal(&said, &offer.release) {
            Some(refusal) => println!("{}: fails: {refusal}", offer.release),
            None => println!(
                "{said}\n{}: fails: its Rust metadata does not build",
                offer.release
            ),
        }
        return Ok(ExitCode::from(exit::FAILED));
    }
    report_symbols(ctx, &stock, &build_dir)?;
    match driver::attempt(ctx, &kernel(&offer, &parent, &build_dir, debian))? {
        Ok(()) => {
            println!("{}: supported", offer.release);
            Ok(ExitCode::SUCCESS)
        }
        Err(refused) => {
            print!(
                "{}",
                error_text(&offer.release, &ctx.root.join("driver"), &refused)
            );
            Ok(ExitCode::from(exit::FAILED))
        }
    }
}

/// Cause and remedy of the script's refusal, which is the last line that it prints itself.
fn refusal<'a>(said: &'a str, release: &str) -> Option<&'a str> {
    let start = format!("dmaplane: not built for {release}: ");
    let mut lines = said.lines().rev();
    lines.find_map(|line| line.trim().strip_prefix(&start))
}

/// The packages to fetch, as apt-get takes them.
fn packages(stock: &StockPin, offer: &Offer) -> Vec<String> {
    let exact = |name: &str| format!("{name}={}", offer.version);
    let mut all = stock.programs.clone();
    all.extend(COMPILERS.map(str::to_owned));
    all.push(exact(&format!("linux-headers-{}", offer.release)));
    all.push(exact(&offer.source));
    all
}

/// The folder's name, made from the requested packages.
fn folder(packages: &[String]) -> String {
    let names = packages.iter().map(String::as_str);
    format!("debian-{}", &hash::texts(names)[..12])
}

/// The kernel, as far as a build of the driver needs it; nothing boots it.
fn kernel(offer: &Offer, dir: &Path, build_dir: &Path, debian: Debian) -> Kernel {
    Kernel {
        build_dir: build_dir.to_owned(),
        source: dir.join("build.source"),
        bz_image: PathBuf::new(),
        initrd: None,
        modules: PathBuf::new(),
        unpacked: None,
        autoload: None,
        config: build_dir.join(".config"),
        release: offer.release.clone(),
        key: hash::texts([offer.version.as_str()])[..12].to_owned(),
        builder: Builder::Debian(debian),
    }
}

/// Which of the exported Rust symbols came and went since the pinned kernel, if that one is in the cache.
fn report_symbols(ctx: &Ctx, stock: &StockPin, build_dir: &Path) -> Result<()> {
    const LIST: &str = "symbols.kernel";
    let pinned = ctx
        .cache
        .join("kernel")
        .join(format!("stock-{}", super::print_key(ctx)?));
    let Ok(before) = fs::read_to_string(super::build_dir(&pinned).join(LIST)) else {
        return Ok(());
    };
    let after = fs::read_to_string(build_dir.join(LIST))?;
    let difference = symbols::compare(&before, &after);
    println!(
        "Rust symbols by name: {}; next to {}, {} are gone and {} are new",
        difference.all,
        stock.release,
        difference.gone.len(),
        difference.new.len()
    );
    for (mark, names) in [("-", &difference.gone), ("+", &difference.new)] {
        for name in names.iter().take(SHOWN) {
            println!("  {mark} {name}");
        }
        if names.len() > SHOWN {
            println!("  {mark} and {} more", names.len() - SHOWN);
        }
    }
    Ok(())
}

/// The errors of the compilers, file by file.
fn error_text(release: &str, driver: &Path, refused: &Refused) -> String {
    let files = errors(&refused.said, driver);
    let count: usize = files.values().map(Vec::len).sum();
    let mut text = String::new();
    for (file, errors) in &files {
        text += &format!("{file}: {}\n", counted(errors.len(), "error"));
        for error in errors.iter().take(SHOWN) {
            text += &format!("  {error}\n");
        }
        if errors.len() > SHOWN {
            text += &format!("  and {} more\n", errors.len() - SHOWN);
        }
    }
    text += &format!("log: {}\n", refused.log.display());
    let why = if count == 0 {
        "the build failed without an error of a compiler's; see the log".to_owned()
    } else {
        let files = counted(files.len(), "file");
        format!("{} in {files}", counted(count, "error"))
    };
    text + &format!("{release}: fails: {why}\n")
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The errors of rustc (two lines: what, then where), gcc (one line: where, then what) and others, by file. Files of the
/// driver are named below its folder.
fn errors(said: &[String], driver: &Path) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut open: Option<&str> = None;
    let mut add = |place: &str, what: &str| {
        let mut parts = place.splitn(3, ':');
        let file = parts.next().unwrap_or(place);
        let name = Path::new(file)
            .strip_prefix(driver)
            .unwrap_or(Path::new(file));
        let line = parts.next().unwrap_or("?");
        let errors = found.entry(name.display().to_string()).or_default();
        errors.push(format!("{line}: {what}"));
    };
    for line in said {
        if let Some(place) = line.trim_start().strip_prefix("--> ") {
            if let Some(what) = open.take() {
                add(place, what);
            }
        } else if let Some(what) = line.strip_prefix("error") {
            // `error[E0432]: ...`, `error: ...`; the last one only counts the others.
            let what = what.strip_prefix(": ").unwrap_or(what);
            open = (!what.starts_with("aborting due to")).then_some(what);
        } else if line.starts_with("warning") {
            open = None;
        } else if let Some((place, what)) = line
            .split_once(": error: ")
            .or_else(|| line.split_once(": fatal error: "))
        {
            add(place, what);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(said: &[&str]) -> Vec<String> {
        said.iter().map(|&line| line.to_owned()).collect()
    }

    const SAID: &[&str] = &[
        "error[E0432]: unresolved import `kernel::fs::File`",
        "  --> /src/driver/kx/user.rs:7:5",
        "   |",
        "7  | use kernel::fs::File;",
        "   --> /src/driver/kx/mod.rs:1:1",
        "warning: unused import: `x`",
        "  --> /src/driver/main.rs:1:5",
        "error: unused variable: `y`",
        "  --> /src/driver/kx/user.rs:9:5",
        "/src/driver/kx/shim.c:12:9: error: implicit declaration of function 'vma_gone'",
        "error: aborting due to 2 previous errors",
    ];

    #[test]
    fn errors_are_listed_file_by_file() {
        let files = errors(&refused(SAID), Path::new("/src/driver"));
        let user = &files["kx/user.rs"];
        assert_eq!(
            user[..],
            [
                "7: [E0432]: unresolved import `kernel::fs::File`",
                "9: unused variable: `y`"
            ]
        );
        assert_eq!(
            files["kx/shim.c"],
            ["12: implicit declaration of function 'vma_gone'"]
        );
        assert_eq!(files.len(), 2, "{files:?}");
    }

    #[test]
    fn the_last_refusal_of_the_script_is_found() {
        let said = "building failed (exit status: 3); its last lines:\n    error: x\n\
                    \x20   dmaplane: not built for 7.2-amd64: a step failed. Remedy: none\n\
                    \x20   dmaplane: not built for 7.2-amd64: no room. Remedy: free some space\nlog: /a.log";
        let text = refusal(said, "7.2-amd64");
        assert_eq!(text, Some("no room. Remedy: free some space"));
        assert_eq!(refusal("make: *** [x] Error 1", "7.2-amd64"), None);
    }

    #[test]
    fn packages_are_of_one_version_and_compilers_of_any() {
        let stock: StockPin =
            toml::from_str(include_str!("../../../../vm/kernel/stock.toml")).unwrap();
        let offer = Offer {
            release: "7.2.12+deb13-amd64".to_owned(),
            version: "7.2.12-1~bpo13+1".to_owned(),
            source: "linux-source-7.2".to_owned(),
        };
        let packages = packages(&stock, &offer);
        for wanted in [
            "linux-headers-7.2.12+deb13-amd64=7.2.12-1~bpo13+1",
            "linux-source-7.2=7.2.12-1~bpo13+1",
            "rustc",
        ] {
            assert!(packages.iter().any(|name| name == wanted), "{packages:?}");
        }
    }
}
