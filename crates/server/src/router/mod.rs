//! The grammars of paths, one module a protocol.

pub mod open_inference;
pub mod tensorflow_serving;
