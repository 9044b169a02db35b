//! The router: finds the route of a request from its head, once, before the body is read.
//!
//! Only this module reads paths. Access control takes the scope from the route, an address for health checks asks the
//! route whether it is one, and the protocols match on the route.

pub mod grpc;
pub mod open_inference;
pub mod tensorflow_serving;

use http::header::EXPECT;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};

use crate::access::Scope;
use servable_model::error::Result;
use tensorflow_serving::ModelRoute;

/// The configured paths.
#[derive(Clone, Debug, Default)]
pub struct Router {
    /// The path of the metrics page, if there is one.
    pub metrics_path: Option<String>,
    /// Further paths that need no API key. They are compared byte for byte, so that no other spelling matches.
    pub paths_without_key: Vec<String>,
}

/// The route of a request.
#[derive(Debug)]
pub enum Route<'a> {
    /// A call over gRPC.
    Grpc(grpc::Method<'a>),
    /// A REST request.
    Rest(RestRoute<'a>),
    /// No route: the answer is an error page.
    None(NoRoute),
}

/// The route of a REST request.
#[derive(Debug)]
pub enum RestRoute<'a> {
    /// `GET /healthz`: whether the process is alive.
    Liveness,
    /// `GET /readyz`: whether the server is ready.
    Readiness,
    /// The metrics page, by any method.
    Metrics,
    /// `GET /`
    Index,
    /// `GET /openapi.json`
    OpenApi,
    /// `OPTIONS` of an API: the CORS preflight of a browser.
    Preflight,
    /// `GET /v1/models`
    Models,
    /// An API of TensorFlow Serving, or the error for a target that matches none of them.
    Model(Result<ModelRoute<'a>>),
    /// An API of the Open Inference Protocol; `None` for a target that matches none of them.
    OpenInference(Option<open_inference::Api<'a>>),
}

/// The reason why a request has no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// No API has this method.
    Method,
    /// The target has characters that are invalid in paths and queries.
    Target,
    /// The `Expect` header is not `100-continue`.
    Expectation,
    /// The path does not exist.
    Path,
}

/// The methods that APIs can have.
const METHODS: [Method; 7] =
    [Method::POST, Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH];

impl Router {
    /// Finds the route of a request. It does not allocate for paths of models.
    pub fn route<'a>(&self, head: &'a Parts) -> Route<'a> {
        if grpc::is_call(head) {
            return Route::Grpc(grpc::Method::of(head.uri.path()));
        }
        if !METHODS.contains(&head.method) {
            return Route::None(NoRoute::Method);
        }
        let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
        if !is_well_formed(target) {
            return Route::None(NoRoute::Target);
        }
        if has_unknown_expectation(&head.headers) {
            return Route::None(NoRoute::Expectation);
        }
        self.rest(&head.method, head.uri.path(), target).map_or(Route::None(NoRoute::Path), Route::Rest)
    }

    fn rest<'a>(&self, method: &Method, path: &str, target: &'a str) -> Option<RestRoute<'a>> {
        let is_question = *method == Method::GET || *method == Method::HEAD;
        Some(match path {
            "/healthz" if is_question => RestRoute::Liveness,
            "/readyz" if is_question => RestRoute::Readiness,
            path if self.metrics_path.as_deref() == Some(path) => RestRoute::Metrics,
            "/" if is_question => RestRoute::Index,
            "/openapi.json" if is_question => RestRoute::OpenApi,
            path if tensorflow_serving::has(path) => match *method {
                Method::OPTIONS => RestRoute::Preflight,
                Method::GET if tensorflow_serving::is_list(path) => RestRoute::Models,
                _ => RestRoute::Model(tensorflow_serving::parse(method, target)),
            },
            path if open_inference::has(path) => match *method {
                Method::OPTIONS => RestRoute::Preflight,
                _ => RestRoute::OpenInference(open_inference::parse(target)),
            },
            _ => return None,
        })
    }

    /// The scope that a request needs; `None` if it needs no key. Administration always needs one.
    pub fn scope(&self, route: &Route<'_>, head: &Parts) -> Option<Scope> {
        let is_open = || self.paths_without_key.iter().any(|open| open == head.uri.path());
        route.scope().filter(|scope| *scope == Scope::Admin || !is_open())
    }
}

impl Route<'_> {
    /// Whether the request is a health check of the server, as supervisors and load balancers send it. Health checks of
    /// models are excluded, since they reveal names of models.
    pub fn is_health_check(&self) -> bool {
        match self {
            Self::Grpc(method) => method.is_health_check(),
            Self::Rest(RestRoute::Liveness | RestRoute::Readiness) => true,
            Self::Rest(RestRoute::OpenInference(Some(api))) => api.is_health_check(),
            Self::Rest(_) | Self::None(_) => false,
        }
    }

    /// The scope that the route needs; `None` if it needs no key.
    pub fn scope(&self) -> Option<Scope> {
        let is_administrative = match self {
            _ if self.is_health_check() => return None,
            Self::Rest(RestRoute::Preflight) => return None, // browsers send no key with it
            Self::Grpc(method) => method.is_administrative(),
            Self::Rest(RestRoute::OpenInference(Some(api))) => api.is_administrative(),
            Self::Rest(_) | Self::None(_) => false,
        };
        Some(if is_administrative { Scope::Admin } else { Scope::Predict })
    }
}

/// Whether all characters of a target are valid in a path or a query. Percent signs need two hex digits after them.
pub fn is_well_formed(target: &str) -> bool {
    let bytes = target.as_bytes();
    bytes.iter().enumerate().all(|(at, byte)| match byte {
        b'%' => bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)),
        _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?".contains(byte),
    })
}

fn has_unknown_expectation(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The target without its query, which APIs ignore.
fn without_query(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

#[cfg(test)]
mod tests {
    use http::{Request, Version};

    use super::*;

    fn router() -> Router {
        let paths = ["/v1/models/open", "/v2/repository/index"];
        Router { metrics_path: Some("/metrics".to_owned()), paths_without_key: paths.map(str::to_owned).into() }
    }

    fn head(line: &str) -> Parts {
        let (method, target) = line.split_once(' ').expect("a method and a target");
        let mut request = Request::builder().method(method).uri(target);
        if method == "POST" && target.contains('.') {
            request = request.version(Version::HTTP_2).header("content-type", "application/grpc");
        }
        request.body(()).expect("a legal request").into_parts().0
    }

    fn name(route: &Route<'_>) -> String {
        let text = match route {
            Route::Rest(RestRoute::Model(Err(_))) => "Malformed".to_owned(),
            Route::Rest(RestRoute::Model(Ok(route))) => format!("{:?}", route.api),
            Route::Rest(rest) => format!("{rest:?}"),
            Route::Grpc(grpc::Method::Unary(method)) => format!("{method:?}"),
            Route::Grpc(method) => format!("{method:?}"),
            Route::None(why) => format!("no {why:?}"),
        };
        text.split_once(" {").map_or(text.clone(), |(name, _)| name.to_owned())
    }

    #[test]
    fn each_request_has_one_route_and_one_scope() {
        let (open, predict, admin) = (None, Some(Scope::Predict), Some(Scope::Admin));
        for (line, expected, scope) in [
            ("GET /healthz", "Liveness", open),
            ("HEAD /readyz", "Readiness", open),
            ("POST /healthz", "no Path", predict),
            ("GET /healthz/", "no Path", predict),
            ("GET /HEALTHZ", "no Path", predict),
            ("GET //healthz", "no Path", predict),
            ("GET /metrics", "Metrics", predict),
            ("POST /metrics?x", "Metrics", predict),
            ("GET /metrics/", "no Path", predict),
            ("GET /", "Index", predict),
            ("POST /", "no Path", predict),
            ("GET /openapi.json?model=m", "OpenApi", predict),
            ("POST /v1/models/m:predict", "Predict", predict),
            ("POST /V1/MODELS/m:predict", "Predict", predict),
            ("GET /v1/models/m", "Status", predict),
            ("GET /v1/models/open", "Status", open),
            ("GET /v1/models/open/metadata", "Metadata", predict),
            ("GET /v1/models/", "Models", predict),
            ("POST /v1/models", "Malformed", predict),
            ("PUT /v1/models/m:predict", "Malformed", predict),
            ("OPTIONS /v1/models/m:predict", "Preflight", open),
            ("GET /v1", "no Path", predict),
            ("GET /v2", "OpenInference(Some(Server))", predict),
            ("GET /v2/health/live", "OpenInference(Some(ServerLive))", open),
            ("GET /v2/health/ready/", "OpenInference(Some(ServerReady))", open),
            ("POST /v2/repository/index", "OpenInference(Some(RepositoryIndex))", admin),
            ("POST /v2/repository/models/m/load", "OpenInference(Some(Load([109])))", admin),
            ("GET /v2/nothing", "OpenInference(None)", predict),
            ("OPTIONS /v2/repository/index", "Preflight", open),
            ("POST /v2/models/m:predict", "no Path", predict),
            ("GET /v2x", "no Path", predict),
            ("BREW /v1/models/m", "no Method", predict),
            ("GET /v1/models/%zz", "no Target", predict),
            ("POST /tensorflow.serving.PredictionService/Predict", "Predict", predict),
            ("POST /tensorflow.serving.ModelService/HandleReloadConfigRequest", "HandleReloadConfigRequest", admin),
            ("POST /grpc.health.v1.Health/Check", "HealthCheck", open),
            ("POST /grpc.health.v1.Health/Watch", "HealthWatch", open),
            ("POST /grpc.health.v1.Health/List", "HealthList", predict),
            ("POST /inference.GRPCInferenceService/ServerLive", "OpenInference(ServerLive)", open),
            ("POST /inference.GRPCInferenceService/RepositoryIndex", "OpenInference(RepositoryIndex)", admin),
            ("POST /grpc.health.v1.Health/check", "Unknown", predict),
        ] {
            let (router, head) = (router(), head(line));
            let route = router.route(&head);
            assert_eq!((name(&route).as_str(), router.scope(&route, &head)), (expected, scope), "{line}");
        }
    }

    #[test]
    fn only_legal_characters_may_stand_in_a_target() {
        assert!(is_well_formed("/v1/models/a-b_c.~!$&'()*+,;=:@%2f?x=/?"));
        for target in ["/v1/{x}", "/a%2", "/a%zz", "/a\"b", "/a|b", "/caf\u{e9}"] {
            assert!(!is_well_formed(target), "{target}");
        }
    }

    #[test]
    fn only_this_module_looks_at_paths() {
        let crates =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crates lie beside each other");
        let mut folders = vec![crates.join("http/src"), crates.join("server/src")];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a readable folder") {
                let path = entry.expect("a readable entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|kind| kind == "rs")
                    && std::fs::read_to_string(&path).expect("a readable file").contains("uri.path()")
                {
                    found.push(path.strip_prefix(crates).expect("below it").display().to_string());
                }
            }
        }
        found.sort_unstable();
        // The page for a path that does not exist quotes it.
        assert_eq!(found, ["server/src/protocol/tfs_rest/index.rs", "server/src/router/mod.rs"]);
    }
}
