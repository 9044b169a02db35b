//! TensorFlow Serving's REST API: decode, call the service, encode.

mod accept;
mod batching;
mod examples;
mod index;
mod metrics;
mod openapi;
pub(crate) mod reply;

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, EXPECT, ORIGIN};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request};

use crate::body::{self, BodyError, BodyLimits, BodyMemory, Encoding, RequestBody, Unpacking};
use crate::call::Call;
use crate::codec::{json, metadata};
use crate::error::{Code, Result, ServingError, expect_memory};
use crate::metrics::{Api as RunApi, Entry};
use crate::oip;
use crate::router::tensorflow_serving::{self as routes, Api, Route, Version};
use crate::servable::Servable;
use crate::service::examples::Kind;
use crate::service::meter::{RequestMeter, code_of};
use crate::service::{self, Service, priority};
use crate::serving_map::{Resolved, VersionChoice};
use crate::signature::{DEFAULT_SIGNATURE, Signature};
use crate::tensor::Tensor;
use crate::traffic::Caller;
pub(crate) use index::some_models;
use reply::Reply;
pub(crate) use reply::html_page;

/// Switches of the REST API.
#[derive(Clone, Copy, Debug)]
pub struct RestOptions {
    /// How long a run may take; `None` for no limit.
    pub timeout: Option<Duration>,
    /// Send the CORS headers on every API answer.
    pub cors: bool,
    /// How deeply JSON may be nested.
    pub max_nesting: usize,
}

/// The methods that have a meaning somewhere; any other is answered with 501.
const METHODS: [Method; 7] =
    [Method::GET, Method::POST, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH];

/// Answers one request.
pub(crate) async fn serve(
    service: &Arc<Service>,
    options: RestOptions,
    limits: BodyLimits,
    request: Request<RequestBody>,
) -> Reply {
    let (head, body) = request.into_parts();
    if !METHODS.contains(&head.method) {
        return reply::page(501, "Not Implemented");
    }
    if head.headers.get(EXPECT).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return reply::page(417, "Expectation Failed");
    }
    let body = match body::read(body, limits, &service.body_memory).await {
        Ok(body) => body,
        Err(BodyError::TooLarge) => return reply::page(413, "Request Entity Too Large"),
        Err(BodyError::TooSlow) => return reply::page(408, "Request Timeout"),
        Err(BodyError::Broken) => return reply::page(400, "Bad Request"),
        Err(BodyError::Shortage(shortage)) => return reply::no_room(service, shortage.into(), options.cors),
    };
    let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if !routes::is_well_formed(target) {
        return reply::page(400, "Bad Request");
    }
    if let Some(reply) = health(service, &head) {
        return reply;
    }
    if metrics::is_page(service, head.uri.path()) {
        return metrics::page(service, &head).await;
    }
    if is_question(&head) && head.uri.path() == "/" {
        return index::root(service, &head.headers);
    }
    if is_question(&head) && openapi::is_document(head.uri.path()) {
        return reply::api(openapi::answer(service, &head.uri).await, options.cors);
    }
    let is_oip = oip::rest::is_path(head.uri.path());
    if !is_oip && !routes::is_api_path(head.uri.path()) {
        return index::not_found(service, &head);
    }
    let meter = RequestMeter::start(Entry::RestOther);
    if head.method == Method::OPTIONS {
        let code = code_of_options(&head.headers);
        meter.finish(&service.metrics, b"", code);
        return reply::options(code, options.cors);
    }
    let body = match body_of(&head.headers, body, limits, &service.body_memory, is_oip) {
        Ok(body) => Ok(body),
        Err(Unpacking::Damaged(text)) => Err(ServingError::invalid_argument(text)),
        Err(Unpacking::Shortage(shortage)) => Err(shortage.into()),
        Err(Unpacking::TooLarge(limit)) => {
            meter.finish(&service.metrics, b"", Code::ResourceExhausted);
            return reply::too_large_when_unpacked(limit, options.cors);
        }
    };
    if is_oip {
        return oip::rest::serve(service, options, &head, body).await;
    }
    if head.method == Method::GET && index::is_models(head.uri.path()) {
        let answer = index::models(service).await;
        meter.finish(&service.metrics, b"", code_of(&answer));
        return reply::api(answer, options.cors);
    }
    let routed = body.and_then(|body| Ok((body, route_of(&head, target)?)));
    let answer = match routed {
        Ok((body, route)) => answer(service, options, &route, &head.headers, &body, meter).await,
        Err(error) => {
            meter.finish(&service.metrics, b"", error.code);
            Err(error)
        }
    };
    reply::api(answer, options.cors)
}

/// The answers that tell an orchestrator whether to restart the server, and whether to send it requests.
fn health(service: &Service, head: &Parts) -> Option<Reply> {
    let problem = match head.uri.path() {
        "/healthz" => None,
        "/readyz" => service.readiness.why_not_ready(&service.serving_map),
        _ => return None,
    };
    is_question(head).then(|| reply::health(problem))
}

fn is_question(head: &Parts) -> bool {
    head.method == Method::GET || head.method == Method::HEAD
}

/// Answers a request of which nothing but the head has been looked at.
pub(crate) fn refuse(error: ServingError, request: &Request<RequestBody>, options: RestOptions) -> Reply {
    match error.code {
        Code::ResourceExhausted => reply::page(431, "Request Header Fields Too Large"),
        // What a browser asks before it sends a key.
        _ if request.method() == Method::OPTIONS => reply::options(code_of_options(request.headers()), options.cors),
        _ => reply::api(Err(error), options.cors),
    }
}

/// The answer of a request whose own answer cannot be sent.
pub(crate) fn fail(error: ServingError, options: RestOptions) -> Reply {
    reply::api(Err(error), options.cors)
}

/// What an OPTIONS request gets: success if it says that it comes from a web page.
fn code_of_options(headers: &HeaderMap) -> Code {
    let is_from_a_page = headers.get(ORIGIN).is_some_and(|origin| {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        origin.contains("http://") || origin.contains("https://")
    });
    if is_from_a_page { Code::Ok } else { Code::FailedPrecondition }
}

/// The body as the API reads it: unpacked where the client says that it is packed.
///
/// TensorFlow Serving looks for `gzip` anywhere in the header, and takes all else as it is.
fn body_of(
    headers: &HeaderMap,
    body: Bytes,
    limits: BodyLimits,
    memory: &Arc<BodyMemory>,
    is_oip: bool,
) -> Result<Bytes, Unpacking> {
    let Some(name) = headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) else { return Ok(body) };
    if body.is_empty() {
        return Ok(body); // nothing is nothing, packed or not
    }
    let encoding = match is_oip {
        false if String::from_utf8_lossy(name).contains("gzip") => Encoding::Gzip,
        false => return Ok(body),
        true if name.eq_ignore_ascii_case(b"identity") => return Ok(body),
        true => Encoding::of(name).ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            Unpacking::Damaged(format!("Content-Encoding is {name:?}, want gzip or deflate"))
        })?,
    };
    body::work_on(body.len(), || body::unpack(encoding, &body, limits, memory))
}

fn route_of<'a>(head: &Parts, target: &'a str) -> Result<Route<'a>> {
    match head.method {
        Method::GET => routes::parse_get(target),
        Method::POST => routes::parse_post(target),
        _ => Err(routes::malformed(head.method.as_str(), target)),
    }
}

/// Answers a request for a model, and counts it.
async fn answer(
    service: &Service,
    options: RestOptions,
    route: &Route<'_>,
    caller: &(dyn Caller + Sync),
    body: &[u8],
    mut meter: RequestMeter,
) -> Result<Bytes> {
    meter.set_entry(match route.api {
        Api::Predict => Entry::RestPredict,
        Api::Classify => Entry::RestClassify,
        Api::Regress => Entry::RestRegress,
        Api::Status | Api::Metadata | Api::Batching => Entry::RestOther,
    });
    let answer = match route.api {
        Api::Predict => predict(service, options, route, caller, body, &mut meter).await,
        Api::Classify => examples::infer(service, options, route, caller, body, Kind::Classify, &mut meter).await,
        Api::Regress => examples::infer(service, options, route, caller, body, Kind::Regress, &mut meter).await,
        Api::Status => status(service, route),
        Api::Metadata => service.metadata(&route.model, choice(&route.version), caller).map(Bytes::from),
        Api::Batching => batching::report(service, route, caller),
    };
    meter.finish(&service.metrics, &route.model, code_of(&answer));
    answer
}

async fn predict(
    service: &Service,
    options: RestOptions,
    route: &Route<'_>,
    caller: &(dyn Caller + Sync),
    body: &[u8],
    meter: &mut RequestMeter,
) -> Result<Bytes> {
    let call = Call::default().within(options.timeout, meter.started()).with_priority(priority::of(caller)?);
    // The decoder may ask twice, but a split draws once, and a shadow is claimed once.
    let resolved = OnceCell::new();
    let resolve = || service.serving_map.resolve(&route.model, choice(&route.version), caller);
    // The shortest number in the text has two bytes, the longest in memory eight.
    expect_memory(body.len().saturating_mul(4))?;
    let mut request = body::work_on(body.len(), || {
        json::decode_predict(body, options.max_nesting, |signature_name| match resolved.get_or_init(resolve) {
            Ok(Resolved { handle, .. }) => predict_signature(handle, signature_name),
            Err(error) => Err(error.clone()),
        })
    })?;
    let Resolved { handle, shadow, .. } = resolved.into_inner().unwrap_or_else(resolve)?;
    let handle = meter.claim(handle);
    let signature = request.signature;
    service::check_predict_method(&signature, service.options)?;
    let copy = shadow.map(|shadow| {
        let name = String::from_utf8_lossy(or_default(Some(&request.signature_name)));
        shadow.copy(&name, &signature, &mut request.inputs)
    });
    let all: Vec<usize> = (0..signature.outputs.len()).collect();
    let outputs = service::run(handle, RunApi::Predict, &signature, request.inputs, &all, call).await?;
    let aliases = || signature.outputs.iter().map(|spec| spec.alias.as_str());
    let named: Vec<_> = aliases().zip(&outputs).collect();
    let size = outputs.iter().map(Tensor::size_in_bytes).sum();
    let answer = body::work_on(size, || json::encode_predict(request.format, &named)).map(Bytes::from)?;
    if let Some(copy) = copy {
        copy.compare_with(aliases().zip(outputs));
    }
    Ok(answer)
}

/// The signature that a REST predict asks for; REST has its own code and text for one that is not there.
pub(crate) fn predict_signature(servable: &Servable, name: Option<&[u8]>) -> Result<Arc<Signature>> {
    let name = or_default(name);
    let signature = std::str::from_utf8(name).ok().and_then(|name| servable.signature(name));
    signature.cloned().ok_or_else(|| {
        let text: [&[u8]; 3] = [b"Serving signature name: \"", name, b"\" not found in signature def"];
        ServingError::invalid_argument(text.concat())
    })
}

/// The name of the signature that a request asks for.
fn or_default(name: Option<&[u8]>) -> &[u8] {
    name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_SIGNATURE.as_bytes())
}

fn status(service: &Service, route: &Route<'_>) -> Result<Bytes> {
    let number = match route.version {
        Version::Number(number) => Some(number),
        Version::Latest | Version::Label(_) => None,
    };
    Ok(metadata::status_json(&service.model_status(&route.model, number)?).into())
}

fn choice<'a>(version: &'a Version<'_>) -> VersionChoice<'a> {
    match version {
        Version::Latest => VersionChoice::Latest,
        Version::Number(number) => VersionChoice::Number(*number),
        Version::Label(label) => VersionChoice::Label(label),
    }
}
