//! The `OpenAPI` document of the served models, generated from the serving map on request.
//!
//! Up to [`MAX_DETAILED`] models have separate paths, with the schemas of their signatures. With more models, the model
//! is a parameter of the paths. This bounds the document, which would be of little use to readers and generators. A
//! query can select models by name.

mod document;
mod open_inference;
mod paths;
mod predict;
mod tensors;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use http::Uri;
use percent_encoding::percent_decode_str;
use serde_json::json;

use self::document::Document;
use crate::service::Service;
use crate::serving::map::Model;
use servable_model::error::{Result, ServingError};

/// The maximum number of models with separate paths.
const MAX_DETAILED: usize = 50;

/// Answers a request for the document of all models, or of those in the query.
///
/// # Errors
///
/// `NOT_FOUND` for a model that is not served, `INVALID_ARGUMENT` for too many names.
pub(super) async fn answer(service: &Arc<Service>, target: &Uri) -> Result<Bytes> {
    let threads = &service.pages;
    let service = Arc::clone(service);
    let names = asked_for(target.query().unwrap_or_default());
    let made = threads.spawn(move || document(&service, &names)).await;
    made.unwrap_or_else(|failed| Err(ServingError::internal(failed.to_string())))
}

/// The values of `model` in a query, decoded.
fn asked_for(query: &str) -> Vec<Vec<u8>> {
    let values = query.split('&').filter_map(|pair| pair.strip_prefix("model="));
    values.map(|value| percent_decode_str(value).collect()).collect()
}

fn document(service: &Service, names: &[Vec<u8>]) -> Result<Bytes> {
    let mut models = if names.is_empty() { service.serving_map.models() } else { named(service, names)? };
    models.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    models.dedup_by(|(one, _), (other, _)| one == other);
    let mut document = Document::new(service.access.requires_keys());
    let names: Vec<&str> = models.iter().filter_map(|(name, _)| std::str::from_utf8(name).ok()).collect();
    let any_model = (!names.is_empty())
        .then(|| document.parameter("Model", paths::parameter("model", &json!({"type": "string", "enum": names}))));
    match &any_model {
        Some(any_model) if models.len() > MAX_DETAILED => paths::add_any_model(&mut document, any_model),
        _ => models.iter().for_each(|(name, model)| paths::add_model(&mut document, name, model, service.options)),
    }
    open_inference::add(&mut document, any_model.as_ref());
    Ok(document.into_bytes().into())
}

fn named(service: &Service, names: &[Vec<u8>]) -> Result<Vec<(Vec<u8>, Arc<Model>)>> {
    if names.len() > MAX_DETAILED {
        let text = format!("{} models are asked for, at most {MAX_DETAILED} can be", names.len());
        return Err(ServingError::invalid_argument(text));
    }
    let find = |name: &Vec<u8>| {
        let model = service
            .serving_map
            .model(name)
            .ok_or_else(|| ServingError::not_found([&b"Could not find any versions of model "[..], name].concat()))?;
        Ok((name.clone(), model))
    };
    names.iter().map(find).collect()
}
