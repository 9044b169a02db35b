//! Serving of requests, independent of protocols and of HTTP.
//!
//! `map` finds the version. `arrange` matches the request with a signature. `run` executes it, alone or in a batch of
//! `batching`. `predict` calls these steps in order, and `meter` counts the request.

mod arrange;
mod batching;
pub mod examples;
pub mod map;
pub(crate) mod meter;
pub(crate) mod predict;
pub(crate) mod priority;
pub mod readiness;
mod run;
pub mod servable;
pub mod traffic;

pub(crate) use self::arrange::Arranged;
pub use self::arrange::{
    arrange_inputs, check_predict_method, predict_signature, resolved_signature_name, select_outputs,
};
pub(crate) use self::batching::{Batching, Route};
pub use self::run::{run, run_to_warm_up};

/// Optional behaviour of the API. All of it is off by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct ApiOptions {
    /// Answer gRPC with `tensor_content` instead of typed fields.
    pub tensor_content_responses: bool,
    /// Require the method name of a signature to fit the call.
    pub check_method_names: bool,
    /// Offer the model repository of the Open Inference Protocol.
    pub model_repository: bool,
}
