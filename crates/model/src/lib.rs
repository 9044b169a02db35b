//! What a model is to the server: tensors, signatures, calls, errors, and the trait that runs one.
//!
//! Every other crate knows this one, and it knows none of them: no sockets, no protocols, no threads.

#![forbid(unsafe_code)]

pub mod call;
pub mod distribution;
pub mod error;
pub mod executor;
pub mod inference;
pub mod signature;
pub mod tensor;
