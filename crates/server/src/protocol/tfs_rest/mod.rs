//! TensorFlow Serving's REST API: decode, call the service, encode.

mod accept;
mod batching;
mod examples;
mod index;
mod metrics;
mod openapi;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, ORIGIN};
use http::request::Parts;

use crate::metrics::Entry;
use crate::protocol::oip;
pub use crate::protocol::rest_wire::RestOptions;
use crate::protocol::rest_wire::{self as reply, Reply};
use crate::router::tensorflow_serving::{Api, ModelRoute, Version};
use crate::router::{NoRoute, RestRoute};
use crate::service::Service;
use crate::serving::examples::Kind;
use crate::serving::map::VersionChoice;
use crate::serving::meter::{RequestMeter, code_of};
use crate::serving::predict::Target;
use crate::serving::servable::Servable;
use crate::serving::traffic::Caller;
use crate::serving::{self, Arranged, priority};
use servable_codec::{json, metadata};
use servable_http::body::{self, BodyError, BodyLimits, Encoding, RequestBody, Unpacking};
use servable_model::call::Call;
use servable_model::error::{Code, Result, ServingError, expect_memory};
use servable_model::signature::{DEFAULT_SIGNATURE, Signature};

/// Answers one request.
pub(crate) async fn serve(
    service: &Arc<Service>,
    options: RestOptions,
    limits: BodyLimits,
    head: &Parts,
    route: RestRoute<'_>,
    body: RequestBody,
) -> Reply {
    let body = match body::read(body, limits, &service.body_memory).await {
        Ok(body) => body,
        Err(BodyError::TooLarge) => return reply::page(413, "Request Entity Too Large"),
        Err(BodyError::TooSlow) => return reply::page(408, "Request Timeout"),
        Err(BodyError::Broken) => return reply::page(400, "Bad Request"),
        Err(BodyError::Shortage(shortage)) => return reply::no_room(service, shortage.into(), options.cors),
    };
    match route {
        RestRoute::Liveness => reply::health(None),
        RestRoute::Readiness => reply::health(service.readiness.why_not_ready(&service.serving_map)),
        RestRoute::Metrics => metrics::page(service, head).await,
        RestRoute::Index => index::root(service, &head.headers),
        RestRoute::OpenApi => reply::api(openapi::answer(service, &head.uri).await, options.cors),
        RestRoute::Preflight => preflight(service, options, &head.headers),
        RestRoute::Models => {
            let meter = RequestMeter::start(Entry::RestOther);
            let answer = index::models(service).await;
            meter.finish(&service.metrics, b"", code_of(&answer));
            reply::api(answer, options.cors)
        }
        RestRoute::Model(route) => serve_model(service, options, limits, head, route, body).await,
        RestRoute::OpenInference(api) => oip::rest::serve(service, options, limits, head, api, body).await,
    }
}

/// Answers a request without a route with a page. The connection is then closed, so that the body need not be read.
pub(crate) fn no_route(service: &Service, head: &Parts, why: NoRoute) -> Reply {
    match why {
        NoRoute::Method => reply::page(501, "Not Implemented"),
        NoRoute::Target => reply::page(400, "Bad Request"),
        NoRoute::Expectation => reply::page(417, "Expectation Failed"),
        NoRoute::Path => index::not_found(service, head),
    }
}

fn preflight(service: &Service, options: RestOptions, headers: &HeaderMap) -> Reply {
    let meter = RequestMeter::start(Entry::RestOther);
    let code = code_of_options(headers);
    meter.finish(&service.metrics, b"", code);
    reply::options(code, options.cors)
}

async fn serve_model(
    service: &Service,
    options: RestOptions,
    limits: BodyLimits,
    head: &Parts,
    route: Result<ModelRoute<'_>>,
    body: Bytes,
) -> Reply {
    let meter = RequestMeter::start(Entry::RestOther);
    let refused = |meter: RequestMeter, error: ServingError| {
        meter.finish(&service.metrics, b"", error.code);
        reply::api(Err(error), options.cors)
    };
    let route = match route {
        Ok(route) => route,
        Err(error) => return refused(meter, error),
    };
    let encoding = if route.api.has_input() { encoding(&head.headers) } else { None };
    let body = match body::unpack_if_packed(encoding, body, limits, &service.body_memory) {
        Ok(body) => body,
        Err(fault @ Unpacking::TooLarge(_)) => return reply::too_large(refused(meter, fault.into())),
        Err(fault) => return refused(meter, fault.into()),
    };
    reply::api(answer(service, options, &route, &head.headers, &body, meter).await, options.cors)
}

/// Answers a request with an error, without reading its body.
pub(crate) fn refuse(error: ServingError, options: RestOptions) -> Reply {
    match error.code {
        Code::ResourceExhausted => reply::page(431, "Request Header Fields Too Large"),
        _ => reply::api(Err(error), options.cors),
    }
}

/// The answer in place of one that cannot be sent.
pub(crate) fn fail(error: ServingError, options: RestOptions) -> Reply {
    reply::api(Err(error), options.cors)
}

/// The code for an OPTIONS request: success if its headers are those of a web page.
fn code_of_options(headers: &HeaderMap) -> Code {
    let is_from_a_page = headers.get(ORIGIN).is_some_and(|origin| {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        origin.contains("http://") || origin.contains("https://")
    });
    if is_from_a_page { Code::Ok } else { Code::FailedPrecondition }
}

/// The compression of a body. Like TensorFlow Serving, it searches the header for `gzip`, and takes any other body as
/// uncompressed.
fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let name = headers.get(CONTENT_ENCODING)?;
    String::from_utf8_lossy(name.as_bytes()).contains("gzip").then_some(Encoding::Gzip)
}

/// Answers a request for a model, and counts it.
async fn answer(
    service: &Service,
    options: RestOptions,
    route: &ModelRoute<'_>,
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
    route: &ModelRoute<'_>,
    caller: &(dyn Caller + Sync),
    body: &[u8],
    meter: &mut RequestMeter,
) -> Result<Bytes> {
    let call = Call::default().within(options.timeout, meter.started()).with_priority(priority::of(caller)?);
    let mut target = Target::new(&service.serving_map, &route.model, choice(&route.version), caller, meter);
    // A number has at least two bytes as text, and at most eight in memory.
    expect_memory(body.len().saturating_mul(4))?;
    let request = body::work_on(body.len(), || {
        json::decode_predict(body, options.max_nesting, |name| predict_signature(&target.resolve()?.handle, name))
    })?;
    serving::check_predict_method(&request.signature, service.options)?;
    let name = String::from_utf8_lossy(or_default(Some(&request.signature_name)));
    let outputs = (0..request.signature.outputs.len()).collect();
    let arranged = Arranged { signature: request.signature, inputs: request.inputs, outputs };
    let answer = target.predict(&name, arranged, call).await?;
    let outputs: Vec<_> = answer.outputs().collect();
    let encode = || json::encode_predict(request.format, &outputs);
    let body = body::work_on(answer.size_in_bytes(), encode).map(Bytes::from)?;
    answer.compare_with_shadow();
    Ok(body)
}

/// The signature for a REST predict. REST has a separate error for an unknown one.
pub(crate) fn predict_signature(servable: &Servable, name: Option<&[u8]>) -> Result<Arc<Signature>> {
    let name = or_default(name);
    let signature = std::str::from_utf8(name).ok().and_then(|name| servable.signature(name));
    signature.cloned().ok_or_else(|| {
        let text: [&[u8]; 3] = [b"Serving signature name: \"", name, b"\" not found in signature def"];
        ServingError::invalid_argument(text.concat())
    })
}

/// The name of the requested signature.
fn or_default(name: Option<&[u8]>) -> &[u8] {
    name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_SIGNATURE.as_bytes())
}

fn status(service: &Service, route: &ModelRoute<'_>) -> Result<Bytes> {
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
