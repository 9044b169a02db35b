//! The types of the request path: tensors, signatures, calls, errors, and the trait that runs a model.
//!
//! All other crates depend on this one, and it depends on none of them. It knows no sockets, protocols or threads.

#![forbid(unsafe_code)]

pub mod call;
pub mod distribution;
pub mod error;
pub mod executor;
pub mod inference;
pub mod signature;
pub mod tensor;
