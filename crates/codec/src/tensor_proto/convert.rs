//! Conversions between tensors and prost's `TensorProto`, for defaults of signatures and records of the request log.
//!
//! They are not on the request path, and go through the encoded bytes, so that there is only one codec.

use bytes::Bytes;
use prost::Message;

use super::encoded::EncodedTensor;
use super::response::TensorMessage;
use super::{MemoryBudget, TensorError};
use crate::proto::tensorflow::TensorProto;
use crate::wire::Reader;
use servable_model::tensor::Tensor;

/// Converts a message to a tensor.
///
/// # Errors
///
/// As [`EncodedTensor::decode`].
pub fn tensor_from_proto(proto: &TensorProto) -> Result<Tensor, TensorError> {
    let body = Bytes::from(proto.encode_to_vec());
    let mut encoded = EncodedTensor::new(&body);
    encoded.merge(&body, Reader::new(&body)).map_err(|_| TensorError::Invalid)?;
    encoded.decode(&mut MemoryBudget::for_message(body.len()))
}

/// Converts a tensor to a message, with the elements in the field of their dtype.
///
/// # Panics
///
/// Never: prost reads the encoded bytes.
pub fn tensor_to_proto(tensor: &Tensor) -> TensorProto {
    let message = TensorMessage::new(tensor, false);
    let mut bytes = Vec::with_capacity(message.len);
    message.encode(&mut bytes);
    TensorProto::decode(bytes.as_slice()).expect("an encoded tensor is a tensor message")
}
