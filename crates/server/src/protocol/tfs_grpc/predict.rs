//! `PredictionService.Predict` (`docs/spec/grpc_api.md` §5).

use bytes::Bytes;

use super::models::{malformed, missing_spec};
use crate::metrics::Entry;
use crate::protocol::grpc_wire::framing::{ReplyMessage, new_message};
use crate::service::Service;
use crate::serving::map::VersionChoice;
use crate::serving::meter::{RequestMeter, code_of};
use crate::serving::predict::Target;
use crate::serving::servable::Servable;
use crate::serving::traffic::Caller;
use crate::serving::{self, ApiOptions, Arranged};
use servable_codec::tensor_proto::{
    MemoryBudget, ModelSpec, PredictRequest, PredictResponse, RequestedVersion, decode_predict_request,
};
use servable_http::body;
use servable_model::call::Call;
use servable_model::error::{Result, expect_memory};

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
    let mut target = Target::new(&service.serving_map, spec.name.as_bytes(), choice(&spec), caller, meter);
    let arranged = arrange(&target.resolve()?.handle, request, message_len, service.options)?;
    let signature_name = serving::resolved_signature_name(spec.signature_name);
    let answer = target.predict(signature_name, arranged, call).await?;
    let as_content = service.options.tensor_content_responses;
    let response = PredictResponse::new(answer.outputs(), spec.name, answer.version, signature_name, as_content);
    let copied_len = response.encoded_len() - response.lent_len();
    expect_memory(copied_len)?;
    let (first, others) = body::work_on(copied_len, || response.encode_lending(new_message(copied_len)));
    drop(response);
    answer.compare_with_shadow();
    Ok(ReplyMessage { first, others })
}

/// Arranges the request in a message of `message_len` bytes.
pub(crate) fn arrange(
    servable: &Servable,
    request: &PredictRequest<'_>,
    message_len: usize,
    options: ApiOptions,
) -> Result<Arranged> {
    let signature_name = request.model_spec.unwrap_or_default().signature_name;
    let signature = serving::predict_signature(servable, serving::resolved_signature_name(signature_name))?;
    serving::check_predict_method(&signature, options)?;
    let inputs = body::work_on(message_len, || {
        let mut budget = MemoryBudget::for_message(message_len);
        serving::arrange_inputs(&signature, &request.inputs, |position, tensor| {
            let input = &signature.inputs[position];
            tensor.decode(&mut budget).map_err(|error| error.report(&input.alias, position, input.dtype))
        })
    })?;
    let outputs = serving::select_outputs(&signature, request.output_filter.iter().copied())?;
    Ok(Arranged { signature, inputs, outputs })
}

/// The requested version.
pub(super) fn choice<'a>(spec: &ModelSpec<'a>) -> VersionChoice<'a> {
    match spec.version {
        RequestedVersion::Unspecified => VersionChoice::Latest,
        RequestedVersion::Number(number) => VersionChoice::Number(number),
        RequestedVersion::Label(label) => VersionChoice::Label(label.as_bytes()),
    }
}
