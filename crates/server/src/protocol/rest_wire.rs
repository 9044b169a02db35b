//! REST answers: JSON for the API, and the small HTML pages for what never reaches it (`docs/spec/rest_api.md` §2.4,
//! §4).

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

/// Switches of the APIs over REST.
#[derive(Clone, Copy, Debug)]
pub struct RestOptions {
    /// How long a run may take; `None` for no limit.
    pub timeout: Option<Duration>,
    /// Send the CORS headers on every API answer.
    pub cors: bool,
    /// How deeply JSON may be nested.
    pub max_nesting: usize,
}

pub(crate) type Reply = Response<WholeBody>;

/// The answer of an API: the body it made, or its error as JSON.
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

/// The answer that says what failed, in a body of JSON, and what the client may do about it.
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

/// The same answer with the status for a body that is too large when it is unpacked.
pub(crate) fn too_large(mut reply: Reply) -> Reply {
    set_status(&mut reply, 413, "Request Entity Too Large");
    reply
}

/// The answer to a body that there is no memory for; the connection is closed after it, as the rest of the body still comes.
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

/// The answer of what is no API: text for people and for tools.
pub(crate) fn text(code: Code, body: String) -> Reply {
    let (status, reason) = code.http_status();
    with_status(status, reason, body.into(), "text/plain")
}

/// A page for what is no API request; the connection is closed after it.
pub(crate) fn page(status: u16, reason: &'static str) -> Reply {
    let mut reply = with_status(status, reason, page::html(status, reason).into(), "text/html");
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// The answer of a health check: whether all is well, or what is not.
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

/// Lets web pages read the answer.
pub(crate) fn add_cors(reply: &mut Reply) {
    let headers = reply.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Content-Type"));
}
