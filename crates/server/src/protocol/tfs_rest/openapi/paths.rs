//! The paths of a model, and those for any model if there are too many for separate ones.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_json::{Map, Value, json};

use super::document::{Document, failures};
use super::predict::Bodies;
use crate::serving::ApiOptions;
use crate::serving::examples::{self, Kind};
use crate::serving::map::{Handle, Model};
use servable_model::error::Code;
use servable_model::signature::Signature;

/// Characters that are not percent-encoded in a segment of a path.
const IN_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The error codes of an inference.
const INFERENCE_FAILURES: [Code; 7] = [
    Code::InvalidArgument,
    Code::NotFound,
    Code::ResourceExhausted,
    Code::Internal,
    Code::Unimplemented,
    Code::Unavailable,
    Code::DeadlineExceeded,
];

/// The error codes of requests for status and metadata.
const QUESTION_FAILURES: [Code; 4] = [Code::InvalidArgument, Code::NotFound, Code::Internal, Code::Unavailable];

/// One form of a model's path: with a version, with a label, or with neither.
struct Form {
    path: String,
    parameters: Vec<Value>,
    /// The suffix of the model's name in the identifiers of operations.
    suffix: &'static str,
}

/// Adds the paths of one model, with the schemas of its signatures.
pub(super) fn add_model(document: &mut Document, name: &[u8], model: &Model, options: ApiOptions) {
    let title = String::from_utf8_lossy(name);
    let available: Vec<(i64, &Handle)> =
        model.versions().iter().filter_map(|version| Some((version.number, version.published.as_ref()?))).collect();
    let description = match &available[..] {
        [] => model.unavailable_reason().unwrap_or("No version is available.").to_owned(),
        [(newest, _), ..] => format!("Version {newest}"),
    };
    document.tag(&title, &description);
    let path = format!("/v1/models/{}", percent_encode(name, IN_SEGMENT));
    let handles: Vec<&Handle> = available.iter().map(|(_, handle)| *handle).collect();
    // Without a split, the version that answers is known.
    let unnamed = if model.is_split() { &handles[..] } else { &handles[..handles.len().min(1)] };
    let form = Form { path: path.clone(), parameters: Vec::new(), suffix: "" };
    add_form(document, &title, &form, unnamed, options);
    if available.is_empty() {
        return;
    }
    let numbers: Vec<i64> = available.iter().map(|(number, _)| *number).collect();
    let parameters = vec![parameter("version", &json!({"type": "integer", "format": "int64", "enum": numbers}))];
    let form = Form { path: format!("{path}/versions/{{version}}"), parameters, suffix: "_version" };
    add_form(document, &title, &form, &handles, options);
    let labels: Vec<&str> = model.labels().filter_map(|label| std::str::from_utf8(label).ok()).collect();
    if !labels.is_empty() {
        let parameters = vec![parameter("label", &json!({"type": "string", "enum": labels}))];
        let form = Form { path: format!("{path}/labels/{{label}}"), parameters, suffix: "_label" };
        add_form(document, &title, &form, &handles, options);
    }
}

/// Adds paths for any model, with the name as the parameter `model`.
pub(super) fn add_any_model(document: &mut Document, model: &Value) {
    let title = "models";
    document.tag(title, "Every model. `/openapi.json?model=NAME` has the schemas of a model's signatures.");
    let version = parameter("version", &json!({"type": "integer", "format": "int64", "minimum": 0}));
    let label = parameter("label", &json!({"type": "string", "minLength": 1}));
    let base = "/v1/models/{model}";
    for (path, parameter, suffix) in [
        (base.to_owned(), None, ""),
        (format!("{base}/versions/{{version}}"), Some(version), "_version"),
        (format!("{base}/labels/{{label}}"), Some(label), "_label"),
    ] {
        let parameters = std::iter::once(model.clone()).chain(parameter).collect();
        let form = Form { path, parameters, suffix };
        add_questions(document, title, &form, true);
        let body = json!({"schema": schema_named("PredictRequest")});
        add_inference(document, title, &form, "predict", &body, &schema_named("PredictAnswer"));
        for kind in [Kind::Classify, Kind::Regress] {
            let body = json!({"schema": schema_named("ExamplesRequest")});
            add_inference(document, title, &form, verb(kind), &body, &answer_of(kind));
        }
    }
}

fn add_form(document: &mut Document, title: &str, form: &Form, versions: &[&Handle], options: ApiOptions) {
    add_questions(document, title, form, !versions.is_empty());
    let mut bodies = Bodies::default();
    for version in versions {
        bodies.add(document, title, version, options);
    }
    if !bodies.requests.is_empty() {
        let body = json!({"schema": any_of(bodies.requests), "examples": bodies.examples});
        add_inference(document, title, form, "predict", &body, &any_of(bodies.answers));
    }
    for kind in [Kind::Classify, Kind::Regress] {
        let mut names: Vec<&str> = versions
            .iter()
            .flat_map(|version| version.signatures())
            .filter_map(|(name, s)| of_kind(kind, name, s))
            .collect();
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            let is_default = |version: &&Handle| names.contains(&examples::default_signature(version, kind));
            let body = json!({"schema": examples_request(&names, versions.iter().all(is_default))});
            add_inference(document, title, form, verb(kind), &body, &answer_of(kind));
        }
    }
}

fn add_questions(document: &mut Document, title: &str, form: &Form, has_metadata: bool) {
    let mut add = |path: &str, what: &str, summary: &str, schema: &str| {
        let mut responses = success(&schema_named(schema));
        responses.extend(failures(&QUESTION_FAILURES));
        let operation = json!({
            "summary": format!("{summary} of {title}"),
            "tags": [title],
            "parameters": form.parameters,
            "responses": responses,
        });
        document.operation(path, "get", &format!("{what}_{title}{}", form.suffix), operation);
    };
    add(&form.path, "status", "The states of the versions", "ModelStatus");
    if has_metadata {
        add(&format!("{}/metadata", form.path), "metadata", "The signatures", "ModelMetadata");
        add(&format!("{}/batching", form.path), "batching", "The batches", "ModelBatching");
    }
}

fn add_inference(document: &mut Document, title: &str, form: &Form, verb: &str, body: &Value, answer: &Value) {
    let mut responses = success(answer);
    responses.extend(failures(&INFERENCE_FAILURES));
    for (status, description) in [("408", "The body came too slowly."), ("413", "The body is too large.")] {
        let page = json!({"text/html": {"schema": {"type": "string"}}});
        responses.insert(status.to_owned(), json!({"description": description, "content": page}));
    }
    let operation = json!({
        "summary": format!("Ask {title} to {verb}"),
        "tags": [title],
        "parameters": form.parameters,
        "requestBody": {"required": true, "content": {"application/json": body}},
        "responses": responses,
    });
    document.operation(&format!("{}:{verb}", form.path), "post", &format!("{verb}_{title}{}", form.suffix), operation);
}

fn success(schema: &Value) -> Map<String, Value> {
    let response = json!({"description": "The answer.", "content": {"application/json": {"schema": schema}}});
    Map::from_iter([("200".to_owned(), response)])
}

/// A path parameter.
pub(super) fn parameter(name: &str, schema: &Value) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": schema})
}

fn schema_named(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn verb(kind: Kind) -> &'static str {
    match kind {
        Kind::Classify => "classify",
        Kind::Regress => "regress",
    }
}

fn answer_of(kind: Kind) -> Value {
    schema_named(match kind {
        Kind::Classify => "ClassifyAnswer",
        Kind::Regress => "RegressAnswer",
    })
}

fn of_kind<'a>(kind: Kind, name: &'a str, signature: &Signature) -> Option<&'a str> {
    (signature.method_name == kind.method_name()).then_some(name)
}

/// The body of classify and regress for these signatures. It may omit the name if one is the default.
fn examples_request(names: &[&str], has_default: bool) -> Value {
    let mut chosen = Map::new();
    chosen.insert("properties".to_owned(), json!({"signature_name": {"type": "string", "enum": names}}));
    if !has_default {
        chosen.insert("required".to_owned(), json!(["signature_name"]));
    }
    json!({"allOf": [schema_named("ExamplesRequest"), chosen]})
}

/// The union of these schemas, without duplicates.
fn any_of(schemas: Vec<Value>) -> Value {
    let mut distinct: Vec<Value> = Vec::new();
    for schema in schemas {
        if !distinct.contains(&schema) {
            distinct.push(schema);
        }
    }
    if distinct.len() == 1 { distinct.remove(0) } else { json!({"anyOf": distinct}) }
}
