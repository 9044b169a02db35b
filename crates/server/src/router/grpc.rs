//! The gRPC methods, by path.

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, Version};

/// The method of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method<'a> {
    /// A unary method.
    Unary(Unary<'a>),
    /// `grpc.health.v1.Health/Watch`
    HealthWatch,
    /// `ServerReflectionInfo`, of either version.
    Reflection,
    /// An unknown method.
    Unknown,
}

/// A unary method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the methods")]
pub enum Unary<'a> {
    Predict,
    Classify,
    Regress,
    MultiInference,
    GetModelMetadata,
    GetModelStatus,
    HandleReloadConfigRequest,
    HealthCheck,
    HealthList,
    /// A method of `inference.GRPCInferenceService`.
    OpenInference(OpenInference<'a>),
}

/// A method of the Open Inference Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the methods")]
pub enum OpenInference<'a> {
    ModelInfer,
    ServerLive,
    ServerReady,
    ModelReady,
    ServerMetadata,
    ModelMetadata,
    RepositoryIndex,
    RepositoryModelLoad,
    RepositoryModelUnload,
    /// A method of an unavailable extension, by the name of the extension.
    Missing(&'static str),
    /// A method that does not exist, by its name.
    Unknown(&'a str),
}

/// Whether a request is a gRPC call.
pub(super) fn is_call(head: &Parts) -> bool {
    head.version == Version::HTTP_2 && has_content_type(&head.headers)
}

/// Whether the content type is gRPC's.
pub(crate) fn has_content_type(headers: &HeaderMap) -> bool {
    let subtype = headers.get(CONTENT_TYPE).and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    subtype.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

impl<'a> Method<'a> {
    /// The method of a path.
    pub fn of(path: &'a str) -> Self {
        Self::Unary(match path {
            "/tensorflow.serving.PredictionService/Predict" => Unary::Predict,
            "/tensorflow.serving.PredictionService/Classify" => Unary::Classify,
            "/tensorflow.serving.PredictionService/Regress" => Unary::Regress,
            "/tensorflow.serving.PredictionService/MultiInference" => Unary::MultiInference,
            "/tensorflow.serving.PredictionService/GetModelMetadata" => Unary::GetModelMetadata,
            "/tensorflow.serving.ModelService/GetModelStatus" => Unary::GetModelStatus,
            "/tensorflow.serving.ModelService/HandleReloadConfigRequest" => Unary::HandleReloadConfigRequest,
            "/grpc.health.v1.Health/Check" => Unary::HealthCheck,
            "/grpc.health.v1.Health/List" => Unary::HealthList,
            "/grpc.health.v1.Health/Watch" => return Self::HealthWatch,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => return Self::Reflection,
            path => match path.strip_prefix("/inference.GRPCInferenceService/") {
                Some(method) => Unary::OpenInference(OpenInference::of(method)),
                None => return Self::Unknown,
            },
        })
    }

    /// Whether the method belongs to gRPC's health service, which may be switched off.
    pub(crate) fn is_of_health_service(self) -> bool {
        matches!(self, Self::HealthWatch | Self::Unary(Unary::HealthCheck | Unary::HealthList))
    }

    pub(super) fn is_health_check(self) -> bool {
        use OpenInference::{ServerLive, ServerReady};
        matches!(
            self,
            Self::HealthWatch | Self::Unary(Unary::HealthCheck | Unary::OpenInference(ServerLive | ServerReady))
        )
    }

    pub(super) fn is_administrative(self) -> bool {
        use OpenInference::{RepositoryIndex, RepositoryModelLoad, RepositoryModelUnload};
        matches!(
            self,
            Self::Unary(
                Unary::HandleReloadConfigRequest
                    | Unary::OpenInference(RepositoryIndex | RepositoryModelLoad | RepositoryModelUnload)
            )
        )
    }
}

impl<'a> OpenInference<'a> {
    fn of(method: &'a str) -> Self {
        match method {
            "ModelInfer" => Self::ModelInfer,
            "ServerLive" => Self::ServerLive,
            "ServerReady" => Self::ServerReady,
            "ModelReady" => Self::ModelReady,
            "ServerMetadata" => Self::ServerMetadata,
            "ModelMetadata" => Self::ModelMetadata,
            "RepositoryIndex" => Self::RepositoryIndex,
            "RepositoryModelLoad" => Self::RepositoryModelLoad,
            "RepositoryModelUnload" => Self::RepositoryModelUnload,
            "ModelStatistics" => Self::Missing("statistics"),
            "ModelConfig" => Self::Missing("model_configuration"),
            "TraceSetting" => Self::Missing("trace"),
            "LogSettings" => Self::Missing("logging"),
            _ if method.starts_with("SystemSharedMemory") => Self::Missing("system_shared_memory"),
            _ if method.starts_with("CudaSharedMemory") => Self::Missing("cuda_shared_memory"),
            _ => Self::Unknown(method),
        }
    }
}
