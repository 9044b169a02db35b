//! API keys and their scopes. The route of a request states the scope that it needs.
//!
//! The control plane reads the file of keys. Only digests are stored, so that a memory dump reveals no key. Without
//! keys, every request is allowed, and the check costs one read of a pointer.

use std::fmt;

use arc_swap::ArcSwapOption;
use http::header::{ACCESS_CONTROL_ALLOW_HEADERS, AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use subtle::ConstantTimeEq;

use servable_model::error::{Code, Result, ServingError};

/// The requests that a key allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Read access: inference, metadata, status, metrics.
    Predict,
    /// [`Scope::Predict`], and all changes of models and configuration.
    Admin,
}

impl Scope {
    /// The scope of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "predict" => Some(Self::Predict),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }

    /// The name of the scope in key files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Predict => "predict",
            Self::Admin => "admin",
        }
    }
}

/// An API key, stored as a digest.
#[derive(Clone)]
pub struct ApiKey {
    /// The name of the owner.
    pub name: String,
    /// The scope that it grants.
    pub scope: Scope,
    /// The SHA-256 of the key.
    pub digest: [u8; SHA256_OUTPUT_LEN],
}

/// Digests are not logged either.
impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("name", &self.name).field("scope", &self.scope).finish_non_exhaustive()
    }
}

/// The access rules in force.
#[derive(Debug, Default)]
pub struct Access {
    keys: ArcSwapOption<Vec<ApiKey>>,
    page_headers: Option<HeaderValue>,
}

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

impl Access {
    /// Creates rules without keys. `page_headers` are the request headers that CORS answers allow; `None` allows those
    /// that the API needs.
    pub fn new(page_headers: Option<HeaderValue>) -> Self {
        Self { keys: ArcSwapOption::empty(), page_headers }
    }

    /// Replaces the keys. Requests that start after the call need one of them.
    pub fn set_keys(&self, keys: Vec<ApiKey>) {
        self.keys.store(Some(keys.into()));
    }

    /// Whether requests need a key.
    pub(crate) fn requires_keys(&self) -> bool {
        self.keys.load().is_some()
    }

    /// Adds the CORS header for allowed request headers to a REST answer that permits cross-origin requests. These are
    /// the configured ones, or that of API keys if requests need a key.
    pub(crate) fn allow_headers_of_pages(&self, answer: &mut HeaderMap) {
        let Some(allowed) = answer.get_mut(ACCESS_CONTROL_ALLOW_HEADERS) else { return };
        if let Some(headers) = &self.page_headers {
            *allowed = headers.clone();
        } else if self.requires_keys() {
            *allowed = HeaderValue::from_static("Content-Type, Authorization, X-API-Key");
        }
    }

    /// Checks that a request has a key with the scope. Without configured keys, every request is allowed.
    ///
    /// # Errors
    ///
    /// `UNAUTHENTICATED` without a known key; `PERMISSION_DENIED` if the scope of the key is too small.
    pub fn require(&self, headers: &HeaderMap, scope: Scope) -> Result<()> {
        let Some(keys) = &*self.keys.load() else { return Ok(()) };
        let Some(sent) = sent_key(headers) else {
            let text = "an API key is needed, as `authorization: Bearer KEY` or `x-api-key: KEY`";
            return Err(ServingError::new(Code::Unauthenticated, text));
        };
        let sent = digest(&SHA256, sent);
        // All keys are compared in full, so that the time reveals nothing about a guess.
        let mut found = None;
        for key in keys.iter() {
            if bool::from(key.digest[..].ct_eq(sent.as_ref())) {
                found = Some(key);
            }
        }
        match found {
            None => Err(ServingError::new(Code::Unauthenticated, "the API key is not known")),
            Some(key) if key.scope < scope => {
                let text = format!(
                    "the API key of {} has the scope {}; this needs {}",
                    key.name,
                    key.scope.name(),
                    scope.name()
                );
                Err(ServingError::new(Code::PermissionDenied, text))
            }
            Some(_) => Ok(()),
        }
    }
}

/// The key in the headers of a request. `Basic` and other schemes are ignored, since they may be meant for a proxy.
fn sent_key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
    });
    bearer.or_else(|| headers.get(X_API_KEY).map(|value| value.as_bytes().trim_ascii()))
}

/// The `WWW-Authenticate` header of 401 and 403 (RFC 6750); `None` for other codes.
pub(crate) fn challenge(code: Code) -> Option<HeaderValue> {
    match code {
        Code::Unauthenticated => Some(HeaderValue::from_static("Bearer realm=\"servable\"")),
        Code::PermissionDenied => {
            Some(HeaderValue::from_static("Bearer realm=\"servable\", error=\"insufficient_scope\", scope=\"admin\""))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let key = |name: &str, scope, text: &[u8]| ApiKey {
            name: name.to_owned(),
            scope,
            digest: digest(&SHA256, text).as_ref().try_into().expect("it has 32 bytes"),
        };
        let access = Access::new(None);
        access.set_keys(vec![key("app", Scope::Predict, b"one"), key("ops", Scope::Admin, b"two")]);
        access
    }

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn a_key_is_good_for_its_scope_and_lesser_ones() {
        let asked = |name, value, scope| access().require(&headers(name, value), scope).err().map(|error| error.code);
        for (name, value, predict, admin) in [
            ("authorization", "Bearer one", None, Some(Code::PermissionDenied)),
            ("authorization", "bearer  one ", None, Some(Code::PermissionDenied)),
            ("x-api-key", "one", None, Some(Code::PermissionDenied)),
            ("authorization", "Bearer two", None, None),
            ("x-api-key", "two", None, None),
            ("authorization", "Bearer three", Some(Code::Unauthenticated), Some(Code::Unauthenticated)),
            ("authorization", "Bearer ", Some(Code::Unauthenticated), Some(Code::Unauthenticated)),
            ("authorization", "Basic one", Some(Code::Unauthenticated), Some(Code::Unauthenticated)),
            ("x-api-key", "on", Some(Code::Unauthenticated), Some(Code::Unauthenticated)),
            ("cookie", "one", Some(Code::Unauthenticated), Some(Code::Unauthenticated)),
        ] {
            assert_eq!(asked(name, value, Scope::Predict), predict, "{name}: {value}");
            assert_eq!(asked(name, value, Scope::Admin), admin, "{name}: {value}");
        }
    }

    #[test]
    fn the_credentials_of_a_proxy_are_ignored() {
        let mut headers = headers("authorization", "Basic cHJveHk=");
        headers.insert(X_API_KEY, HeaderValue::from_static("one"));
        assert_eq!(access().require(&headers, Scope::Predict), Ok(()));
    }

    #[test]
    fn without_keys_everything_is_open() {
        assert_eq!(Access::default().require(&HeaderMap::new(), Scope::Admin), Ok(()));
    }
}
