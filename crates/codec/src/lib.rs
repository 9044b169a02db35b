//! The codecs between wire formats and tensors: JSON, protobuf, examples and metadata. No I/O, no models.

#![forbid(unsafe_code)]

pub mod crc32c;
pub mod example;
pub mod graph;
pub mod json;
pub mod metadata;
pub mod open_inference;
pub mod proto;
pub mod schema;
pub mod tensor_proto;
pub mod wire;
