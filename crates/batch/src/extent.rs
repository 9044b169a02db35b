//! Which requests may be padded to a common shape, and how far.

use servable_model::tensor::{DType, Tensor};

/// Padding may make a tensor of a batch this many times as large as its requests, or [`PADDED_ELEMENTS`] large.
const PADDED_TIMES: usize = 8;
const PADDED_ELEMENTS: usize = 1 << 20;

/// What the tensors of a batch for one input become when they are padded to a common shape.
pub(super) struct Extent {
    dtype: DType,
    rows: usize,
    /// The dimensions beyond the first, each the largest of all tensors.
    inner: Vec<i64>,
    /// How many elements the tensors have without padding.
    elements: usize,
}

impl Extent {
    pub(super) fn new(tensor: &Tensor) -> Self {
        let (rows, inner) = (tensor.shape()[0] as usize, tensor.shape()[1..].to_vec());
        Self { dtype: tensor.dtype(), rows, inner, elements: tensor.len() }
    }

    fn widened(&self, tensor: &Tensor) -> impl Iterator<Item = i64> {
        self.inner.iter().zip(&tensor.shape()[1..]).map(|(&a, &b)| a.max(b))
    }

    /// Whether a tensor can be padded to one shape with these, and without growing out of proportion.
    pub(super) fn can_include(&self, tensor: &Tensor) -> bool {
        let inner = &tensor.shape()[1..];
        if self.dtype != tensor.dtype() || self.inner.len() != inner.len() {
            return false;
        }
        // There is no first element to fill an empty tensor with.
        if self.inner == *inner || self.inner.contains(&0) || inner.contains(&0) {
            return self.inner == *inner;
        }
        let rows = self.rows + tensor.shape()[0] as usize;
        let padded = self.widened(tensor).fold(rows, |count, size| count.saturating_mul(size as usize));
        padded <= PADDED_ELEMENTS || padded / PADDED_TIMES <= self.elements + tensor.len()
    }

    /// Whether a tensor has the shape that these are padded to.
    pub(super) fn is_shape_of(&self, tensor: &Tensor) -> bool {
        self.dtype == tensor.dtype() && self.inner == tensor.shape()[1..]
    }

    /// Whether these would have the same shape with this one.
    pub(super) fn covers(&self, tensor: &Tensor) -> bool {
        self.can_include(tensor) && self.widened(tensor).eq(self.inner.iter().copied())
    }

    pub(super) fn include(&mut self, tensor: &Tensor) {
        self.inner = self.widened(tensor).collect();
        self.rows += tensor.shape()[0] as usize;
        self.elements += tensor.len();
    }
}
