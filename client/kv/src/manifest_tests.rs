// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the manifest: what is refused, and that nothing hostile gets through.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn geometry() -> Geometry {
    Geometry {
        model: "test".into(),
        dtype: DType::F16,
        layout: Layout::KeysAndValues,
        layers: 3,
        kv_heads: 2,
        head_dim: 4,
        seq_len: 5,
        chunk_size: 64,
    }
}

fn manifest() -> (Manifest, Vec<u8>) {
    let data: Vec<u8> = (0..3 * 2 * 2 * 4 * 5 * 2)
        .map(|n| (n * 7 % 251) as u8)
        .collect();
    (Manifest::describe(geometry(), &data).unwrap(), data)
}

fn refused(change: impl FnOnce(&mut Value)) -> Error {
    let mut value = serde_json::to_value(manifest().0).unwrap();
    change(&mut value);
    Manifest::from_json(value.to_string().as_bytes()).expect_err("a broken manifest was accepted")
}

#[test]
fn json_round_trips() {
    let (manifest, data) = manifest();
    let read = Manifest::from_json(&manifest.to_json().unwrap()).unwrap();
    assert_eq!(read, manifest);
    for layer in 0..3 {
        read.verify_layer(layer, &data).unwrap();
    }
}

#[test]
fn a_changed_byte_is_found_in_its_layer() {
    let (manifest, mut data) = manifest();
    let in_layer_1 = manifest.layers()[1].v.as_ref().unwrap().offset as usize;
    data[in_layer_1] ^= 1;
    manifest.verify_layer(0, &data).unwrap();
    manifest.verify_layer(2, &data).unwrap();
    let error = manifest.verify_layer(1, &data).unwrap_err();
    assert!(matches!(&error, Error::DigestMismatch { what, .. } if what == "layer 1"));
}

#[test]
fn contradictions_are_refused() {
    let changes: [(&str, Value); 14] = [
        ("/layers", json!(4)),
        ("/layers", json!(0)),
        ("/layers", json!(4095)),
        ("/kv_heads", json!(0)),
        ("/kv_heads", json!(u32::MAX)),
        ("/seq_len", json!(u64::MAX)),
        ("/chunk_size", json!(0)),
        ("/chunk_size", json!(192)),
        ("/bytes", json!(481)),
        ("/digest", json!("0".repeat(64))),
        ("/regions/0/k/offset", json!(u64::MAX)),
        ("/regions/1/v/bytes", json!(0)),
        ("/regions/2/k/shape/1", json!(6)),
        ("/model", json!("line\nbreak")),
    ];
    for (pointer, value) in changes {
        let error = refused(|m| *m.pointer_mut(pointer).unwrap() = value.clone());
        assert!(
            matches!(error, Error::ManifestInvalid(_)),
            "{pointer} = {value}: {error}"
        );
    }
}

#[test]
fn overlap_is_refused() {
    let error = refused(|m| {
        let first = m.pointer("/regions/0").unwrap().clone();
        *m.pointer_mut("/regions/1").unwrap() = first;
        let digests: Vec<Digest> = (0..3)
            .map(|n| serde_json::from_value(m["regions"][n]["digest"].clone()).unwrap())
            .collect();
        m["digest"] = json!(Digest::of_whole(digests));
    });
    assert!(error.to_string().contains("overlap"), "{error}");
}

#[test]
fn strides_may_permute_the_axes_but_not_lie() {
    // Tokens first: a head's neighbour is 4 elements on, a token's 8.
    let mut value = serde_json::to_value(manifest().0).unwrap();
    value["regions"][0]["k"]["strides"] = json!([4, 8, 1]);
    Manifest::from_json(value.to_string().as_bytes()).unwrap();
    for strides in [[0, 0, 0], [20, 4, 2], [4, 4, 1], [u64::MAX, 4, 1]] {
        let error = refused(|m| m["regions"][0]["k"]["strides"] = json!(strides));
        assert!(error.to_string().contains("strides"), "{error}");
    }
}

#[test]
fn other_versions_unknown_fields_and_length_are_refused() {
    assert!(matches!(
        refused(|m| m["version"] = json!(2)),
        Error::ManifestVersion {
            found: 2,
            expected: 1
        }
    ));
    assert!(matches!(
        refused(|m| m["extra"] = json!(1)),
        Error::ManifestSyntax(_)
    ));
    let long = vec![b' '; MAX_JSON + 1];
    assert!(matches!(
        Manifest::from_json(&long),
        Err(Error::ManifestTooLong { .. })
    ));
}

#[test]
fn a_layer_has_at_most_a_million_chunks() {
    let big = Geometry {
        seq_len: 1 << 24,
        chunk_size: 64,
        ..geometry()
    };
    let error = Manifest::new(big.clone()).unwrap_err();
    assert!(error.to_string().contains("larger chunk size"), "{error}");
    Manifest::new(Geometry {
        chunk_size: 1 << 20,
        ..big
    })
    .unwrap();
}

proptest! {
    #[test]
    fn junk_never_panics(junk in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Manifest::from_json(&junk);
    }

    #[test]
    fn a_damaged_manifest_is_refused_or_still_consistent(
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut json = manifest().0.to_json().unwrap();
        let at = at.index(json.len());
        json[at] = byte;
        if let Ok(read) = Manifest::from_json(&json) {
            let end = read.layers().iter().map(|l| l.offset() + l.bytes()).max();
            prop_assert_eq!(end, Some(read.bytes()));
        }
    }
}
