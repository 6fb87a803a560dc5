// SPDX-License-Identifier: MIT OR Apache-2.0
//! The build script of the driver's package against headers that are made up: each refusal, its line and its status.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::deb::{fill, write_file};

const KERNEL: &str = "7.3.4+deb13-amd64";
const RUSTC: &str = "rustc 1.85.1 (4eb161250 2025-03-15) (built from a source tarball)";
const VERSION: &str = "7.3.4-1~bpo13+1";

/// A root with a kernel's headers, the kernel's source and the tools, none of which is real.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    /// One with which the script has no fault to find.
    fn new() -> Self {
        let fake = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let config = format!(
            "CONFIG_X86_64=y\nCONFIG_RUST=y\n# CONFIG_MODVERSIONS is not set\nCONFIG_INFINIBAND=m\n\
             CONFIG_INFINIBAND_ADDR_TRANS=y\nCONFIG_PCI_P2PDMA=y\nCONFIG_DMA_SHARED_BUFFER=y\n\
             CONFIG_RUSTC_VERSION_TEXT=\"{RUSTC}\"\nCONFIG_BINDGEN_VERSION_TEXT=\"bindgen 0.71.1\"\n\
             CONFIG_CC_VERSION_TEXT=\"x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0\"\n"
        );
        let headers = format!("usr/src/linux-headers-{KERNEL}");
        fake.text(&format!("{headers}/.config"), &config);
        fake.text(
            &format!("{headers}/Module.symvers"),
            "0x0\t_RNvkernel3one\tvmlinux\tEXPORT_SYMBOL_GPL\t\n0x0\t_RNvkernel3two\tvmlinux\tEXPORT_SYMBOL_GPL\t\n",
        );
        fake.text(
            &format!("{headers}/include/generated/package.h"),
            &format!("#define LINUX_PACKAGE_ID \" Debian {VERSION}\"\n"),
        );
        fake.text(&format!("{headers}/arch/x86/x.h"), "");
        fake.text("usr/src/linux-headers-common/Makefile", "");
        fake.text("usr/src/linux-headers-common/include/x.h", "");
        fake.text("usr/src/linux-headers-common/arch/x86/Makefile", "");
        fake.text("usr/lib/linux-kbuild/scripts/Makefile.build", "");
        fake.text("usr/lib/linux-kbuild/tools/x", "");
        fake.text("usr/lib/rustlib/src/rust/library/core/src/lib.rs", "");
        let modules = fake.path(&format!("lib/modules/{KERNEL}"));
        fs::create_dir_all(&modules).unwrap();
        symlink(fake.path(&headers), modules.join("build")).unwrap();
        symlink(
            fake.path("usr/src/linux-headers-common"),
            modules.join("source"),
        )
        .unwrap();
        symlink(
            fake.path("usr/lib/linux-kbuild/scripts"),
            fake.path(&headers).join("scripts"),
        )
        .unwrap();
        fake.program("rustc", &says("rustc", RUSTC));
        fake.program("bindgen", &says("bindgen", "bindgen 0.71.1"));
        fake.program("x86_64-linux-gnu-gcc-14", "exit 0");
        fake.program("df", "echo; echo x 1 1 9000000 1% /");
        fake.text("usr/src/linux-source-7.3.tar.xz", "");
        fake.program("xz", "exit 0");
        // What the source's tarball would hold.
        fake.program(
            "tar",
            "case $1 in -xJf) mkdir -p \"$4/rust\" \"$4/scripts\" ;; *) exit 1 ;; esac",
        );
        fake.source(&format!("installed {VERSION}"));
        fake.make("one two", true);

        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/dmaplane-dkms");
        let words = [
            ("VERSION", "1.2.3".to_owned()),
            ("SERIES", "7.3".to_owned()),
        ];
        let conf = fs::read_to_string(packaging.join("dkms.conf")).unwrap();
        fake.text("build/dkms.conf", &fill(&conf, &words).unwrap());
        let script = fs::read_to_string(packaging.join("build.sh")).unwrap();
        fake.text("build/build.sh", &script);
        fake
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str, text: &str) {
        write_file(&self.path(name), 0o644, text.as_bytes()).unwrap();
    }

    /// A program of the root, which comes before the machine's own.
    fn program(&self, name: &str, body: &str) {
        let text = format!("#!/bin/sh\n{body}\n");
        write_file(&self.path("usr/bin").join(name), 0o755, text.as_bytes()).unwrap();
    }

    fn without(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Replaces text in the kernel's configuration.
    fn configure(&self, from: &str, to: &str) {
        let path = self.path(&format!("usr/src/linux-headers-{KERNEL}/.config"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// What dpkg says of the source's package.
    fn source(&self, says: &str) {
        let answer = if says.is_empty() {
            "exit 1".to_owned()
        } else {
            format!("echo '{says}'")
        };
        self.program("dpkg-query", &answer);
    }

    /// A make that leaves these symbols, and a module if it is asked for one and can make it.
    fn make(&self, symbols: &str, module: bool) {
        let module = if module {
            "echo ko >\"$out/dmaplane.ko\""
        } else {
            "echo \"error[E0425]: cannot find it\" >&2; exit 2"
        };
        self.program(
            "make",
            &format!(
                "out=\nfor word; do case $word in MO=*) out=${{word#MO=}} ;; esac; done\n\
                 if [ -n \"$out\" ]; then {module}\nelse mkdir -p \"$2/rust\"; for s in {symbols}; do\n\
                 echo \"EXPORT_SYMBOL_RUST_GPL(_RNvkernel3$s);\"; done >\"$2/rust/exports_kernel_generated.h\"; fi"
            ),
        );
    }

    fn run(&self, options: &[&str], kernel: &str) -> Output {
        Command::new("sh")
            .arg(self.path("build/build.sh"))
            .args(options)
            .arg("--root")
            .arg(self.dir.path())
            .arg(kernel)
            .output()
            .unwrap()
    }

    /// The line with which the script ends when it refuses, without what stands before the cause.
    fn refusal(&self, options: &[&str]) -> String {
        let output = self.run(options, KERNEL);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{text}");
        let root = self.dir.path().to_string_lossy().into_owned();
        let last = text.lines().last().unwrap_or_default().replace(&root, "");
        let start = format!("dmaplane: not built for {KERNEL}: ");
        let line = last.strip_prefix(&start);
        assert!(line.is_some() && last.contains(". Remedy: "), "{text}");
        // Nothing half built is left.
        assert!(!self.path("build/work").exists() && !self.path("build/out").exists());
        line.unwrap_or_default().to_owned()
    }
}

fn says(name: &str, version: &str) -> String {
    format!(
        "case $1 in --version) echo '{version}' ;; --print) echo \"${{0%/bin/{name}}}\" ;; esac"
    )
}

/// Asserts that a refusal has these parts, in this order.
fn has(line: &str, parts: &[&str]) {
    let mut rest = line;
    for part in parts {
        let at = rest.find(part);
        assert!(at.is_some(), "no `{part}` in: {line}");
        rest = &rest[at.unwrap_or_default() + part.len()..];
    }
}

#[test]
fn nothing_is_refused_when_nothing_is_wrong() {
    let fake = Fake::new();
    let output = fake.run(&["--check"], KERNEL);
    assert!(output.status.success(), "{output:?}");
    assert!(!fake.path("build/out").exists());
    let output = fake.run(&[], KERNEL);
    assert!(output.status.success(), "{output:?}");
    assert!(fake.path("build/out/dmaplane.ko").is_file());
    assert!(!fake.path("build/work").exists());
}

#[test]
fn dkms_gets_the_status_that_it_does_not_fail_for() {
    let fake = Fake::new();
    fake.source("");
    let output = fake.run(&["--refusal", "77"], KERNEL);
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    let conf = fs::read_to_string(fake.path("build/dkms.conf")).unwrap();
    assert!(
        conf.contains("PRE_BUILD=\"build.sh --refusal 77 $kernelver\""),
        "{conf}"
    );
}

#[test]
fn a_kernel_of_another_series_is_refused() {
    let fake = Fake::new();
    for kernel in ["6.12.117+deb13-amd64", "7.30.1", "7.4.1+deb13-amd64"] {
        let output = fake.run(&["--check"], kernel);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{text}");
        has(
            &text,
            &[kernel, "written for Linux 7.3", "linux-headers-amd64"],
        );
    }
}

#[test]
fn missing_headers_are_refused() {
    let fake = Fake::new();
    fake.without(&format!("lib/modules/{KERNEL}/build"));
    has(
        &fake.refusal(&["--check"]),
        &["headers are not installed. Remedy: apt install linux-headers-7.3.4+deb13-amd64"],
    );
}

#[test]
fn a_configuration_that_cannot_work_is_refused_with_the_option() {
    for (from, to, cause) in [
        ("CONFIG_X86_64=y", "CONFIG_ARM64=y", "is for x86-64"),
        (
            "CONFIG_RUST=y",
            "# CONFIG_RUST is not set",
            "without CONFIG_RUST.",
        ),
        (
            "# CONFIG_MODVERSIONS is not set",
            "CONFIG_MODVERSIONS=y",
            "with CONFIG_MODVERSIONS",
        ),
        ("CONFIG_INFINIBAND=m", "", "without CONFIG_INFINIBAND."),
        (
            "CONFIG_INFINIBAND_ADDR_TRANS=y",
            "",
            "without CONFIG_INFINIBAND_ADDR_TRANS.",
        ),
        ("CONFIG_PCI_P2PDMA=y", "", "without CONFIG_PCI_P2PDMA."),
    ] {
        let fake = Fake::new();
        fake.configure(from, to);
        has(&fake.refusal(&["--check"]), &[cause, "Remedy: "]);
    }
}

#[test]
fn another_compiler_is_refused_with_both_texts() {
    let fake = Fake::new();
    fake.program("rustc", &says("rustc", "rustc 1.97.1 (Debian)"));
    has(
        &fake.refusal(&["--check"]),
        &[
            "/usr/bin/rustc is 'rustc 1.97.1 (Debian)'",
            RUSTC,
            "apt install --allow-downgrades 'rustc=1.85.1*' 'rust-src=1.85.1*' 'libstd-rust-dev=1.85.1*'",
        ],
    );
    fake.without("usr/bin/rustc");
    has(
        &fake.refusal(&["--check"]),
        &["there is no /usr/bin/rustc", RUSTC],
    );
}

#[test]
fn missing_library_sources_are_refused() {
    let fake = Fake::new();
    fake.without("usr/lib/rustlib/src/rust/library/core/src/lib.rs");
    has(
        &fake.refusal(&["--check"]),
        &[
            "sources of Rust's library are not in /usr/lib/rustlib",
            "'rust-src=1.85.1*'",
        ],
    );
}

#[test]
fn another_bindgen_is_refused_with_both_texts() {
    let fake = Fake::new();
    fake.program("bindgen", &says("bindgen", "bindgen 0.72.0"));
    has(
        &fake.refusal(&["--check"]),
        &[
            "is 'bindgen 0.72.0'",
            "with 'bindgen 0.71.1'",
            "'bindgen=0.71.1*'",
        ],
    );
    fake.without("usr/bin/bindgen");
    has(
        &fake.refusal(&["--check"]),
        &["there is no /usr/bin/bindgen"],
    );
}

#[test]
fn a_missing_c_compiler_is_refused() {
    let fake = Fake::new();
    fake.without("usr/bin/x86_64-linux-gnu-gcc-14");
    has(
        &fake.refusal(&["--check"]),
        &[
            "there is no /usr/bin/x86_64-linux-gnu-gcc-14",
            "apt install gcc-14",
        ],
    );
}

#[test]
fn a_source_of_another_version_is_refused_with_both_versions() {
    let fake = Fake::new();
    fake.source("installed 7.3.5-1~bpo13+1");
    has(
        &fake.refusal(&["--check"]),
        &[
            "of version 7.3.4-1~bpo13+1, and linux-source-7.3 is of version 7.3.5-1~bpo13+1",
            "apt install --allow-downgrades linux-source-7.3=7.3.4-1~bpo13+1",
        ],
    );
    for absent in [
        "",
        "config-files 7.3.4-1~bpo13+1",
        "half-installed 7.3.4-1~bpo13+1",
    ] {
        fake.source(absent);
        has(
            &fake.refusal(&["--check"]),
            &["linux-source-7.3 is not installed"],
        );
    }
    // As between unpacking and configuring in one run of apt.
    fake.source(&format!("unpacked {VERSION}"));
    assert!(fake.run(&["--check"], KERNEL).status.success());
}

#[test]
fn a_kernel_of_nobody_known_is_refused() {
    let fake = Fake::new();
    fake.text(
        &format!("usr/src/linux-headers-{KERNEL}/include/generated/package.h"),
        "",
    );
    has(&fake.refusal(&["--check"]), &["not a kernel of Debian's"]);
}

#[test]
fn a_full_disk_is_refused_with_what_is_free_and_needed() {
    let fake = Fake::new();
    fake.program("df", "echo; echo x 1 1 10240 1% /");
    has(
        &fake.refusal(&["--check"]),
        &[
            "/build has 10 MB of free space",
            "needs",
            "dkms autoinstall -k 7.3.4",
        ],
    );
}

#[test]
fn a_disk_that_fills_up_while_building_is_named() {
    let fake = Fake::new();
    fake.make("one two", false);
    // Plenty at the first look, nothing at the next ones.
    let seen = fake.path("seen");
    fake.program(
        "df",
        &format!(
            "free=1000\n[ -e {0} ] || free=9000000\n: >{0}\necho; echo x 1 1 $free 1% /",
            seen.display()
        ),
    );
    has(&fake.refusal(&[]), &["has 0 MB of free space"]);
}

#[test]
fn a_symbol_that_is_missing_is_refused_by_name() {
    let fake = Fake::new();
    fake.make("one", true);
    has(
        &fake.refusal(&[]),
        &[
            "1 of the 2 Rust symbols",
            "linux-source-7.3 7.3.4-1~bpo13+1",
            "_RNvkernel3two",
            "--reinstall",
        ],
    );
}

#[test]
fn a_driver_that_does_not_compile_ends_the_log_with_a_refusal_too() {
    let fake = Fake::new();
    fake.make("one two", false);
    has(
        &fake.refusal(&[]),
        &["the driver could not be compiled", "log above"],
    );
}
