//! The model repository: lists, loads and unloads models, if administration is enabled. The router has checked the
//! scope of the caller before.

use std::sync::Arc;

use crate::control_plane::ControlPlane;
use crate::service::Service;
use crate::serving::map::{Model, State, Version};
use servable_codec::proto::inference::repository_index_response::ModelIndex;
use servable_model::call::{Call, WaitingCall};
use servable_model::error::{Code, Result, ServingError};

/// Checks that the extension is enabled.
///
/// # Errors
///
/// `UNIMPLEMENTED` if administration is not enabled. The text says how to enable it.
fn require(service: &Service) -> Result<()> {
    if service.options.model_repository {
        return Ok(());
    }
    Err(ServingError::unimplemented(
        "the model repository is not enabled; start the server with --admin_api_port to enable administration",
    ))
}

/// All versions of all models with their state, or only the available ones.
///
/// # Errors
///
/// `UNIMPLEMENTED` if administration is not enabled.
pub(super) fn index(service: &Service, only_ready: bool) -> Result<Vec<ModelIndex>> {
    require(service)?;
    let mut models = service.serving_map.models();
    models.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let entries = models.iter().flat_map(|(name, model)| entries(&String::from_utf8_lossy(name), model));
    Ok(entries.filter(|entry| !only_ready || entry.state == "READY").collect())
}

fn entries(name: &str, model: &Model) -> Vec<ModelIndex> {
    let entry = |version: String, state: &str, reason: &str| ModelIndex {
        name: name.to_owned(),
        version,
        state: state.to_owned(),
        reason: reason.to_owned(),
    };
    if model.versions().is_empty() {
        return vec![entry(String::new(), "UNAVAILABLE", model.unavailable_reason().unwrap_or("unloaded"))];
    }
    let of_version = |version: &Version| {
        let (state, reason) = match version.state {
            State::Available => ("READY", ""),
            State::Start | State::Loading => ("LOADING", version.error_message.as_str()),
            State::Unloading => ("UNLOADING", ""),
            State::End if version.error_message.is_empty() => ("UNAVAILABLE", "unloaded"),
            State::End => ("UNAVAILABLE", version.error_message.as_str()),
            State::Unknown => ("UNKNOWN", ""),
        };
        entry(version.number.to_string(), state, reason)
    };
    model.versions().iter().rev().map(of_version).collect()
}

/// Loads a model.
///
/// # Errors
///
/// Those of [`index`] and of the control plane.
pub(super) async fn load(service: &Arc<Service>, model: String, config: Option<String>, call: Call) -> Result<()> {
    change(service, call, move |control_plane, caller| control_plane.load_model(&model, config.as_deref(), caller))
        .await
}

/// Unloads a model.
///
/// # Errors
///
/// As [`load`].
pub(super) async fn unload(service: &Arc<Service>, model: String, call: Call) -> Result<()> {
    change(service, call, move |control_plane, caller| control_plane.unload_model(&model, caller)).await
}

/// Executes a change. The change continues if the client disconnects.
async fn change(
    service: &Arc<Service>,
    call: Call,
    make: impl FnOnce(&dyn ControlPlane, &WaitingCall) -> Result<()> + Send + 'static,
) -> Result<()> {
    require(service)?;
    let (_claim, caller) = call.hand_over();
    let threads = &service.changes;
    let service = Arc::clone(service);
    threads
        .spawn(move || {
            make(&*service.control_plane, &caller)?;
            caller.check()
        })
        .await
        .map_err(|failed| ServingError::new(Code::Internal, failed.to_string()))?
}
