//! Shared by the REST and gRPC bindings of the Open Inference Protocol: datatypes, and raw contents of tensors.

mod datatype;
mod raw;

pub use datatype::{datatype, dtype};
pub use raw::{raw_bytes, raw_len, raw_tensor, write_raw};
