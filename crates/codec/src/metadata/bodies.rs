//! The REST bodies of model status and model metadata (`docs/spec/rest_api.md` §11 and §12).
//!
//! They are messages in protobuf's JSON, with the field names of the `.proto` files. Fields without presence are always
//! printed.

use prost::Message;

use super::fields::{dtype, enumeration, optional_shape, tensor};
use super::printer::Printer;
use super::type_spec::type_spec;
use crate::proto::tensorflow::error::Code;
use crate::proto::tensorflow::serving::model_version_status::State;
use crate::proto::tensorflow::serving::{GetModelStatusResponse, ModelVersionStatus, SignatureDefMap};
use crate::proto::tensorflow::tensor_info::Encoding;
use crate::proto::tensorflow::{SignatureDef, TensorInfo};
use servable_model::error::{Result, ServingError};

/// The body of a status response.
pub fn status_json(response: &GetModelStatusResponse) -> Vec<u8> {
    let mut printer = Printer::default();
    printer.object(|members| {
        members.field("model_version_status", |printer| printer.list(&response.model_version_status, version_status));
    });
    (printer.finish() + "\n").into_bytes()
}

fn version_status(printer: &mut Printer, version: &ModelVersionStatus) {
    printer.object(|members| {
        members.field("version", |printer| printer.quoted(version.version));
        let state = State::try_from(version.state).ok().map(|state| state.as_str_name());
        members.field("state", |printer| enumeration(printer, state, version.state));
        if let Some(status) = &version.status {
            members.field("status", |printer| {
                printer.object(|members| {
                    let code = Code::try_from(status.error_code).ok().map(|code| code.as_str_name());
                    members.field("error_code", |printer| enumeration(printer, code, status.error_code));
                    members.field("error_message", |printer| printer.text(&status.error_message));
                });
            });
        }
    });
}

/// The body of a metadata response, from the serialized `SignatureDefMap` of the model.
///
/// # Errors
///
/// `INTERNAL` if the bytes are not such a message.
pub fn metadata_json(name: &str, version: i64, signature_defs: &[u8]) -> Result<Vec<u8>> {
    let signatures = SignatureDefMap::decode(signature_defs)
        .map_err(|error| ServingError::internal(format!("the signatures of {name} cannot be read: {error}")))?;
    let mut model_spec = Printer::default();
    model_spec.object(|members| {
        members.field("name", |printer| printer.text(name));
        members.field("version", |printer| printer.quoted(version));
        members.field("signature_name", |printer| printer.text(""));
    });
    let mut definitions = Printer::default();
    definitions.object(|members| members.map("signature_def", &signatures.signature_def, signature_def));
    // Two documents inside a third, which is assembled by hand. Each ends with a newline.
    let (model_spec, definitions) = (model_spec.finish(), definitions.finish());
    let body =
        format!("{{\n\"model_spec\":{model_spec}\n,\n\"metadata\": {{\"signature_def\": {definitions}\n}}\n}}\n");
    Ok(body.into_bytes())
}

fn signature_def(printer: &mut Printer, signature: &SignatureDef) {
    printer.object(|members| {
        members.map("inputs", &signature.inputs, tensor_info);
        members.map("outputs", &signature.outputs, tensor_info);
        members.field("method_name", |printer| printer.text(&signature.method_name));
        members.map("defaults", &signature.defaults, tensor);
    });
}

fn tensor_info(printer: &mut Printer, info: &TensorInfo) {
    printer.object(|members| {
        if let Some(Encoding::Name(name)) = &info.encoding {
            members.field("name", |printer| printer.text(name));
        }
        members.field("dtype", |printer| dtype(printer, info.dtype));
        optional_shape(members, "tensor_shape", info.tensor_shape.as_ref());
        match &info.encoding {
            Some(Encoding::CooSparse(sparse)) => members.field("coo_sparse", |printer| {
                printer.object(|members| {
                    members.field("values_tensor_name", |printer| printer.text(&sparse.values_tensor_name));
                    members.field("indices_tensor_name", |printer| printer.text(&sparse.indices_tensor_name));
                    members.field("dense_shape_tensor_name", |printer| printer.text(&sparse.dense_shape_tensor_name));
                });
            }),
            Some(Encoding::CompositeTensor(composite)) => members.field("composite_tensor", |printer| {
                printer.object(|members| {
                    if let Some(spec) = &composite.type_spec {
                        members.field("type_spec", |printer| type_spec(printer, spec));
                    }
                    members.field("components", |printer| printer.list(&composite.components, tensor_info));
                });
            }),
            Some(Encoding::Name(_)) | None => {}
        }
    });
}
