//! TensorFlow Serving's gRPC API, and the services of gRPC itself: decode, call the service, encode.

mod examples;
mod health;
mod models;
pub(crate) mod predict;
mod reflection;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::Either;

use crate::protocol::grpc_wire::framing::{MessageReader, ReplyMessage};
use crate::protocol::grpc_wire::{encoding, framing};
use crate::protocol::oip;
use crate::router::grpc::{Method, Unary};
use crate::service::Service;
use crate::serving::examples::Kind;
use crate::serving::priority;
use servable_http::body::{BodyLimits, RequestBody, WholeBody};
use servable_model::call::Call;
use servable_model::error::{Code, Result, ServingError};

pub(crate) use crate::protocol::grpc_wire::stream::Messages;
pub use servable_http::body::Encoding;

/// The options of the gRPC API.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcOptions {
    /// Answer `grpc.health.v1.Health`.
    pub health_service: bool,
    /// The compression of replies, for callers that accept it. Other callers get the compression of their request.
    pub reply_encoding: Option<Encoding>,
    /// The largest request message, in bytes, if it is smaller than the largest body.
    pub max_receive_bytes: Option<usize>,
    /// The largest reply message, in bytes.
    pub max_send_bytes: Option<usize>,
}

impl GrpcOptions {
    /// Checks the size of a reply.
    fn sendable(self, message: ReplyMessage) -> Result<ReplyMessage> {
        let (found, limit) = (message.len(), self.max_send_bytes.unwrap_or(usize::MAX));
        if found <= limit {
            return Ok(message);
        }
        let text = format!("SERVER: Sent message larger than max ({found} vs. {limit})");
        Err(ServingError::new(Code::ResourceExhausted, text))
    }

    /// Whether a service of `descriptors.bin` is answered.
    fn is_served(self, service: &str) -> bool {
        match service {
            "grpc.health.v1.Health" => self.health_service,
            "tensorflow.serving.SessionService" => false,
            _ => true,
        }
    }
}

/// The largest request to reflection, in bytes.
const MAX_QUESTION_BYTES: usize = 64 * 1024;

/// An answer: one message with its status, or a stream of messages.
pub(crate) type Reply = Response<Either<WholeBody, Messages>>;

/// Answers one call.
pub(crate) async fn serve(
    service: &Arc<Service>,
    options: GrpcOptions,
    limits: BodyLimits,
    headers: &HeaderMap,
    method: Method<'_>,
    body: RequestBody,
) -> Reply {
    let max_bytes = limits.max_bytes.min(options.max_receive_bytes.unwrap_or(usize::MAX));
    let limits = BodyLimits { max_bytes, ..limits };
    let deadline = framing::timeout(headers).and_then(|timeout| Instant::now().checked_add(timeout));
    let call = Call::until(deadline);
    let answer = match method {
        Method::Reflection => {
            let questions = MessageReader::new(headers, body, limits, MAX_QUESTION_BYTES, &service.body_memory);
            let is_served = move |name: &str| options.is_served(name);
            questions.and_then(|questions| reflection::answer(service, questions, call, is_served)).map(Either::Right)
        }
        Method::Unknown => Err(ServingError::unimplemented("")),
        method if method.is_of_health_service() && !options.health_service => Err(ServingError::unimplemented("")),
        Method::HealthWatch => {
            let message = read_message(service, headers, body, limits, call).await;
            message.and_then(|message| health::watch(service, message, call)).map(Either::Right)
        }
        Method::Unary(method) => match read_message(service, headers, body, limits, call).await {
            Ok(message) => unary(service, method, headers, message, call).await.map(Either::Left),
            Err(error) => Err(error),
        },
    };
    let mut reply = match answer {
        Ok(Either::Right(stream)) => stream.map(Either::Right),
        Ok(Either::Left(message)) => {
            framing::reply(options.sendable(message), reply_encoding(options, headers)).map(Either::Left)
        }
        Err(error) => framing::reply(Err(error), None).map(Either::Left),
    };
    if headers.contains_key(encoding::ENCODING) {
        reply.headers_mut().insert(encoding::ACCEPT, encoding::ACCEPTED);
    }
    reply
}

/// Answers a call with an error, without reading it.
pub(crate) fn refuse(error: ServingError) -> Reply {
    framing::reply(Err(error), None).map(Either::Left)
}

async fn read_message(
    service: &Service,
    headers: &HeaderMap,
    body: RequestBody,
    limits: BodyLimits,
    call: Call,
) -> Result<Bytes> {
    let reading = framing::read_message(headers, body, limits, &service.body_memory);
    let message = match call.deadline {
        None => reading.await,
        Some(deadline) => tokio::time::timeout_at(deadline.into(), reading)
            .await
            .unwrap_or_else(|_| Err(ServingError::new(Code::DeadlineExceeded, "Deadline Exceeded"))),
    }?;
    call.check()?;
    Ok(message)
}

async fn unary(
    service: &Arc<Service>,
    method: Unary<'_>,
    caller: &HeaderMap,
    message: Bytes,
    call: Call,
) -> Result<ReplyMessage> {
    let call = call.with_priority(priority::of(caller)?);
    let reply = match method {
        Unary::Predict => return predict::predict(service, caller, message, call).await,
        Unary::Classify => examples::infer(service, caller, message, Kind::Classify, call).await,
        Unary::Regress => examples::infer(service, caller, message, Kind::Regress, call).await,
        Unary::MultiInference => examples::multi_inference(service, caller, message, call).await,
        Unary::GetModelMetadata => models::metadata(service, caller, message),
        Unary::GetModelStatus => models::status(service, message),
        Unary::HandleReloadConfigRequest => models::reload_config(service, message, call).await,
        Unary::HealthCheck => health::check(service, message),
        Unary::HealthList => health::list(service),
        Unary::OpenInference(method) => oip::grpc::call(service, method, caller, message, call).await,
    };
    reply.map(ReplyMessage::from)
}

/// The compression of the reply.
fn reply_encoding(options: GrpcOptions, headers: &HeaderMap) -> Option<Encoding> {
    let own = || encoding::encoding_of(headers).ok().flatten();
    options.reply_encoding.or_else(own).filter(|&encoding| encoding::is_accepted(encoding, headers))
}
