// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of files: they come back as they were written, with all of their tensors, and damage is found.

use super::*;
use crate::{DType, Layout};

fn sample() -> (Manifest, Vec<u8>) {
    let geometry = Geometry {
        model: "test".into(),
        dtype: DType::F32,
        layout: Layout::KeysAndValues,
        // More than ten, so that order by number and order by name differ.
        layers: 11,
        kv_heads: 2,
        head_dim: 3,
        seq_len: 5,
        chunk_size: 64,
    };
    let bytes = Manifest::new(geometry.clone()).unwrap().bytes();
    let data: Vec<u8> = (0..bytes).map(|n| (n * 31 % 253) as u8).collect();
    (Manifest::describe(geometry, &data).unwrap(), data)
}

#[test]
fn round_trips_and_is_reproducible() {
    let folder = tempfile::tempdir().unwrap();
    let (manifest, data) = sample();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    assert_eq!(write(&a, &manifest, &data).unwrap(), manifest);
    write(&b, &manifest, &data).unwrap();
    let file = KvFile::read(&a).unwrap();
    assert_eq!((file.manifest(), file.data()), (&manifest, &data[..]));
    let bytes = std::fs::read(&a).unwrap();
    assert!(
        bytes.ends_with(&data),
        "the data section is the transfer's layout"
    );
    assert_eq!(bytes, std::fs::read(&b).unwrap());
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        2,
        "no leftovers"
    );
}

#[test]
fn a_file_in_the_order_of_the_safetensors_library_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (manifest, data) = sample();
    let mut tensors = Vec::new();
    for n in 0..manifest.layers().len() {
        let (k, v) = manifest.layer_views(n, &data).unwrap();
        tensors.push((format!("layers.{n}.k"), k.to_safetensors().unwrap()));
        tensors.push((format!("layers.{n}.v"), v.to_safetensors().unwrap()));
    }
    let json = String::from_utf8(manifest.to_json().unwrap()).unwrap();
    let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
    let path = folder.path().join("sorted");
    safetensors::serialize_to_file(tensors, Some(metadata), &path).unwrap();
    assert!(!std::fs::read(&path).unwrap().ends_with(&data));
    assert_eq!(KvFile::read(&path).unwrap().data(), data);
}

#[test]
fn damage_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    let (manifest, data) = sample();
    write(&path, &manifest, &data).unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &bad).unwrap();
    let error = KvFile::read(&path).unwrap_err();
    assert!(matches!(&error, Error::DigestMismatch { what, .. } if what.starts_with("layer 10")));
    std::fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(matches!(KvFile::read(&path), Err(Error::File { .. })));
    std::fs::write(&path, b"junk").unwrap();
    assert!(matches!(KvFile::read(&path), Err(Error::File { .. })));
}

#[test]
fn an_unfinished_file_does_not_appear() {
    let folder = tempfile::tempdir().unwrap();
    let (manifest, data) = sample();
    let path = folder.path().join("kv");
    let mut writer = Writer::create(&path, manifest.geometry().clone()).unwrap();
    let (k, v) = manifest.layer_views(0, &data).unwrap();
    writer.put_layer(0, &k, &v).unwrap();
    assert!(writer.put_layer(11, &k, &v).is_err());
    assert!(writer.put_layer(1, &k.head(0).unwrap(), &v).is_err());
    let error = writer.finish().unwrap_err();
    assert!(
        error.to_string().contains("layer 1 has not been written"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A cache of quantised keys and values with their scales, and a state of another type.
fn quantised(layout: Layout) -> (Manifest, Vec<u8>) {
    let geometry = Geometry {
        dtype: DType::F8E4M3,
        layout,
        layers: 2,
        ..sample().0.geometry().clone()
    };
    let layers = Manifest::new(geometry.clone()).unwrap().bytes();
    let mut data: Vec<u8> = (0..layers).map(|n| (n * 31 % 253) as u8).collect();
    let manifest = Manifest::describe(geometry, &data).unwrap();
    let tensor = |name: &str, dtype, shape: &[u64], bytes: &[u8]| Auxiliary {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        digest: Digest::of_layer(bytes, &[]),
    };
    let (state, scales) = ([7; 48], [9; 8]);
    let auxiliary = vec![
        tensor(
            "layers.1.ssm_state",
            safetensors::Dtype::I64,
            &[2, 3],
            &state,
        ),
        tensor("layers.0.k_scale", safetensors::Dtype::F32, &[2], &scales),
        tensor("empty", safetensors::Dtype::U8, &[0], &[]),
    ];
    data.extend(state);
    data.extend(scales);
    (manifest.with_auxiliary(auxiliary).unwrap(), data)
}

#[test]
fn all_tensors_stay_with_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    for layout in [Layout::KeysAndValues, Layout::Latent] {
        let (manifest, data) = quantised(layout);
        write(&path, &manifest, &data).unwrap();
        let file = KvFile::read(&path).unwrap();
        assert_eq!((file.manifest(), file.data()), (&manifest, &data[..]));
        assert_eq!(file.layer(1).is_ok(), layout == Layout::KeysAndValues);
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.ends_with(&data));
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let expected = 2 * layout.parts().len() + 3;
        assert_eq!(tensors.len(), expected);
        let state = tensors.tensor("layers.1.ssm_state").unwrap();
        assert_eq!((state.shape(), state.data()), (&[2, 3][..], &[7; 48][..]));
    }
}

#[test]
fn tensors_that_the_manifest_does_not_announce_are_taken_too() {
    let folder = tempfile::tempdir().unwrap();
    let (announced, again) = (folder.path().join("a"), folder.path().join("b"));
    let (manifest, data) = quantised(Layout::KeysAndValues);
    let tensors: Vec<_> = (0..2)
        .flat_map(|n| {
            let (k, v) = manifest.layer_views(n, &data).unwrap();
            [(n, "k", k), (n, "v", v)]
        })
        .map(|(n, part, view)| (format!("layers.{n}.{part}"), view.to_safetensors().unwrap()))
        .chain(manifest.auxiliary_ranges().map(|(tensor, range)| {
            let shape = tensor.shape.iter().map(|n| *n as usize).collect();
            let bytes = &data[range.start as usize..range.end as usize];
            let view = safetensors::tensor::TensorView::new(tensor.dtype, shape, bytes);
            (tensor.name.clone(), view.unwrap())
        }))
        .collect();
    let layers = &data[..manifest.layer_bytes() as usize];
    let plain = Manifest::describe(manifest.geometry().clone(), layers).unwrap();
    for manifest in [&plain, &manifest] {
        let json = String::from_utf8(manifest.to_json().unwrap()).unwrap();
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
        safetensors::serialize_to_file(tensors.clone(), Some(metadata), &announced).unwrap();
        let file = KvFile::read(&announced).unwrap();
        assert_eq!(
            (file.manifest().bytes(), file.data()),
            (data.len() as u64, &data[..])
        );
        write(&again, file.manifest(), file.data()).unwrap();
        assert_eq!(KvFile::read(&again).unwrap().data(), data);
    }
    // What is announced must be there, with its bytes.
    let json = String::from_utf8(manifest.to_json().unwrap()).unwrap();
    let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
    let fewer = tensors[..tensors.len() - 2].to_vec();
    safetensors::serialize_to_file(fewer, Some(metadata), &announced).unwrap();
    let error = KvFile::read(&announced).unwrap_err().to_string();
    assert!(error.contains("layers.0.k_scale"), "{error}");
    write(&again, &manifest, &data).unwrap();
    let mut bytes = std::fs::read(&again).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&again, bytes).unwrap();
    let error = KvFile::read(&again).unwrap_err().to_string();
    assert!(error.contains("layers.0.k_scale"), "{error}");
}

#[test]
fn only_a_regular_file_is_read() {
    for path in ["/dev/zero", "/"] {
        let error = KvFile::read(Path::new(path)).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}
