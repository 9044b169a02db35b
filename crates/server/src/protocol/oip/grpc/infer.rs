//! `ModelInfer`: tensors in typed fields, or as bytes beside them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::super::infer::{Request, infer as run};
use super::{contents, malformed, reply};
use crate::metrics::Entry;
use crate::service::Service;
use crate::serving::meter::{RequestMeter, code_of};
use crate::serving::predict::Answer;
use crate::serving::traffic::Caller;
use servable_codec::json::timeout;
use servable_codec::open_inference::{datatype, dtype, raw_bytes, raw_tensor};
use servable_codec::proto::inference::infer_parameter::ParameterChoice;
use servable_codec::proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use servable_codec::proto::inference::model_infer_response::InferOutputTensor;
use servable_codec::proto::inference::{InferParameter, ModelInferResponse};
use servable_codec::wire::{self, Field, Malformed, Reader, Value};
use servable_http::body;
use servable_model::call::Call;
use servable_model::error::{Result, ServingError, expect_memory};
use servable_model::tensor::Tensor;

pub(super) async fn infer(
    service: &Service,
    caller: &(dyn Caller + Sync),
    message: Bytes,
    call: Call,
) -> Result<BytesMut> {
    let mut meter = RequestMeter::start(Entry::GrpcPredict);
    expect_memory(message.len().saturating_mul(2))?;
    let mut request = body::work_on(message.len(), || decode_call(&message))?;
    let reply = answer(service, caller, &mut request, call, &mut meter).await;
    meter.finish(&service.metrics, request.model_name.as_bytes(), code_of(&reply));
    reply
}

async fn answer(
    service: &Service,
    caller: &(dyn Caller + Sync),
    request: &mut InferCall,
    call: Call,
    meter: &mut RequestMeter,
) -> Result<BytesMut> {
    let inputs = std::mem::take(&mut request.inputs);
    let call = call.within(request.timeout, meter.started());
    let wanted = Request {
        model: request.model_name.as_bytes(),
        version: request.model_version.as_bytes(),
        signature_name: Some(&request.signature_name),
        inputs,
        outputs: request.outputs.iter().map(String::as_str).collect(),
        call,
    };
    let answer = run(service, caller, wanted, meter, |_, _| Ok(())).await?;
    let size = answer.size_in_bytes();
    expect_memory(size)?;
    let reply = body::work_on(size, || reply(&response(&answer, request)?))?;
    answer.compare_with_shadow();
    Ok(reply)
}

/// An answer with all tensors as bytes if the request's were, or if one of them has no typed field.
fn response(answer: &Answer, request: &InferCall) -> Result<ModelInferResponse> {
    let is_raw = request.is_raw || answer.outputs().any(|(_, tensor)| !contents::has_field(tensor.dtype()));
    let mut response = ModelInferResponse {
        model_name: request.model_name.clone(),
        model_version: answer.version.to_string(),
        id: request.id.clone(),
        ..ModelInferResponse::default()
    };
    for (name, tensor) in answer.outputs() {
        let dtype = tensor.dtype();
        let datatype = datatype(dtype)
            .ok_or_else(|| ServingError::invalid_argument(format!("output {name:?}: no datatype for {dtype}")))?;
        if is_raw {
            response.raw_output_contents.push(raw_bytes(tensor)?);
        }
        response.outputs.push(InferOutputTensor {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape: tensor.shape().to_vec(),
            contents: (!is_raw).then(|| contents::contents(tensor)),
            ..InferOutputTensor::default()
        });
    }
    Ok(response)
}

/// A decoded `ModelInferRequest`.
#[derive(Debug, Default)]
pub struct InferCall {
    model_name: String,
    model_version: String,
    id: String,
    signature_name: String,
    timeout: Option<Duration>,
    /// The inputs by name, in the order they were sent.
    pub inputs: Vec<(String, Tensor)>,
    outputs: Vec<String>,
    is_raw: bool,
}

/// The maximum number of inputs or outputs, more than any model has. A message needs only two bytes for each, but
/// decoding takes memory.
const MAX_TENSORS: usize = 4096;

/// Reads a `ModelInferRequest`.
///
/// Repeated messages are decoded by hand: decoding a message of empty tensors must not take many times its size.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if it is malformed, or if the data of a tensor does not match its datatype and shape.
pub fn decode_call(message: &Bytes) -> Result<InferCall> {
    let parts = Parts::split(message)?;
    let mut call = InferCall {
        model_name: parts.model_name.to_owned(),
        model_version: parts.model_version.to_owned(),
        id: parts.id.to_owned(),
        signature_name: parts.signature_name,
        timeout: parts.timeout,
        inputs: Vec::with_capacity(parts.inputs.len()),
        outputs: Vec::with_capacity(parts.outputs.len()),
        is_raw: !parts.raw.is_empty(),
    };
    if call.is_raw && parts.raw.len() != parts.inputs.len() {
        let (raw, inputs) = (parts.raw.len(), parts.inputs.len());
        let text = format!("raw_input_contents has {raw} entries, want one for each of the {inputs} inputs");
        return Err(ServingError::invalid_argument(text));
    }
    for (index, input) in parts.inputs.iter().enumerate() {
        let input = InferInputTensor::decode(message.slice_ref(input)).map_err(|error| malformed(&error))?;
        let name = input.name;
        refuse_extensions(&name, &input.parameters)?;
        let dtype = dtype(&input.datatype).ok_or_else(|| {
            let text = format!("input {name:?}: {:?} is not a datatype of the protocol", input.datatype);
            ServingError::invalid_argument(text)
        })?;
        let tensor = match parts.raw.get(index) {
            Some(_) if input.contents.is_some() => {
                let text = format!("input {name:?} has contents beside raw_input_contents");
                return Err(ServingError::invalid_argument(text));
            }
            Some(raw) => raw_tensor(&name, dtype, input.shape, message.slice_ref(raw))?,
            None => contents::tensor(&name, dtype, input.shape, input.contents.unwrap_or_default())?,
        };
        call.inputs.push((name, tensor));
    }
    for output in parts.outputs {
        let output =
            InferRequestedOutputTensor::decode(message.slice_ref(output)).map_err(|error| malformed(&error))?;
        refuse_extensions(&output.name, &output.parameters)?;
        call.outputs.push(output.name);
    }
    Ok(call)
}

/// Refuses parameters of unsupported extensions that would change the meaning of a tensor. Strings are sent as bytes,
/// never as base64.
fn refuse_extensions(tensor: &str, parameters: &BTreeMap<String, InferParameter>) -> Result<()> {
    if let Some(name) =
        parameters.keys().find(|name| ["shared_memory_region", "classification"].contains(&name.as_str()))
    {
        return Err(ServingError::invalid_argument(format!(
            "{tensor:?} has the parameter {name:?}, of an extension that is not available"
        )));
    }
    let content_type = parameters.get("content_type").and_then(|parameter| parameter.parameter_choice.as_ref());
    match content_type {
        Some(ParameterChoice::StringParam(name)) if name == "base64" => Err(ServingError::invalid_argument(format!(
            "{tensor:?} has the content_type \"base64\", which is for JSON; send the bytes themselves"
        ))),
        _ => Ok(()),
    }
}

/// The fields of a `ModelInferRequest`, nested messages still encoded.
#[derive(Default)]
struct Parts<'a> {
    model_name: &'a str,
    model_version: &'a str,
    id: &'a str,
    signature_name: String,
    timeout: Option<Duration>,
    inputs: Vec<&'a [u8]>,
    outputs: Vec<&'a [u8]>,
    raw: Vec<&'a [u8]>,
}

impl<'a> Parts<'a> {
    fn split(message: &'a [u8]) -> Result<Self> {
        let mut parts = Self::default();
        parts.read(message).map_err(|_| malformed(&"its fields cannot be read"))?;
        if [&parts.inputs, &parts.outputs, &parts.raw].iter().any(|list| list.len() > MAX_TENSORS) {
            return Err(ServingError::invalid_argument(format!("more than {MAX_TENSORS} inputs or outputs")));
        }
        Ok(parts)
    }

    fn read(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut fields = Reader::new(message);
        while let Some(Field { number, value }) = fields.next_field()? {
            let Value::Length(content) = value else { continue };
            match number {
                1 => self.model_name = wire::text(content)?,
                2 => self.model_version = wire::text(content)?,
                3 => self.id = wire::text(content)?,
                4 => self.read_parameter(fields.entry(content))?,
                5 => push(&mut self.inputs, content),
                6 => push(&mut self.outputs, content),
                7 => push(&mut self.raw, content),
                _ => {}
            }
        }
        Ok(())
    }

    /// All parameters but two are ignored.
    fn read_parameter(&mut self, mut entry: Reader<'a>) -> Result<(), Malformed> {
        let (mut key, mut value): (&[u8], &[u8]) = (b"", b"");
        while let Some(Field { number, value: content }) = entry.next_field()? {
            match (number, content) {
                (1, Value::Length(content)) => key = content,
                (2, Value::Length(content)) => value = content,
                _ => {}
            }
        }
        if key != b"signature_name" && key != b"timeout" {
            return Ok(());
        }
        let parameter = InferParameter::decode(value).map_err(|_| Malformed)?;
        match (key, parameter.parameter_choice) {
            (b"signature_name", Some(ParameterChoice::StringParam(name))) => self.signature_name = name,
            (b"timeout", Some(ParameterChoice::Int64Param(micros))) => {
                self.timeout = u64::try_from(micros).ok().and_then(timeout);
            }
            (b"timeout", Some(ParameterChoice::Uint64Param(micros))) => self.timeout = timeout(micros),
            _ => {}
        }
        Ok(())
    }
}

/// Appends up to one element beyond the limit, which shows that it was exceeded.
fn push<'a>(list: &mut Vec<&'a [u8]>, content: &'a [u8]) {
    if list.len() <= MAX_TENSORS {
        list.push(content);
    }
}
