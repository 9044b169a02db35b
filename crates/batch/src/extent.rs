//! Padding to a common shape: which requests may share a batch, and how much padding is allowed.

use servable_model::tensor::{DType, Tensor};

/// The limit on padding: a padded tensor may have this many times the elements of its requests, or [`PADDED_ELEMENTS`].
const PADDED_TIMES: usize = 8;
const PADDED_ELEMENTS: usize = 1 << 20;

/// The common shape of the tensors of a batch for one input.
pub(super) struct Extent {
    dtype: DType,
    rows: usize,
    /// The dimensions beyond the first: the maximum over all tensors.
    inner: Vec<i64>,
    /// The number of elements without padding.
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

    /// Whether a tensor can be padded to a common shape with these, within the limit on padding.
    pub(super) fn can_include(&self, tensor: &Tensor) -> bool {
        let inner = &tensor.shape()[1..];
        if self.dtype != tensor.dtype() || self.inner.len() != inner.len() {
            return false;
        }
        // An empty tensor has no first element to pad with.
        if self.inner == *inner || self.inner.contains(&0) || inner.contains(&0) {
            return self.inner == *inner;
        }
        let rows = self.rows + tensor.shape()[0] as usize;
        let padded = self.widened(tensor).fold(rows, |count, size| count.saturating_mul(size as usize));
        padded <= PADDED_ELEMENTS || padded / PADDED_TIMES <= self.elements + tensor.len()
    }

    /// Whether a tensor has the common shape already.
    pub(super) fn is_shape_of(&self, tensor: &Tensor) -> bool {
        self.dtype == tensor.dtype() && self.inner == tensor.shape()[1..]
    }

    /// Whether a tensor fits into the common shape without changing it.
    pub(super) fn covers(&self, tensor: &Tensor) -> bool {
        self.can_include(tensor) && self.widened(tensor).eq(self.inner.iter().copied())
    }

    pub(super) fn include(&mut self, tensor: &Tensor) {
        self.inner = self.widened(tensor).collect();
        self.rows += tensor.shape()[0] as usize;
        self.elements += tensor.len();
    }
}
