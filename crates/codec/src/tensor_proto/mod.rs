//! The codec of gRPC messages with tensors.
//!
//! The messages are those of `protos/`. Prost encodes and decodes the others. These are done by hand, because of their
//! size. The tensors of a request are checked in one pass, decoded in a second one, and copied at most once. A response
//! is measured, and then written in one pass.

mod convert;
mod encoded;
mod request;
mod response;
mod values;

use servable_model::error::{ServingError, expect_memory, no_memory};
use servable_model::tensor::DType;

pub use crate::wire::Malformed;
pub use convert::{tensor_from_proto, tensor_to_proto};
pub use encoded::EncodedTensor;
pub use request::find_content;
pub use request::{ModelSpec, PredictRequest, RequestedVersion, decode_predict_request};
pub use response::PredictResponse;

/// The memory limit for the tensors of one request.
///
/// A message of a few bytes can describe a tensor of any size, by a large shape and one value to repeat. The limit is
/// the largest size that a message can have without such a shortcut, and at least [`MemoryBudget::FLOOR`].
#[derive(Clone, Copy, Debug)]
pub struct MemoryBudget {
    left: usize,
}

impl MemoryBudget {
    /// The minimum budget, in bytes.
    pub const FLOOR: usize = 64 << 20;

    /// The largest ratio of a tensor to its encoding without shortcuts: an empty string takes one byte in the message,
    /// and its range sixteen bytes in memory.
    pub const FACTOR: usize = 16;

    /// Beyond this size, the error is that of TensorFlow Serving for a failed allocation, without sizes.
    const UNALLOCATABLE: usize = 1 << 40;

    /// The budget of a request with a body of this many bytes.
    pub fn for_message(body_bytes: usize) -> Self {
        Self { left: body_bytes.saturating_mul(Self::FACTOR).max(Self::FLOOR) }
    }

    /// Takes `count` elements of `size` bytes from the budget.
    pub(super) fn take(&mut self, count: usize, size: usize) -> Result<(), TensorError> {
        let wanted = count.saturating_mul(size);
        if wanted >= Self::UNALLOCATABLE {
            return Err(TensorError::Invalid);
        }
        self.left = self.left.checked_sub(wanted).ok_or(TensorError::TooLarge { wanted, left: self.left })?;
        expect_memory(wanted).map_err(|_| TensorError::NoMemory { wanted })
    }
}

/// The error of decoding a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorError {
    /// Dtype, shape and values are not a valid tensor.
    Invalid,
    /// The tensor exceeds the remaining budget of the request.
    TooLarge {
        /// Bytes that the tensor would take.
        wanted: usize,
        /// Bytes that were left.
        left: usize,
    },
    /// The memory for the tensor cannot be allocated.
    NoMemory {
        /// Bytes that the tensor would take.
        wanted: usize,
    },
    /// A well-formed tensor of resources or variants, which exist only inside a running graph.
    Opaque(DType),
    /// A tensor of one resource, with the error of the runtime. It does not depend on the graph.
    Resource(Box<str>),
}

impl TensorError {
    /// The error for the client, for the input at this position.
    pub fn report(self, alias: &str, position: usize, expected: DType) -> ServingError {
        if let Self::NoMemory { wanted } = self {
            return no_memory(wanted);
        }
        ServingError::invalid_argument(match self {
            Self::Invalid | Self::NoMemory { .. } => format!("tensor parsing error: {alias}"),
            Self::TooLarge { wanted, left } => {
                format!("tensor parsing error: {alias}: the tensor takes {wanted} bytes, of which {left} are allowed")
            }
            Self::Opaque(dtype) if dtype == expected => {
                format!("tensor parsing error: {alias}: tensors of {dtype} cannot be sent")
            }
            Self::Resource(text) => text.into(),
            // The text of the runtime, to which such a tensor cannot be passed.
            Self::Opaque(dtype) => format!("Expects arg[{position}] to be {expected} but {dtype} is provided"),
        })
    }
}

#[cfg(test)]
mod tests;
