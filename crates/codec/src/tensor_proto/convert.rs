//! Between tensors and prost's `TensorProto`, for what is not on the request path: defaults of signatures, records of
//! the request log. Both ways go through the bytes, so that there is one codec and not two.

use bytes::Bytes;
use prost::Message;

use super::encoded::EncodedTensor;
use super::response::TensorMessage;
use super::{MemoryBudget, TensorError};
use crate::proto::tensorflow::TensorProto;
use crate::wire::Reader;
use servable_model::tensor::Tensor;

/// The tensor that a message describes.
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

/// The message that describes a tensor, with its elements in the field of their dtype.
///
/// # Panics
///
/// Never: what is written here is read by prost.
pub fn tensor_to_proto(tensor: &Tensor) -> TensorProto {
    let message = TensorMessage::new(tensor, false);
    let mut bytes = Vec::with_capacity(message.len);
    message.encode(&mut bytes);
    TensorProto::decode(bytes.as_slice()).expect("an encoded tensor is a tensor message")
}
