//! `Server`: start, publish, drain.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use servable_http::listener::{ListenOptions, Listening};
use servable_http::tls::Tls;
use servable_model::error::{Code, ServingError};
use servable_server::dispatch::{Dispatch, ProtocolOptions};
use servable_server::metrics::{Metrics, ModelMetrics};
use servable_server::service::Service;
use servable_server::serving::map::{Model, State, Version, VersionChoice};
use servable_server::serving::traffic::shadow::Shadow;
use servable_server::serving::traffic::split::{Split, Weighted};
use servable_server::serving::traffic::{Anonymous, Traffic};

use crate::control_plane::PythonControlPlane;
use crate::errors;
use crate::options::{HashedKey, ServerOptions, TlsCredentials, seconds};
use crate::servable::PyServable;

/// The request path: its options, its listeners, and the service.
#[pyclass(name = "Server", module = "servable._core", frozen)]
pub(crate) struct PyServer {
    service: Arc<Service>,
    options: ListenOptions,
    protocols: ProtocolOptions,
    tls: Arc<Tls>,
    listening: Mutex<Option<Listening<Dispatch>>>,
}

#[pymethods]
impl PyServer {
    #[new]
    fn new(options: ServerOptions, control_plane: Py<PyAny>) -> PyResult<Self> {
        let mut service = Service::new(options.api_options(), Box::new(PythonControlPlane(control_plane)));
        service.access = options.access();
        service.router = options.router();
        let tls = Arc::<Tls>::default();
        Ok(Self {
            service: Arc::new(service),
            options: options.listen_options(Arc::clone(&tls))?,
            protocols: options.protocol_options()?,
            tls,
            listening: Mutex::new(None),
        })
    }

    fn start(&self, py: Python<'_>) -> PyResult<Vec<u16>> {
        let dispatch = Dispatch::new(Arc::clone(&self.service), self.protocols.clone(), &self.options);
        let listening = py
            .detach(|| Listening::start(dispatch, self.options.clone()))
            .map_err(|error| errors::named(py, "ConfigError", &error.to_string()))?;
        let ports = listening.addresses().iter().map(std::net::SocketAddr::port).collect();
        *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = Some(listening);
        Ok(ports)
    }

    fn open(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| {
            let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
            listening.as_mut().map_or(Ok(()), Listening::open)
        })
        .map_err(|error| errors::named(py, "ConfigError", &error.to_string()))
    }

    fn set_tls(&self, py: Python<'_>, credentials: TlsCredentials) -> PyResult<()> {
        let credentials = credentials.into();
        py.detach(|| self.tls.set(&credentials)).map_err(|text| errors::named(py, "ConfigError", &text))
    }

    fn set_api_keys(&self, keys: Vec<HashedKey>) -> PyResult<()> {
        self.service.access.set_keys(keys.into_iter().map(HashedKey::into_core).collect::<PyResult<_>>()?);
        Ok(())
    }

    fn publish(&self, py: Python<'_>, models: Vec<PublishedModel<'_>>) -> PyResult<()> {
        let models: Vec<(Vec<u8>, Model)> = models
            .into_iter()
            .map(|model| model.into_model(&self.service.metrics))
            .collect::<Result<_, _>>()
            .map_err(|error| errors::to_python(py, &error))?;
        if !HAS_READ_MAP.replace(true) {
            py.detach(|| drop(self.service.serving_map.model(b"")));
        }
        // Publishing is faster than releasing the interpreter, and taking it back from threads that load.
        self.service.serving_map.publish(models);
        Ok(())
    }

    fn metadata<'py>(&self, py: Python<'py>, model: &str, version: i64) -> PyResult<Bound<'py, PyBytes>> {
        let text = py.detach(|| self.service.metadata(model.as_bytes(), VersionChoice::Number(version), &Anonymous));
        text.map(|text| PyBytes::new(py, &text)).map_err(|error| errors::to_python(py, &error))
    }

    fn shadow_statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        for (name, statistics) in self.service.serving_map.shadow_statistics() {
            let fields = PyDict::new(py);
            fields.set_item("version", statistics.version)?;
            fields.set_item("matched", statistics.matched)?;
            fields.set_item("differed", statistics.differed)?;
            fields.set_item("failed", statistics.failed)?;
            fields.set_item("dropped", statistics.dropped)?;
            fields.set_item("unavailable", statistics.unavailable)?;
            fields.set_item("last_problem", statistics.last_problem)?;
            all.set_item(String::from_utf8_lossy(&name), fields)?;
        }
        Ok(all)
    }

    fn drain(&self, py: Python<'_>, timeout_seconds: f64) -> PyResult<bool> {
        let timeout = seconds(timeout_seconds)?;
        Ok(py.detach(|| {
            let listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner).take();
            let finished = listening.is_none_or(|listening| listening.drain(timeout));
            self.service.serving_map.clear();
            finished
        }))
    }
}

thread_local! {
    /// Whether the thread has read a serving map. The first read registers the thread with the dynamic linker, whose
    /// lock is held while a library is opened: for TensorFlow, a third of a second. So it is done without the
    /// interpreter.
    static HAS_READ_MAP: Cell<bool> = const { Cell::new(false) };
}

/// `servable._server.border.gateway.PublishedModel`.
#[derive(FromPyObject)]
struct PublishedModel<'py> {
    name: String,
    versions: Vec<PublishedVersion<'py>>,
    labels: HashMap<String, i64>,
    unavailable_reason: Option<String>,
    splits: Vec<TrafficSplit>,
    shadow: Option<ShadowOptions>,
}

/// `servable._server.config.traffic.TrafficSplit`.
#[derive(FromPyObject)]
struct TrafficSplit {
    label: String,
    versions: Vec<WeightedVersion>,
    sticky_header: String,
}

/// `servable._server.config.traffic.WeightedVersion`.
#[derive(FromPyObject)]
struct WeightedVersion {
    version: i64,
    weight: u32,
}

/// `servable._server.config.traffic.Shadow`.
#[derive(FromPyObject)]
struct ShadowOptions {
    version: i64,
    fraction: f64,
}

/// `servable._server.border.gateway.PublishedVersion`.
#[derive(FromPyObject)]
struct PublishedVersion<'py> {
    version: i64,
    state: i32,
    servable: Option<PyRef<'py, PyServable>>,
    error_code: i32,
    error_message: String,
}

impl PublishedModel<'_> {
    fn into_model(self, metrics: &Metrics) -> Result<(Vec<u8>, Model), ServingError> {
        let metrics = metrics.served(self.name.as_bytes());
        let version = |version: PublishedVersion<'_>| version.into_version(&metrics);
        let versions = self.versions.into_iter().map(version).collect::<Result<_, _>>()?;
        let labels = self.labels.into_iter().map(|(label, version)| (label.into_bytes(), version)).collect();
        let name = self.name.into_bytes();
        let splits = self.splits.into_iter().map(|split| split.into_split(&name)).collect();
        let shadow = self.shadow.map(|shadow| Shadow::new(shadow.version, shadow.fraction));
        let model = Model::new(versions, labels, self.unavailable_reason);
        Ok((name, model.with_traffic(Traffic::new(splits, shadow))))
    }
}

impl TrafficSplit {
    fn into_split(self, model: &[u8]) -> Split {
        let weighted = |version: WeightedVersion| Weighted { version: version.version, weight: version.weight };
        let versions = self.versions.into_iter().map(weighted).collect();
        let sticky_header = Some(self.sticky_header).filter(|header| !header.is_empty());
        Split::new(model, self.label.into_bytes(), versions, sticky_header)
    }
}

impl PublishedVersion<'_> {
    fn into_version(self, metrics: &Arc<ModelMetrics>) -> Result<Version, ServingError> {
        let state = State::from_number(self.state)
            .ok_or_else(|| ServingError::invalid_argument(format!("{} is not a version state", self.state)))?;
        let published = self.servable.map(|servable| servable.loaded()).transpose()?;
        Ok(Version {
            number: self.version,
            state,
            error_code: Code::from_number(self.error_code),
            error_message: self.error_message,
            published: published.map(|servable| servable.publish(Arc::clone(metrics))),
        })
    }
}
