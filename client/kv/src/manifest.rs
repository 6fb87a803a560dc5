// SPDX-License-Identifier: MIT OR Apache-2.0
//! The description of a KV cache that precedes it on the wire and accompanies it on disk.
//!
//! A [`Manifest`] can only be made from a [`Geometry`] or by reading and validating JSON, so code
//! that holds one may rely on it: sizes do not overflow, regions tile the data exactly, every chunk
//! has an immediate that names it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::auxiliary::{self, Auxiliary};
use super::digest::Hasher;
use super::geometry::{check_auxiliary, invalid, tensor_bytes};
use super::manifest_wire::Wire;
use super::{DType, Digest, Error, Result, TensorView, view};

pub use super::geometry::{CHUNK_SIZE, Geometry, Layout, MAX_BYTES, MAX_DIMENSION};

/// The version of the format written and read here.
pub const VERSION: u32 = 1;
/// Bytes that a manifest's JSON can have at most: room for all layers and auxiliary tensors that there can be, and what the
/// driver moves in one operation. Also the size of the buffer a receiver grants.
pub const MAX_JSON: usize = 4 << 20;
/// Where one tensor is, within the data of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Bytes from the start of the data.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Heads, tokens, elements of a head.
    pub shape: [u64; 3],
    /// Distance of neighbours along each axis, in elements.
    pub strides: [u64; 3],
}

/// One layer of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The keys; in a cache of latent tensors, the only one.
    pub k: Region,
    /// The values; they follow the keys directly. None in a cache of latent tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<Region>,
    /// SHA-256 of the keys' bytes followed by the values'.
    pub digest: Digest,
}

impl Layer {
    /// Bytes from the start of the data.
    pub fn offset(&self) -> u64 {
        self.k.offset
    }

    /// Length in bytes, keys and values.
    pub fn bytes(&self) -> u64 {
        self.regions().map(|region| region.bytes).sum()
    }

    /// Its tensors in order.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        std::iter::once(&self.k).chain(&self.v)
    }
}

/// A valid description of a KV cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Manifest {
    pub(super) geometry: Geometry,
    pub(super) bytes: u64,
    pub(super) digest: Digest,
    pub(super) layers: Vec<Layer>,
    pub(super) auxiliary: Vec<Auxiliary>,
}

impl Manifest {
    /// Describes a cache whose tensors lie densely one behind the other: K of layer 0, V of layer
    /// 0, K of layer 1 and so on, each with shape `[heads, tokens, head_dim]` in row-major order.
    ///
    /// The digests are [`Digest::ZERO`] until [`Manifest::set_layer_digest`] has set them.
    ///
    /// # Errors
    /// [`Error::ManifestInvalid`] when a figure is zero or beyond its limit.
    pub fn new(geometry: Geometry) -> Result<Self> {
        let tensor = tensor_bytes(&geometry)?;
        let shape = geometry.shape();
        let strides = view::dense_strides(shape);
        let region = |index: u64| Region {
            offset: index * tensor,
            bytes: tensor,
            shape,
            strides,
        };
        let each = geometry.layout.tensors();
        let layers = (0..u64::from(geometry.layers))
            .map(|n| Layer {
                k: region(each * n),
                v: (each == 2).then(|| region(each * n + 1)),
                digest: Digest::ZERO,
            })
            .collect();
        let bytes = tensor * each * u64::from(geometry.layers);
        Ok(Self {
            geometry,
            bytes,
            digest: Digest::ZERO,
            layers,
            auxiliary: Vec::new(),
        })
    }

    /// Describes `data`, whose tensors lie as [`Manifest::new`] says, digests included.
    ///
    /// # Errors
    /// As [`Manifest::new`]; also when `data` has another length than the geometry says.
    pub fn describe(geometry: Geometry, data: &[u8]) -> Result<Self> {
        let mut manifest = Self::new(geometry)?;
        if data.len() as u64 != manifest.bytes {
            return invalid(format!(
                "{} bytes instead of {}",
                data.len(),
                manifest.bytes
            ));
        }
        for n in 0..manifest.layers.len() {
            let digest = manifest.layer_digest(n, data);
            manifest.set_layer_digest(n, digest);
        }
        Ok(manifest)
    }

    /// Reads and validates a manifest that came from elsewhere.
    ///
    /// # Errors
    /// [`Error::ManifestTooLong`], [`Error::ManifestSyntax`], [`Error::ManifestVersion`] or
    /// [`Error::ManifestInvalid`]; nothing is allocated in proportion to figures in the manifest.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        if json.len() > MAX_JSON {
            return Err(Error::ManifestTooLong {
                bytes: json.len(),
                limit: MAX_JSON,
            });
        }
        let wire: Wire = serde_json::from_slice(json).map_err(Error::ManifestSyntax)?;
        wire.try_into()
    }

    /// The JSON form.
    ///
    /// # Errors
    /// [`Error::ManifestTooLong`] when a receiver would refuse its length.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(self).map_err(Error::ManifestSyntax)?;
        if json.len() > MAX_JSON {
            return Err(Error::ManifestTooLong {
                bytes: json.len(),
                limit: MAX_JSON,
            });
        }
        Ok(json)
    }

    /// The figures that determine the layout.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The layers in order.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The tensors beside those of the layers, in order; they follow the layers in the data.
    pub fn auxiliary(&self) -> &[Auxiliary] {
        &self.auxiliary
    }

    /// Bytes of the layers, behind which the auxiliary tensors lie.
    pub fn layer_bytes(&self) -> u64 {
        self.layers.iter().map(Layer::bytes).sum()
    }

    /// Where each auxiliary tensor is, within the data of the cache.
    pub fn auxiliary_ranges(&self) -> impl Iterator<Item = (&Auxiliary, Range<u64>)> {
        let mut next = self.layer_bytes();
        self.auxiliary.iter().map(move |tensor| {
            // Their sum was found to be no more than the limit.
            let start = next;
            next += tensor.bytes().unwrap_or(0);
            (tensor, start..next)
        })
    }

    /// The same cache with these tensors beside those of the layers.
    ///
    /// # Errors
    /// [`Error::ManifestInvalid`] when one of them cannot be carried.
    pub fn with_auxiliary(mut self, tensors: Vec<Auxiliary>) -> Result<Self> {
        let total = auxiliary::total_bytes(&self.geometry, &tensors)?;
        self.auxiliary = tensors;
        self.bytes = self.layer_bytes() + total;
        check_auxiliary(&self.geometry, self.layer_bytes(), total)?;
        self.update_digest();
        Ok(self)
    }

    /// Bytes of the whole cache.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest of the whole cache: SHA-256 over the layers' digests and those of the auxiliary tensors.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The same cache, to be cut into chunks of another size.
    ///
    /// # Errors
    /// [`Error::ManifestInvalid`] when the size is not a valid one for this cache.
    pub fn with_chunk_size(mut self, chunk_size: u64) -> Result<Self> {
        self.geometry.chunk_size = chunk_size;
        tensor_bytes(&self.geometry)?;
        let layers = self.layer_bytes();
        check_auxiliary(&self.geometry, layers, self.bytes - layers)?;
        Ok(self)
    }

    /// The same cache with its tensors in the order and with the strides of [`Manifest::new`].
    ///
    /// The digests are kept, so the caller has the data in that order already.
    ///
    /// # Errors
    /// None in practice: the geometry has been validated.
    pub fn into_dense(self) -> Result<Self> {
        let mut dense = Self::new(self.geometry)?;
        for (to, from) in dense.layers.iter_mut().zip(&self.layers) {
            to.digest = from.digest;
        }
        dense.bytes = self.bytes;
        dense.auxiliary = self.auxiliary;
        dense.digest = self.digest;
        Ok(dense)
    }

    /// Records the digest of a layer, and the digest of the whole that follows from it.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn set_layer_digest(&mut self, layer: usize, digest: Digest) {
        self.layers[layer].digest = digest;
        self.update_digest();
    }

    /// Records the digest of an auxiliary tensor, and the digest of the whole that follows from it.
    ///
    /// # Panics
    /// When there is no such tensor.
    pub fn set_auxiliary_digest(&mut self, index: usize, digest: Digest) {
        self.auxiliary[index].digest = digest;
        self.update_digest();
    }

    fn update_digest(&mut self) {
        self.digest = whole_digest(&self.layers, &self.auxiliary);
    }

    /// Computes the digest of a layer from the data of the whole cache.
    ///
    /// # Panics
    /// When there is no such layer or `data` is shorter than the manifest says.
    pub fn layer_digest(&self, layer: usize, data: &[u8]) -> Digest {
        let mut hasher = Hasher::new();
        for region in self.layers[layer].regions() {
            hasher.update(region.slice(data));
        }
        hasher.finish()
    }

    /// Compares a layer's bytes with its digest.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`].
    ///
    /// # Panics
    /// As [`Manifest::layer_digest`].
    pub fn verify_layer(&self, layer: usize, data: &[u8]) -> Result<()> {
        let (found, expected) = (self.layer_digest(layer, data), self.layers[layer].digest);
        if found == expected {
            Ok(())
        } else {
            Err(Error::DigestMismatch {
                what: format!("layer {layer}"),
                found,
                expected,
            })
        }
    }

    /// The tensors of a layer in order, as views of `data` without a copy.
    ///
    /// # Errors
    /// [`Error::View`] when `data` is shorter than the manifest says, or there is no such layer.
    pub fn layer_tensors<'a>(&self, layer: usize, data: &'a [u8]) -> Result<Vec<TensorView<'a>>> {
        let Some(layer) = self.layers.get(layer) else {
            return Err(Error::View(format!("the cache has no layer {layer}")));
        };
        let regions = layer.regions();
        regions
            .map(|region| region.view(self.geometry.dtype, data))
            .collect()
    }

    /// The keys and the values of a layer, as views of `data` without a copy.
    ///
    /// # Errors
    /// [`Error::View`] when `data` is shorter than the manifest says, or the layers have latent tensors.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn layer_views<'a>(
        &self,
        layer: usize,
        data: &'a [u8],
    ) -> Result<(TensorView<'a>, TensorView<'a>)> {
        let Layer { k, v: Some(v), .. } = &self.layers[layer] else {
            let why = "the layers have one latent tensor each, no keys and values";
            return Err(Error::View(why.into()));
        };
        Ok((
            k.view(self.geometry.dtype, data)?,
            v.view(self.geometry.dtype, data)?,
        ))
    }
}

impl Region {
    fn slice<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        &data[self.offset as usize..(self.offset + self.bytes) as usize]
    }

    fn view<'a>(&self, dtype: DType, data: &'a [u8]) -> Result<TensorView<'a>> {
        let range = self.offset as usize..(self.offset + self.bytes) as usize;
        let bytes = data
            .get(range)
            .ok_or_else(|| Error::View(format!("only {} bytes of data", data.len())))?;
        TensorView::new(
            dtype,
            &self.shape.map(|n| n as usize),
            &self.strides.map(|n| n as usize),
            bytes,
        )
    }
}

/// The digest of the whole, which follows from those of its parts.
pub(super) fn whole_digest(layers: &[Layer], auxiliary: &[Auxiliary]) -> Digest {
    let layers = layers.iter().map(|layer| layer.digest);
    Digest::of_whole(layers.chain(auxiliary.iter().map(|tensor| tensor.digest)))
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
