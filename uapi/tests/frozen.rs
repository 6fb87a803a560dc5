// SPDX-License-Identifier: MIT OR Apache-2.0

//! Version 1 is frozen: every constant's value and every member's place, read from the source so that none can be
//! forgotten, against the list `abi-v1.txt`, and the same list against the C header.
//!
//! `DMAPLANE_UPDATE_ABI=1 cargo test -p dmaplane-uapi --test frozen` writes additions to the list. A line that is there
//! may never change.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use syn::{BinOp, Expr, Fields, Item, Lit, Type};

/// Size and alignment of a type, in bytes.
type Layout = (usize, usize);

/// A structure's name, size, and members with their offsets.
type Members = (String, usize, Vec<(String, usize)>);

/// What the source says so far.
#[derive(Default)]
struct Interface {
    constants: BTreeMap<String, u64>,
    layouts: BTreeMap<String, Layout>,
    lines: Vec<String>,
    members: Vec<Members>,
}

impl Interface {
    fn read() -> Self {
        let mut interface = Self::default();
        for file in sources() {
            let source = fs::read_to_string(&file).expect("a source");
            interface.add(&syn::parse_file(&source).expect("Rust"));
        }
        interface
    }

    fn add(&mut self, file: &syn::File) {
        for item in &file.items {
            match item {
                Item::Const(item) if item.ident != "_" => {
                    let name = item.ident.to_string();
                    let value = self.value(&item.expr);
                    let ty = name_of(&item.ty);
                    let line = format!("const {name}: {ty} = {value:#x}");
                    self.lines.push(line);
                    self.constants.insert(name, value);
                }
                Item::Struct(item) => self.structure(item),
                Item::Const(_) | Item::Impl(_) | Item::Mod(_) | Item::Use(_) => {}
                other => panic!("the list does not know how to freeze {other:?}"),
            }
        }
    }

    fn value(&self, expr: &Expr) -> u64 {
        match expr {
            Expr::Lit(lit) => match &lit.lit {
                Lit::Int(int) => int.base10_parse().expect("an integer"),
                other => panic!("no integer: {other:?}"),
            },
            Expr::Paren(inner) => self.value(&inner.expr),
            Expr::Binary(binary) => {
                let (left, right) = (self.value(&binary.left), self.value(&binary.right));
                match binary.op {
                    BinOp::Shl(_) => left << right,
                    BinOp::BitOr(_) => left | right,
                    ref other => panic!("no operator that the list knows: {other:?}"),
                }
            }
            Expr::Path(path) => {
                let last = path.path.segments.last().expect("a name");
                let name = last.ident.to_string();
                if name == "MAX" {
                    u64::MAX
                } else {
                    self.constants[&name]
                }
            }
            other => panic!("no expression that the list knows: {other:?}"),
        }
    }

    fn layout(&self, ty: &Type) -> Layout {
        match ty {
            Type::Array(array) => {
                let (size, align) = self.layout(&array.elem);
                let count = usize::try_from(self.value(&array.len)).expect("a length");
                (size * count, align)
            }
            _ => match name_of(ty).as_str() {
                "u8" => (1, 1),
                "u16" => (2, 2),
                "u32" | "i32" => (4, 4),
                "u64" => (8, 8),
                name => self.layouts[name],
            },
        }
    }

    /// Places the members as `repr(C)` does.
    fn structure(&mut self, item: &syn::ItemStruct) {
        let name = item.ident.to_string();
        let Fields::Named(fields) = &item.fields else {
            panic!("{name} has no names");
        };
        let (mut end, mut align, mut members) = (0usize, 1, Vec::new());
        let at = self.lines.len();
        for field in &fields.named {
            let (size, own) = self.layout(&field.ty);
            let member = field.ident.as_ref().expect("a name").to_string();
            assert_eq!(end % own, 0, "{name}.{member}: padding must have a name");
            let ty = name_of(&field.ty);
            self.lines
                .push(format!("{name}.{member}: {ty} at {end}, {size} bytes"));
            members.push((member, end));
            (end, align) = (end + size, align.max(own));
        }
        assert_eq!(end % align, 0, "{name}: padding must have a name");
        let head = format!("struct {name}: {end} bytes, aligned to {align}");
        self.lines.insert(at, head);
        self.layouts.insert(name.clone(), (end, align));
        self.members.push((name, end, members));
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The files of the interface: what they have in common first, because a value may build on another, the others by name.
fn sources() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder().join("src/abi")).expect("src/abi");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort_by_key(|file| (!file.ends_with("mod.rs"), file.clone()));
    files
}

fn name_of(ty: &Type) -> String {
    match ty {
        Type::Path(path) => {
            let last = path.path.segments.last().expect("a name");
            last.ident.to_string()
        }
        Type::Array(array) => format!("[{}]", name_of(&array.elem)),
        other => panic!("no type that the list knows: {other:?}"),
    }
}

#[test]
fn version_one_is_frozen() {
    let path = folder().join("abi-v1.txt");
    let lines = Interface::read().lines;
    let listed = fs::read_to_string(&path).unwrap_or_default();
    let listed: Vec<&str> = listed
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let gone: Vec<&&str> = listed
        .iter()
        .filter(|line| !lines.iter().any(|now| now == *line))
        // A structure may grow at its end; its members stay where they are.
        .filter(|line| !line.starts_with("struct "))
        .collect();
    assert!(
        gone.is_empty(),
        "version 1 of the interface is frozen, and these lines of uapi/abi-v1.txt changed or \
         vanished: {gone:#?}"
    );
    if std::env::var_os("DMAPLANE_UPDATE_ABI").is_some() {
        let text = format!(
            "# SPDX-License-Identifier: MIT OR Apache-2.0\n\
             # Version 1 of the interface; lines may be added, see tests/frozen.rs.\n{}\n",
            lines.join("\n")
        );
        fs::write(&path, text).expect("abi-v1.txt");
        return;
    }
    assert!(
        lines == listed,
        "the interface has additions; list them with \
         `DMAPLANE_UPDATE_ABI=1 cargo test -p dmaplane-uapi --test frozen`"
    );
}

#[test]
fn each_call_has_a_number_of_its_own() {
    let interface = Interface::read();
    let mut calls = BTreeMap::new();
    for (name, value) in &interface.constants {
        if name.starts_with("IOC_") && name != "IOC_TYPE" {
            let taken = calls.insert(value, name);
            assert_eq!(taken, None, "{name} has the number of another call");
        }
    }
    assert!(calls.len() > 20, "{calls:?}");
}

#[test]
fn rust_places_members_as_the_list_does() {
    use dmaplane_uapi as abi;
    use std::mem::offset_of;
    let interface = Interface::read();
    let sizes = [
        ("Query", size_of::<abi::Query>()),
        ("BufferRevoke", size_of::<abi::BufferRevoke>()),
        ("MemoryQuery", size_of::<abi::MemoryQuery>()),
        ("ChannelCreate", size_of::<abi::ChannelCreate>()),
        ("Connect", size_of::<abi::Connect>()),
        ("EndpointQuery", size_of::<abi::EndpointQuery>()),
        ("RingHeader", size_of::<abi::RingHeader>()),
        ("Sqe", size_of::<abi::Sqe>()),
        ("Cqe", size_of::<abi::Cqe>()),
    ];
    for (name, size) in sizes {
        assert_eq!(interface.layouts[name].0, size, "{name}");
    }
    // The list's rule is rustc's, which the last members of three structures show.
    let lasts = [
        ("Sqe", "timeout_ns", offset_of!(abi::Sqe, timeout_ns)),
        ("Cqe", "reserved2", offset_of!(abi::Cqe, reserved2)),
        (
            "Connect",
            "window_low",
            offset_of!(abi::Connect, window_low),
        ),
    ];
    for (name, last, offset) in lasts {
        let found = interface.members.iter().find(|(of, ..)| of == name);
        let members = &found.expect(name).2;
        assert_eq!(members.last(), Some(&(last.to_owned(), offset)), "{name}");
    }
}

#[test]
fn the_c_header_has_every_member_where_rust_has_it() {
    let interface = Interface::read();
    let header = folder().join("include/dmaplane.h");
    let header = header.display();
    let mut source = format!("#include <stdint.h>\n#include \"{header}\"\n#include <stddef.h>\n");
    let mut check = |condition: String, what: &str| {
        writeln!(source, "_Static_assert({condition}, \"{what}\");").expect("text");
    };
    for (name, size, members) in &interface.members {
        let c = c_name(name);
        check(format!("sizeof(struct {c}) == {size}"), &c);
        for (member, offset) in members {
            let condition = format!("offsetof(struct {c}, {member}) == {offset}");
            check(condition, &format!("{c}.{member}"));
        }
    }
    for (name, value) in &interface.constants {
        check(format!("DMAPLANE_{name} == {value}ull"), name);
    }
    let name = format!("dmaplane-frozen-{}.c", std::process::id());
    let file = std::env::temp_dir().join(name);
    fs::write(&file, source).expect("the C source");
    let said = compile(&file);
    fs::remove_file(&file).expect("removed");
    assert_eq!(said, "", "the C header differs");
}

fn compile(file: &Path) -> String {
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"];
    let output = Command::new(compiler).args(flags).arg(file).output();
    String::from_utf8_lossy(&output.expect("a C compiler").stderr).into_owned()
}

/// `GrantCreate` is `dmaplane_grant_create` in C, and `SockAddr` one word.
fn c_name(name: &str) -> String {
    if name == "SockAddr" {
        return "dmaplane_sockaddr".to_owned();
    }
    let mut c = "dmaplane".to_owned();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            c.push('_');
        }
        c.push(letter.to_ascii_lowercase());
    }
    c
}
