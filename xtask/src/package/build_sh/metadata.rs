// SPDX-License-Identifier: MIT OR Apache-2.0
//! The crates alone, without dpkg and without a module: how xtask makes the stock kernel's build tree.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use super::fake::{Fake, KERNEL, OUT, SOURCE, VERSION};
use super::refusals::has;

/// The options with which xtask runs the script.
fn options(fake: &Fake, version: &str) -> Vec<String> {
    let out = fake.path(OUT).display().to_string();
    ["--metadata", &out, "--source-version", version]
        .map(str::to_owned)
        .to_vec()
}

fn run(fake: &Fake, version: &str, kernel: &str) -> Output {
    let options = options(fake, version);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    fake.run(&options, kernel)
}

fn refusal(fake: &Fake, version: &str) -> String {
    let options = options(fake, version);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    fake.refusal(&options)
}

/// A root without dpkg, and a script in a checkout, where nothing is filled in.
fn fake() -> Fake {
    let fake = Fake::new();
    fake.source("");
    fake.without("build/dkms.conf");
    fake
}

#[test]
fn a_build_tree_is_made_and_no_module() {
    let fake = fake();
    fake.text(
        "usr/src/linux-headers-common/Makefile",
        "modules:\n\t@echo M=$(M) O=$(KBUILD_OUTPUT)\n",
    );
    // What an earlier run left does not matter.
    fake.text(&format!("{OUT}/rust/old"), "");
    fake.text(&format!("{SOURCE}/old"), "");
    let output = run(&fake, VERSION, KERNEL);
    assert!(output.status.success(), "{output:?}");
    for name in [OUT, SOURCE] {
        assert!(!fake.path(name).join("old").exists(), "{name}");
    }
    assert!(!fake.path(OUT).join("rust/old").exists());
    let symbols = fs::read_to_string(fake.path(OUT).join("symbols.kernel")).unwrap();
    assert_eq!(symbols, "_RNvkernel3one\n_RNvkernel3two\n");
    assert!(fake.path(OUT).join(".config").is_file() && fake.path(SOURCE).join("rust").is_dir());
    let made = fs::read_to_string(fake.path("made")).unwrap();
    assert!(made.lines().count() == 1 && !made.contains("MO="), "{made}");
    // Nothing is left elsewhere.
    assert!(!fake.path("build/out").exists() && !fake.path("var").exists());

    let mut make = Command::new("make");
    make.args(["--no-print-directory", "-C"])
        .arg(fake.path(OUT))
        .args(["M=/some", "modules"]);
    let said = make.output().unwrap();
    let wanted = format!("M=/some O={}\n", fake.path(OUT).display());
    assert_eq!(String::from_utf8_lossy(&said.stdout), wanted, "{said:?}");
}

#[test]
fn the_series_is_that_of_the_kernel() {
    for (kernel, series) in [("7.2.12+deb13-amd64", "7.2"), ("7.4-amd64", "7.4")] {
        let fake = fake();
        let modules = fake.path("lib/modules");
        symlink(modules.join(KERNEL), modules.join(kernel)).unwrap();
        fake.without("usr/src/linux-source-7.3.tar.xz");
        fake.text(&format!("usr/src/linux-source-{series}.tar.xz"), "");
        let output = run(&fake, VERSION, kernel);
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn the_version_of_the_source_is_the_one_that_is_given() {
    let fake = fake();
    // What is kept for DKMS is not used.
    fake.program("cksum", "echo 1 1");
    fake.text(
        &format!("var/lib/dmaplane-dkms/linux-{VERSION}-1.tar.gz"),
        "",
    );
    has(
        &refusal(&fake, "7.3.5-1~bpo13+1"),
        &["of version 7.3.4-1~bpo13+1, and linux-source-7.3 is of version 7.3.5-1~bpo13+1"],
    );
    fake.without("usr/src/linux-source-7.3.tar.xz");
    has(
        &refusal(&fake, VERSION),
        &["linux-source-7.3 is not installed"],
    );
}

#[test]
fn a_refusal_leaves_no_tree() {
    let fake = fake();
    fake.make("one", true);
    has(&refusal(&fake, VERSION), &["1 of the 2 Rust symbols"]);
    fake.program("df", "echo; echo x 1 1 10240 1% /");
    has(
        &refusal(&fake, VERSION),
        &["/cache has 10 MB of free space", "Remedy: free some space"],
    );
}
