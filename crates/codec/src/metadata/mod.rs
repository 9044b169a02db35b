//! The metadata of a model: its signatures, for requests, for gRPC and REST responses, and for error messages.

mod bodies;
mod components;
mod effects;
mod fields;
mod printer;
mod text;
mod type_spec;

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::tensor_proto::tensor_from_proto;
use super::wire::{self, Malformed, Reader, Value};
use crate::proto::tensorflow::serving::SignatureDefMap;
use crate::proto::tensorflow::tensor_info::Encoding;
use crate::proto::tensorflow::tensor_shape_proto::Dim;
use crate::proto::tensorflow::{SignatureDef, TensorInfo, TensorShapeProto};
use servable_model::error::{Result, ServingError};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::DType;

pub use bodies::{metadata_json, status_json};
pub use effects::is_repeatable;
pub use text::signature_text;

/// The signatures of a loaded model.
#[derive(Clone, Debug, Default)]
pub struct Signatures {
    /// The signatures by name.
    pub by_name: BTreeMap<String, Signature>,
    /// A serialized `tensorflow.serving.SignatureDefMap`, sorted by name. Each signature has the bytes of the model.
    pub signature_defs: Bytes,
}

/// The numbers of the signature maps in `MetaGraphDef` and in `SignatureDefMap`.
const META_GRAPH_SIGNATURES: u32 = 5;
const MAP_SIGNATURES: u32 = 1;

/// Reads the signatures from a serialized `tensorflow.MetaGraphDef`.
///
/// Other fields are skipped. The graph among them may be large.
///
/// # Errors
///
/// `INTERNAL` if the bytes are not such a message.
pub fn signatures_from_meta_graph(meta_graph: &[u8]) -> Result<Signatures> {
    let broken = |_| ServingError::internal("the model's meta graph has fields that cannot be read");
    signatures_from_definitions(signature_def_map(meta_graph).map_err(broken)?)
}

/// The same from a serialized `tensorflow.serving.SignatureDefMap`.
///
/// # Errors
///
/// `INTERNAL` if the bytes are not such a message.
pub fn signatures_from_definitions(signature_defs: Bytes) -> Result<Signatures> {
    let broken = |_| ServingError::internal("the model has signatures that cannot be read");
    let decoded = SignatureDefMap::decode(signature_defs.clone()).map_err(broken)?;
    let by_name = decoded.signature_def.into_iter().map(|(name, definition)| (name, signature(definition))).collect();
    Ok(Signatures { by_name, signature_defs })
}

/// A serialized `tensorflow.serving.SignatureDefMap` of serialized `tensorflow.SignatureDef`s, by name.
pub fn definition_map(definitions: &BTreeMap<String, Vec<u8>>) -> Bytes {
    let mut map = Vec::new();
    for (name, definition) in definitions {
        let mut entry = Vec::new();
        wire::put_length_field(&mut entry, 1, name.as_bytes());
        wire::put_length_field(&mut entry, 2, definition);
        wire::put_length_field(&mut map, MAP_SIGNATURES, &entry);
    }
    map.into()
}

/// A serialized `tensorflow.serving.SignatureDefMap` for the signatures of a model that stores none.
pub fn signature_defs(signatures: &BTreeMap<String, Signature>) -> Bytes {
    let signature_def = signatures.iter().map(|(name, signature)| (name.clone(), definition(signature))).collect();
    SignatureDefMap { signature_def }.encode_to_vec().into()
}

fn definition(signature: &Signature) -> SignatureDef {
    let infos = |specs: &[TensorSpec]| specs.iter().map(|spec| (spec.alias.clone(), info(spec))).collect();
    SignatureDef {
        inputs: infos(&signature.inputs),
        outputs: infos(&signature.outputs),
        method_name: signature.method_name.clone(),
        ..SignatureDef::default()
    }
}

fn info(spec: &TensorSpec) -> TensorInfo {
    let dimension = |&size| Dim { size, name: String::new() };
    TensorInfo {
        dtype: spec.dtype.0,
        tensor_shape: Some(TensorShapeProto {
            dim: spec.shape.iter().flatten().map(dimension).collect(),
            unknown_rank: spec.shape.is_none(),
        }),
        encoding: Some(Encoding::Name(spec.tensor_name.clone())),
    }
}

/// The entries of the signature map, as a separate message.
fn signature_def_map(meta_graph: &[u8]) -> Result<Bytes, Malformed> {
    let mut entries = BTreeMap::new();
    let mut fields = Reader::new(meta_graph);
    while let Some(field) = fields.next_field()? {
        if let (META_GRAPH_SIGNATURES, Value::Length(entry)) = (field.number, field.value) {
            entries.insert(key(fields.entry(entry))?, entry);
        }
    }
    let mut map =
        Vec::with_capacity(entries.values().map(|entry| wire::length_field_len(MAP_SIGNATURES, entry.len())).sum());
    for entry in entries.values() {
        wire::put_length_field(&mut map, MAP_SIGNATURES, entry);
    }
    Ok(map.into())
}

fn key(mut entry: Reader<'_>) -> Result<&[u8], Malformed> {
    let mut key: &[u8] = &[];
    while let Some(field) = entry.next_field()? {
        if let (1, Value::Length(name)) = (field.number, field.value) {
            key = name;
        }
    }
    Ok(key)
}

fn signature(definition: SignatureDef) -> Signature {
    let infos = definition.inputs.values().chain(definition.outputs.values());
    let has_components = infos.into_iter().any(|info| !matches!(info.encoding, Some(Encoding::Name(_)) | None));
    Signature {
        has_components,
        inputs: specs(definition.inputs),
        outputs: specs(definition.outputs),
        method_name: definition.method_name,
        // An invalid default is ignored. A request that relies on it gets the error for a missing input.
        defaults: definition
            .defaults
            .into_iter()
            .filter_map(|(alias, default)| Some((alias, tensor_from_proto(&default).ok()?)))
            .collect(),
    }
}

/// The tensors of inputs or outputs, sorted by name. A ragged or sparse value has several tensors. Each of them becomes
/// an input or output, with a name made of those of the value and the component.
fn specs(infos: BTreeMap<String, TensorInfo>) -> Vec<TensorSpec> {
    let mut specs: Vec<TensorSpec> =
        infos.into_iter().flat_map(|(alias, info)| components::split(alias, info)).collect();
    specs.sort_by(|one, other| one.alias.cmp(&other.alias));
    specs.dedup_by(|one, other| one.alias == other.alias);
    specs
}

fn spec(alias: String, info: TensorInfo) -> TensorSpec {
    let tensor_name = match info.encoding {
        Some(Encoding::Name(name)) => name,
        Some(Encoding::CooSparse(_) | Encoding::CompositeTensor(_)) | None => String::new(),
    };
    let shape = info.tensor_shape.filter(|shape| !shape.unknown_rank);
    TensorSpec {
        alias,
        tensor_name,
        dtype: DType(info.dtype),
        shape: shape.map(|shape| shape.dim.iter().map(|dimension| dimension.size).collect()),
    }
}

#[cfg(test)]
mod tests;
