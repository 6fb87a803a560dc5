// SPDX-License-Identifier: MIT OR Apache-2.0
//! A root with headers, source and tools that are made up, for the build script of the driver's package.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::package::deb::{fill, write_file};

pub(super) const KERNEL: &str = "7.3.4+deb13-amd64";
pub(super) const RUSTC: &str = "rustc 1.85.1 (4eb161250 2025-03-15) (built from a source tarball)";
pub(super) const VERSION: &str = "7.3.4-1~bpo13+1";

/// Where the tests have the metadata made, and the source tree that belongs to them.
pub(super) const OUT: &str = "cache/build";
pub(super) const SOURCE: &str = "cache/build.source";

/// A root with a kernel's headers, the kernel's source and the tools, none of which is real.
pub(super) struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    /// A root that the script accepts.
    pub(super) fn new() -> Self {
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
        fs::create_dir_all(fake.path("cache")).unwrap();

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

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn text(&self, name: &str, text: &str) {
        write_file(&self.path(name), 0o644, text.as_bytes()).unwrap();
    }

    /// A program of the root, which comes before the machine's own.
    pub(super) fn program(&self, name: &str, body: &str) {
        let text = format!("#!/bin/sh\n{body}\n");
        write_file(&self.path("usr/bin").join(name), 0o755, text.as_bytes()).unwrap();
    }

    pub(super) fn without(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Replaces text in the kernel's configuration.
    pub(super) fn configure(&self, from: &str, to: &str) {
        let path = self.path(&format!("usr/src/linux-headers-{KERNEL}/.config"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// What dpkg says of the source's package.
    pub(super) fn source(&self, says: &str) {
        let answer = if says.is_empty() {
            "exit 1".to_owned()
        } else {
            format!("echo '{says}'")
        };
        self.program("dpkg-query", &answer);
    }

    /// A make that leaves these symbols, and a module if it is asked for one and `module` says that it can build it.
    /// The file `made` has its arguments.
    pub(super) fn make(&self, symbols: &str, module: bool) {
        let module = if module {
            "echo ko >\"$out/dmaplane.ko\""
        } else {
            "echo \"error[E0425]: cannot find it\" >&2; exit 2"
        };
        self.program(
            "make",
            &format!(
                "echo \"$*\" >>{made}\nout=\nfor word; do case $word in MO=*) out=${{word#MO=}} ;; esac; done\n\
                 if [ -n \"$out\" ]; then {module}\nelse mkdir -p \"$2/rust\"; for s in {symbols}; do\n\
                 echo \"EXPORT_SYMBOL_RUST_GPL(_RNvkernel3$s);\"; done >\"$2/rust/exports_kernel_generated.h\"; fi",
                made = self.path("made").display()
            ),
        );
    }

    pub(super) fn run(&self, options: &[&str], kernel: &str) -> Output {
        Command::new("sh")
            .arg(self.path("build/build.sh"))
            .args(options)
            .arg("--root")
            .arg(self.dir.path())
            .arg(kernel)
            .output()
            .unwrap()
    }

    /// The last line of the script when it refuses, from the cause on.
    pub(super) fn refusal(&self, options: &[&str]) -> String {
        let output = self.run(options, KERNEL);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{text}");
        let root = self.dir.path().to_string_lossy().into_owned();
        let last = text.lines().last().unwrap_or_default().replace(&root, "");
        let start = format!("dmaplane: not built for {KERNEL}: ");
        let line = last.strip_prefix(&start);
        assert!(line.is_some() && last.contains(". Remedy: "), "{text}");
        // Nothing half built is left.
        for name in ["build/work", "build/work.source", "build/out", OUT, SOURCE] {
            assert!(!self.path(name).exists(), "{name} is left: {text}");
        }
        line.unwrap_or_default().to_owned()
    }
}

pub(super) fn says(name: &str, version: &str) -> String {
    format!(
        "case $1 in --version) echo '{version}' ;; --print) echo \"${{0%/bin/{name}}}\" ;; esac"
    )
}
