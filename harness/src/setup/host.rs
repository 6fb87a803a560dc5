// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the distribution provides: which packages, and the file that shows that each is installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::Need;
use super::apt::{self, Distribution, Private};
use crate::ctx::Ctx;
use crate::{exec, exit};

/// The oldest QEMU that is good enough: `-netdev stream` with `reconnect-ms` came with 9.2.
const QEMU_MINIMUM: (u32, u32) = (9, 2);
/// QEMU's package.
const QEMU_PACKAGE: &str = "qemu-system-x86";
/// QEMU's program.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// How to detect a package without asking the package manager.
enum Probe {
    /// A program on PATH or in an `sbin` folder.
    Program(&'static str),
    /// Any of these files.
    AnyFile(&'static [&'static str]),
}

/// What a package is needed for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    /// Everything.
    All,
    /// To build a kernel here.
    Kernel,
    /// To boot guests.
    Boot,
    /// In guests, by tests and measurements.
    Guest,
}

/// A package of Debian and Ubuntu.
struct Package {
    name: &'static str,
    probe: Probe,
    needed: For,
}

const fn program(name: &'static str, program: &'static str, needed: For) -> Package {
    Package {
        name,
        probe: Probe::Program(program),
        needed,
    }
}

const fn file(name: &'static str, files: &'static [&'static str], needed: For) -> Package {
    Package {
        name,
        probe: Probe::AnyFile(files),
        needed,
    }
}

/// What follows `clang` in the tools' names; the kernel's make takes it as `LLVM=-19`.
pub(crate) const LLVM_SUFFIX: &str = "-19";

const PACKAGES: &[Package] = &[
    program("make", "make", For::Kernel),
    program("gcc", "gcc", For::All),
    program("clang-19", "clang-19", For::Kernel),
    program("lld-19", "ld.lld-19", For::Kernel),
    program("llvm-19", "llvm-objcopy-19", For::Kernel),
    file(
        "libclang-19-dev",
        &["/usr/lib/llvm-19/lib/libclang.so"],
        For::Kernel,
    ),
    program("flex", "flex", For::Kernel),
    program("bison", "bison", For::Kernel),
    program("bc", "bc", For::Kernel),
    program("perl", "perl", For::Kernel),
    program("xz-utils", "xz", For::All),
    program("cpio", "cpio", For::All),
    program("kmod", "depmod", For::All),
    file("libelf-dev", &["/usr/include/libelf.h"], For::Kernel),
    file("libssl-dev", &["/usr/include/openssl/ssl.h"], For::Kernel),
    program("python3", "python3", For::Boot),
    program("iproute2", "rdma", For::Boot),
    program("rdma-core", "rdma-ndd", For::Guest),
    program("rdmacm-utils", "rping", For::Guest),
    program("ibverbs-utils", "ibv_devinfo", For::Guest),
    file(
        "ibverbs-providers",
        &["/etc/libibverbs.d/rxe.driver"],
        For::Guest,
    ),
    program("perftest", "ib_write_bw", For::Guest),
    program("bpftrace", "bpftrace", For::Guest),
    program("linux-perf", "perf", For::Guest),
    program("trace-cmd", "trace-cmd", For::Guest),
];

impl Package {
    fn found(&self) -> Option<PathBuf> {
        match self.probe {
            Probe::Program(name) => exec::which(name),
            Probe::AnyFile(files) => files.iter().map(PathBuf::from).find(|path| path.exists()),
        }
    }
}

/// A package and where it was found.
pub(crate) struct Found {
    /// The package's name.
    pub name: &'static str,
    /// The file that proves its presence.
    pub path: Option<PathBuf>,
}

/// Looks for everything that `need` asks for.
pub(crate) fn survey(need: Need) -> Vec<Found> {
    let wanted = |package: &&Package| match package.needed {
        For::All => true,
        For::Kernel => need.kernel(),
        For::Boot => need.boot(),
        For::Guest => need.guest(),
    };
    let mut all: Vec<Found> = PACKAGES
        .iter()
        .filter(wanted)
        .map(|package| Found {
            name: package.name,
            path: package.found(),
        })
        .collect();
    if need.boot() {
        let path = exec::which(QEMU).filter(|path| qemu_version(path) >= Some(QEMU_MINIMUM));
        all.push(Found {
            name: QEMU_PACKAGE,
            path,
        });
    }
    all
}

/// Installs what is missing, or says how to install it.
///
/// # Errors
/// Without root or apt: the commands to run. Otherwise what apt-get said.
pub(crate) fn provide(ctx: &Ctx, missing: &[&str]) -> Result<()> {
    let distribution = Distribution::probe();
    if !distribution.has_apt() || !apt::is_root() {
        return Err(exit::environment(by_hand(&distribution, missing)));
    }
    ctx.ui.step(format!(
        "installing by apt-get, as root: {}",
        missing.join(" ")
    ));
    apt::update(ctx)?;
    let plain: Vec<&str> = missing
        .iter()
        .copied()
        .filter(|name| *name != QEMU_PACKAGE)
        .collect();
    if !plain.is_empty() {
        apt::install(ctx, &plain)?;
    }
    if missing.contains(&QEMU_PACKAGE) {
        install_qemu(ctx, &distribution)?;
    }
    Ok(())
}

/// Installs QEMU from the machine's own sources if theirs is new enough and conflicts with nothing,
/// else from its backports.
fn install_qemu(ctx: &Ctx, distribution: &Distribution) -> Result<()> {
    let new_enough = apt::candidate(QEMU_PACKAGE)
        .and_then(|version| parse_version(&version))
        .is_some_and(|version| version >= QEMU_MINIMUM);
    if new_enough && apt::can_install(&[QEMU_PACKAGE]) {
        return apt::install(ctx, &[QEMU_PACKAGE]);
    }
    let suite = format!("{}-backports", distribution.codename);
    ctx.ui.detail(format!(
        "the machine's own QEMU is too old or in conflict; taking {suite}"
    ));
    Private::backports(ctx, &distribution.codename)
        .and_then(|apt| apt.install(&suite, &[QEMU_PACKAGE]))
        .map_err(|err| {
            exit::environment(format!(
                "QEMU {}.{} or newer is needed and could not be installed: {err:#}",
                QEMU_MINIMUM.0, QEMU_MINIMUM.1
            ))
        })
}

fn by_hand(distribution: &Distribution, missing: &[&str]) -> String {
    let list = missing.join(" ");
    let mut text = if distribution.has_apt() {
        let plain: Vec<_> = missing
            .iter()
            .copied()
            .filter(|n| *n != QEMU_PACKAGE)
            .collect();
        let mut text = "host tools are missing, and only root may install them. Run:\n".to_owned();
        text += "  sudo apt-get update\n";
        if !plain.is_empty() {
            text += &format!(
                "  sudo apt-get install --no-install-recommends {}\n",
                plain.join(" ")
            );
        }
        if missing.contains(&QEMU_PACKAGE) {
            let backports = if distribution.codename == "bookworm" {
                "-t bookworm-backports "
            } else {
                ""
            };
            text += &format!(
                "  sudo apt-get install --no-install-recommends {backports}{QEMU_PACKAGE}\n"
            );
            if !backports.is_empty() {
                text += "The last one needs bookworm-backports among the apt sources.\n";
            }
        }
        text
    } else {
        format!(
            "host tools are missing. Install what provides the same as these packages of \
             Debian:\n  {list}\n"
        )
    };
    if missing.contains(&QEMU_PACKAGE) {
        text += &format!(
            "QEMU must be {}.{} or newer.\n",
            QEMU_MINIMUM.0, QEMU_MINIMUM.1
        );
    }
    text += "Or, as root on Debian or Ubuntu: cargo xtask setup";
    text
}

fn qemu_version(path: &Path) -> Option<(u32, u32)> {
    let text = exec::output(Command::new(path).arg("--version")).ok()?;
    parse_version(text.strip_prefix("QEMU emulator version ")?)
}

/// The first two numbers of `10.0.2 (Debian ...)` or `1:10.0.2+ds-2`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let text = text.split_once(':').map_or(text, |(_, rest)| rest);
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_programs_and_packages() {
        assert_eq!(
            parse_version("10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"),
            Some((10, 0))
        );
        assert_eq!(parse_version("1:7.2+dfsg-7+deb12u18+b3"), Some((7, 2)));
        assert_eq!(parse_version("unknown"), None);
        assert!(parse_version("1:7.2+dfsg").unwrap() < QEMU_MINIMUM);
        assert!(parse_version("1:10.0.2").unwrap() > QEMU_MINIMUM);
    }

    #[test]
    fn without_root_the_exact_commands_are_printed() {
        let debian = Distribution {
            id: "debian".into(),
            codename: "bookworm".into(),
        };
        if debian.has_apt() {
            let text = by_hand(&debian, &["bc", "flex", QEMU_PACKAGE]);
            assert!(
                text.contains("sudo apt-get install --no-install-recommends bc flex\n"),
                "{text}"
            );
            assert!(
                text.contains("-t bookworm-backports qemu-system-x86\n"),
                "{text}"
            );
        }
        let other = Distribution {
            id: "other".into(),
            codename: String::new(),
        };
        let text = by_hand(&other, &["bc"]);
        assert!(
            !text.contains("apt-get") && text.contains("  bc\n"),
            "{text}"
        );
    }

    #[test]
    fn what_boots_a_stock_kernel_builds_none() {
        let has = |need, name| survey(need).iter().any(|found| found.name == name);
        for (need, compiler, qemu) in [
            (Need::Kernel, true, false),
            (Need::Stock, false, false),
            (Need::Boot, false, true),
            (Need::Guest, false, true),
            (Need::Everything, true, true),
        ] {
            assert_eq!(has(need, "clang-19"), compiler, "{need:?}");
            assert_eq!(has(need, QEMU_PACKAGE), qemu, "{need:?}");
            assert!(has(need, "kmod"), "{need:?}");
        }
        assert!(has(Need::Guest, "perftest") && !has(Need::Boot, "perftest"));
    }
}
