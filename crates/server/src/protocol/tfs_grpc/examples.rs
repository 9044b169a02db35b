//! `PredictionService.Classify`, `Regress` and `MultiInference` (`docs/spec/grpc_api.md` §6 to §9).

use bytes::{Bytes, BytesMut};

use super::models::{malformed, missing_spec};
use super::predict::choice;
use crate::metrics::Entry;
use crate::protocol::grpc_wire::framing::new_message;
use crate::service::Service;
use crate::serving::examples::{self, Head, Kind, Task};
use crate::serving::map::Resolved;
use crate::serving::meter::{RequestMeter, code_of};
use crate::serving::predict::Target;
use crate::serving::traffic::Caller;
use servable_codec::example::{self, ExamplesRequest};
use servable_codec::proto::tensorflow::serving::ModelSpec;
use servable_codec::proto::tensorflow::serving::model_spec::VersionChoice;
use servable_http::body;
use servable_model::call::Call;
use servable_model::error::Result;

/// `Classify` or `Regress`, whose requests have the same form.
pub(super) async fn infer(
    service: &Service,
    caller: &(dyn Caller + Sync),
    message: Bytes,
    kind: Kind,
    call: Call,
) -> Result<BytesMut> {
    let mut meter = RequestMeter::start(match kind {
        Kind::Classify => Entry::GrpcClassify,
        Kind::Regress => Entry::GrpcRegress,
    });
    let request =
        body::work_on(message.len(), || example::decode_examples_request(&message)).map_err(|_| malformed())?;
    let model = request.model_spec.unwrap_or_default().name;
    let reply = answer(service, caller, request, message.len(), kind, call, &mut meter).await;
    meter.finish(&service.metrics, model.as_bytes(), code_of(&reply));
    reply
}

async fn answer(
    service: &Service,
    caller: &(dyn Caller + Sync),
    request: ExamplesRequest<'_>,
    message_len: usize,
    kind: Kind,
    call: Call,
    meter: &mut RequestMeter,
) -> Result<BytesMut> {
    let spec = request.model_spec.ok_or_else(missing_spec)?;
    let mut target = Target::new(&service.serving_map, spec.name.as_bytes(), choice(&spec), caller, meter);
    let Resolved { version, handle, .. } = target.resolve()?;
    let version = *version;
    let name = match spec.signature_name {
        "" => examples::default_signature(handle, kind),
        name => name,
    };
    let inference =
        examples::infer(&mut target, kind, name.as_bytes(), request.examples, service.options, call).await?;
    let model_spec = model_spec(spec.name, version, name);
    let mut reply = new_message(0);
    // The size of a reply grows with the number of examples, as does that of the request.
    body::work_on(message_len, || example::encode_inference(&inference, &model_spec, &mut reply));
    Ok(reply)
}

/// `MultiInference`: several heads of one model in one run.
pub(super) async fn multi_inference(
    service: &Service,
    caller: &(dyn Caller + Sync),
    message: Bytes,
    call: Call,
) -> Result<BytesMut> {
    let request =
        body::work_on(message.len(), || example::decode_multi_inference_request(&message)).map_err(|_| malformed())?;
    // The first task selects the version.
    let spec = request.tasks().next().unwrap_or_default().model_spec;
    let Resolved { version, handle, .. } = service.serving_map.resolve(spec.name.as_bytes(), choice(&spec), caller)?;
    let tasks = request.tasks().map(|task| Task {
        model: task.model_spec.name,
        signature_name: task.model_spec.signature_name,
        method_name: task.method_name,
    });
    let heads = examples::heads(&handle, tasks, service.options.check_method_names)?;
    let specs: Vec<ModelSpec> = heads.iter().map(|(name, _)| model_spec(spec.name, version, name)).collect();
    let heads: Vec<Head> = heads.into_iter().map(|(_, head)| head).collect();
    let tensor = body::work_on(request.examples.size_in_bytes(), || request.examples.into_tensor())?;
    let inferences = examples::infer_all(&handle, &heads, tensor, call).await?;
    let mut reply = new_message(0);
    body::work_on(message.len(), || example::encode_multi_inference(specs.iter().zip(&inferences), &mut reply));
    Ok(reply)
}

/// The `model_spec` of a reply.
fn model_spec(name: &str, version: i64, signature_name: &str) -> ModelSpec {
    ModelSpec {
        name: name.to_owned(),
        version_choice: Some(VersionChoice::Version(version)),
        signature_name: signature_name.to_owned(),
    }
}
