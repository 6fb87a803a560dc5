// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each refusal, its line and its status.

use std::fs;

use super::fake::{Fake, KERNEL, RUSTC, VERSION, says};

/// Asserts that a refusal has these parts, in this order.
pub(super) fn has(line: &str, parts: &[&str]) {
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
    assert!(!fake.path("build/work").exists() && !fake.path("build/work.source").exists());
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
    // Plenty of space at the first check, none at the next ones.
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

#[test]
fn headers_without_rust_symbols_are_refused() {
    let fake = Fake::new();
    fake.text(
        &format!("usr/src/linux-headers-{KERNEL}/Module.symvers"),
        "0x0\tkmalloc\tvmlinux\tEXPORT_SYMBOL\t\n",
    );
    has(
        &fake.refusal(&[]),
        &[
            "its headers list no Rust symbol",
            "--reinstall linux-headers-7.3.4",
        ],
    );
}

#[test]
fn a_step_that_has_no_words_for_its_failure_is_refused_too() {
    let fake = Fake::new();
    fake.program("cp", "echo 'cp: no space' >&2; exit 1");
    has(
        &fake.refusal(&[]),
        &["a step of the build failed", "log above"],
    );
    // Any other status than this would be an error to DKMS.
    let output = fake.run(&["--refusal", "77"], KERNEL);
    assert_eq!(output.status.code(), Some(77), "{output:?}");
}

#[test]
fn a_wrong_command_line_is_no_refusal() {
    let fake = Fake::new();
    for options in [
        &["--quickly"][..],
        &["--metadata", "/nowhere/of/this/kind/build"],
    ] {
        let output = fake.run(options, KERNEL);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("usage: "), "{text}");
    }
}
