// SPDX-License-Identifier: MIT OR Apache-2.0
//! A tensor over bytes that belong to somebody else.

use super::{DType, Error, Result};

/// A tensor of any rank over borrowed bytes, described by shape and strides. Slicing it makes
/// another view of the same bytes; nothing is copied.
///
/// Shapes and strides count elements. Every index within the shape lies within the bytes: that is
/// checked once, when the view is made.
///
/// ```
/// use dmaplane_kv::{DType, TensorView};
/// // Two heads, three tokens, two elements, one behind the other.
/// let bytes: Vec<u8> = (0..12).flat_map(|n| (n as f32).to_le_bytes()).collect();
/// let keys = TensorView::dense(DType::F32, &[2, 3, 2], &bytes)?;
/// let token = keys.token(1)?;
/// assert_eq!(token.shape(), [2, 2]);
/// assert_eq!(token.iter().collect::<Vec<_>>(), [2.0, 3.0, 8.0, 9.0]);
/// # Ok::<(), dmaplane_kv::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TensorView<'a> {
    dtype: DType,
    shape: Vec<usize>,
    strides: Vec<usize>,
    bytes: &'a [u8],
}

/// The axis of a K or V tensor that counts heads.
pub const HEADS: usize = 0;
/// The axis of a K or V tensor that counts tokens.
pub const TOKENS: usize = 1;

impl<'a> TensorView<'a> {
    /// Makes a view of `bytes`, which start at the element whose index is zero on every axis.
    ///
    /// # Errors
    /// [`Error::View`] when an axis is empty, shape and strides differ in number, or an element
    /// would lie beyond the bytes.
    pub fn new(dtype: DType, shape: &[usize], strides: &[usize], bytes: &'a [u8]) -> Result<Self> {
        let (shape, strides) = (shape.to_vec(), strides.to_vec());
        if shape.len() != strides.len() {
            return Err(Error::View(format!(
                "{} axes, {} strides",
                shape.len(),
                strides.len()
            )));
        }
        if shape.contains(&0) {
            return Err(Error::View(format!("an axis of shape {shape:?} is empty")));
        }
        let end = shape
            .iter()
            .zip(&strides)
            .try_fold(0usize, |last, (n, stride)| {
                last.checked_add((n - 1).checked_mul(*stride)?)
            })
            .and_then(|last| last.checked_add(1)?.checked_mul(dtype.size()));
        if end.is_none_or(|end| end > bytes.len()) {
            let have = bytes.len();
            return Err(Error::View(format!(
                "shape {shape:?} with strides {strides:?} does not fit into {have} bytes"
            )));
        }
        Ok(Self {
            dtype,
            shape,
            strides,
            bytes,
        })
    }

    /// Makes a view of `bytes` in row-major order without gaps.
    ///
    /// # Errors
    /// [`Error::View`], as for [`TensorView::new`].
    pub fn dense(dtype: DType, shape: &[usize], bytes: &'a [u8]) -> Result<Self> {
        Self::new(dtype, shape, &row_major(shape), bytes)
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Elements along each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Distance of neighbours along each axis, in elements.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// Elements in all.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        let dense = row_major(&self.shape);
        self.shape
            .iter()
            .zip(&self.strides)
            .zip(dense)
            .all(|((n, have), want)| *n == 1 || *have == want)
    }

    /// The bytes of exactly this tensor, if they are contiguous.
    pub fn contiguous_bytes(&self) -> Option<&'a [u8]> {
        self.is_contiguous()
            .then(|| &self.bytes[..self.elements() * self.dtype.size()])
    }

    /// One element, widened to `f32`; `None` beyond the shape.
    pub fn get(&self, index: &[usize]) -> Option<f32> {
        if index.len() != self.shape.len() || index.iter().zip(&self.shape).any(|(i, n)| i >= n) {
            return None;
        }
        let at: usize = index
            .iter()
            .zip(&self.strides)
            .map(|(i, stride)| i * stride)
            .sum();
        self.dtype.to_f32(self.element(at))
    }

    /// All elements in row-major order, widened to `f32`.
    pub fn iter(&self) -> impl Iterator<Item = f32> + '_ {
        self.raw_elements()
            .filter_map(|bytes| self.dtype.to_f32(bytes))
    }

    /// Appends the elements in row-major order, as they are.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        match self.contiguous_bytes() {
            Some(bytes) => out.extend_from_slice(bytes),
            None => self
                .raw_elements()
                .for_each(|bytes| out.extend_from_slice(bytes)),
        }
    }

    /// The part at one index of an axis, without that axis.
    ///
    /// # Errors
    /// [`Error::View`] when there is no such axis or index.
    pub fn select(&self, axis: usize, index: usize) -> Result<Self> {
        let mut part = self.narrow(axis, index, 1)?;
        part.shape.remove(axis);
        part.strides.remove(axis);
        Ok(part)
    }

    /// A range of one axis.
    ///
    /// # Errors
    /// [`Error::View`] when there is no such axis or range, or the range is empty.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        let n = self.shape.get(axis).copied().unwrap_or(0);
        if start.checked_add(len).is_none_or(|end| end > n) || len == 0 {
            let shape = &self.shape;
            return Err(Error::View(format!(
                "no {len} from {start} on axis {axis} of {shape:?}"
            )));
        }
        let mut part = self.clone();
        part.shape[axis] = len;
        part.bytes = &self.bytes[start * self.strides[axis] * self.dtype.size()..];
        Ok(part)
    }

    /// One head of a `[heads, tokens, head_dim]` tensor.
    ///
    /// # Errors
    /// [`Error::View`] when there is no such head.
    pub fn head(&self, head: usize) -> Result<Self> {
        self.select(HEADS, head)
    }

    /// One token of a `[heads, tokens, head_dim]` tensor.
    ///
    /// # Errors
    /// [`Error::View`] when there is no such token.
    pub fn token(&self, token: usize) -> Result<Self> {
        self.select(TOKENS, token)
    }

    /// The same tensor in the safetensors library's type, still without a copy.
    ///
    /// # Errors
    /// [`Error::View`] when the elements are not contiguous: that format has no strides.
    pub fn to_safetensors(&self) -> Result<safetensors::tensor::TensorView<'a>> {
        let bytes = self
            .contiguous_bytes()
            .ok_or_else(|| Error::View("safetensors needs contiguous elements".into()))?;
        safetensors::tensor::TensorView::new(self.dtype.to_safetensors(), self.shape.clone(), bytes)
            .map_err(|error| Error::View(error.to_string()))
    }

    /// The bytes of the element at a distance from the first one.
    fn element(&self, at: usize) -> &'a [u8] {
        let size = self.dtype.size();
        &self.bytes[at * size..(at + 1) * size]
    }

    /// The bytes of each element in row-major order.
    fn raw_elements(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        (0..self.elements()).map(|mut n| {
            let mut at = 0;
            for (size, stride) in self.shape.iter().zip(&self.strides).rev() {
                at += n % size * stride;
                n /= size;
            }
            self.element(at)
        })
    }
}

fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// The strides of a shape in row-major order. The product of the shape is known not to overflow.
pub(super) fn dense_strides(shape: [u64; 3]) -> [u64; 3] {
    [shape[1] * shape[2], shape[2], 1]
}

/// Whether the strides reach each element of a shape exactly once without gaps, in any order of
/// the axes.
pub(super) fn is_dense(shape: [u64; 3], strides: [u64; 3]) -> bool {
    let mut axes = [0, 1, 2];
    axes.sort_by_key(|axis| (strides[*axis], shape[*axis]));
    let mut expected = Some(1u64);
    for axis in axes {
        if Some(strides[axis]) != expected {
            return false;
        }
        expected = expected.and_then(|stride| stride.checked_mul(shape[axis]));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn f32s(n: usize) -> Vec<u8> {
        (0..n).flat_map(|n| (n as f32).to_le_bytes()).collect()
    }

    #[test]
    fn slices_by_head_and_by_token() {
        let bytes = f32s(24);
        let view = TensorView::dense(DType::F32, &[2, 3, 4], &bytes).unwrap();
        let head = view.head(1).unwrap();
        assert!(head.is_contiguous());
        assert_eq!(head.iter().next(), Some(12.0));
        let token = view.token(2).unwrap();
        assert!(!token.is_contiguous());
        assert_eq!(token.contiguous_bytes(), None);
        assert!(token.to_safetensors().is_err());
        assert_eq!(
            token.iter().collect::<Vec<_>>(),
            [8., 9., 10., 11., 20., 21., 22., 23.]
        );
        let tail = view.narrow(TOKENS, 1, 2).unwrap().head(1).unwrap();
        assert_eq!(tail.contiguous_bytes(), Some(&bytes[16 * 4..]));
        assert_eq!(view.get(&[1, 2, 3]), Some(23.0));
        assert_eq!(view.get(&[1, 3, 0]), None);
        assert!(view.token(3).is_err() && view.head(2).is_err() && view.select(3, 0).is_err());
        assert!(view.narrow(0, usize::MAX, 2).is_err() && view.narrow(0, 0, 0).is_err());
    }

    #[test]
    fn half_precision_and_safetensors() {
        let bytes: Vec<u8> = [0.5f32, -2.0]
            .iter()
            .flat_map(|x| half::f16::from_f32(*x).to_le_bytes())
            .collect();
        let view = TensorView::dense(DType::F16, &[1, 2], &bytes).unwrap();
        assert_eq!(view.iter().collect::<Vec<_>>(), [0.5, -2.0]);
        let other = view.to_safetensors().unwrap();
        assert_eq!(
            (other.shape(), other.data()),
            (&[1usize, 2][..], &bytes[..])
        );
        assert!(std::ptr::eq(other.data().as_ptr(), bytes.as_ptr()));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let bytes = f32s(6);
        assert!(TensorView::dense(DType::F32, &[2, 3], &bytes).is_ok());
        assert!(TensorView::dense(DType::F32, &[2, 3], &bytes[1..]).is_err());
        assert!(TensorView::dense(DType::F32, &[2, 0], &bytes).is_err());
        assert!(TensorView::new(DType::F32, &[2, 3], &[3], &bytes).is_err());
        assert!(TensorView::new(DType::F32, &[2, 3], &[4, 1], &bytes).is_err());
        assert!(TensorView::new(DType::F32, &[3, 1], &[usize::MAX, 1], &bytes).is_err());
    }

    proptest! {
        #[test]
        fn a_transposed_view_reads_what_was_written(
            heads in 1usize..5, tokens in 1usize..5, dim in 1usize..5,
        ) {
            let bytes = f32s(heads * tokens * dim);
            // The same bytes, read as tokens first.
            let strides = [dim, heads * dim, 1];
            let view = TensorView::new(DType::F32, &[heads, tokens, dim], &strides, &bytes).unwrap();
            let mut dense = Vec::new();
            view.append_to(&mut dense);
            let dense = TensorView::dense(DType::F32, view.shape(), &dense).unwrap();
            for h in 0..heads {
                for t in 0..tokens {
                    for d in 0..dim {
                        let value = ((t * heads + h) * dim + d) as f32;
                        prop_assert_eq!(view.get(&[h, t, d]), Some(value));
                        prop_assert_eq!(dense.get(&[h, t, d]), Some(value));
                    }
                }
            }
            let (shape, strides) = ([heads, tokens, dim], strides);
            prop_assert!(is_dense(shape.map(|n| n as u64), strides.map(|n| n as u64)));
        }
    }
}
