//! The paths of TensorFlow Serving's REST API (`docs/spec/rest_api.md` §3).

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode;

use super::without_query;
use servable_model::error::{Result, ServingError};

/// The API of a model that a request calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `:predict`
    Predict,
    /// `:classify`
    Classify,
    /// `:regress`
    Regress,
    /// The states of its versions.
    Status,
    /// Its signatures.
    Metadata,
    /// The batching options and queues, which TensorFlow Serving does not show.
    Batching,
}

impl Api {
    /// Whether a request has a body with inputs.
    pub fn has_input(self) -> bool {
        matches!(self, Self::Predict | Self::Classify | Self::Regress)
    }
}

/// The version in a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Version<'a> {
    /// No version.
    Latest,
    /// `/versions/N`
    Number(i64),
    /// `/labels/L`, percent-decoded.
    Label(Cow<'a, [u8]>),
}

/// The route of a request to a model.
#[derive(Debug, PartialEq, Eq)]
pub struct ModelRoute<'a> {
    /// The API.
    pub api: Api,
    /// The name of the model, percent-decoded. It need not be UTF-8.
    pub model: Cow<'a, [u8]>,
    /// The version.
    pub version: Version<'a>,
}

/// Whether a path belongs to the API.
pub(super) fn has(path: &str) -> bool {
    strip_prefix_ignoring_case(path, "/v1/").is_some()
}

/// Whether it is the path of the list of models, which TensorFlow Serving does not have.
pub(super) fn is_list(path: &str) -> bool {
    path.strip_suffix('/').unwrap_or(path).eq_ignore_ascii_case("/v1/models")
}

/// The route of a target that belongs to the API.
pub(super) fn parse<'a>(method: &Method, target: &'a str) -> Result<ModelRoute<'a>> {
    match *method {
        Method::POST => parse_post(target),
        Method::GET => parse_get(target),
        _ => Err(malformed(method.as_str(), target)),
    }
}

/// The error for a target that matches no route.
fn malformed(method: &str, target: &str) -> ServingError {
    ServingError::invalid_argument(format!("Malformed request: {method} {target}"))
}

/// Parses the target of a GET: status, metadata or batching.
///
/// Keywords match in any case, but only lower-case `metadata` requests metadata. Every part is optional. A keyword is
/// read as the name of a model if only this makes the whole path match. TensorFlow Serving behaves like this.
///
/// # Errors
///
/// `INVALID_ARGUMENT` for any other target.
pub fn parse_get(target: &str) -> Result<ModelRoute<'_>> {
    let malformed = || malformed("GET", target);
    let path = without_query(target);
    let rest = strip_prefix_ignoring_case(path, "/v1/models").ok_or_else(malformed)?;
    let segments: Vec<&str> = match rest.strip_prefix('/') {
        Some(rest) => rest.split('/').collect(),
        None if rest.is_empty() => Vec::new(),
        None => return Err(malformed()),
    };
    let choices = [true, false];
    for has_name in choices {
        for has_version in choices {
            for has_subject in choices {
                if let Some(route) = fit(&segments, has_name, has_version, has_subject) {
                    return route;
                }
            }
        }
    }
    Err(malformed())
}

/// Matches the segments with the given parts; `None` if they do not match exactly.
fn fit<'a>(
    segments: &[&'a str],
    has_name: bool,
    has_version: bool,
    has_subject: bool,
) -> Option<Result<ModelRoute<'a>>> {
    let mut segments = segments;
    let mut name = None;
    if has_name {
        let (&first, rest) = segments.split_first()?;
        (name, segments) = (Some(first).filter(|name| is_name(name)), rest);
        name?;
    }
    let mut version = None;
    if has_version {
        let [kind, value, rest @ ..] = segments else { return None };
        (version, segments) = (Some(version_part(kind, value)?), rest);
    }
    let mut api = Api::Status;
    if has_subject {
        let (word, rest) = segments.split_first()?;
        api = match *word {
            "metadata" => Api::Metadata,
            "batching" => Api::Batching,
            word if word.eq_ignore_ascii_case("metadata") => Api::Status,
            _ => return None,
        };
        segments = rest;
    }
    if !segments.is_empty() {
        return None;
    }
    Some(route(api, name, version))
}

fn route<'a>(api: Api, name: Option<&'a str>, version: Option<VersionPart<'a>>) -> Result<ModelRoute<'a>> {
    let name = name.ok_or_else(|| ServingError::invalid_argument("Missing model name in request."))?;
    let version =
        match version {
            None => Version::Latest,
            Some(VersionPart::Label(label)) => Version::Label(decoded(label)),
            Some(VersionPart::Digits(digits)) => Version::Number(digits.parse().map_err(|_| {
                ServingError::invalid_argument(format!("Failed to convert version: {digits} to numeric."))
            })?),
        };
    Ok(ModelRoute { api, model: decoded(name), version })
}

/// Parses the target of a POST: `/v1/models/NAME[/versions/N|/labels/L]:VERB`.
///
/// # Errors
///
/// `INVALID_ARGUMENT` for any other target.
pub fn parse_post(target: &str) -> Result<ModelRoute<'_>> {
    let malformed = || malformed("POST", target);
    let path = without_query(target);
    let rest = strip_prefix_ignoring_case(path, "/v1/models/").ok_or_else(malformed)?;
    let (target, verb) = rest.split_once(':').ok_or_else(malformed)?;
    let api = match verb {
        "predict" => Api::Predict,
        "classify" => Api::Classify,
        "regress" => Api::Regress,
        _ => return Err(malformed()),
    };
    let mut segments = target.split('/');
    let name = segments.next().filter(|name| is_name(name)).ok_or_else(malformed)?;
    let version = match (segments.next(), segments.next(), segments.next()) {
        (None, ..) => None,
        (Some(kind), Some(value), None) => Some(version_part(kind, value).ok_or_else(malformed)?),
        _ => return Err(malformed()),
    };
    route(api, Some(name), version)
}

#[derive(Clone, Copy)]
enum VersionPart<'a> {
    Digits(&'a str),
    Label(&'a str),
}

fn version_part<'a>(kind: &str, value: &'a str) -> Option<VersionPart<'a>> {
    if kind.eq_ignore_ascii_case("versions") && !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        Some(VersionPart::Digits(value))
    } else if kind.eq_ignore_ascii_case("labels") && is_name(value) {
        Some(VersionPart::Label(value))
    } else {
        None
    }
}

fn is_name(segment: &str) -> bool {
    !segment.is_empty() && !segment.contains(':')
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    percent_decode(text.as_bytes()).into()
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(result: Result<ModelRoute<'_>>) -> String {
        match result {
            Err(error) => error.text().into_owned(),
            Ok(route) => {
                let version = match route.version {
                    Version::Latest => String::new(),
                    Version::Number(number) => format!(" version {number}"),
                    Version::Label(label) => format!(" label {}", String::from_utf8_lossy(&label)),
                };
                format!("{:?} {}{version}", route.api, String::from_utf8_lossy(&route.model))
            }
        }
    }

    #[test]
    fn get_paths_are_read_greedily() {
        for (path, expected) in [
            ("/v1/models/m", "Status m"),
            ("/V1/Models/m", "Status m"),
            ("/v1/models/m/versions/007", "Status m version 7"),
            ("/v1/models/m/labels/stable", "Status m label stable"),
            ("/v1/models/m/labels/metadata", "Status m label metadata"),
            ("/v1/models/m/metadata", "Metadata m"),
            ("/v1/models/m/METADATA", "Status m"),
            ("/v1/models/m/versions/1/metadata", "Metadata m version 1"),
            ("/v1/models/metadata", "Status metadata"),
            ("/v1/models/m/batching", "Batching m"),
            ("/v1/models/m/versions/2/batching", "Batching m version 2"),
            ("/v1/models/m/labels/batching/batching", "Batching m label batching"),
            ("/v1/models/batching", "Status batching"),
            ("/v1/models/m/BATCHING", "Malformed request: GET /v1/models/m/BATCHING"),
            ("/v1/models/versions", "Status versions"),
            ("/v1/models/labels/metadata", "Metadata labels"),
            ("/v1/models/versions/1", "Missing model name in request."),
            ("/v1/models", "Missing model name in request."),
            ("/v1/models/a%2Fb%3a+c", "Status a/b:+c"),
            ("/v1/models/m/metadata?x=1", "Metadata m"),
            ("/v1/models/m?a/b", "Status m"),
            ("/v1/models/m/?x", "Malformed request: GET /v1/models/m/?x"),
            ("/v1/", "Malformed request: GET /v1/"),
            ("/v1/models/m/", "Malformed request: GET /v1/models/m/"),
            ("/v1/models/m/version/1", "Malformed request: GET /v1/models/m/version/1"),
            ("/v1/models/m/versions/1/labels/x", "Malformed request: GET /v1/models/m/versions/1/labels/x"),
            ("/v1/models/m:predict", "Malformed request: GET /v1/models/m:predict"),
            ("/v1/modelsx", "Malformed request: GET /v1/modelsx"),
            (
                "/v1/models/m/versions/99999999999999999999",
                "Failed to convert version: 99999999999999999999 to numeric.",
            ),
        ] {
            assert_eq!(text(parse_get(path)), expected, "{path}");
        }
    }

    #[test]
    fn post_paths_need_a_name_and_a_verb_in_lower_case() {
        for (path, expected) in [
            ("/v1/models/m:predict", "Predict m"),
            ("/v1/models/m:predict?a:classify", "Predict m"),
            ("/v1/models/m:classify", "Classify m"),
            ("/v1/models/m/versions/3:regress", "Regress m version 3"),
            ("/v1/models/m/labels/a%20b:predict", "Predict m label a b"),
            ("/v1/models/m:PREDICT", "Malformed request: POST /v1/models/m:PREDICT"),
            ("/v1/models/:predict", "Malformed request: POST /v1/models/:predict"),
            ("/v1/models/m", "Malformed request: POST /v1/models/m"),
            ("/v1/models/m/versions/x:predict", "Malformed request: POST /v1/models/m/versions/x:predict"),
            ("/v1/models/m/versions:predict", "Malformed request: POST /v1/models/m/versions:predict"),
            ("/v1/models/m:a:predict", "Malformed request: POST /v1/models/m:a:predict"),
        ] {
            assert_eq!(text(parse_post(path)), expected, "{path}");
        }
    }
}
