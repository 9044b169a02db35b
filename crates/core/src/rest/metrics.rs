//! The metrics page (`docs/spec/observability.md` §2).

use std::sync::Arc;

use http::Uri;
use http::uri::PathAndQuery;

use super::reply::{self, Reply};
use crate::error::{Code, ServingError};
use crate::service::Service;

/// Whether a path is that of the page.
pub(super) fn is_page(service: &Service, path: &str) -> bool {
    service.metrics_path.as_deref() == Some(path)
}

/// Answers a request for the page, whatever its method.
pub(super) async fn page(service: &Arc<Service>, target: &Uri) -> Reply {
    let target_text = target.path_and_query().map_or("", PathAndQuery::as_str);
    if target.query().is_some() {
        return reply::text(
            Code::InvalidArgument,
            format!("Unexpected path: {target_text}. Should be {}", target.path()),
        );
    }
    let threads = &service.pages;
    let service = Arc::clone(service);
    let made = threads.spawn(move || service.metrics_page()).await;
    match made.unwrap_or_else(|failed| Err(ServingError::internal(failed.to_string()))) {
        Ok(page) => reply::text(Code::Ok, page),
        Err(error) => reply::text(error.code, error.to_string()),
    }
}
