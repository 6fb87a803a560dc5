// SPDX-License-Identifier: MIT OR Apache-2.0

//! Writes the C header of the user-space interface from the Rust definitions, or checks that the one in the
//! tree still agrees: textually, and by compiling it with the layout that Rust sees.

use std::{
    fmt::Write as _,
    fs,
    mem::{offset_of, size_of},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{bail, Context, Result};
use cbindgen::{Builder, Config, Language, Style};
use clap::Parser;
use dmaplane_uapi as uapi;

/// Writes uapi/include/dmaplane.h from uapi/src/abi.rs.
#[derive(Parser)]
struct Args {
    /// Changes nothing; fails when the header in the tree differs or its layout is not Rust's.
    #[arg(long)]
    check: bool,
}

/// Rust's names and C's.
const STRUCTS: &[(&str, &str)] = &[
    ("Query", "dmaplane_query"),
    ("Destroy", "dmaplane_destroy"),
    ("BufferCreate", "dmaplane_buffer_create"),
    ("BufferQuery", "dmaplane_buffer_query"),
    ("ChannelCreate", "dmaplane_channel_create"),
    ("Enter", "dmaplane_enter"),
    ("SockAddr", "dmaplane_sockaddr"),
    ("Listen", "dmaplane_listen"),
    ("Accept", "dmaplane_accept"),
    ("Connect", "dmaplane_connect"),
    ("EndpointQuery", "dmaplane_endpoint_query"),
    ("GrantCreate", "dmaplane_grant_create"),
    ("GrantWait", "dmaplane_grant_wait"),
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
            "uapi/include/dmaplane.h differs from uapi/src/abi.rs; make it anew with \
             `cargo run -p dmaplane-uapi --features header --bin uapi-header`"
        );
    }
    compile(&path)?;
    println!("uapi/include/dmaplane.h agrees with uapi/src/abi.rs in text and layout");
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
             /* Generated from uapi/src/abi.rs; do not edit. */"
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
    let bindings = Builder::new()
        .with_config(config)
        .with_src(folder.join("src/abi.rs"))
        .generate()
        .context("cbindgen cannot read uapi/src/abi.rs")?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    let mut text = String::from_utf8(text).context("the header is not UTF-8")?;
    for bits in ["8", "16", "32", "64"] {
        text = text.replace(&format!("uint{bits}_t"), &format!("__u{bits}"));
        text = text.replace(&format!(" int{bits}_t"), &format!(" __s{bits}"));
    }
    Ok(text)
}

/// Compiles the header as C and compares sizes and offsets with Rust's.
fn compile(header: &Path) -> Result<()> {
    let mut source = format!("#include \"{}\"\n#include <stddef.h>\n", header.display());
    macro_rules! layout {
        ($(($rust:ident, $c:literal): $($member:ident),* $(,)?;)*) => {$(
            writeln!(
                source,
                "_Static_assert(sizeof(struct {}) == {}, \"size of {}\");",
                $c, size_of::<uapi::$rust>(), $c,
            )?;
            $(writeln!(
                source,
                "_Static_assert(offsetof(struct {}, {}) == {}, \"{}.{}\");",
                $c, stringify!($member), offset_of!(uapi::$rust, $member), $c, stringify!($member),
            )?;)*
        )*};
    }
    layout! {
        (Query, "dmaplane_query"): flags, abi_version, capabilities, max_buffer_bytes, max_op_bytes,
            max_ring_entries, page_bytes, rdma_devices, max_send_bytes,
            max_context_bytes, max_endpoints, max_channels;
        (Destroy, "dmaplane_destroy"): flags, handle, reserved;
        (BufferCreate, "dmaplane_buffer_create"): bytes, placement, node, handle, mmap_offset;
        (BufferQuery, "dmaplane_buffer_query"): handle, pages_by_node, bytes, misplaced_pages, regions;
        (ChannelCreate, "dmaplane_channel_create"): sq_entries, eventfd, mmap_offset, cq_offset, event_batch,
            event_delay_us, poll_node, poll_idle_us;
        (Enter, "dmaplane_enter"): channel, to_submit, submitted, available, timeout_ns;
        (SockAddr, "dmaplane_sockaddr"): family, port, scope_id, addr;
        (Listen, "dmaplane_listen"): local, backlog, handle;
        (Accept, "dmaplane_accept"): listener, recv_depth, timeout_ns, endpoint, peer, window_high,
            window_low;
        (Connect, "dmaplane_connect"): remote, local, recv_depth, endpoint, timeout_ns, window_high,
            window_low;
        (EndpointQuery, "dmaplane_endpoint_query"): state, error, send_credits, local, peer, device,
            peer_end, posted, stalls, stalled_ns, not_ready;
        (GrantCreate, "dmaplane_grant_create"): endpoint, buffer, offset, label, handle, generation, ttl_ns,
            max_uses, reserved2;
        (GrantWait, "dmaplane_grant_wait"): endpoint, timeout_ns, length, label, rights, generation,
            max_uses, reserved;
        (RingHeader, "dmaplane_ring_header"): sq_head, sq_flags, sq_tail, cq_head, cq_tail;
        (Sqe, "dmaplane_sqe"): op, endpoint, user_data, trace_id, buffer, grant, offset,
            remote_offset, length, imm, timeout_ns;
        (Cqe, "dmaplane_cqe"): user_data, trace_id, state, op, field, error, provider_status, imm,
            length, endpoint, latency_ns, reserved2;
    }
    let name = format!("dmaplane-uapi-{}.c", std::process::id());
    let file: PathBuf = std::env::temp_dir().join(name);
    fs::write(&file, source).context("cannot write the layout check")?;
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(&compiler)
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"])
        .arg(&file)
        .output();
    fs::remove_file(&file).context("cannot remove the layout check")?;
    let output = output.with_context(|| format!("cannot run {}", compiler.display()))?;
    if !output.status.success() {
        bail!(
            "the C layout differs:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
