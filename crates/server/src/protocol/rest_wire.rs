//! REST answers: JSON of the API, and small HTML pages for requests without a route (`docs/spec/rest_api.md` §2.4, §4).

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN};
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use hyper::ext::ReasonPhrase;

use crate::access;
use crate::service::Service;
use servable_codec::json;
use servable_http::body::WholeBody;
use servable_http::page;
use servable_model::error::{Code, Result, ServingError};

/// The options of the REST APIs.
#[derive(Clone, Copy, Debug)]
pub struct RestOptions {
    /// The time limit of a run; `None` for no limit.
    pub timeout: Option<Duration>,
    /// Send the CORS headers on every API answer.
    pub cors: bool,
    /// The maximum depth of JSON.
    pub max_nesting: usize,
}

pub(crate) type Reply = Response<WholeBody>;

/// The answer of an API: its body, or its error as JSON.
pub(crate) fn api(result: Result<Bytes>, cors: bool) -> Reply {
    let mut reply = match result {
        Ok(body) => with_status(200, "OK", body, "application/json"),
        Err(error) => failure(&error, json::error_body(&error.message)),
    };
    if cors {
        add_cors(&mut reply);
    }
    reply
}

/// The answer for an error, with a JSON body and the headers that tell clients how to proceed.
pub(crate) fn failure(error: &ServingError, body: Vec<u8>) -> Reply {
    let (status, reason) = error.code.http_status();
    let mut reply = with_status(status, reason, body.into(), "application/json");
    if let Some(challenge) = access::challenge(error.code) {
        reply.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = error.retry_after_seconds {
        reply.headers_mut().insert(RETRY_AFTER, seconds.get().into());
    }
    reply
}

/// Sets the status for a body that is too large after decompression.
pub(crate) fn too_large(mut reply: Reply) -> Reply {
    set_status(&mut reply, 413, "Request Entity Too Large");
    reply
}

/// The answer to a body for which there is no memory. It closes the connection, since the rest of the body is not read.
pub(crate) fn no_room(service: &Service, error: ServingError, cors: bool) -> Reply {
    service.metrics.refuse(error.code);
    let mut reply = api(Err(error), cors);
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// The answer to OPTIONS: nothing but headers.
pub(crate) fn options(code: Code, cors: bool) -> Reply {
    let (status, reason) = code.http_status();
    let mut reply = with_status(status, reason, Bytes::new(), "text/html; charset=ISO-8859-1");
    if cors {
        add_cors(&mut reply);
    }
    reply
}

/// A plain-text answer.
pub(crate) fn text(code: Code, body: String) -> Reply {
    let (status, reason) = code.http_status();
    with_status(status, reason, body.into(), "text/plain")
}

/// An HTML page for a request without a route. It closes the connection.
pub(crate) fn page(status: u16, reason: &'static str) -> Reply {
    let mut reply = with_status(status, reason, page::html(status, reason).into(), "text/html");
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// The answer of a health check, with the problem if there is one.
pub(crate) fn health(problem: Option<String>) -> Reply {
    let (code, text) = match problem {
        None => (Code::Ok, "ok".to_owned()),
        Some(problem) => (Code::Unavailable, problem),
    };
    let (status, reason) = code.http_status();
    with_status(status, reason, (text + "\n").into(), "text/plain; charset=utf-8")
}

/// An answer with this status.
pub(crate) fn with_status(status: u16, reason: &'static str, body: Bytes, content_type: &'static str) -> Reply {
    let mut reply = Response::new(WholeBody::new(body));
    set_status(&mut reply, status, reason);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

fn set_status(reply: &mut Reply, status: u16, reason: &'static str) {
    *reply.status_mut() = StatusCode::from_u16(status).expect("a status of the table");
    if reply.status().canonical_reason() != Some(reason) {
        reply.extensions_mut().insert(ReasonPhrase::from_static(reason.as_bytes()));
    }
}

/// Adds the CORS headers.
pub(crate) fn add_cors(reply: &mut Reply) {
    let headers = reply.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Content-Type"));
}
