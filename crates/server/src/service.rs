//! The shared state of the server, and the status and metadata of its models.

mod scrape;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use tokio::sync::Semaphore;

use crate::access::Access;
use crate::control_plane::ControlPlane;
use crate::metrics::Metrics;
use crate::router::Router;
use crate::runs::stuck_runs_text;
use crate::serving::ApiOptions;
use crate::serving::map::{Resolved, ServingMap, State, Version, VersionChoice};
use crate::serving::readiness::Readiness;
use crate::serving::traffic::Caller;
use servable_codec::metadata;
use servable_codec::proto::tensorflow::serving::{GetModelStatusResponse, ModelVersionStatus, StatusProto};
use servable_http::body::BodyMemory;
use servable_model::error::Result;
use servable_runtime::BlockingPool;

/// The state that all requests share.
pub struct Service {
    /// The published models.
    pub serving_map: ServingMap,
    /// The optional behaviour of the API.
    pub options: ApiOptions,
    /// The API keys.
    pub access: Access,
    /// Executes changes, and supplies metrics of the control plane.
    pub control_plane: Box<dyn ControlPlane>,
    /// Whether the server is ready for requests.
    pub readiness: Readiness,
    /// The permits of idle streams, such as health watches.
    pub(crate) streams: Arc<Semaphore>,
    /// The threads of changes, which wait for models to load and for each other.
    pub(crate) changes: BlockingPool,
    /// The threads of pages that take long to produce.
    pub(crate) pages: BlockingPool,
    /// The memory pool of large request bodies.
    pub(crate) body_memory: Arc<BodyMemory>,
    /// The metrics of requests and runs.
    pub metrics: Metrics,
    /// Finds the route of a request.
    pub router: Router,
}

impl Service {
    /// The maximum number of idle streams.
    pub(crate) const MAX_STREAMS: usize = 1024;

    /// The maximum number of concurrent reloads, loads and unloads from clients. Further ones wait in order.
    const MAX_CHANGES: usize = 16;

    /// The maximum number of pages that are produced at once. Further requests wait in order.
    const MAX_PAGES: usize = 4;

    /// Creates the state of a server without models.
    pub fn new(options: ApiOptions, control_plane: Box<dyn ControlPlane>) -> Self {
        Self {
            serving_map: ServingMap::default(),
            options,
            access: Access::default(),
            control_plane,
            readiness: Readiness::default(),
            streams: Arc::new(Semaphore::new(Self::MAX_STREAMS)),
            changes: BlockingPool::new("servable-change", Self::MAX_CHANGES),
            pages: BlockingPool::new("servable-page", Self::MAX_PAGES),
            body_memory: Arc::default(),
            metrics: Metrics::default(),
            router: Router::default(),
        }
    }

    /// The metadata of a version as a JSON document (`docs/spec/rest_api.md` §12).
    ///
    /// # Errors
    ///
    /// Those of [`ServingMap::resolve`].
    pub fn metadata(&self, name: &[u8], choice: VersionChoice<'_>, caller: &dyn Caller) -> Result<Vec<u8>> {
        let Resolved { version, handle, .. } = self.serving_map.resolve(name, choice, caller)?;
        metadata::metadata_json(&String::from_utf8_lossy(name), version, handle.signature_defs())
    }

    /// The status of all versions of a model, highest first, or of the requested one (`docs/spec/grpc_api.md` §11).
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` if there is none.
    pub fn model_status(&self, name: &[u8], number: Option<i64>) -> Result<GetModelStatusResponse> {
        let versions = self.serving_map.status(name, number)?;
        let mut statuses: Vec<_> = versions.iter().map(version_status).collect();
        for (version, status) in versions.iter().zip(&mut statuses) {
            let stuck = match (version.state, &version.published) {
                (State::Available, Some(published)) => published.under_way().stuck(),
                // Stuck runs are counted by model only.
                (State::Unloading, _) => self.metrics.served(name).stuck_runs(),
                _ => 0,
            };
            if let Some(status) = status.status.as_mut().filter(|status| stuck > 0 && status.error_message.is_empty()) {
                status.error_message = stuck_runs_text(stuck);
            }
        }
        Ok(GetModelStatusResponse { model_version_status: statuses })
    }
}

/// The headers of HTTP are the metadata of gRPC.
impl Caller for HeaderMap {
    fn value(&self, key: &str) -> Option<&[u8]> {
        self.get(key).map(HeaderValue::as_bytes)
    }
}

fn version_status(version: &Version) -> ModelVersionStatus {
    ModelVersionStatus {
        version: version.number,
        state: version.state as i32,
        status: Some(StatusProto {
            error_code: version.error_code as i32,
            error_message: version.error_message.clone(),
        }),
    }
}
