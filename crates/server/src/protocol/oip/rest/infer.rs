//! `POST …/infer`: tensors in JSON, behind it, or both.

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use memchr::memmem;

use super::super::infer::{Request, infer as run};
use super::JSON_LENGTH;
use crate::metrics::Entry;
use crate::protocol::rest_wire::{self as reply, Reply, RestOptions};
use crate::router::open_inference::Model;
use crate::service::Service;
use crate::serving::meter::{RequestMeter, code_of};
use crate::serving::priority;
use servable_codec::json::{Form, InferData, InferReply, InferRequest, ReplyTensor, decode_infer, has_json_form};
use servable_codec::open_inference::raw_tensor;
use servable_http::body::{self, Encoding};
use servable_model::call::Call;
use servable_model::error::{Code, Result, ServingError, expect_memory};
use servable_model::signature::TensorSpec;
use servable_model::tensor::Tensor;

pub(super) async fn infer(
    service: &Service,
    options: RestOptions,
    headers: &HeaderMap,
    model: &Model<'_>,
    body: &Bytes,
) -> Result<Reply> {
    let mut meter = RequestMeter::start(Entry::RestPredict);
    let reply = answer(service, options, headers, model, body, &mut meter).await;
    meter.finish(&service.metrics, &model.name, code_of(&reply));
    reply
}

async fn answer(
    service: &Service,
    options: RestOptions,
    headers: &HeaderMap,
    model: &Model<'_>,
    body: &Bytes,
    meter: &mut RequestMeter,
) -> Result<Reply> {
    let call = Call::default().within(options.timeout, meter.started()).with_priority(priority::of(headers)?);
    let json_length = json_length(headers, body.len())?;
    let (mut request, inputs) = body::work_on(body.len(), || decode_body(body, json_length, options.max_nesting))
        .map_err(|error| with_header_hint(error, headers, body))?;
    let call = call.within(request.timeout, meter.started());
    let wanted = std::mem::take(&mut request.outputs);
    let form = |index: usize| {
        let output = wanted.get(index);
        if output.is_some_and(|output| output.is_base64) {
            Form::Base64
        } else if output.and_then(|output| output.binary_data).unwrap_or(request.binary_data_output) {
            Form::Binary
        } else {
            Form::Json
        }
    };
    let run_request = Request {
        model: &model.name,
        version: &model.version,
        signature_name: request.signature_name.as_deref(),
        inputs,
        outputs: wanted.iter().map(|output| output.name.as_str()).collect(),
        call,
    };
    let check = |index: usize, spec: &TensorSpec| {
        if form(index) == Form::Binary || has_json_form(spec.dtype.base()) {
            return Ok(());
        }
        let text = format!("output {:?} can only be answered as binary data; ask for binary_data", spec.alias);
        Err(ServingError::invalid_argument(text))
    };
    let answer = run(service, headers, run_request, meter, check).await?;
    let outputs = answer.outputs().enumerate();
    let reply = InferReply {
        model_name: &model.name,
        model_version: answer.version,
        id: request.id.as_deref(),
        outputs: outputs.map(|(index, (name, tensor))| ReplyTensor { name, tensor, form: form(index) }).collect(),
    };
    let size = answer.size_in_bytes();
    expect_memory(size.saturating_mul(4))?;
    let (body, json_length) = body::work_on(size, || reply.encode())?;
    drop(reply);
    answer.compare_with_shadow();
    let encoding = wanted_encoding(headers);
    let packed = encoding.and_then(|encoding| body::work_on(body.len(), || encoding.pack(&body, 0)));
    let content_type = if json_length.is_some() { "application/octet-stream" } else { "application/json" };
    let is_packed = packed.is_some();
    let body = packed.map_or_else(|| body.into(), BytesMut::freeze);
    let mut reply = reply::with_status(200, "OK", body, content_type);
    if let Some(length) = json_length {
        reply.headers_mut().insert(JSON_LENGTH, HeaderValue::from(length));
    }
    if let Some(encoding) = encoding.filter(|_| is_packed) {
        reply.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
    }
    Ok(reply)
}

/// The compression for the answer, if the caller accepts exactly one. HTTP clients send lists by default, and
/// compression takes more time than it saves on most networks.
fn wanted_encoding(headers: &HeaderMap) -> Option<Encoding> {
    Encoding::of(headers.get(ACCEPT_ENCODING)?.as_bytes().trim_ascii())
}

/// Adds a hint on the length header to the error of an unreadable body: its value, or that it is missing if the body is
/// not only JSON.
fn with_header_hint(mut error: ServingError, headers: &HeaderMap, body: &[u8]) -> ServingError {
    if error.code != Code::InvalidArgument {
        return error;
    }
    let is_declared =
        || headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/octet-stream"));
    let is_named = || memmem::find(body, b"\"binary_data_size\"").is_some();
    if let Some(length) = headers.get(JSON_LENGTH) {
        let is_of_length =
            [&b"JSON Parse error"[..], b"the request goes on"].iter().any(|s| error.message.starts_with(s));
        if !is_of_length {
            return error;
        }
        let length = String::from_utf8_lossy(length.as_bytes()).into_owned();
        error.message.extend(format!(" (by Inference-Header-Content-Length, {length} bytes are JSON)").bytes());
    } else if is_declared() || is_named() || std::str::from_utf8(body).is_err() {
        error.message.extend(
            b"; the header Inference-Header-Content-Length is missing, which says how many bytes of the body are JSON \
              where binary data follows after it",
        );
    }
    error
}

/// How many bytes of the body are JSON.
fn json_length(headers: &HeaderMap, body_length: usize) -> Result<usize> {
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(body_length) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.filter(|&length| length <= body_length).ok_or_else(|| {
        let value = String::from_utf8_lossy(value.as_bytes());
        let text = format!("Inference-Header-Content-Length is {value:?}, and the body has {body_length} bytes");
        ServingError::invalid_argument(text)
    })
}

/// Reads the JSON, and makes tensors from the binary data after it.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if either violates the protocol, or if bytes are missing or left over.
///
/// # Panics
///
/// If the body is shorter than its JSON.
pub fn decode_body(
    body: &Bytes,
    json_length: usize,
    max_nesting: usize,
) -> Result<(InferRequest, Vec<(String, Tensor)>)> {
    expect_memory(json_length.saturating_mul(4))?;
    let mut request = decode_infer(&body[..json_length], max_nesting)?;
    let mut rest = body.slice(json_length..);
    let mut inputs = Vec::with_capacity(request.inputs.len());
    for input in std::mem::take(&mut request.inputs) {
        let tensor = match input.data {
            InferData::Tensor(tensor) => tensor,
            InferData::Binary { dtype, shape, size } => {
                if size > rest.len() {
                    let (name, left) = (&input.name, rest.len());
                    let text = format!("input {name:?} has a binary_data_size of {size}, and {left} bytes are left");
                    return Err(ServingError::invalid_argument(text));
                }
                raw_tensor(&input.name, dtype, shape, rest.split_to(size))?
            }
        };
        inputs.push((input.name, tensor));
    }
    if rest.is_empty() {
        return Ok((request, inputs));
    }
    let text = format!("{} bytes of binary data belong to no input", rest.len());
    Err(ServingError::invalid_argument(text))
}
