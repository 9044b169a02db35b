//! `ModelService`, and `GetModelMetadata` of `PredictionService`: answers from the serving map, and the reload.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost_types::Any;

use crate::protocol::grpc_wire::framing::encode;
use crate::service::Service;
use crate::serving::map::{Resolved, VersionChoice};
use crate::serving::traffic::Caller;
use servable_codec::proto::tensorflow::serving::metric::ValueIncrease;
use servable_codec::proto::tensorflow::serving::model_spec::VersionChoice as Choice;
use servable_codec::proto::tensorflow::serving::{
    GetModelMetadataRequest, GetModelMetadataResponse, GetModelStatusRequest, Metric, ModelSpec, ReloadConfigRequest,
    ReloadConfigResponse, StatusProto,
};
use servable_codec::schema;
use servable_model::call::Call;
use servable_model::error::{Result, ServingError};

/// The only kind of metadata.
const SIGNATURE_DEF: &str = "signature_def";

/// `PredictionService.GetModelMetadata` (`docs/spec/grpc_api.md` §10).
pub(super) fn metadata(service: &Service, caller: &dyn Caller, message: Bytes) -> Result<BytesMut> {
    let request =
        GetModelMetadataRequest::decode(conform(message, schema::GET_MODEL_METADATA)?).map_err(|_| malformed())?;
    let spec = request.model_spec.ok_or_else(missing_spec)?;
    if request.metadata_field.is_empty() {
        let text = "GetModelMetadataRequest must specify at least one metadata_field";
        return Err(ServingError::invalid_argument(text));
    }
    if let Some(field) = request.metadata_field.iter().find(|field| *field != SIGNATURE_DEF) {
        return Err(ServingError::invalid_argument(format!("Metadata field {field} is not supported")));
    }
    let choice = match &spec.version_choice {
        None => VersionChoice::Latest,
        Some(Choice::Version(number)) => VersionChoice::Number(*number),
        Some(Choice::VersionLabel(label)) => VersionChoice::Label(label.as_bytes()),
    };
    let Resolved { version, handle, .. } = service.serving_map.resolve(spec.name.as_bytes(), choice, caller)?;
    let signature_defs = Any {
        type_url: "type.googleapis.com/tensorflow.serving.SignatureDefMap".to_owned(),
        value: handle.signature_defs().to_vec(),
    };
    Ok(encode(&GetModelMetadataResponse {
        model_spec: Some(ModelSpec {
            name: spec.name,
            version_choice: Some(Choice::Version(version)),
            ..ModelSpec::default()
        }),
        metadata: BTreeMap::from([(SIGNATURE_DEF.to_owned(), signature_defs)]),
    }))
}

/// `ModelService.GetModelStatus` (`docs/spec/grpc_api.md` §11).
pub(super) fn status(service: &Service, message: Bytes) -> Result<BytesMut> {
    let request =
        GetModelStatusRequest::decode(conform(message, schema::GET_MODEL_STATUS)?).map_err(|_| malformed())?;
    let spec = request.model_spec.ok_or_else(missing_spec)?;
    let number = match &spec.version_choice {
        Some(Choice::Version(number)) => Some(*number),
        Some(Choice::VersionLabel(_)) | None => None,
    };
    Ok(encode(&service.model_status(spec.name.as_bytes(), number)?))
}

/// `ModelService.HandleReloadConfigRequest` (`docs/spec/grpc_api.md` §13): passes the configuration to the control
/// plane.
///
/// The reload continues if the client disconnects.
pub(super) async fn reload_config(service: &Arc<Service>, message: Bytes, call: Call) -> Result<BytesMut> {
    let (_claim, caller) = call.hand_over();
    let request = ReloadConfigRequest::decode(conform(message, schema::RELOAD_CONFIG)?).map_err(|_| malformed())?;
    let config = request.config.unwrap_or_default().encode_to_vec().into();
    let names: BTreeSet<String> = request.metric_names.into_iter().collect();
    let threads = &service.changes;
    let service = Arc::clone(service);
    let metric = threads.spawn(move || {
        let before = service.first_integers(&names)?;
        service.control_plane.reload_config(config, &caller)?;
        caller.check()?;
        let after = service.first_integers(&names)?;
        let increases = names.iter().map(|name| increase(name, before[name.as_str()], after[name.as_str()]));
        Ok::<Vec<Metric>, ServingError>(increases.collect())
    });
    let metric = metric.await.map_err(|failed| ServingError::internal(failed.to_string()))??;
    Ok(encode(&ReloadConfigResponse { status: Some(StatusProto::default()), metric }))
}

/// The increase of a counter, 0 for one that does not exist.
fn increase(name: &str, before: u64, after: u64) -> Metric {
    let increase = after.wrapping_sub(before) as i64;
    Metric { name: name.to_owned(), value_increase: Some(ValueIncrease::Int64ValueIncrease(increase)) }
}

/// Removes fields that prost refuses and TensorFlow Serving accepts.
fn conform(message: Bytes, schema: &schema::Schema) -> Result<Bytes> {
    schema::conform(message, schema).map_err(|_| malformed())
}

/// The error for a message that is not protobuf. As in gRPC's C++ library, it has no text.
pub(super) fn malformed() -> ServingError {
    ServingError::internal("")
}

pub(super) fn missing_spec() -> ServingError {
    ServingError::invalid_argument("Missing ModelSpec")
}
