//! The APIs: decode a request, serve it, encode its answer. TensorFlow Serving's over REST and gRPC, and the Open Inference
//! Protocol over both.

pub(crate) mod grpc_wire;
pub mod oip;
pub(crate) mod rest_wire;
pub mod tfs_grpc;
pub mod tfs_rest;
