// SPDX-License-Identifier: MIT OR Apache-2.0
//! A KV cache on disk: a safetensors file that other programs can read, too.
//!
//! It has two tensors for each layer, `layers.N.k` and `layers.N.v`, or one, `layers.N.latent`, each with shape
//! `[heads, tokens, head_dim]`, and in its metadata, under `dmaplane.kv`, the [`Manifest`] as JSON. All its other tensors
//! are [auxiliary] and stay with it, whether the manifest announces them or not.
//! The files written here keep the tensors in the manifest's order, so that the data section of the
//! file is byte for byte what a transfer moves. Files that keep another order are read as well.

use std::collections::{BTreeSet, HashMap};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};

use super::auxiliary::{self, Auxiliary};
use super::{Digest, Error, Geometry, Manifest, Result, TensorView};
use crate::atomic_file::AtomicFile;
use dmaplane::terminal::escape;

/// The key of the manifest in the metadata of the file.
pub const METADATA_KEY: &str = "dmaplane.kv";

/// Writes a cache layer by layer, as prefill produces it.
///
/// The file appears under its name, and on the disk, when [`Writer::finish`] has written the digests; a writer that is
/// dropped unfinished leaves nothing.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: AtomicFile,
    manifest: Manifest,
    header_len: usize,
    written: Vec<bool>,
}

impl Writer {
    /// Starts a file; its size and layout are known from the geometry.
    ///
    /// # Errors
    /// [`Error::ManifestInvalid`] for an impossible geometry, [`Error::Io`].
    pub fn create(path: &Path, geometry: Geometry) -> Result<Self> {
        Self::create_with(path, geometry, Vec::new())
    }

    /// As [`Writer::create`], with auxiliary tensors, whose digests are computed when they are put.
    ///
    /// # Errors
    /// As [`Writer::create`].
    pub fn create_with(path: &Path, geometry: Geometry, auxiliary: Vec<Auxiliary>) -> Result<Self> {
        let manifest = Manifest::new(geometry)?.with_auxiliary(auxiliary)?;
        // The digests have a fixed width in JSON, so the final header is exactly as long.
        let header_len = header(&manifest, path)?.len();
        let mut file = AtomicFile::create(path)?;
        file.file()
            .set_len(header_len as u64 + manifest.bytes())
            .map_err(io("extend", path))?;
        let written = vec![false; manifest.layers().len() + manifest.auxiliary().len()];
        let path = path.to_owned();
        Ok(Self {
            path,
            file,
            manifest,
            header_len,
            written,
        })
    }

    /// Writes the keys and the values of one layer; layers may come in any order.
    ///
    /// # Errors
    /// [`Error::View`] when the tensors have another type or shape than the geometry says or there
    /// is no such layer, [`Error::Io`].
    pub fn put_layer(&mut self, layer: usize, k: &TensorView, v: &TensorView) -> Result<()> {
        self.put_tensors(layer, &[k.clone(), v.clone()])
    }

    /// Writes the tensors of one layer, as many as the geometry's layout has.
    ///
    /// # Errors
    /// As [`Writer::put_layer`].
    pub fn put_tensors(&mut self, layer: usize, tensors: &[TensorView]) -> Result<()> {
        let geometry = self.manifest.geometry();
        let shape = geometry.shape().map(|n| n as usize);
        for tensor in tensors {
            if tensor.shape() != shape || tensor.dtype() != geometry.dtype {
                return Err(Error::View(format!(
                    "a {} tensor of shape {:?} where {} and {shape:?} were announced",
                    tensor.dtype(),
                    tensor.shape(),
                    geometry.dtype,
                )));
            }
        }
        let wanted = geometry.layout.tensors();
        if tensors.len() as u64 != wanted {
            let found = tensors.len();
            return Err(Error::View(format!(
                "{found} tensors for a layer that has {wanted}"
            )));
        }
        let Some(region) = self.manifest.layers().get(layer) else {
            return Err(Error::View(format!("no layer {layer} was announced")));
        };
        let (mut bytes, at) = (Vec::with_capacity(region.bytes() as usize), region.offset());
        for tensor in tensors {
            tensor.append_to(&mut bytes);
        }
        self.put(self.header_len as u64 + at, &bytes)?;
        let digest = Digest::of_layer(&bytes, &[]);
        self.manifest.set_layer_digest(layer, digest);
        self.written[layer] = true;
        Ok(())
    }

    /// Writes an auxiliary tensor, by its place among those that the file was created with.
    ///
    /// # Errors
    /// [`Error::View`] when there is no such tensor or it has another length, [`Error::Io`].
    pub fn put_auxiliary(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        let found = self.manifest.auxiliary_ranges().nth(index);
        let range = found.map(|(_, range)| range);
        let Some(range) = range.filter(|range| range.end - range.start == bytes.len() as u64)
        else {
            return Err(Error::View(format!(
                "no auxiliary tensor {index} of {} bytes was announced",
                bytes.len()
            )));
        };
        self.put(self.header_len as u64 + range.start, bytes)?;
        let digest = Digest::of_layer(bytes, &[]);
        self.manifest.set_auxiliary_digest(index, digest);
        let layers = self.manifest.layers().len();
        self.written[layers + index] = true;
        Ok(())
    }

    /// What has been written so far.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Writes bytes at their place.
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let file = self.file.file();
        let written = file
            .seek(SeekFrom::Start(at))
            .and_then(|_| file.write_all(bytes));
        written.map_err(io("write", &self.path))
    }

    /// Writes the header and gives the file its name, once all of it is on the disk.
    ///
    /// # Errors
    /// [`Error::File`] when a layer is missing, [`Error::Io`].
    pub fn finish(mut self) -> Result<Manifest> {
        if let Some(missing) = self.written.iter().position(|written| !written) {
            let layers = self.manifest.layers().len();
            let what = match missing.checked_sub(layers) {
                None => format!("layer {missing}"),
                Some(index) => format!("auxiliary tensor {index}"),
            };
            return Err(not_ours(&self.path, format!("{what} has not been written")));
        }
        let header = header(&self.manifest, &self.path)?;
        self.put(0, &header)?;
        self.file.publish()?;
        Ok(self.manifest)
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
        let bytes = read_whole(path)?;
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
        let manifest = Manifest::from_json(json.as_bytes())?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(not_tensors)?;
        let mut data = Vec::with_capacity(tensors.iter().map(|(_, t)| t.data().len()).sum());
        let mut names = BTreeSet::new();
        for layer in 0..manifest.layers().len() {
            let start = data.len();
            for name in auxiliary::layer_names(manifest.geometry(), layer) {
                let tensor = take(path, &tensors, &manifest, &name)?;
                data.extend_from_slice(tensor.data());
                names.insert(name);
            }
            let expected = manifest.layers()[layer].digest;
            check(path, &format!("layer {layer}"), &data[start..], expected)?;
        }
        let others = others(path, &tensors, &manifest, &names)?;
        for tensor in &others {
            let found = tensors.tensor(&tensor.name).map_err(not_tensors)?;
            data.extend_from_slice(found.data());
        }
        // Tensors on disk have no strides: whatever order the sender used, this one is dense.
        let manifest = manifest.into_dense()?.with_auxiliary(others)?;
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
    /// [`Error::View`] when there is no such layer, or the layers have latent tensors.
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
    prepare(path, manifest, data)?.finish()
}

/// As [`write()`], up to the point where the file appears, so that its digests can be checked first.
///
/// # Errors
/// As [`write()`].
pub fn prepare(path: &Path, manifest: &Manifest, data: &[u8]) -> Result<Writer> {
    let (geometry, auxiliary) = (manifest.geometry().clone(), manifest.auxiliary().to_vec());
    let mut writer = Writer::create_with(path, geometry, auxiliary)?;
    for layer in 0..manifest.layers().len() {
        writer.put_tensors(layer, &manifest.layer_tensors(layer, data)?)?;
    }
    for (index, (_, range)) in manifest.auxiliary_ranges().enumerate() {
        let bytes = data.get(range.start as usize..range.end as usize);
        let short = || Error::View(format!("only {} bytes of data", data.len()));
        writer.put_auxiliary(index, bytes.ok_or_else(short)?)?;
    }
    Ok(writer)
}

/// The tensor of a layer, as the manifest announces it.
fn take<'a>(
    path: &Path,
    tensors: &SafeTensors<'a>,
    manifest: &Manifest,
    name: &str,
) -> Result<safetensors::tensor::TensorView<'a>> {
    let tensor = tensors.tensor(name).map_err(|_| {
        let cause = format!("the manifest announces `{name}`, which is missing");
        not_ours(path, cause)
    })?;
    let (dtype, shape) = (manifest.geometry().dtype, manifest.geometry().shape());
    let fits = tensor.shape().iter().map(|n| *n as u64).eq(shape);
    if !fits || tensor.dtype() != dtype.to_safetensors() {
        let cause = format!("`{name}` does not have the type and shape of the manifest");
        return Err(not_ours(path, cause));
    }
    Ok(tensor)
}

/// The tensors that belong to no layer. Those that the manifest announces are compared with it; others are taken as
/// they are, since whoever put them there does not want to lose them.
fn others(
    path: &Path,
    tensors: &SafeTensors<'_>,
    manifest: &Manifest,
    of_layers: &BTreeSet<String>,
) -> Result<Vec<Auxiliary>> {
    let mut others: Vec<_> = tensors
        .iter()
        .filter(|(name, _)| !of_layers.contains(*name))
        .map(|(name, tensor)| Auxiliary {
            name: name.to_owned(),
            dtype: tensor.dtype(),
            shape: tensor.shape().iter().map(|n| *n as u64).collect(),
            digest: Digest::of_layer(tensor.data(), &[]),
        })
        .collect();
    // Large elements first, so that every element is aligned to its size.
    others.sort_by(|a, b| (b.dtype, &a.name).cmp(&(a.dtype, &b.name)));
    for announced in manifest.auxiliary() {
        let name = escape(&announced.name);
        let Some(found) = others.iter().find(|found| found.name == announced.name) else {
            let cause = format!("the manifest announces `{name}`, which is missing");
            return Err(not_ours(path, cause));
        };
        if (found.dtype, &found.shape) != (announced.dtype, &announced.shape) {
            let cause = format!("`{name}` does not have the type and shape of the manifest");
            return Err(not_ours(path, cause));
        }
        if found.digest != announced.digest {
            return Err(Error::DigestMismatch {
                what: format!("the tensor `{name}` of {}", path.display()),
                found: found.digest,
                expected: announced.digest,
            });
        }
    }
    Ok(others)
}

/// Compares bytes of a file with their digest.
fn check(path: &Path, what: &str, bytes: &[u8], expected: Digest) -> Result<()> {
    let found = Digest::of_layer(bytes, &[]);
    if found == expected {
        return Ok(());
    }
    Err(Error::DigestMismatch {
        what: format!("{what} of {}", path.display()),
        found,
        expected,
    })
}

/// Reads a whole file, and refuses one that changes meanwhile.
fn read_whole(path: &Path) -> Result<Vec<u8>> {
    let before = std::fs::metadata(path).map_err(io("open", path))?;
    if !before.is_file() {
        // A device or a pipe may have no end, or block whoever opens it.
        return Err(not_ours(path, "it is not a regular file".into()));
    }
    let file = std::fs::File::open(path).map_err(io("open", path))?;
    let version =
        |found: &std::fs::Metadata| (found.ino(), found.len(), found.mtime(), found.mtime_nsec());
    let mut bytes = Vec::with_capacity(before.len() as usize);
    (&file)
        .take(before.len().saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(io("read", path))?;
    let after = file.metadata().map_err(io("read", path))?;
    if version(&after) != version(&before) || bytes.len() as u64 != before.len() {
        return Err(not_ours(path, "it changed while it was read".into()));
    }
    Ok(bytes)
}

/// The length and the JSON of a safetensors file, padded so that the data are aligned.
fn header(manifest: &Manifest, path: &Path) -> Result<Vec<u8>> {
    let json = String::from_utf8(manifest.to_json()?)
        .map_err(|_| Error::ManifestInvalid("not UTF-8".into()))?;
    let dtype = manifest.geometry().dtype.to_safetensors();
    let shape: Vec<usize> = manifest.geometry().shape().map(|n| n as usize).to_vec();
    let mut tensors = Vec::new();
    let info = |dtype, shape, start: u64, bytes: u64| TensorInfo {
        dtype,
        shape,
        data_offsets: (start as usize, (start + bytes) as usize),
    };
    for (n, layer) in manifest.layers().iter().enumerate() {
        let names = auxiliary::layer_names(manifest.geometry(), n);
        for (name, region) in names.zip(layer.regions()) {
            tensors.push((
                name,
                info(dtype, shape.clone(), region.offset, region.bytes),
            ));
        }
    }
    for (tensor, range) in manifest.auxiliary_ranges() {
        let shape = tensor.shape.iter().map(|n| *n as usize).collect();
        let bytes = range.end - range.start;
        tensors.push((
            tensor.name.clone(),
            info(tensor.dtype, shape, range.start, bytes),
        ));
    }
    // One key only: with several, the map's order would make different files of equal caches.
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
#[path = "file_tests.rs"]
mod tests;
