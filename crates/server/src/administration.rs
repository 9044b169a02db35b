//! The administration port: access control, and the transfer of requests to the control plane.
//!
//! The control plane routes the requests of the API; this module does not read paths. Web pages must not reach the
//! port. A browser on the same machine reaches loopback addresses on behalf of any page, also under the page's name if
//! DNS resolves it to one (DNS rebinding). The browser sends that name as the host, and the page cannot change it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Version};
use serde_json::json;

use crate::access::{self, Scope};
use crate::control_plane::{AdminAnswer, AdminRequest};
use crate::protocol::rest_wire::{self as reply, Reply};
use crate::service::Service;
use servable_http::body::{self, BodyError, BodyLimits, RequestBody};
use servable_model::call::Call;
use servable_model::error::{Code, Result, ServingError};

/// The largest body. The configuration of a model takes a few kilobytes.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The time limit for receiving a body.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Error messages quote at most this many characters of a host.
const MAX_SHOWN_HOST: usize = 100;

/// The accepted hosts, beside loopback addresses and the local address of the connection.
#[derive(Clone, Debug, Default)]
pub struct AdminHosts(Vec<Host>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    Address(IpAddr),
}

impl AdminHosts {
    /// Accepts these names and addresses.
    pub fn new<'a>(hosts: impl IntoIterator<Item = &'a str>) -> Self {
        Self(hosts.into_iter().map(Host::new).collect())
    }

    /// Refuses requests that a web page may have sent.
    fn check(&self, head: &Parts, own_address: Option<IpAddr>) -> Result<()> {
        if head.headers.contains_key(ORIGIN) {
            return Err(ServingError::new(Code::PermissionDenied, "Requests of web pages are refused"));
        }
        let mut sent = head.headers.get_all(HOST).iter();
        let (host, others) = (sent.next(), sent.count());
        let authority = head.uri.authority().map(Authority::as_str);
        if others > 0 || (host.is_none() && authority.is_none() && head.version != Version::HTTP_10) {
            let count = others + usize::from(host.is_some());
            let text = format!("A request has one header Host; this one has {count}");
            return Err(ServingError::invalid_argument(text));
        }
        let host = host.map(|host| String::from_utf8_lossy(host.as_bytes()));
        // HTTP/2 has the host in the authority; a header may repeat it.
        host.as_deref().into_iter().chain(authority).try_for_each(|host| self.check_host(host, own_address))
    }

    fn check_host(&self, with_port: &str, own_address: Option<IpAddr>) -> Result<()> {
        let text = without_port(with_port);
        let host = Host::new(text);
        let is_own = match &host {
            Host::Address(address) => {
                address.is_loopback() || own_address.map(|own| own.to_canonical()) == Some(*address)
            }
            Host::Name(_) => false,
        };
        if is_own || self.0.contains(&host) {
            return Ok(());
        }
        let shown: String = text.chars().take(MAX_SHOWN_HOST).collect();
        let text = format!("Administration is not offered under the name {shown}; --admin_api_hosts={shown} allows it");
        Err(ServingError::new(Code::PermissionDenied, text))
    }
}

impl Host {
    fn new(text: &str) -> Self {
        let host = text.trim().trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        match host.split('%').next().unwrap_or_default().parse::<IpAddr>() {
            Ok(address) => Self::Address(address.to_canonical()),
            Err(_) => Self::Name(host),
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// Checks the host, the origin and the API key of a request.
///
/// # Errors
///
/// `PERMISSION_DENIED` or `INVALID_ARGUMENT` for the host and the origin; for the key as [`Access::require`].
///
/// [`Access::require`]: crate::access::Access::require
pub(crate) fn admit(service: &Service, hosts: &AdminHosts, head: &Parts, own_address: Option<IpAddr>) -> Result<()> {
    hosts.check(head, own_address)?;
    service.access.require(&head.headers, Scope::Admin)
}

/// Answers a request that [`admit`] has accepted.
pub(crate) async fn serve(service: &Arc<Service>, limits: BodyLimits, head: &Parts, body: RequestBody) -> Reply {
    let body = match read(service, limits, body).await {
        Ok(body) => body,
        Err(error) => {
            let mut reply = fail(&error);
            // The client may still be sending the rest of the body.
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return reply;
        }
    };
    match ask(service, head, body).await {
        Ok(answer) => succeed(answer),
        Err(error) => fail(&error),
    }
}

async fn read(service: &Service, limits: BodyLimits, body: RequestBody) -> Result<Bytes> {
    let limits = BodyLimits { max_bytes: MAX_BODY_BYTES, ..limits };
    let read = tokio::time::timeout(BODY_TIME, body::read(body, limits, &service.body_memory)).await;
    read.unwrap_or(Err(BodyError::TooSlow)).map_err(|error| match error {
        BodyError::TooLarge => {
            ServingError::invalid_argument(format!("The body is larger than the limit of {MAX_BODY_BYTES} bytes"))
        }
        BodyError::TooSlow | BodyError::Broken => ServingError::invalid_argument("The body broke off"),
        BodyError::Shortage(shortage) => shortage.into(),
    })
}

/// Calls the control plane. Reads and changes use separate thread pools, so that pending changes do not delay reads.
async fn ask(service: &Arc<Service>, head: &Parts, body: Bytes) -> Result<AdminAnswer> {
    let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str).to_owned();
    let request = AdminRequest { method: head.method.to_string(), target, body };
    let (_claim, caller) = Call::default().hand_over();
    let threads = if head.method == Method::GET { &service.pages } else { &service.changes };
    let service = Arc::clone(service);
    let answer = threads.spawn(move || service.control_plane.administer(&request, &caller)).await;
    answer.map_err(|failed| ServingError::internal(failed.to_string()))?
}

fn succeed(answer: AdminAnswer) -> Reply {
    let Ok(content_type) = HeaderValue::try_from(answer.content_type) else {
        return fail(&ServingError::internal("the content type of the answer is none"));
    };
    let (status, reason) = answer.code.http_status();
    let mut reply = reply::with_status(status, reason, answer.body, "application/json");
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

/// The answer to a request that did not reach the control plane, in the form of the API's errors.
pub(crate) fn fail(error: &ServingError) -> Reply {
    let document = json!({"error": error.text(), "code": error.code.name()});
    let (status, reason) = error.code.http_status();
    let mut reply = reply::with_status(status, reason, format!("{document:#}\n").into(), "application/json");
    if error.code == Code::Unauthenticated
        && let Some(challenge) = access::challenge(error.code)
    {
        reply.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().version(version).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("it is a request").into_parts().0
    }

    fn hosts() -> AdminHosts {
        AdminHosts::new(["localhost", "10.1.2.3", "Admin.Example.", "[fd00::7]"])
    }

    fn code(version: Version, target: &str, headers: &[(&str, &str)]) -> Option<Code> {
        let own = "192.0.2.1".parse().ok();
        hosts().check(&head(version, target, headers), own).err().map(|error| error.code)
    }

    #[test]
    fn only_its_own_names_are_answered_to() {
        for host in [
            "localhost",
            "LocalHost",
            "localhost.",
            "localhost:8590",
            "localhost:",
            "127.0.0.1",
            "127.0.0.1:1",
            "127.8.9.10",
            "[::1]",
            "[::1]:8590",
            "[::ffff:127.0.0.1]",
            "10.1.2.3",
            "192.0.2.1:8590",
            "admin.example",
            "admin.example:443",
            "ADMIN.EXAMPLE.",
            "[fd00::7]:8590",
            "[FD00:0::7]",
            "[fd00::7%eth0]",
        ] {
            assert_eq!(code(Version::HTTP_11, "/x", &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8590",
            "localhost.evil.example",
            "evil.localhost",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "192.0.2.2",
            "[fd00::8]",
            "0.0.0.0",
            "[::]",
            "admin.example.evil",
            "admin",
            "x@localhost",
            "localhost@evil",
            "127.0.0.1:80:evil",
            "2130706433",
            "127.1",
            "",
            ":8590",
            "localhost, evil.example",
        ] {
            let denied = Some(Code::PermissionDenied);
            assert_eq!(code(Version::HTTP_11, "/x", &[("host", host)]), denied, "{host}");
        }
    }

    #[test]
    fn the_host_is_sent_once() {
        assert_eq!(code(Version::HTTP_11, "/x", &[]), Some(Code::InvalidArgument));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(code(Version::HTTP_11, "/x", &twice), Some(Code::InvalidArgument));
        assert_eq!(code(Version::HTTP_10, "/x", &[]), None, "no browser");
        assert_eq!(code(Version::HTTP_10, "/x", &[("host", "evil")]), Some(Code::PermissionDenied));
    }

    #[test]
    fn an_authority_is_a_host_too() {
        assert_eq!(code(Version::HTTP_2, "http://localhost:1/x", &[]), None);
        assert_eq!(code(Version::HTTP_2, "http://localhost:1/x", &[("host", "localhost")]), None);
        for (target, headers) in [
            ("http://evil/x", &[][..]),
            ("http://evil/x", &[("host", "localhost")]),
            ("http://localhost/x", &[("host", "evil")]),
        ] {
            for version in [Version::HTTP_11, Version::HTTP_2] {
                assert_eq!(code(version, target, headers), Some(Code::PermissionDenied), "{target} {headers:?}");
            }
        }
        assert_eq!(code(Version::HTTP_2, "/x", &[]), Some(Code::InvalidArgument));
    }

    #[test]
    fn pages_of_any_origin_are_refused() {
        for origin in ["http://evil.example", "null", "http://localhost:3000", ""] {
            let headers = [("host", "localhost"), ("origin", origin)];
            assert_eq!(code(Version::HTTP_11, "/x", &headers), Some(Code::PermissionDenied), "{origin}");
        }
    }
}
