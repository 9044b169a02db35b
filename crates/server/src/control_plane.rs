//! The calls from the request path up to the control plane, all in one trait.
//!
//! Inference makes none of these calls. They carry out the changes that clients request, and collect metrics.

use bytes::Bytes;

use crate::metrics::page::Family;
use servable_model::call::WaitingCall;
use servable_model::error::{Code, Result, ServingError};

/// What the request path asks of the control plane.
///
/// Every call blocks, and is made on a thread where that is allowed: changes on `servable-change`, [`Self::scrape`] on
/// `servable-page`. Calls overlap. A change returns soon after its `caller` has given up: models go on loading then, for
/// which no thread has to wait. An error is what the client gets.
pub trait ControlPlane: Send + Sync + 'static {
    /// Replaces the configuration by a serialized `tensorflow.serving.ModelServerConfig`; returns when every newly
    /// named model is available or has failed.
    ///
    /// # Errors
    ///
    /// What the client of `HandleReloadConfigRequest` gets.
    fn reload_config(&self, config: Bytes, caller: &WaitingCall) -> Result<()>;

    /// Serves a model for the model repository of the Open Inference Protocol: as `config` says, a JSON object, or else
    /// as it was served before. Returns when it is available.
    ///
    /// # Errors
    ///
    /// What the client gets.
    fn load_model(&self, model: &str, config: Option<&str>, caller: &WaitingCall) -> Result<()>;

    /// Stops serving a model for the same protocol; returns when no further request reaches it.
    ///
    /// # Errors
    ///
    /// What the client gets.
    fn unload_model(&self, model: &str, caller: &WaitingCall) -> Result<()>;

    /// Carries out a request of the administration API. A request that fails has an answer as well. `GET` requests run
    /// on `servable-page`.
    ///
    /// # Errors
    ///
    /// The request could not be processed at all.
    fn administer(&self, request: &AdminRequest, caller: &WaitingCall) -> Result<AdminAnswer>;

    /// The metrics that the control plane counts itself, as they are now.
    ///
    /// # Errors
    ///
    /// The page is answered with this error.
    fn scrape(&self) -> Result<Vec<Family>>;
}

/// A request of the administration API that passed access control.
#[derive(Clone, Debug)]
pub struct AdminRequest {
    /// The method, such as `GET`.
    pub method: String,
    /// The path and the query, as they were sent.
    pub target: String,
    /// The body, empty if there is none.
    pub body: Bytes,
}

/// The answer to it.
#[derive(Clone, Debug)]
pub struct AdminAnswer {
    /// Whether it was carried out, or why not. The HTTP status follows from it.
    pub code: Code,
    /// The media type of the body, such as `application/json`.
    pub content_type: String,
    /// The body.
    pub body: Bytes,
}

/// No control plane: every change is refused, and nothing is counted.
impl ControlPlane for () {
    fn reload_config(&self, _: Bytes, _: &WaitingCall) -> Result<()> {
        Err(no_control_plane())
    }

    fn load_model(&self, _: &str, _: Option<&str>, _: &WaitingCall) -> Result<()> {
        Err(no_control_plane())
    }

    fn unload_model(&self, _: &str, _: &WaitingCall) -> Result<()> {
        Err(no_control_plane())
    }

    fn administer(&self, _: &AdminRequest, _: &WaitingCall) -> Result<AdminAnswer> {
        Err(no_control_plane())
    }

    fn scrape(&self) -> Result<Vec<Family>> {
        Ok(Vec::new())
    }
}

fn no_control_plane() -> ServingError {
    ServingError::unimplemented("this server has no control plane")
}
