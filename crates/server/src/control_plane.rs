//! The trait by which the request path calls the control plane.
//!
//! Inference makes no such call. The calls execute changes that clients request, and collect metrics.

use bytes::Bytes;

use crate::metrics::page::Family;
use servable_model::call::WaitingCall;
use servable_model::error::{Code, Result, ServingError};

/// The control plane, as the request path calls it.
///
/// Every call blocks, and calls may overlap. Changes run on `servable-change` threads, and [`Self::scrape`] on
/// `servable-page` threads. A change returns soon after its `caller` is cancelled; loading continues without it. The
/// client gets the error that a call returns.
pub trait ControlPlane: Send + Sync + 'static {
    /// Replaces the configuration by a serialized `tensorflow.serving.ModelServerConfig`. Returns when each added model
    /// is available or has failed.
    ///
    /// # Errors
    ///
    /// What the client of `HandleReloadConfigRequest` gets.
    fn reload_config(&self, config: Bytes, caller: &WaitingCall) -> Result<()>;

    /// Loads a model for the model repository of the Open Inference Protocol, and returns when it is available.
    /// `config` is a JSON object; without it the model gets the configuration that it had before.
    ///
    /// # Errors
    ///
    /// What the client gets.
    fn load_model(&self, model: &str, config: Option<&str>, caller: &WaitingCall) -> Result<()>;

    /// Unloads a model for the same protocol. Returns when requests no longer reach it.
    ///
    /// # Errors
    ///
    /// What the client gets.
    fn unload_model(&self, model: &str, caller: &WaitingCall) -> Result<()>;

    /// Executes a request of the administration API. A request that fails gets an answer too. `GET` requests run on
    /// `servable-page` threads.
    ///
    /// # Errors
    ///
    /// The request could not be processed at all.
    fn administer(&self, request: &AdminRequest, caller: &WaitingCall) -> Result<AdminAnswer>;

    /// The current metrics of the control plane.
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

/// The answer to an [`AdminRequest`].
#[derive(Clone, Debug)]
pub struct AdminAnswer {
    /// The result of the request, from which the HTTP status follows.
    pub code: Code,
    /// The media type of the body, such as `application/json`.
    pub content_type: String,
    /// The body.
    pub body: Bytes,
}

/// A server without a control plane: it refuses changes, and has no metrics of its own.
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
