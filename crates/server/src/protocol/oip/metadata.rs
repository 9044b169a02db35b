//! Metadata of the server and its models. REST encodes the messages of gRPC as JSON.

use super::infer::signature;
use crate::service::Service;
use crate::serving::traffic::Caller;
use servable_codec::open_inference::datatype;
use servable_codec::proto::inference::model_metadata_response::TensorMetadata;
use servable_codec::proto::inference::{ModelMetadataResponse, ServerMetadataResponse};
use servable_model::error::Result;
use servable_model::signature::TensorSpec;

/// The name, version and extensions of the server.
pub(super) fn of_server(service: &Service) -> ServerMetadataResponse {
    let repository = service.options.model_repository.then_some("model_repository");
    ServerMetadataResponse {
        name: "servable".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: ["binary_tensor_data"].into_iter().chain(repository).map(str::to_owned).collect(),
    }
}

/// The versions of a model, and the inputs and outputs of its default signature.
pub(super) fn of_model(
    service: &Service,
    name: &[u8],
    version: &[u8],
    caller: &dyn Caller,
) -> Result<ModelMetadataResponse> {
    let found = service.serving_map.find(name, super::choice(version), caller);
    let (_, handle) = found.map_err(|error| super::naming_models(service, name, error))?;
    let model = service.serving_map.model(name);
    let available = model.iter().flat_map(|model| model.versions()).filter(|version| version.published.is_some());
    let mut versions: Vec<i64> = available.map(|version| version.number).collect();
    versions.sort_unstable();
    // A model of several signatures, none of them the default, is described by its name and versions.
    let (inputs, outputs) = match signature(&handle, None) {
        Ok((_, signature)) => (tensors(&signature.inputs), tensors(&signature.outputs)),
        Err(_) => (Vec::new(), Vec::new()),
    };
    Ok(ModelMetadataResponse {
        name: String::from_utf8_lossy(name).into_owned(),
        versions: versions.iter().map(ToString::to_string).collect(),
        platform: handle.platform().to_owned(),
        inputs,
        outputs,
    })
}

fn tensors(specs: &[TensorSpec]) -> Vec<TensorMetadata> {
    let tensor = |spec: &TensorSpec| {
        let dtype = spec.dtype.base();
        TensorMetadata {
            name: spec.alias.clone(),
            datatype: datatype(dtype).map_or_else(|| dtype.name().to_uppercase(), str::to_owned),
            // The protocol cannot say that the number of dimensions is free.
            shape: spec.shape.clone().unwrap_or_else(|| vec![-1]),
        }
    };
    specs.iter().map(tensor).collect()
}
