//! The JSON of TensorFlow Serving's REST API: predict requests to tensors, and tensors to predict responses; examples
//! to classify or regress, and their results.
//!
//! Pure functions from bytes to bytes; which model, which signature and what an HTTP status is are others' business.
//! Valid requests and all responses agree with the C++ server to the last bit, its number conversion and number
//! printing included, and so do the texts of errors, down to the byte offsets of its JSON parser, `RapidJSON` 1.1.0.
//! One deviation is deliberate: an integer outside the range of int8, int16 or uint8 is an error, not another integer.
//!
//! A request is decoded in one of two ways:
//!
//! - `fast` goes once over the text and writes numbers straight into the tensors' buffers. It knows no errors: when
//!   it meets anything but a plain, regular request of the usual form, it gives up.
//! - `exact` then starts over: `parse` makes a flat document of the text, which is checked and converted in the
//!   order in which the original does it, so that the error is the one the original reports first.
//!
//! Requests of the Open Inference Protocol are read by `infer`, which decodes each tensor in the same two ways.
//!
//! All share `number` and `string`, so what a number or a string means is written down once.

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

/// How the tensors of a request were written, and how those of its response are to be.
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
    /// The signature's name as the client sent it; empty if it sent none.
    pub signature_name: Vec<u8>,
    /// What that name was resolved to.
    pub signature: S,
    /// One tensor for each of the signature's inputs, in their order, of their dtypes. Their shapes are the request's
    /// and have not been compared with the signature's.
    pub inputs: Vec<Tensor>,
}

/// How deeply bodies may be nested where nobody has said otherwise. The original knows no limit, and none is needed: a level
/// takes no stack, and no more memory than any other value.
pub const DEFAULT_MAX_NESTING: usize = 10_000_000;

/// The least limit on nesting: below it, bodies would be read that are beyond it.
pub const LEAST_MAX_NESTING: usize = 64;

/// The largest body that the decoder takes; offsets within it fit 32 bits.
const GREATEST_BODY_BYTES: usize = u32::MAX as usize;

/// Decodes the body of a predict request.
///
/// `resolve` finds the signature of a name, [`None`] being the default one, in a servable that the caller has already
/// looked up, or reports why there is no such signature or no such servable. It should be cheap and without effects: it
/// may be called twice, and only what it returned last counts.
///
/// Memory use is bounded by a multiple of the body's length. What is nested more than `max_nesting` levels deep is refused
/// unless its values are a tensor's; [`LEAST_MAX_NESTING`] or more have room for those.
///
/// # Errors
///
/// The first of these that applies:
///
/// 1. the body is not JSON, is not an object, or its `signature_name` is not a string: `INVALID_ARGUMENT`;
/// 2. whatever `resolve` returns;
/// 3. the signature has no inputs, or the tensors are missing, irregular or not of its dtypes: `INVALID_ARGUMENT`;
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

/// A decoded classify or regress request; the two are alike.
#[derive(Clone, Debug)]
pub struct ExamplesInput {
    /// The signature's name as the client sent it; empty if it sent none.
    pub signature_name: Vec<u8>,
    /// The examples.
    pub examples: Examples,
}

/// Decodes the body of a classify or regress request.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if the body is not JSON, is not an object, its `signature_name` is not a string, or it does not
/// hold examples.
pub fn decode_examples(body: &[u8], max_nesting: usize) -> Result<ExamplesInput> {
    check_size(body)?;
    let request = exact::Request::parse(body, max_nesting)?;
    let signature_name = request.signature_name()?.to_vec();
    Ok(ExamplesInput { signature_name, examples: request.examples()? })
}
