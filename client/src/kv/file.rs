// SPDX-License-Identifier: MIT OR Apache-2.0
//! A KV cache on disk: a safetensors file that other programs can read, too.
//!
//! It has two tensors for each layer, `layers.N.k` and `layers.N.v`, each with shape
//! `[heads, tokens, head_dim]`, and in its metadata, under `dmaplane.kv`, the [`Manifest`] as JSON.
//! The files written here keep the tensors in the manifest's order, so that the data section of the
//! file is byte for byte what a transfer moves. Files that keep another order are read as well.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};

use super::{Digest, Error, Geometry, Manifest, Result, TensorView};

/// The key of the manifest in the metadata of the file.
pub const METADATA_KEY: &str = "dmaplane.kv";

/// Writes a cache layer by layer, as prefill produces it.
///
/// The file appears under its name when [`Writer::finish`] has written the digests; until then it
/// has `.part` appended, and it is removed when the writer is dropped unfinished.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    part: PathBuf,
    file: File,
    manifest: Manifest,
    header_len: usize,
    written: Vec<bool>,
    finished: bool,
}

impl Writer {
    /// Starts a file; its size and layout are known from the geometry.
    ///
    /// # Errors
    /// [`Error::ManifestInvalid`] for an impossible geometry, [`Error::Io`].
    pub fn create(path: &Path, geometry: Geometry) -> Result<Self> {
        let manifest = Manifest::new(geometry)?;
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        // The digests have a fixed width in JSON, so the final header is exactly as long.
        let header_len = header(&manifest, path)?.len();
        let file = File::create(&part).map_err(io("create", &part))?;
        file.set_len(header_len as u64 + manifest.bytes())
            .map_err(io("extend", &part))?;
        let written = vec![false; manifest.layers().len()];
        let path = path.to_owned();
        Ok(Self {
            path,
            part,
            file,
            manifest,
            header_len,
            written,
            finished: false,
        })
    }

    /// Writes the keys and the values of one layer; layers may come in any order.
    ///
    /// # Errors
    /// [`Error::View`] when the tensors have another type or shape than the geometry says or there
    /// is no such layer, [`Error::Io`].
    pub fn put_layer(&mut self, layer: usize, k: &TensorView, v: &TensorView) -> Result<()> {
        let geometry = self.manifest.geometry();
        let shape = geometry.shape().map(|n| n as usize);
        for tensor in [k, v] {
            if tensor.shape() != shape || tensor.dtype() != geometry.dtype {
                return Err(Error::View(format!(
                    "a {} tensor of shape {:?} where {} and {shape:?} were announced",
                    tensor.dtype(),
                    tensor.shape(),
                    geometry.dtype,
                )));
            }
        }
        let Some(region) = self.manifest.layers().get(layer) else {
            return Err(Error::View(format!("no layer {layer} was announced")));
        };
        let mut bytes = Vec::with_capacity(region.bytes() as usize);
        k.append_to(&mut bytes);
        let keys = bytes.len();
        v.append_to(&mut bytes);
        let at = self.header_len as u64 + region.offset();
        self.file
            .seek(SeekFrom::Start(at))
            .map_err(io("seek in", &self.part))?;
        self.file
            .write_all(&bytes)
            .map_err(io("write", &self.part))?;
        self.manifest
            .set_layer_digest(layer, Digest::of_layer(&bytes[..keys], &bytes[keys..]));
        self.written[layer] = true;
        Ok(())
    }

    /// Writes the header and gives the file its name.
    ///
    /// # Errors
    /// [`Error::File`] when a layer is missing, [`Error::Io`].
    pub fn finish(mut self) -> Result<Manifest> {
        if let Some(layer) = self.written.iter().position(|written| !written) {
            return Err(not_ours(
                &self.path,
                format!("layer {layer} has not been written"),
            ));
        }
        let header = header(&self.manifest, &self.path)?;
        self.file.rewind().map_err(io("seek in", &self.part))?;
        self.file
            .write_all(&header)
            .map_err(io("write", &self.part))?;
        std::fs::rename(&self.part, &self.path).map_err(io("rename to", &self.path))?;
        self.finished = true;
        Ok(self.manifest.clone())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // A leftover is only untidy, and there is nobody to tell.
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

/// A cache that has been read from disk.
#[derive(Debug)]
pub struct KvFile {
    manifest: Manifest,
    data: Vec<u8>,
}

impl KvFile {
    /// Reads a file, whichever order its tensors have, and checks every layer against its digest.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::File`] when it is not such a file, [`Error::DigestMismatch`], or an
    /// error of [`Manifest::from_json`].
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(io("read", path))?;
        let not_tensors = |error| not_ours(path, format!("{error}"));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(not_tensors)?;
        let json = metadata
            .metadata()
            .as_ref()
            .and_then(|map| map.get(METADATA_KEY));
        let Some(json) = json else {
            return Err(not_ours(
                path,
                format!("its metadata has no `{METADATA_KEY}`"),
            ));
        };
        let mut manifest = Manifest::from_json(json.as_bytes())?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(not_tensors)?;
        let (dtype, shape) = (manifest.geometry().dtype, manifest.geometry().shape());
        let mut data = Vec::with_capacity(tensors.iter().map(|(_, t)| t.data().len()).sum());
        let mut digests = Vec::new();
        for layer in 0..manifest.layers().len() {
            let mut halves = [0; 2];
            for (half, part) in halves.iter_mut().zip(["k", "v"]) {
                let name = name(layer, part);
                let tensor = tensors.tensor(&name).map_err(|_| {
                    not_ours(
                        path,
                        format!("the manifest announces `{name}`, which is missing"),
                    )
                })?;
                let fits = tensor.shape().iter().map(|n| *n as u64).eq(shape);
                if !fits || tensor.dtype() != dtype.to_safetensors() {
                    let cause = format!("`{name}` has not the type and shape of the manifest");
                    return Err(not_ours(path, cause));
                }
                *half = data.len();
                data.extend_from_slice(tensor.data());
            }
            digests.push(Digest::of_layer(
                &data[halves[0]..halves[1]],
                &data[halves[1]..],
            ));
        }
        for (layer, found) in digests.into_iter().enumerate() {
            let expected = manifest.layers()[layer].digest;
            if found != expected {
                let what = format!("layer {layer} of {}", path.display());
                return Err(Error::DigestMismatch {
                    what,
                    found,
                    expected,
                });
            }
        }
        // Tensors on disk know no strides: whatever order the sender used, this one is dense.
        manifest = manifest.into_dense()?;
        Ok(Self { manifest, data })
    }

    /// What the cache is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The data in the manifest's layout.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The keys and the values of a layer.
    ///
    /// # Errors
    /// [`Error::View`] when there is no such layer.
    pub fn layer(&self, layer: usize) -> Result<(TensorView<'_>, TensorView<'_>)> {
        if layer >= self.manifest.layers().len() {
            return Err(Error::View(format!("the cache has no layer {layer}")));
        }
        self.manifest.layer_views(layer, &self.data)
    }
}

/// Writes a whole cache whose data lie in the manifest's layout, whatever its strides.
///
/// # Errors
/// As [`Writer`]; [`Error::View`] when `data` is too short.
pub fn write(path: &Path, manifest: &Manifest, data: &[u8]) -> Result<Manifest> {
    let mut writer = Writer::create(path, manifest.geometry().clone())?;
    for layer in 0..manifest.layers().len() {
        let (k, v) = manifest.layer_views(layer, data)?;
        writer.put_layer(layer, &k, &v)?;
    }
    writer.finish()
}

fn name(layer: usize, part: &str) -> String {
    format!("layers.{layer}.{part}")
}

/// The length and the JSON of a safetensors file, padded so that the data are aligned.
fn header(manifest: &Manifest, path: &Path) -> Result<Vec<u8>> {
    let json = String::from_utf8(manifest.to_json()?)
        .map_err(|_| Error::ManifestInvalid("not UTF-8".into()))?;
    let dtype = manifest.geometry().dtype.to_safetensors();
    let shape = manifest.geometry().shape().map(|n| n as usize).to_vec();
    let mut tensors = Vec::new();
    for (n, layer) in manifest.layers().iter().enumerate() {
        for (part, region) in [("k", &layer.k), ("v", &layer.v)] {
            let start = region.offset as usize;
            let data_offsets = (start, start + region.bytes as usize);
            tensors.push((
                name(n, part),
                TensorInfo {
                    dtype,
                    shape: shape.clone(),
                    data_offsets,
                },
            ));
        }
    }
    // One key only: the map's order would make equal caches different files.
    let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
    let cause = |error: &dyn std::fmt::Display| not_ours(path, error.to_string());
    let metadata = Metadata::new(Some(metadata), tensors).map_err(|error| cause(&error))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|error| cause(&error))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

fn not_ours(path: &Path, cause: String) -> Error {
    Error::File {
        path: path.to_owned(),
        cause,
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Io {
        action,
        path,
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::DType;

    fn sample() -> (Manifest, Vec<u8>) {
        let geometry = Geometry {
            model: "test".into(),
            dtype: DType::F32,
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
            tensors.push((name(n, "k"), k.to_safetensors().unwrap()));
            tensors.push((name(n, "v"), v.to_safetensors().unwrap()));
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
        assert!(
            matches!(&error, Error::DigestMismatch { what, .. } if what.starts_with("layer 10"))
        );
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
}
