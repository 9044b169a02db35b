//! The metrics page (`docs/spec/observability.md` §2).

use std::sync::Arc;

use http::request::Parts;
use http::uri::PathAndQuery;

use super::accept;
use crate::metrics::page::Format;
use crate::protocol::rest_wire::{self as reply, Reply};
use crate::service::Service;
use servable_model::error::{Code, ServingError};

/// The formats of the page, that of TensorFlow Serving first.
const FORMATS: [(&str, Format); 2] =
    [("text/plain", Format::Prometheus), ("application/openmetrics-text", Format::OpenMetrics)];

/// Answers a request for the page, whatever its method.
pub(super) async fn page(service: &Arc<Service>, head: &Parts) -> Reply {
    let target = &head.uri;
    let target_text = target.path_and_query().map_or("", PathAndQuery::as_str);
    if target.query().is_some() {
        return reply::text(
            Code::InvalidArgument,
            format!("Unexpected path: {target_text}. Should be {}", target.path()),
        );
    }
    let format = accept::best(&head.headers, &FORMATS).unwrap_or(Format::Prometheus);
    let threads = &service.pages;
    let service = Arc::clone(service);
    let made = threads.spawn(move || service.metrics_page(format)).await;
    match made.unwrap_or_else(|failed| Err(ServingError::internal(failed.to_string()))) {
        Ok(page) => reply::with_status(200, "OK", page.into(), format.content_type()),
        Err(error) => reply::text(error.code, error.to_string()),
    }
}
