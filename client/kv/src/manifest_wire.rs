// SPDX-License-Identifier: MIT OR Apache-2.0
//! The JSON form of a manifest, and its validation as hostile input.

use serde::{Deserialize, Serialize};

use super::auxiliary::{self, Auxiliary};
use super::geometry::{Geometry, Layout, check_auxiliary, invalid, tensor_bytes};
use super::manifest::{Layer, Manifest, Region, VERSION, whole_digest};
use super::{DType, Digest, Error, Result, view};

/// The JSON form, before validation.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wire {
    version: u32,
    model: String,
    dtype: DType,
    #[serde(default, skip_serializing_if = "is_default")]
    layout: Layout,
    layers: u32,
    kv_heads: u32,
    head_dim: u32,
    seq_len: u64,
    chunk_size: u64,
    bytes: u64,
    digest: Digest,
    regions: Vec<Layer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    auxiliary: Vec<Auxiliary>,
}

fn is_default(layout: &Layout) -> bool {
    *layout == Layout::default()
}

impl From<Manifest> for Wire {
    fn from(manifest: Manifest) -> Self {
        let Manifest {
            geometry,
            bytes,
            digest,
            layers: regions,
            auxiliary,
        } = manifest;
        let Geometry {
            model,
            dtype,
            layout,
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
            layout,
            layers,
            kv_heads,
            head_dim,
            seq_len,
            chunk_size,
            bytes,
            digest,
            regions,
            auxiliary,
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
            layout: wire.layout,
            layers: wire.layers,
            kv_heads: wire.kv_heads,
            head_dim: wire.head_dim,
            seq_len: wire.seq_len,
            chunk_size: wire.chunk_size,
        };
        let (tensor, each) = (tensor_bytes(&geometry)?, geometry.layout.tensors());
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
            for region in layer.regions() {
                if region.shape != geometry.shape() || region.bytes != tensor {
                    return invalid(format!("a tensor of layer {n} has another shape or size"));
                }
                if !view::is_dense(region.shape, region.strides) {
                    return invalid(format!("strides {:?} in layer {n}", region.strides));
                }
            }
            if layer.regions().count() as u64 != each {
                return invalid(format!("layer {n} does not have the layout's tensors"));
            }
            let follows = |v: &Region| layer.k.offset.checked_add(tensor) == Some(v.offset);
            if !layer.v.as_ref().is_none_or(follows) {
                return invalid(format!("the values of layer {n} do not follow its keys"));
            }
            starts.push(layer.offset());
        }
        starts.sort_unstable();
        if starts
            .iter()
            .enumerate()
            .any(|(n, start)| *start != each * tensor * n as u64)
        {
            return invalid("layers overlap, leave a gap or are misplaced");
        }
        let layers = each * tensor * u64::from(geometry.layers);
        let auxiliary = auxiliary::total_bytes(&geometry, &wire.auxiliary)?;
        check_auxiliary(&geometry, layers, auxiliary)?;
        let bytes = layers + auxiliary;
        if wire.bytes != bytes {
            return invalid(format!(
                "{} bytes in all, its tensors have {bytes}",
                wire.bytes
            ));
        }
        if wire.digest != whole_digest(&wire.regions, &wire.auxiliary) {
            return invalid("the digest of the whole does not follow from those of its parts");
        }
        Ok(Self {
            geometry,
            bytes,
            digest: wire.digest,
            layers: wire.regions,
            auxiliary: wire.auxiliary,
        })
    }
}
