//! The small documents of the protocol; those with tensors are in [`servable_codec::json`].

use servable_codec::json::write_string;
use servable_codec::proto::inference::model_metadata_response::TensorMetadata;
use servable_codec::proto::inference::repository_index_response::ModelIndex;
use servable_codec::proto::inference::{ModelMetadataResponse, ServerMetadataResponse};

pub(super) fn server(metadata: &ServerMetadataResponse) -> Vec<u8> {
    let mut out = Vec::new();
    text_member(&mut out, "{\"name\":", &metadata.name);
    text_member(&mut out, ",\"version\":", &metadata.version);
    out.extend(b",\"extensions\":");
    list(&mut out, &metadata.extensions, |out, extension| write_string(out, extension.as_bytes()));
    out.push(b'}');
    out
}

pub(super) fn model(metadata: &ModelMetadataResponse) -> Vec<u8> {
    let mut out = Vec::new();
    text_member(&mut out, "{\"name\":", &metadata.name);
    out.extend(b",\"versions\":");
    list(&mut out, &metadata.versions, |out, version| write_string(out, version.as_bytes()));
    text_member(&mut out, ",\"platform\":", &metadata.platform);
    out.extend(b",\"inputs\":");
    list(&mut out, &metadata.inputs, tensor);
    out.extend(b",\"outputs\":");
    list(&mut out, &metadata.outputs, tensor);
    out.push(b'}');
    out
}

fn tensor(out: &mut Vec<u8>, tensor: &TensorMetadata) {
    text_member(out, "{\"name\":", &tensor.name);
    text_member(out, ",\"datatype\":", &tensor.datatype);
    out.extend(b",\"shape\":");
    list(out, &tensor.shape, |out, size| out.extend(size.to_string().bytes()));
    out.push(b'}');
}

/// Whether the server is ready, with the reason if not.
pub(super) fn server_ready(reason: Option<&str>) -> Vec<u8> {
    let Some(reason) = reason else { return b"{\"ready\":true}".to_vec() };
    let mut out = Vec::new();
    text_member(&mut out, "{\"ready\":false,\"reason\":", reason);
    out.push(b'}');
    out
}

/// Whether a model is ready, with the reason if not.
pub(super) fn model_ready(name: &[u8], reason: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    text_member(&mut out, "{\"name\":", &String::from_utf8_lossy(name));
    match reason {
        None => out.extend(b",\"ready\":true}"),
        Some(reason) => {
            text_member(&mut out, ",\"ready\":false,\"reason\":", reason);
            out.push(b'}');
        }
    }
    out
}

pub(super) fn index(models: &[ModelIndex]) -> Vec<u8> {
    let mut out = Vec::new();
    list(&mut out, models, |out, model| {
        text_member(out, "{\"name\":", &model.name);
        text_member(out, ",\"version\":", &model.version);
        text_member(out, ",\"state\":", &model.state);
        text_member(out, ",\"reason\":", &model.reason);
        out.push(b'}');
    });
    out
}

fn text_member(out: &mut Vec<u8>, name: &str, text: &str) {
    out.extend(name.bytes());
    write_string(out, text.as_bytes());
}

fn list<T>(out: &mut Vec<u8>, items: &[T], mut write: impl FnMut(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}
