//! Requests to the model repository.

use super::check_size;
use super::walk::{Owner, Walk, boolean, text};
use servable_model::error::Result;

/// The body of a request to the model repository. The name of the model is in the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositoryRequest {
    /// `ready`: whether to list only models that are ready.
    pub only_ready: bool,
    /// The parameter `config`: the configuration of the model.
    pub config: Option<String>,
}

/// Decodes the body of a request to the model repository, which may be empty.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if the body is invalid.
pub fn decode_repository_request(body: &[u8], max_nesting: usize) -> Result<RepositoryRequest> {
    check_size(body)?;
    let mut request = RepositoryRequest::default();
    if body.is_empty() {
        return Ok(request);
    }
    let mut walk = Walk::new(body, max_nesting);
    walk.object("the request", |walk, member| {
        match member {
            b"ready" => request.only_ready = boolean(walk.value()?.root(), "ready")?,
            b"parameters" => walk.parameters(&Owner::Request, |name, value| {
                if name == b"config" {
                    request.config = Some(text(value, "config")?);
                }
                Ok(())
            })?,
            _ => drop(walk.value()?),
        }
        Ok(())
    })?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::DEFAULT_MAX_NESTING;

    #[test]
    fn requests_to_the_repository_may_be_empty() {
        let decoded = |body: &str| {
            decode_repository_request(body.as_bytes(), DEFAULT_MAX_NESTING).map_err(|error| error.text().into_owned())
        };
        assert_eq!(decoded(""), Ok(RepositoryRequest::default()));
        let config = Some("{}".to_owned());
        let expected = RepositoryRequest { only_ready: true, config };
        assert_eq!(decoded(r#"{"ready": true, "parameters": {"config": "{}"}}"#), Ok(expected));
        assert_eq!(decoded(r#"{"ready": 1}"#), Err("ready has to be true or false; got 1".to_owned()));
    }
}
