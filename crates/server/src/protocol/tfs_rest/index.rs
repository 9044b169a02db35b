//! The index: `GET /`, `GET /v1/models`, and the answer to unknown paths.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use super::accept;
use crate::protocol::rest_wire::{self as reply, Reply};
use crate::service::Service;
use crate::serving::map::names;
use crate::serving::map::{Model, Version};
use servable_model::error::{Result, ServingError};

/// The maximum length of a quoted path.
const MAX_PATH: usize = 200;

/// The routes: method, path and description.
const ROUTES: [(&str, &str, &str); 13] = [
    ("GET", "/v1/models", "the models, and the states of their versions"),
    ("GET", "/v1/models/NAME", "the states of the versions of a model"),
    ("GET", "/v1/models/NAME/metadata", "its inputs and outputs"),
    ("GET", "/v1/models/NAME/batching", "how its requests are batched"),
    ("POST", "/v1/models/NAME:predict", "run it; also :classify and :regress"),
    ("GET", "/v2", "the server, by the Open Inference Protocol"),
    ("GET", "/v2/models/NAME", "inputs and outputs of a model, by that protocol"),
    ("GET", "/v2/models/NAME/ready", "whether it answers requests"),
    ("POST", "/v2/models/NAME/infer", "run it by that protocol"),
    ("POST", "/v2/repository/index", "the models, for administrators"),
    ("GET", "/openapi.json", "all of this for tools"),
    ("GET", "/healthz", "whether the server lives"),
    ("GET", "/readyz", "whether it wants requests"),
];

/// The format of an answer.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Json,
}

const FORMS: [(&str, Form); 2] = [("text/plain", Form::Text), ("application/json", Form::Json)];

/// All configured models with their versions, sorted by name.
pub(super) async fn models(service: &Arc<Service>) -> Result<Bytes> {
    let threads = &service.pages;
    let service = Arc::clone(service);
    let made = threads.spawn(move || {
        let models: Vec<Value> =
            service.serving_map.configured().iter().map(|(name, model)| of_model(name, model)).collect();
        Bytes::from(format!("{:#}\n", json!({"models": models})))
    });
    made.await.map_err(|failed| ServingError::internal(failed.to_string()))
}

fn of_model(name: &[u8], model: &Model) -> Value {
    let of_version = |version: &Version| {
        json!({
            "version": version.number.to_string(),
            "state": version.state.name(),
            "status": {"error_code": version.error_code.name(), "error_message": version.error_message},
        })
    };
    let versions: Vec<Value> = model.versions().iter().map(of_version).collect();
    let mut shown = json!({"name": String::from_utf8_lossy(name), "model_version_status": versions});
    if let Some(reason) = model.unavailable_reason() {
        shown["unavailable_because"] = reason.into();
    }
    shown
}

/// Answers `GET /` with a description of the server, its models and its routes.
pub(super) fn root(service: &Service, headers: &HeaderMap) -> Reply {
    let product = concat!("Servable ", env!("CARGO_PKG_VERSION"));
    let (names, others) = service.serving_map.first_names();
    match accept::best(headers, &FORMS) {
        Some(Form::Json) => {
            let body = json!({
                "name": "servable",
                "version": env!("CARGO_PKG_VERSION"),
                "models": names,
                "further_models": others,
                "routes": routes(service).map(|(method, path, what)| json!({"method": method, "path": path, "what": what}))
                    .collect::<Vec<_>>(),
            });
            reply::with_status(200, "OK", format!("{body:#}\n").into(), "application/json")
        }
        Some(Form::Text) | None => {
            let text =
                format!("{product}, a model server. gRPC is on every port, too.\n\n{}", models_and_routes(service));
            reply::with_status(200, "OK", text.into(), "text/plain; charset=utf-8")
        }
    }
}

/// The answer to an unknown path: the page of TensorFlow Serving. Clients that explicitly accept JSON or text get the
/// models and routes.
pub(super) fn not_found(service: &Service, head: &Parts) -> Reply {
    let Some(form) = accept::best(&head.headers, &FORMS) else { return reply::page(404, "Not Found") };
    let asked = format!("there is no {} {}", head.method, names::shortened(head.uri.path(), MAX_PATH));
    let mut reply = match form {
        Form::Text => {
            let text = format!("{asked}\n\n{}", models_and_routes(service));
            reply::with_status(404, "Not Found", text.into(), "text/plain; charset=utf-8")
        }
        Form::Json => {
            let routes: Vec<String> = routes(service).map(|(method, path, _)| format!("{method} {path}")).collect();
            let error = format!("{asked}; there is {}", routes.join(", "));
            let (names, others) = service.serving_map.first_names();
            let body = json!({"error": error, "models": names, "further_models": others});
            reply::with_status(404, "Not Found", format!("{body:#}\n").into(), "application/json")
        }
    };
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// The models and routes as text.
fn models_and_routes(service: &Service) -> String {
    let mut text = format!("Models: {}\n\n", service.serving_map.some_names());
    for (method, path, what) in routes(service) {
        writeln!(text, "{method:<5} {path:<26} {what}").expect("a string that grows");
    }
    text
}

fn routes(service: &Service) -> impl Iterator<Item = (&'static str, &str, &'static str)> {
    let metrics = service.router.metrics_path.as_deref().map(|path| ("GET", path, "metrics for Prometheus"));
    ROUTES.into_iter().chain(metrics)
}
