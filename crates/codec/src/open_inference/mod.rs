//! What the two faces of the Open Inference Protocol share: its datatypes, and tensors as bytes that lie as in memory.

mod datatype;
mod raw;

pub use datatype::{datatype, dtype};
pub use raw::{raw_bytes, raw_len, raw_tensor, write_raw};
