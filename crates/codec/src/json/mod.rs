//! The JSON codec of TensorFlow Serving's REST API: requests and responses of predict, classify and regress.
//!
//! It consists of pure functions, and knows neither models nor HTTP. Tensors of valid requests, and all responses, are
//! equal to those of TensorFlow Serving to the last bit, including its conversion and printing of numbers. Error texts
//! are equal too, including byte offsets of its JSON parser, `RapidJSON` 1.1.0. There is one deliberate deviation: an
//! integer outside the range of int8, int16 or uint8 is an error, instead of another integer.
//!
//! There are two decoders of requests:
//!
//! - `fast` makes one pass over the text, and writes numbers straight into the buffers of tensors. It reports no
//!   errors, and stops at anything unusual or irregular.
//! - `exact` then starts again. `parse` converts the text to a flat document, which is checked in the order of
//!   TensorFlow Serving. So the first error is the one that TensorFlow Serving reports.
//!
//! `infer` decodes requests of the Open Inference Protocol, and has the same two decoders for tensors.
//!
//! All decoders share `number` and `string`, so that numbers and strings have one implementation.

pub mod base64;
mod column;
mod digits;
mod double;
mod dump;
mod encode;
mod exact;
mod examples;
mod fast;
mod float;
mod grisu;
mod infer;
mod infer_reply;
mod leaves;
mod lists;
mod number;
mod parse;
mod plain_number;
mod powers;
mod reader;
mod results;
mod single;
mod string;
mod syntax;
mod tape;
#[cfg(test)]
mod tests;

use std::ops::Deref;

pub use encode::is_carried;
pub use encode::{encode_predict, error_body};
pub use float::{write_f32, write_f64};
pub use infer::timeout;
pub use infer::{
    InferData, InferInput, InferOutput, InferRequest, RepositoryRequest, decode_infer, decode_repository_request,
};
pub use infer_reply::{Form, InferReply, ReplyTensor, has_json_form};
pub use results::encode_results;
pub use string::write_string;

use super::example::Examples;
use servable_model::error::{Code, Result, ServingError};
use servable_model::signature::Signature;
use servable_model::tensor::Tensor;

/// The format of the tensors of a request, and of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `instances`, answered by `predictions`: one JSON value for each example.
    Row,
    /// `inputs`, answered by `outputs`: one JSON value for each tensor.
    Columnar,
}

/// A decoded predict request.
#[derive(Clone, Debug)]
pub struct PredictInput<S> {
    /// The format of the request.
    pub format: Format,
    /// The signature name in the request; empty if it has none.
    pub signature_name: Vec<u8>,
    /// The signature that the name was resolved to.
    pub signature: S,
    /// One tensor for each input of the signature, in that order, with the declared dtype. Shapes are not checked
    /// against the signature.
    pub inputs: Vec<Tensor>,
}

/// The default limit on the nesting of bodies. TensorFlow Serving has no limit. None is necessary: a level takes no
/// stack, and no more memory than any other value.
pub const DEFAULT_MAX_NESTING: usize = 10_000_000;

/// The minimum of the limit on nesting. A lower limit could not be enforced for all bodies.
pub const LEAST_MAX_NESTING: usize = 64;

/// The largest body that the decoder accepts. Offsets fit 32 bits.
const GREATEST_BODY_BYTES: usize = u32::MAX as usize;

/// Decodes the body of a predict request.
///
/// `resolve` finds the signature with a name in a servable that the caller has looked up, or returns the error.
/// [`None`] stands for the default signature. It may be called twice, and only the last result counts. So it should be
/// cheap, and must have no side effects.
///
/// Memory is bounded by a multiple of the length of the body. Nesting deeper than `max_nesting` is refused, except in
/// tensors. Limits of [`LEAST_MAX_NESTING`] or more are never below the rank of a tensor.
///
/// # Errors
///
/// The first of these that applies:
///
/// 1. the body is not JSON, is not an object, or its `signature_name` is not a string: `INVALID_ARGUMENT`;
/// 2. the error of `resolve`;
/// 3. the signature has no inputs, or the tensors are missing, irregular or of other dtypes: `INVALID_ARGUMENT`;
///    `UNIMPLEMENTED` for a columnar request to an input whose dtype has no JSON form.
pub fn decode_predict<S>(
    body: &[u8],
    max_nesting: usize,
    mut resolve: impl FnMut(Option<&[u8]>) -> Result<S>,
) -> Result<PredictInput<S>>
where
    S: Deref<Target = Signature>,
{
    check_size(body)?;
    match fast::decode(body, &mut resolve) {
        Some(input) => Ok(input),
        None => decode_exactly(body, max_nesting, resolve),
    }
}

fn check_size(body: &[u8]) -> Result<()> {
    if body.len() <= GREATEST_BODY_BYTES {
        return Ok(());
    }
    let message = format!("a JSON body of {} bytes: the most is {GREATEST_BODY_BYTES}", body.len());
    Err(ServingError::new(Code::ResourceExhausted, message))
}

fn decode_exactly<S>(
    body: &[u8],
    max_nesting: usize,
    mut resolve: impl FnMut(Option<&[u8]>) -> Result<S>,
) -> Result<PredictInput<S>>
where
    S: Deref<Target = Signature>,
{
    let request = exact::Request::parse(body, max_nesting)?;
    let name = request.signature_name()?;
    let signature = resolve(Some(name).filter(|name| !name.is_empty()))?;
    if signature.inputs.is_empty() {
        let shown = if name.is_empty() { b"DEFAULT" } else { name };
        let message = [b"Failed to get input map for signature: ", shown].concat();
        return Err(ServingError::invalid_argument(message));
    }
    let (format, inputs) = request.inputs(&signature)?;
    Ok(PredictInput { format, signature_name: name.to_vec(), signature, inputs })
}

/// A decoded classify or regress request. The two are alike.
#[derive(Clone, Debug)]
pub struct ExamplesInput {
    /// The signature name in the request; empty if it has none.
    pub signature_name: Vec<u8>,
    /// The examples.
    pub examples: Examples,
}

/// Decodes the body of a classify or regress request.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if the body is not JSON, is not an object, its `signature_name` is not a string, or it has no
/// examples.
pub fn decode_examples(body: &[u8], max_nesting: usize) -> Result<ExamplesInput> {
    check_size(body)?;
    let request = exact::Request::parse(body, max_nesting)?;
    let signature_name = request.signature_name()?.to_vec();
    Ok(ExamplesInput { signature_name, examples: request.examples()? })
}
