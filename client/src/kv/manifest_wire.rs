// SPDX-License-Identifier: MIT OR Apache-2.0
//! The JSON form of a manifest, and its validation as hostile input.

use serde::{Deserialize, Serialize};

use super::manifest::{Geometry, Layer, Manifest, VERSION, invalid, tensor_bytes};
use super::{DType, Digest, Error, Result, view};

/// The JSON form, before validation.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wire {
    version: u32,
    model: String,
    dtype: DType,
    layers: u32,
    kv_heads: u32,
    head_dim: u32,
    seq_len: u64,
    chunk_size: u64,
    bytes: u64,
    digest: Digest,
    regions: Vec<Layer>,
}

impl From<Manifest> for Wire {
    fn from(manifest: Manifest) -> Self {
        let Manifest {
            geometry,
            bytes,
            digest,
            layers: regions,
        } = manifest;
        let Geometry {
            model,
            dtype,
            layers,
            kv_heads,
            head_dim,
            seq_len,
            chunk_size,
        } = geometry;
        Self {
            version: VERSION,
            model,
            dtype,
            layers,
            kv_heads,
            head_dim,
            seq_len,
            chunk_size,
            bytes,
            digest,
            regions,
        }
    }
}

impl TryFrom<Wire> for Manifest {
    type Error = Error;

    fn try_from(wire: Wire) -> Result<Self> {
        if wire.version != VERSION {
            return Err(Error::ManifestVersion {
                found: wire.version,
                expected: VERSION,
            });
        }
        let geometry = Geometry {
            model: wire.model,
            dtype: wire.dtype,
            layers: wire.layers,
            kv_heads: wire.kv_heads,
            head_dim: wire.head_dim,
            seq_len: wire.seq_len,
            chunk_size: wire.chunk_size,
        };
        let tensor = tensor_bytes(&geometry)?;
        if wire.regions.len() as u64 != u64::from(geometry.layers) {
            return invalid(format!(
                "{} layers, {} regions",
                geometry.layers,
                wire.regions.len()
            ));
        }
        // Layers tile the data without a gap or an overlap, but may come in any order.
        let mut starts: Vec<u64> = Vec::with_capacity(wire.regions.len());
        for (n, layer) in wire.regions.iter().enumerate() {
            for region in [&layer.k, &layer.v] {
                if region.shape != geometry.shape() || region.bytes != tensor {
                    return invalid(format!("a tensor of layer {n} has another shape or size"));
                }
                if !view::is_dense(region.shape, region.strides) {
                    return invalid(format!("strides {:?} in layer {n}", region.strides));
                }
            }
            if layer.k.offset.checked_add(tensor) != Some(layer.v.offset) {
                return invalid(format!("the values of layer {n} do not follow its keys"));
            }
            starts.push(layer.offset());
        }
        starts.sort_unstable();
        if starts
            .iter()
            .enumerate()
            .any(|(n, start)| *start != 2 * tensor * n as u64)
        {
            return invalid("layers overlap, leave a gap or are misplaced");
        }
        let bytes = 2 * tensor * u64::from(geometry.layers);
        if wire.bytes != bytes {
            return invalid(format!(
                "{} bytes in all, its layers have {bytes}",
                wire.bytes
            ));
        }
        if wire.digest != Digest::of_whole(wire.regions.iter().map(|layer| layer.digest)) {
            return invalid("the digest of the whole does not follow from those of the layers");
        }
        Ok(Self {
            geometry,
            bytes,
            digest: wire.digest,
            layers: wire.regions,
        })
    }
}
