//! `PredictionService.Predict` (`docs/spec/grpc_api.md` §5).

use std::sync::Arc;

use bytes::Bytes;

use super::framing::{ReplyMessage, new_message};
use super::models::{malformed, missing_spec};
use crate::body;
use crate::call::Call;
use crate::codec::tensor_proto::{
    MemoryBudget, ModelSpec, PredictRequest, PredictResponse, RequestedVersion, decode_predict_request,
};
use crate::error::{Result, expect_memory};
use crate::metrics::{Api, Entry};
use crate::servable::Servable;
use crate::service::meter::{RequestMeter, code_of};
use crate::service::{self, Service, ServiceOptions};
use crate::serving_map::{Resolved, VersionChoice};
use crate::signature::Signature;
use crate::tensor::Tensor;
use crate::traffic::Caller;

pub(super) async fn predict(
    service: &Service,
    caller: &(dyn Caller + Sync),
    message: Bytes,
    call: Call,
) -> Result<ReplyMessage> {
    let mut meter = RequestMeter::start(Entry::GrpcPredict);
    let request = body::work_on(message.len(), || decode_predict_request(&message)).map_err(|_| malformed())?;
    let reply = answer(service, caller, &request, message.len(), call, &mut meter).await;
    let model = request.model_spec.unwrap_or_default().name;
    meter.finish(&service.metrics, model.as_bytes(), code_of(&reply));
    reply
}

async fn answer(
    service: &Service,
    caller: &(dyn Caller + Sync),
    request: &PredictRequest<'_>,
    message_len: usize,
    call: Call,
    meter: &mut RequestMeter,
) -> Result<ReplyMessage> {
    let spec = request.model_spec.ok_or_else(missing_spec)?;
    let Resolved { version, handle, shadow } = resolve(service, &spec, caller)?;
    let handle = meter.claim(handle);
    let signature_name = service::resolved_signature_name(spec.signature_name);
    let Run { signature, mut inputs, outputs: selected } = arrange(handle, request, message_len, service.options)?;
    let copy = shadow.map(|shadow| shadow.copy(signature_name, &signature, &mut inputs));
    let tensors = service::run(handle, Api::Predict, &signature, inputs, &selected, call).await?;
    let as_content = service.options.tensor_content_responses;
    let response = PredictResponse::new(
        aliases(&signature, &selected).zip(&tensors),
        spec.name,
        version,
        signature_name,
        as_content,
    );
    let copied_len = response.encoded_len() - response.lent_len();
    expect_memory(copied_len)?;
    let (first, others) = body::work_on(copied_len, || response.encode_lending(new_message(copied_len)));
    if let Some(copy) = copy {
        copy.compare_with(aliases(&signature, &selected).zip(tensors));
    }
    Ok(ReplyMessage { first, others })
}

fn aliases<'a>(signature: &'a Signature, outputs: &'a [usize]) -> impl Iterator<Item = &'a str> {
    outputs.iter().map(|&position| signature.outputs[position].alias.as_str())
}

/// What a Predict runs.
pub(crate) struct Run {
    pub(crate) signature: Arc<Signature>,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) outputs: Vec<usize>,
}

/// Makes a run of a request that came in a message of so many bytes.
pub(crate) fn arrange(
    servable: &Servable,
    request: &PredictRequest<'_>,
    message_len: usize,
    options: ServiceOptions,
) -> Result<Run> {
    let signature_name = request.model_spec.unwrap_or_default().signature_name;
    let signature = service::predict_signature(servable, service::resolved_signature_name(signature_name))?;
    service::check_predict_method(&signature, options)?;
    let inputs = body::work_on(message_len, || {
        let mut budget = MemoryBudget::for_message(message_len);
        service::arrange_inputs(&signature, &request.inputs, |position, tensor| {
            let input = &signature.inputs[position];
            tensor.decode(&mut budget).map_err(|error| error.report(&input.alias, position, input.dtype))
        })
    })?;
    let outputs = service::select_outputs(&signature, request.output_filter.iter().copied())?;
    Ok(Run { signature, inputs, outputs })
}

/// Claims the version that a request asks for.
pub(super) fn resolve(service: &Service, spec: &ModelSpec<'_>, caller: &dyn Caller) -> Result<Resolved> {
    let choice = match spec.version {
        RequestedVersion::Unspecified => VersionChoice::Latest,
        RequestedVersion::Number(number) => VersionChoice::Number(number),
        RequestedVersion::Label(label) => VersionChoice::Label(label.as_bytes()),
    };
    service.serving_map.resolve(spec.name.as_bytes(), choice, caller)
}
