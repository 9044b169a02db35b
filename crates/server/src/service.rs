//! The state of the server that requests share, and what it says about its models.

mod scrape;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use tokio::sync::Semaphore;

use crate::access::Access;
use crate::control_plane::ControlPlane;
use crate::metrics::Metrics;
use crate::router::Router;
use crate::runs::say_stuck;
use crate::serving::ApiOptions;
use crate::serving::map::{Resolved, ServingMap, State, Version, VersionChoice};
use crate::serving::readiness::Readiness;
use crate::serving::traffic::Caller;
use servable_codec::metadata;
use servable_codec::proto::tensorflow::serving::{GetModelStatusResponse, ModelVersionStatus, StatusProto};
use servable_http::body::BodyMemory;
use servable_model::error::Result;
use servable_runtime::BlockingPool;

/// The state of the server that requests share.
pub struct Service {
    /// What may be called.
    pub serving_map: ServingMap,
    /// How to answer.
    pub options: ApiOptions,
    /// Who may ask for what.
    pub access: Access,
    /// Carries out changes, and counts what is not counted here.
    pub control_plane: Box<dyn ControlPlane>,
    /// Whether requests are wanted.
    pub readiness: Readiness,
    /// One permit for each call that may stay open without being worked on, such as a watch on the health.
    pub(crate) streams: Arc<Semaphore>,
    /// Where changes are made, which wait for models to load, and for each other.
    pub(crate) changes: BlockingPool,
    /// Where pages are made that take longer.
    pub(crate) pages: BlockingPool,
    /// Where the memory of large requests comes from.
    pub(crate) body_memory: Arc<BodyMemory>,
    /// What is counted.
    pub metrics: Metrics,
    /// Which route a request takes.
    pub router: Router,
}

impl Service {
    /// How many calls may stay open at once without being worked on.
    pub(crate) const MAX_STREAMS: usize = 1024;

    /// How many reloads, loads and unloads that clients ask for may be under way at once; further ones wait in order.
    const MAX_CHANGES: usize = 16;

    /// How many pages are made at once; further ones wait in order.
    const MAX_PAGES: usize = 4;

    /// The state of a server that has nothing to serve yet.
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

    /// The versions of a model, highest first, or the one asked for (`docs/spec/grpc_api.md` §11).
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
                // What it waits for is known of the model only.
                (State::Unloading, _) => self.metrics.served(name).stuck_runs(),
                _ => 0,
            };
            if let Some(status) = status.status.as_mut().filter(|status| stuck > 0 && status.error_message.is_empty()) {
                status.error_message = say_stuck(stuck);
            }
        }
        Ok(GetModelStatusResponse { model_version_status: statuses })
    }
}

/// The headers of a request, which are called metadata over gRPC.
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
