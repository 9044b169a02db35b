//! The REST paths of the Open Inference Protocol.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use super::without_query;

/// The paths that errors list. `/versions/V` may follow the name of a model.
pub(crate) const SHOWN: [&str; 9] = [
    "GET /v2",
    "GET /v2/health/live",
    "GET /v2/health/ready",
    "GET /v2/models/NAME",
    "GET /v2/models/NAME/ready",
    "POST /v2/models/NAME/infer",
    "POST /v2/repository/index",
    "POST /v2/repository/models/NAME/load",
    "POST /v2/repository/models/NAME/unload",
];

/// The model in a path.
#[derive(Debug, PartialEq, Eq)]
pub struct Model<'a> {
    /// The name, percent-decoded. It need not be UTF-8.
    pub name: Cow<'a, [u8]>,
    /// The version, percent-decoded, or empty.
    pub version: Cow<'a, [u8]>,
}

/// The API of a path.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the protocol")]
pub enum Api<'a> {
    Server,
    ServerLive,
    ServerReady,
    Model(Model<'a>),
    ModelReady(Model<'a>),
    Infer(Model<'a>),
    RepositoryIndex,
    Load(Cow<'a, [u8]>),
    Unload(Cow<'a, [u8]>),
    /// An API of an unavailable extension, by the name of the extension.
    Missing(&'static str),
}

impl Api<'_> {
    /// Whether its method is POST instead of GET.
    pub fn is_post(&self) -> bool {
        matches!(self, Self::Infer(_)) || self.is_administrative()
    }

    /// Whether it is a health check of the server.
    pub(super) fn is_health_check(&self) -> bool {
        matches!(self, Self::ServerLive | Self::ServerReady)
    }

    /// Whether it belongs to the model repository.
    pub fn is_administrative(&self) -> bool {
        matches!(self, Self::RepositoryIndex | Self::Load(_) | Self::Unload(_))
    }
}

/// Whether a path belongs to this protocol.
///
/// A path with a colon does not. The verbs of TensorFlow Serving follow a colon, and get its answer with any version
/// prefix. In names of models, colons are percent-encoded.
pub(super) fn has(path: &str) -> bool {
    path.strip_prefix("/v2").is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) && !path.contains(':')
}

/// The API of a target that begins with `/v2`.
pub fn parse(target: &str) -> Option<Api<'_>> {
    let rest = without_query(target).strip_prefix("/v2").filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
    let segments: Vec<&str> = rest.strip_suffix('/').unwrap_or(rest).split('/').skip(1).collect();
    if segments.iter().any(|segment| segment.is_empty()) {
        return None;
    }
    Some(match segments[..] {
        [] => Api::Server,
        ["health", "live"] => Api::ServerLive,
        ["health", "ready"] => Api::ServerReady,
        ["repository", "index"] => Api::RepositoryIndex,
        ["repository", "models", name, "load"] => Api::Load(decoded(name)),
        ["repository", "models", name, "unload"] => Api::Unload(decoded(name)),
        ["models", _, "stats"] | ["models", _, "versions", _, "stats"] => Api::Missing("statistics"),
        ["models", _, "config"] | ["models", _, "versions", _, "config"] => Api::Missing("model_configuration"),
        ["trace", "setting"] | ["models", _, "trace", "setting"] => Api::Missing("trace"),
        ["logging"] => Api::Missing("logging"),
        ["systemsharedmemory", ..] => Api::Missing("system_shared_memory"),
        ["cudasharedmemory", ..] => Api::Missing("cuda_shared_memory"),
        ["models", name, "versions", version, ref rest @ ..] => of_model(name, version, rest)?,
        ["models", name, ref rest @ ..] => of_model(name, "", rest)?,
        _ => return None,
    })
}

fn of_model<'a>(name: &'a str, version: &'a str, rest: &[&str]) -> Option<Api<'a>> {
    let model = Model { name: decoded(name), version: decoded(version) };
    Some(match rest {
        [] => Api::Model(model),
        ["ready"] => Api::ModelReady(model),
        ["infer"] => Api::Infer(model),
        _ => return None,
    })
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    percent_decode(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(target: &str) -> String {
        let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let model = |what: &str, model: &Model<'_>| format!("{what} {} {}", name(&model.name), name(&model.version));
        match parse(target) {
            None => "none".to_owned(),
            Some(Api::Model(found)) => model("metadata", &found),
            Some(Api::ModelReady(found)) => model("ready", &found),
            Some(Api::Infer(found)) => model("infer", &found),
            Some(Api::Load(found)) => format!("load {}", name(&found)),
            Some(Api::Unload(found)) => format!("unload {}", name(&found)),
            Some(other) => format!("{other:?}"),
        }
    }

    #[test]
    fn paths_are_those_of_the_protocol() {
        for (target, expected) in [
            ("/v2", "Server"),
            ("/v2/", "Server"),
            ("/v2?x=/y", "Server"),
            ("/v2/health/live", "ServerLive"),
            ("/v2/health/ready/", "ServerReady"),
            ("/v2/models/m", "metadata m "),
            ("/v2/models/a%2Fb%20c/versions/stable", "metadata a/b c stable"),
            ("/v2/models/m/ready", "ready m "),
            ("/v2/models/m/versions/3/ready?a=b", "ready m 3"),
            ("/v2/models/m/infer", "infer m "),
            ("/v2/models/m/versions/3/infer", "infer m 3"),
            ("/v2/models/versions/infer", "infer versions "),
            ("/v2/repository/index", "RepositoryIndex"),
            ("/v2/repository/models/m/load", "load m"),
            ("/v2/repository/models/m/unload", "unload m"),
            ("/v2/models", "none"),
            ("/v2/models//infer", "none"),
            ("/v2/models/m/config", "Missing(\"model_configuration\")"),
            ("/v2/models/m/versions/3/stats", "Missing(\"statistics\")"),
            ("/v2/models/stats", "metadata stats "),
            ("/v2/models/stats/stats", "Missing(\"statistics\")"),
            ("/v2/models/stats/versions/stats", "metadata stats stats"),
            ("/v2/models/stats/infer", "infer stats "),
            ("/v2/systemsharedmemory/region/a/register", "Missing(\"system_shared_memory\")"),
            ("/v2/models/m/versions", "none"),
            ("/v2x/health/live", "none"),
            ("/v2/health", "none"),
            ("/v1/models/m", "none"),
        ] {
            assert_eq!(text(target), expected, "{target}");
        }
    }
}
