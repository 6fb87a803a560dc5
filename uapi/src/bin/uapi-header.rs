// SPDX-License-Identifier: MIT OR Apache-2.0

//! Writes the C header of the user-space interface from the Rust definitions, or checks that the one in the
//! tree is still what they give. `tests/frozen.rs` compares the layouts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{bail, Context, Result};
use cbindgen::{Builder, Config, Language, Style};
use clap::Parser;

/// Writes uapi/include/dmaplane.h from uapi/src/abi.
#[derive(Parser)]
struct Args {
    /// Changes nothing; fails when the header in the tree differs.
    #[arg(long)]
    check: bool,
}

/// Rust's names and C's.
const STRUCTS: &[(&str, &str)] = &[
    ("Query", "dmaplane_query"),
    ("Destroy", "dmaplane_destroy"),
    ("BufferCreate", "dmaplane_buffer_create"),
    ("BufferQuery", "dmaplane_buffer_query"),
    ("BufferFolios", "dmaplane_buffer_folios"),
    ("PoolCreate", "dmaplane_pool_create"),
    ("PoolCarve", "dmaplane_pool_carve"),
    ("PoolQuery", "dmaplane_pool_query"),
    ("BufferRevoke", "dmaplane_buffer_revoke"),
    ("MemoryQuery", "dmaplane_memory_query"),
    ("DeviceTier", "dmaplane_device_tier"),
    ("DeviceQuery", "dmaplane_device_query"),
    ("DeviceAlloc", "dmaplane_device_alloc"),
    ("BufferExport", "dmaplane_buffer_export"),
    ("BufferImport", "dmaplane_buffer_import"),
    ("ChannelCreate", "dmaplane_channel_create"),
    ("Enter", "dmaplane_enter"),
    ("SockAddr", "dmaplane_sockaddr"),
    ("Listen", "dmaplane_listen"),
    ("Accept", "dmaplane_accept"),
    ("Connect", "dmaplane_connect"),
    ("EndpointQuery", "dmaplane_endpoint_query"),
    ("RdmaQuery", "dmaplane_rdma_query"),
    ("GrantCreate", "dmaplane_grant_create"),
    ("GrantWait", "dmaplane_grant_wait"),
    ("StatsQuery", "dmaplane_stats_query"),
    ("RingHeader", "dmaplane_ring_header"),
    ("Sqe", "dmaplane_sqe"),
    ("Cqe", "dmaplane_cqe"),
];

fn main() -> Result<()> {
    let args = Args::parse();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = folder.join("include/dmaplane.h");
    let header = generate(folder)?;
    if !args.check {
        fs::write(&path, header).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote uapi/include/dmaplane.h");
        return Ok(());
    }
    let present =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if present != header {
        bail!(
            "uapi/include/dmaplane.h differs from uapi/src/abi; make it anew with \
             `cargo run -p dmaplane-uapi --features header --bin uapi-header`"
        );
    }
    println!("uapi/include/dmaplane.h is what uapi/src/abi gives");
    Ok(())
}

/// The header's text.
fn generate(folder: &Path) -> Result<String> {
    let mut config = Config {
        language: Language::C,
        style: Style::Tag,
        include_guard: Some("_UAPI_DMAPLANE_H".into()),
        no_includes: true,
        sys_includes: vec!["linux/types.h".into()],
        tab_width: 8,
        header: Some(
            "/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */\n\
             /* Generated from uapi/src/abi; do not edit. */"
                .into(),
        ),
        cpp_compat: true,
        ..Config::default()
    };
    config.export.prefix = Some("DMAPLANE_".into());
    config.export.renaming_overrides_prefixing = true;
    config.export.include = STRUCTS.iter().map(|(rust, _)| (*rust).to_owned()).collect();
    let names = STRUCTS
        .iter()
        .map(|(rust, c)| ((*rust).to_owned(), (*c).to_owned()));
    config.export.rename = names.collect();
    let mut builder = Builder::new().with_config(config);
    for source in sources(folder)? {
        builder = builder.with_src(source);
    }
    let bindings = builder
        .generate()
        .context("cbindgen cannot read uapi/src/abi")?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    let mut text = String::from_utf8(text).context("the header is not UTF-8")?;
    for bits in ["8", "16", "32", "64"] {
        text = text.replace(&format!("uint{bits}_t"), &format!("__u{bits}"));
        text = text.replace(&format!(" int{bits}_t"), &format!(" __s{bits}"));
    }
    Ok(text)
}

/// The files of the definitions: what they have in common first, the others by name.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let folder = folder.join("src/abi");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort_by_key(|file| (!file.ends_with("mod.rs"), file.clone()));
    Ok(files)
}
