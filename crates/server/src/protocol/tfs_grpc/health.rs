//! `grpc.health.v1.Health`: the health of the server, its services and its models.
//!
//! | name | is SERVING while |
//! |---|---|
//! | empty, a service with or without its package | the server is ready |
//! | `models/NAME` | a request that names no version finds one |
//! | `models/NAME/versions/N`, `models/NAME/labels/L` | so does a request that names this one |

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Response;
use prost::Message;

use super::models::malformed;
use crate::protocol::grpc_wire::framing;
use crate::protocol::grpc_wire::stream::{self, Gone, Messages, Sender};
use crate::service::Service;
use crate::serving::map::VersionChoice;
use servable_codec::proto::grpc::health::v1::health_check_response::ServingStatus;
use servable_codec::proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse, HealthListResponse};
use servable_model::call::Call;
use servable_model::error::{Code, Result, ServingError};

/// The services with a health status, with and without their package. TensorFlow Serving registers the names without.
const SERVICES: [&str; 6] = [
    "",
    "ModelService",
    "PredictionService",
    "inference.GRPCInferenceService",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.PredictionService",
];

/// The maximum number of listed statuses.
const MAX_LISTED: usize = 10_000;

/// `Check`: the current status.
pub(super) fn check(service: &Service, message: Bytes) -> Result<BytesMut> {
    let request = HealthCheckRequest::decode(message).map_err(|_| malformed())?;
    let status = status(service, &request.service).ok_or_else(|| {
        ServingError::not_found(format!("there is neither a service nor a model \"{}\"", request.service))
    })?;
    Ok(framing::encode(&response(status)))
}

/// `List`: the status of the server, of its services and of every model.
pub(super) fn list(service: &Service) -> Result<BytesMut> {
    let models: Vec<_> = service.serving_map.models().into_iter().map(|(name, _)| name).collect();
    if models.len() > MAX_LISTED {
        let text = format!("there are {} models; at most {MAX_LISTED} are listed", models.len());
        return Err(ServingError::new(Code::ResourceExhausted, text));
    }
    let models = models.into_iter().map(|name| format!("models/{}", String::from_utf8_lossy(&name)));
    let names = SERVICES.map(str::to_owned).into_iter().chain(models);
    let statuses: BTreeMap<_, _> =
        names.filter_map(|name| status(service, &name).map(|status| (name, response(status)))).collect();
    Ok(framing::encode(&HealthListResponse { statuses }))
}

/// `Watch`: the current status, and each change. When the server drains, the last status is `NOT_SERVING`.
pub(super) fn watch(service: &Arc<Service>, message: Bytes, call: Call) -> Result<Response<Messages>> {
    let name = HealthCheckRequest::decode(message).map_err(|_| malformed())?.service;
    let watched = Arc::clone(service);
    stream::answer(service, call, |sender| watch_one(watched, name, sender))
}

async fn watch_one(service: Arc<Service>, name: String, sender: Sender) -> Result<Result<()>, Gone> {
    let mut changes = service.readiness.changes(&service.serving_map);
    let mut last = None;
    loop {
        let status = status(&service, &name).unwrap_or(ServingStatus::ServiceUnknown);
        if last.replace(status) != Some(status) {
            sender.send(&response(status)).await?;
        }
        if service.readiness.is_draining() {
            return Ok(Err(stream::shutting_down()));
        }
        changes.next().await;
    }
}

/// The status of a name; `None` for an unknown name.
fn status(service: &Service, name: &str) -> Option<ServingStatus> {
    let is_ready = if SERVICES.contains(&name) {
        service.readiness.why_not_ready(&service.serving_map).is_none()
    } else {
        is_model_ready(service, name.strip_prefix("models/")?)?
    };
    Some(if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing })
}

/// Whether the model of a name as in REST paths is ready. The whole name may be that of a model, slashes included.
fn is_model_ready(service: &Service, name: &str) -> Option<bool> {
    let is_ready = |name: &str, choice| service.readiness.is_model_ready(&service.serving_map, name.as_bytes(), choice);
    is_ready(name, VersionChoice::Latest).or_else(|| {
        if let Some((name, label)) = name.rsplit_once("/labels/") {
            return is_ready(name, VersionChoice::Label(label.as_bytes()));
        }
        let (name, number) = name.rsplit_once("/versions/")?;
        is_ready(name, VersionChoice::Number(number.parse().ok()?))
    })
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
