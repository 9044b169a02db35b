//! Requests with examples, and their responses.
//!
//! A graph that takes examples parses them itself: its input is a tensor of serialized `tensorflow.Example` messages.
//! So a gRPC request is checked and split into its examples, which are not decoded.

mod canonical;
pub mod features;
mod request;
mod response;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use request::{ExamplesRequest, InferenceTask, MultiInferenceRequest};
pub use request::{decode_examples_request, decode_multi_inference_request};
pub use response::{encode_inference, encode_multi_inference};

use super::tensor_proto::MemoryBudget;
use servable_model::error::{Result, ServingError};
use servable_model::tensor::{Strings, Tensor};

/// The serialized examples of a request, and their common context.
#[derive(Clone, Debug)]
pub struct Examples {
    block: Bytes,
    ranges: Vec<(usize, usize)>,
    context: Vec<u8>,
}

impl Examples {
    /// Examples at the given `(start, end)` ranges of a block of bytes. `context` is the serialized context; empty for
    /// none.
    ///
    /// # Panics
    ///
    /// [`Examples::into_tensor`] panics if a range is not within the block.
    pub fn new(block: Bytes, ranges: Vec<(usize, usize)>, context: Vec<u8>) -> Self {
        Self { block, ranges, context }
    }

    /// The number of examples, without the context.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The size of the strings of the tensor in bytes. The block is counted once.
    pub fn size_in_bytes(&self) -> usize {
        self.block.len() + self.ranges.len().saturating_mul(self.context.len())
    }

    /// The input tensor of the graph: one string for each example.
    ///
    /// Without a context, the strings stay in the block. With a context, each string is the context followed by the
    /// example: a protobuf parser merges concatenated messages.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if there are no examples, or if the copies of the context take too much memory.
    pub fn into_tensor(self) -> Result<Tensor> {
        let Self { block, ranges, context } = self;
        if ranges.is_empty() {
            return Err(ServingError::invalid_argument("Input is empty."));
        }
        let shape = vec![ranges.len() as i64];
        if context.is_empty() {
            return Ok(Tensor::from_strings(shape, Strings::new(block, ranges)));
        }
        let mut budget = MemoryBudget::for_message(block.len() + context.len());
        budget.take(ranges.len(), context.len()).map_err(|_| {
            let text =
                format!("Input is too large: {} examples with a context of {} bytes", ranges.len(), context.len());
            ServingError::invalid_argument(text)
        })?;
        let mut bytes = Vec::with_capacity(block.len() + ranges.len() * context.len());
        let joined = ranges
            .into_iter()
            .map(|(start, end)| {
                let joined_start = bytes.len();
                bytes.extend_from_slice(&context);
                bytes.extend_from_slice(&block[start..end]);
                (joined_start, bytes.len())
            })
            .collect();
        Ok(Tensor::from_strings(shape, Strings::new(bytes.into(), joined)))
    }
}
