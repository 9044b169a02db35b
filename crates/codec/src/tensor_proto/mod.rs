//! gRPC messages that carry tensors, straight to tensors and back.
//!
//! The messages are those of `protos/`; prost reads and writes the others, and these are done by hand because of what
//! they weigh: a request's tensors are checked in one pass, decoded in a second one and copied at most once; a
//! response is measured, and then written in one go.

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

/// How much memory the tensors of one request may take.
///
/// A message of a few bytes can ask for a tensor of any size: a large shape and one value to repeat. The limit is what
/// a message could hold without such a shortcut, and never less than [`MemoryBudget::FLOOR`].
#[derive(Clone, Copy, Debug)]
pub struct MemoryBudget {
    left: usize,
}

impl MemoryBudget {
    /// Every request may have this many bytes of tensors.
    pub const FLOOR: usize = 64 << 20;

    /// No encoding without shortcuts takes fewer bytes than a sixteenth of the tensor: an empty string takes one, and
    /// its place in memory sixteen.
    pub const FACTOR: usize = 16;

    /// What no machine has fails as the original fails where it cannot allocate: without a word about sizes.
    const UNTHINKABLE: usize = 1 << 40;

    /// The budget of a request whose body has this many bytes.
    pub fn for_message(body_bytes: usize) -> Self {
        Self { left: body_bytes.saturating_mul(Self::FACTOR).max(Self::FLOOR) }
    }

    /// Takes `count` elements of `size` bytes from what is left.
    pub(super) fn take(&mut self, count: usize, size: usize) -> Result<(), TensorError> {
        let wanted = count.saturating_mul(size);
        if wanted >= Self::UNTHINKABLE {
            return Err(TensorError::Invalid);
        }
        self.left = self.left.checked_sub(wanted).ok_or(TensorError::TooLarge { wanted, left: self.left })?;
        expect_memory(wanted).map_err(|_| TensorError::NoMemory { wanted })
    }
}

/// Why an encoded tensor did not become a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorError {
    /// The dtype, the shape and the values do not make a tensor.
    Invalid,
    /// The tensor would take more bytes than the budget of the request has left.
    TooLarge {
        /// Bytes that the tensor would take.
        wanted: usize,
        /// Bytes that were left.
        left: usize,
    },
    /// The system does not give the bytes that the tensor would take.
    NoMemory {
        /// Bytes that the tensor would take.
        wanted: usize,
    },
    /// A tensor of resources or variants, well-formed but of things that exist only inside a running graph.
    Opaque(DType),
    /// A tensor that is one resource: what the runtime says of it, whatever the graph expects.
    Resource(Box<str>),
}

impl TensorError {
    /// What the client is told, for the input that is fed at this position.
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
            // The runtime would say this; it cannot be given such a tensor to say it of.
            Self::Opaque(dtype) => format!("Expects arg[{position}] to be {expected} but {dtype} is provided"),
        })
    }
}

#[cfg(test)]
mod tests;
