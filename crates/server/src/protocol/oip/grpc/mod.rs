//! The protocol over gRPC.

mod contents;
mod infer;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use prost::Message;

use super::{choice, metadata, missing, repository};
use crate::protocol::grpc_wire::new_message;
use crate::router::grpc::OpenInference;
use crate::service::Service;
use servable_codec::proto::inference::model_repository_parameter::ParameterChoice;
use servable_codec::proto::inference::{
    ModelMetadataRequest, ModelReadyRequest, ModelReadyResponse, RepositoryIndexRequest, RepositoryIndexResponse,
    RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse, ServerLiveResponse, ServerReadyResponse,
};
use servable_model::call::Call;
use servable_model::error::{Result, ServingError};

pub use infer::{InferCall, decode_call};

/// Answers one call.
pub(crate) async fn call(
    service: &Arc<Service>,
    method: OpenInference<'_>,
    caller: &HeaderMap,
    message: Bytes,
    call: Call,
) -> Result<BytesMut> {
    match method {
        OpenInference::ModelInfer => infer::infer(service, caller, message, call).await,
        OpenInference::ServerLive => reply(&ServerLiveResponse { live: true }),
        OpenInference::ServerReady => {
            reply(&ServerReadyResponse { ready: service.readiness.why_not_ready(&service.serving_map).is_none() })
        }
        OpenInference::ModelReady => model_ready(service, &decode(message)?),
        OpenInference::ServerMetadata => reply(&metadata::of_server(service)),
        OpenInference::ModelMetadata => {
            let ModelMetadataRequest { name, version } = decode(message)?;
            reply(&metadata::of_model(service, name.as_bytes(), version.as_bytes(), caller)?)
        }
        OpenInference::RepositoryIndex => {
            let RepositoryIndexRequest { ready, .. } = decode(message)?;
            reply(&RepositoryIndexResponse { models: repository::index(service, ready)? })
        }
        OpenInference::RepositoryModelLoad => load(service, message, call).await,
        OpenInference::RepositoryModelUnload => {
            let RepositoryModelUnloadRequest { model_name, .. } = decode(message)?;
            repository::unload(service, model_name, call).await?;
            reply(&RepositoryModelUnloadResponse {})
        }
        OpenInference::Missing(extension) => Err(missing(extension)),
        OpenInference::Unknown(method) => {
            Err(ServingError::unimplemented(format!("there is no method {method} in the Open Inference Protocol")))
        }
    }
}

/// Whether the model is ready. Unloaded and unknown models are not.
fn model_ready(service: &Service, request: &ModelReadyRequest) -> Result<BytesMut> {
    let (name, version) = (request.name.as_bytes(), choice(request.version.as_bytes()));
    reply(&ModelReadyResponse {
        ready: service.readiness.why_model_not_ready(&service.serving_map, name, version).is_none(),
    })
}

async fn load(service: &Arc<Service>, message: Bytes, call: Call) -> Result<BytesMut> {
    let RepositoryModelLoadRequest { model_name, mut parameters, .. } = decode(message)?;
    let config = match parameters.remove("config").and_then(|parameter| parameter.parameter_choice) {
        Some(ParameterChoice::StringParam(config)) => Some(config),
        Some(_) => return Err(ServingError::invalid_argument("config has to be a string_param")),
        None => None,
    };
    repository::load(service, model_name, config, call).await?;
    reply(&RepositoryModelLoadResponse {})
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M> {
    M::decode(message).map_err(|error| malformed(&error))
}

fn malformed(error: &dyn std::fmt::Display) -> ServingError {
    ServingError::invalid_argument(format!("the message is not one of this method: {error}"))
}

fn reply(message: &impl Message) -> Result<BytesMut> {
    let mut reply = new_message(message.encoded_len());
    message.encode(&mut reply).map_err(|error| ServingError::internal(error.to_string()))?;
    Ok(reply)
}
