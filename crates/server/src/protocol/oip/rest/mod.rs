//! The protocol over REST.

mod infer;
mod json;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_ENCODING, ORIGIN};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{choice, metadata, missing, repository};
use crate::protocol::rest_wire::{self as reply, Reply, RestOptions};
use crate::router::open_inference::{Api, Model, SHOWN};
use crate::service::Service;
pub use infer::decode_body;
use servable_codec::json::{decode_repository_request, error_body};
use servable_http::body::{self, BodyLimits, Encoding, Unpacking};
use servable_model::call::Call;
use servable_model::error::{Code, Result, ServingError};

/// The length of the JSON in front of binary data.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Answers one request; `api` is `None` for an unknown path.
pub(crate) async fn serve(
    service: &Arc<Service>,
    options: RestOptions,
    limits: BodyLimits,
    head: &Parts,
    api: Option<Api<'_>>,
    body: Bytes,
) -> Reply {
    let mut reply = match api {
        None => error(&no_route(head)),
        Some(Api::Missing(extension)) => error(&missing(extension)),
        Some(api) if !is_method(&api, &head.method) => wrong_method(&api, &head.method),
        Some(api) => match input(service, limits, &api, &head.headers, body) {
            Ok(body) => answer(service, options, head, &api, body).await.unwrap_or_else(|fault| error(&fault)),
            Err(fault @ Unpacking::TooLarge(_)) => reply::too_large(error(&fault.into())),
            Err(fault) => error(&fault.into()),
        },
    };
    if options.cors {
        reply::add_cors(&mut reply);
    }
    reply
}

/// Reads the body, and decompresses it if needed.
fn input(
    service: &Service,
    limits: BodyLimits,
    api: &Api<'_>,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Bytes, Unpacking> {
    let encoding = match headers.get(CONTENT_ENCODING) {
        Some(name) if api.is_post() && !name.as_bytes().eq_ignore_ascii_case(b"identity") && !body.is_empty() => {
            let unknown = || {
                Unpacking::Damaged(format!(
                    "Content-Encoding is {:?}, want gzip or deflate",
                    String::from_utf8_lossy(name.as_bytes())
                ))
            };
            Some(Encoding::of(name.as_bytes()).ok_or_else(unknown)?)
        }
        _ => None,
    };
    body::unpack_if_packed(encoding, body, limits, &service.body_memory)
}

async fn answer(
    service: &Arc<Service>,
    options: RestOptions,
    head: &Parts,
    api: &Api<'_>,
    body: Bytes,
) -> Result<Reply> {
    let headers = &head.headers;
    if api.is_administrative() {
        refuse_web_pages(headers)?;
    }
    match api {
        Api::Server => Ok(json(Code::Ok, json::server(&metadata::of_server(service)))),
        Api::ServerLive => Ok(json(Code::Ok, b"{\"live\":true}".to_vec())),
        Api::ServerReady => Ok(server_ready(service)),
        // The statistics of all models have the path of a model of that name.
        Api::Model(model) if *model.name == *b"stats" && service.serving_map.model(&model.name).is_none() => {
            Err(missing("statistics"))
        }
        Api::Model(model) => {
            let metadata = metadata::of_model(service, &model.name, &model.version, headers)?;
            Ok(json(Code::Ok, json::model(&metadata)))
        }
        Api::ModelReady(model) => Ok(model_ready(service, model)),
        Api::Infer(model) => infer::infer(service, options, headers, model, &body).await,
        Api::RepositoryIndex => {
            let index = repository::index(service, decode_repository_request(&body, options.max_nesting)?.only_ready)?;
            Ok(json(Code::Ok, json::index(&index)))
        }
        Api::Load(name) => {
            let config = decode_repository_request(&body, options.max_nesting)?.config;
            repository::load(service, text(name)?, config, Call::default()).await?;
            Ok(json(Code::Ok, Vec::new()))
        }
        Api::Unload(name) => {
            repository::unload(service, text(name)?, Call::default()).await?;
            Ok(json(Code::Ok, Vec::new()))
        }
        Api::Missing(extension) => Err(missing(extension)),
    }
}

fn is_method(api: &Api<'_>, method: &Method) -> bool {
    if api.is_post() { method == Method::POST } else { method == Method::GET || method == Method::HEAD }
}

fn wrong_method(api: &Api<'_>, method: &Method) -> Reply {
    let allowed = if api.is_post() { "POST" } else { "GET, HEAD" };
    let text = format!("{method} is not possible here; use {allowed}");
    let mut reply = reply::with_status(405, "Method Not Allowed", error_body(text.as_bytes()).into(), JSON);
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}

/// The error for a target that matches no API.
fn no_route(head: &Parts) -> ServingError {
    const MAX_SHOWN: usize = 200;
    let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let shown = target.char_indices().nth(MAX_SHOWN).map_or(target, |(end, _)| &target[..end]);
    ServingError::not_found(format!(
        "there is no {shown} in the Open Inference Protocol; there is {}",
        SHOWN.join(", ")
    ))
}

/// The body has the reason for people. Probes read the status.
fn server_ready(service: &Service) -> Reply {
    let problem = service.readiness.why_not_ready(&service.serving_map);
    let code = if problem.is_none() { Code::Ok } else { Code::Unavailable };
    json(code, json::server_ready(problem.as_deref()))
}

/// Like [`server_ready`]. An unknown model or version is not ready, with a status of its own.
fn model_ready(service: &Service, model: &Model<'_>) -> Reply {
    match service.readiness.why_model_not_ready(&service.serving_map, &model.name, choice(&model.version)) {
        None => json(Code::Ok, json::model_ready(&model.name, None)),
        Some(error) => json(error.code, json::model_ready(&model.name, Some(&error.text()))),
    }
}

/// Web pages can reach loopback addresses; administration never comes from a page.
fn refuse_web_pages(headers: &HeaderMap) -> Result<()> {
    if headers.contains_key(ORIGIN) {
        return Err(ServingError::new(Code::PermissionDenied, "requests of web pages are refused"));
    }
    Ok(())
}

fn text(name: &[u8]) -> Result<String> {
    String::from_utf8(name.to_vec()).map_err(|_| ServingError::invalid_argument("the model's name is not UTF-8"))
}

const JSON: &str = "application/json";

fn json(code: Code, body: Vec<u8>) -> Reply {
    let (status, reason) = code.http_status();
    reply::with_status(status, reason, body.into(), JSON)
}

fn error(error: &ServingError) -> Reply {
    reply::failure(error, error_body(error.text().as_bytes()))
}
