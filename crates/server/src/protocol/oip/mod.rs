//! The Open Inference Protocol (`KServe` v2) beside TensorFlow Serving's: the same models and ports, over REST and gRPC,
//! with the extensions for binary tensors and for a model repository.
//!
//! As in the other API, the split of the model selects the version if a request names none, or else the highest one is
//! used. The version in a request is any text: a number, or else a label.

pub(crate) mod grpc;
mod infer;
mod metadata;
mod repository;
pub mod rest;

pub use grpc::{InferCall, decode_call};
pub use rest::decode_body;

use crate::service::Service;
use crate::serving::map::VersionChoice;
use servable_model::error::{Code, ServingError};

/// The version for a text; an empty text means none.
fn choice(version: &[u8]) -> VersionChoice<'_> {
    if version.is_empty() {
        return VersionChoice::Latest;
    }
    let number = std::str::from_utf8(version).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match number.and_then(|digits| digits.parse().ok()) {
        Some(number) => VersionChoice::Number(number),
        None => VersionChoice::Label(version),
    }
}

/// The error of a request for a model. For an unknown model, it lists the known ones.
fn naming_models(service: &Service, name: &[u8], mut error: ServingError) -> ServingError {
    if error.code == Code::NotFound && service.serving_map.model(name).is_none() {
        error.message.extend(format!("; the models are: {}", service.serving_map.some_names()).bytes());
    }
    error
}

/// The error for an unsupported extension of the protocol.
fn missing(extension: &str) -> ServingError {
    let instead = match extension {
        "statistics" => "; the metrics page has the figures of each model (--monitoring_config_file)",
        "model_configuration" => "; the metadata of a model has its inputs and outputs",
        _ => "",
    };
    ServingError::unimplemented(format!("the extension {extension:?} is not available{instead}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_or_labels() {
        for (version, expected) in [
            ("", VersionChoice::Latest),
            ("7", VersionChoice::Number(7)),
            ("007", VersionChoice::Number(7)),
            ("stable", VersionChoice::Label(b"stable")),
            ("-7", VersionChoice::Label(b"-7")),
            ("99999999999999999999", VersionChoice::Label(b"99999999999999999999")),
        ] {
            assert_eq!(choice(version.as_bytes()), expected, "{version}");
        }
    }
}
