//! Option structs, filled from the Python dataclasses field by field.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use servable_batch::{BatchingOptions, LowPriorityOptions, MixedPriorityPolicy, PoolOptions};
use servable_http::body::BodyLimits;
use servable_http::http2::Http2Options;
use servable_http::listener::{HeadLimits, ListenOptions, Offer};
use servable_http::tls::{Credentials, Pem, Tls};
use servable_litert::Naming;
use servable_server::access::{Access, ApiKey, Scope};
use servable_server::administration::AdminHosts;
use servable_server::dispatch::ProtocolOptions;
use servable_server::protocol::tfs_grpc::{Encoding, GrpcOptions};
use servable_server::protocol::tfs_rest::RestOptions;
use servable_server::router::Router;
use servable_server::serving::ApiOptions;
use servable_tabular::Names;
use servable_tensorflow::LoadOptions;

/// `servable._server.config.server_options.ServerOptions`.
#[derive(FromPyObject)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct ServerOptions {
    endpoints: Vec<Endpoint>,
    socket_mode: Option<u32>,
    worker_threads: usize,
    rest_timeout_seconds: f64,
    enable_cors: bool,
    cors_allowed_headers: String,
    tensor_content_responses: bool,
    check_method_names: bool,
    model_repository: bool,
    grpc: PyGrpcOptions,
    max_body_bytes: usize,
    max_total_body_bytes: usize,
    max_decompressed_bytes: usize,
    max_header_bytes: u32,
    max_headers: usize,
    max_json_nesting: usize,
    max_connections: usize,
    idle_timeout_seconds: f64,
    header_timeout_seconds: f64,
    body_timeout_seconds: f64,
    min_body_bytes_per_second: u32,
    open_paths: Vec<String>,
    admin_hosts: Vec<String>,
    metrics_path: String,
}

/// `servable._server.config.server_options.Endpoint`.
#[derive(FromPyObject)]
struct Endpoint {
    address: String,
    tls: bool,
    offer: String,
}

impl ServerOptions {
    pub(crate) fn api_options(&self) -> ApiOptions {
        ApiOptions {
            tensor_content_responses: self.tensor_content_responses,
            check_method_names: self.check_method_names,
            model_repository: self.model_repository,
        }
    }

    pub(crate) fn router(&self) -> Router {
        Router {
            metrics_path: Some(self.metrics_path.clone()).filter(|path| !path.is_empty()),
            paths_without_key: self.open_paths.clone(),
        }
    }

    /// Access control without keys, which are set later.
    pub(crate) fn access(&self) -> Access {
        let page_headers = Some(&self.cors_allowed_headers).filter(|headers| !headers.is_empty());
        Access::new(page_headers.and_then(|headers| HeaderValue::from_str(headers).ok()))
    }

    pub(crate) fn protocol_options(&self) -> PyResult<ProtocolOptions> {
        let timeout = self.rest_timeout_seconds;
        Ok(ProtocolOptions {
            grpc: self.grpc.grpc(),
            rest: RestOptions {
                timeout: if timeout > 0.0 { Some(seconds(timeout)?) } else { None },
                cors: self.enable_cors,
                max_nesting: self.max_json_nesting,
            },
            admin_hosts: AdminHosts::new(self.admin_hosts.iter().map(String::as_str)),
        })
    }

    pub(crate) fn listen_options(&self, tls: Arc<Tls>) -> PyResult<ListenOptions> {
        Ok(ListenOptions {
            endpoints: self.endpoints.iter().map(Endpoint::to_core).collect::<PyResult<_>>()?,
            socket_mode: self.socket_mode,
            tls,
            worker_threads: self.worker_threads,
            max_connections: self.max_connections,
            head: HeadLimits {
                max_bytes: self.max_header_bytes,
                max_count: self.max_headers,
                timeout: seconds(self.header_timeout_seconds)?,
            },
            idle_timeout: seconds(self.idle_timeout_seconds)?,
            body: BodyLimits {
                max_bytes: self.max_body_bytes,
                max_total_bytes: self.max_total_body_bytes,
                max_decompressed_bytes: self.max_decompressed_bytes,
                part_timeout: seconds(self.body_timeout_seconds)?,
                min_bytes_per_second: self.min_body_bytes_per_second,
            },
            http2: self.grpc.http2()?,
        })
    }
}

/// `servable._server.config.grpc_arguments.GrpcOptions`.
#[derive(FromPyObject)]
struct PyGrpcOptions {
    health_service: bool,
    max_receive_message_bytes: Option<usize>,
    max_send_message_bytes: Option<usize>,
    reply_encoding: String,
    max_concurrent_streams: Option<u32>,
    max_header_bytes: Option<u32>,
    max_frame_bytes: Option<u32>,
    stream_window_bytes: u32,
    keepalive_time_seconds: f64,
    keepalive_timeout_seconds: f64,
    max_idle_seconds: Option<f64>,
    max_age_seconds: Option<f64>,
    max_age_grace_seconds: Option<f64>,
}

impl PyGrpcOptions {
    fn grpc(&self) -> GrpcOptions {
        GrpcOptions {
            health_service: self.health_service,
            reply_encoding: match self.reply_encoding.as_str() {
                "gzip" => Some(Encoding::Gzip),
                "deflate" => Some(Encoding::Deflate),
                _ => None,
            },
            max_receive_bytes: self.max_receive_message_bytes,
            max_send_bytes: self.max_send_message_bytes,
        }
    }

    fn http2(&self) -> PyResult<Http2Options> {
        Ok(Http2Options {
            max_concurrent_streams: self.max_concurrent_streams,
            max_header_bytes: self.max_header_bytes,
            max_frame_bytes: self.max_frame_bytes,
            stream_window: self.stream_window_bytes,
            keepalive_time: seconds(self.keepalive_time_seconds)?,
            keepalive_timeout: seconds(self.keepalive_timeout_seconds)?,
            max_idle: self.max_idle_seconds.map(seconds).transpose()?,
            max_age: self.max_age_seconds.map(seconds).transpose()?,
            max_age_grace: self.max_age_grace_seconds.map(seconds).transpose()?,
        })
    }
}

impl Endpoint {
    fn to_core(&self) -> PyResult<servable_http::listener::Endpoint> {
        let Self { address, tls, offer } = self;
        let unknown = || PyValueError::new_err(format!("an endpoint cannot offer {offer:?}"));
        let offer = Offer::from_name(offer).ok_or_else(unknown)?;
        Ok(servable_http::listener::Endpoint { address: address.clone(), tls: *tls, offer })
    }
}

/// `servable._server.config.api_keys.ApiKey`.
#[derive(FromPyObject)]
pub(crate) struct HashedKey {
    name: String,
    scope: String,
    digest: [u8; 32],
}

impl HashedKey {
    pub(crate) fn into_core(self) -> PyResult<ApiKey> {
        Ok(ApiKey { name: self.name, scope: scope(&self.scope)?, digest: self.digest })
    }
}

/// The scope with this name.
fn scope(name: &str) -> PyResult<Scope> {
    let unknown = || PyValueError::new_err(format!("there is no scope {name}"));
    Scope::from_name(name).ok_or_else(unknown)
}

/// `servable._server.config.tls.Pem`.
#[derive(FromPyObject)]
pub(crate) struct PemText {
    name: String,
    text: Vec<u8>,
}

/// `servable._server.config.tls.TlsCredentials`.
#[derive(FromPyObject)]
pub(crate) struct TlsCredentials {
    certificate: PemText,
    key: PemText,
    client_ca: Option<PemText>,
}

impl From<PemText> for Pem {
    fn from(pem: PemText) -> Self {
        Self { name: pem.name, text: pem.text }
    }
}

impl From<TlsCredentials> for Credentials {
    fn from(credentials: TlsCredentials) -> Self {
        Self {
            certificate: credentials.certificate.into(),
            key: credentials.key.into(),
            client_ca: credentials.client_ca.map(Pem::from),
        }
    }
}

/// `servable.loaders._saved_model.SavedModelOptions`.
#[derive(FromPyObject)]
pub(crate) struct SavedModelOptions {
    tags: Vec<String>,
    session_config: Vec<u8>,
    load_thread_pool: Option<i32>,
    run_in_caller_thread: bool,
    max_run_seconds: f64,
}

impl From<SavedModelOptions> for LoadOptions {
    fn from(options: SavedModelOptions) -> Self {
        Self {
            tags: options.tags,
            session_config: options.session_config,
            load_thread_pool: options.load_thread_pool,
            run_in_caller_thread: options.run_in_caller_thread,
            longest_run: longest(options.max_run_seconds),
        }
    }
}

/// `servable.loaders._litert.LiteRtOptions`.
#[derive(FromPyObject)]
pub(crate) struct LiteRtOptions {
    interpreters: usize,
    threads: usize,
    rows_per_run: usize,
    tensorflow_serving_names: bool,
    max_run_seconds: f64,
    feature_names: Vec<String>,
    class_labels: Vec<String>,
}

impl From<LiteRtOptions> for servable_litert::LoadOptions {
    fn from(options: LiteRtOptions) -> Self {
        Self {
            naming: if options.tensorflow_serving_names { Naming::TensorFlowServing } else { Naming::Model },
            interpreters: options.interpreters,
            threads: options.threads,
            rows_per_run: (options.rows_per_run > 0).then_some(options.rows_per_run),
            longest_run: longest(options.max_run_seconds),
            names: Names { features: options.feature_names, classes: options.class_labels },
        }
    }
}

/// `servable.loaders._onnx.OnnxOptions`.
#[derive(FromPyObject)]
pub(crate) struct OnnxOptions {
    intra_op_threads: u16,
    providers: Vec<String>,
    gpu_memory_limit_bytes: u64,
    graph_optimization: String,
    memory_arena: bool,
}

impl OnnxOptions {
    /// The options of a load; runs take at most so long.
    pub(crate) fn for_runs_of(self, max_run_seconds: f64) -> PyResult<servable_onnx::LoadOptions> {
        use servable_onnx::{LoadOptions, Optimization, Provider, Threads};

        let unknown = |text: &str| PyValueError::new_err(format!("OnnxOptions lets through {text:?}"));
        let memory_limit = Some(self.gpu_memory_limit_bytes).filter(|limit| *limit > 0);
        let provider = |text: &String| match text.split_once(':').unwrap_or((text, "0")) {
            ("cpu", _) => Ok(Provider::Cpu),
            ("cuda", device) => {
                let device = device.parse().map_err(|_| unknown(text))?;
                Ok(Provider::Cuda { device, memory_limit })
            }
            _ => Err(unknown(text)),
        };
        Ok(LoadOptions {
            threads: match self.intra_op_threads {
                0 => Threads::Shared,
                1 => Threads::Caller,
                more => Threads::Own(NonZero::new(more).unwrap_or(NonZero::<u16>::MIN)),
            },
            providers: self.providers.iter().map(provider).collect::<PyResult<_>>()?,
            optimization: match self.graph_optimization.as_str() {
                "none" => Optimization::None,
                "basic" => Optimization::Basic,
                "extended" => Optimization::Extended,
                "all" => Optimization::All,
                other => return Err(unknown(other)),
            },
            keeps_memory: self.memory_arena,
            longest_run: longest(max_run_seconds),
        })
    }
}

/// `servable._server.config.batching.BatchingParameters`.
#[derive(FromPyObject)]
pub(crate) struct BatchingParameters {
    max_batch_size: usize,
    batch_timeout_micros: u64,
    max_enqueued_batches: usize,
    num_batch_threads: usize,
    thread_pool_name: String,
    allowed_batch_sizes: Vec<usize>,
    pad_variable_length_inputs: bool,
    enable_large_batch_splitting: bool,
    max_execution_batch_size: Option<usize>,
    latency_objective_millis: Option<f64>,
    rerun_failed_batches: bool,
    mixed_priority_batching_policy: String,
    low_priority_max_batch_size: Option<usize>,
    low_priority_batch_timeout_micros: Option<u64>,
    low_priority_max_enqueued_batches: Option<usize>,
}

impl BatchingParameters {
    /// The options of the thread pool.
    pub(crate) fn pool(&self) -> PoolOptions {
        PoolOptions { num_batch_threads: self.num_batch_threads, thread_pool_name: self.thread_pool_name.clone() }
    }
}

impl From<BatchingParameters> for BatchingOptions {
    fn from(parameters: BatchingParameters) -> Self {
        Self {
            max_batch_size: parameters.max_batch_size,
            batch_timeout_micros: parameters.batch_timeout_micros,
            max_enqueued_batches: parameters.max_enqueued_batches,
            allowed_batch_sizes: parameters.allowed_batch_sizes,
            pad_variable_length_inputs: parameters.pad_variable_length_inputs,
            enable_large_batch_splitting: parameters.enable_large_batch_splitting,
            max_execution_batch_size: parameters.max_execution_batch_size,
            latency_objective: parameters
                .latency_objective_millis
                .map(|millis| Duration::try_from_secs_f64(millis / 1e3).unwrap_or(Duration::MAX)),
            rerun_failed_batches: parameters.rerun_failed_batches,
            // Python has the same names, and has checked the value.
            mixed_priority_batching_policy: MixedPriorityPolicy::from_name(&parameters.mixed_priority_batching_policy)
                .unwrap_or_default(),
            low_priority: LowPriorityOptions {
                max_batch_size: parameters.low_priority_max_batch_size,
                batch_timeout_micros: parameters.low_priority_batch_timeout_micros,
                max_enqueued_batches: parameters.low_priority_max_enqueued_batches,
            },
        }
    }
}

/// A limit in seconds from Python; `None` for 0 or less, which mean no limit.
pub(crate) fn longest(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|limit| !limit.is_zero())
}

/// A duration in seconds from Python. Negative, infinite and too large values are refused.
pub(crate) fn seconds(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(format!("{seconds} seconds: {error}")))
}
