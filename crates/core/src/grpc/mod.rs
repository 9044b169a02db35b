//! TensorFlow Serving's gRPC API: decode, call the service, encode.

mod examples;
mod framing;
mod models;
pub(crate) mod predict;

use std::sync::Arc;
use std::time::Instant;

use crate::body::{BodyLimits, WholeBody};
use crate::error::{Result, ServingError};
use crate::service::Service;
use crate::service::examples::Kind;
use bytes::BytesMut;
use http::{Request, Response};
use hyper::body::Incoming;

pub(crate) use framing::is_grpc;

/// Answers one call.
pub(crate) async fn serve(
    service: &Arc<Service>,
    limits: BodyLimits,
    request: Request<Incoming>,
) -> Response<WholeBody> {
    framing::reply(call(service, limits, request).await)
}

async fn call(service: &Arc<Service>, limits: BodyLimits, request: Request<Incoming>) -> Result<BytesMut> {
    let (head, body) = request.into_parts();
    let caller = &head.headers;
    let deadline = framing::timeout(caller).and_then(|timeout| Instant::now().checked_add(timeout));
    // Read whatever the method is: a client that is still sending may miss an answer that comes before it is done.
    let message = framing::read_message(caller, body, limits).await;
    match head.uri.path() {
        "/tensorflow.serving.PredictionService/Predict" => predict::predict(service, caller, message?, deadline).await,
        "/tensorflow.serving.PredictionService/Classify" => {
            examples::infer(service, caller, message?, Kind::Classify, deadline).await
        }
        "/tensorflow.serving.PredictionService/Regress" => {
            examples::infer(service, caller, message?, Kind::Regress, deadline).await
        }
        "/tensorflow.serving.PredictionService/MultiInference" => {
            examples::multi_inference(service, caller, message?, deadline).await
        }
        "/tensorflow.serving.PredictionService/GetModelMetadata" => models::metadata(service, caller, message?),
        "/tensorflow.serving.ModelService/GetModelStatus" => models::status(service, message?),
        "/tensorflow.serving.ModelService/HandleReloadConfigRequest" => models::reload_config(service, message?).await,
        _ => Err(ServingError::unimplemented("")),
    }
}
