//! Tables of named features as requests for models that take tensors.
//!
//! A request of Classify, Regress or `MultiInference` has `tensorflow.Example` messages. A graph of TensorFlow parses
//! them itself; other runtimes do not know them. Two things help those:
//!
//! - [`Heads`] describes what a model computes from features. [`add_heads`] wraps its
//!   [`Executor`](servable_model::executor::Executor), and adds the signatures `classification` and `regression`, which
//!   take examples. REST, gRPC, metadata and batching then treat them like those of a `SavedModel`. [`heads_of`] finds
//!   the heads of a model that does not say what its outputs are.
//! - [`dense`] joins columns to one matrix, for a runtime that takes its features as a matrix.
//!
//! A kind calls [`add_heads`] once when a model is loaded, before it describes its signatures as metadata:
//!
//! ```
//! use std::collections::BTreeMap;
//! use servable_codec::example::features::Missing;
//! use servable_model::executor::Executor;
//! use servable_model::signature::{DEFAULT_SIGNATURE, Signature};
//! use servable_tabular::{Classification, Heads, Labels, Scores, add_heads, features_of};
//!
//! fn complete(
//!     executor: Box<dyn Executor>,
//!     signatures: &mut BTreeMap<String, Signature>,
//! ) -> servable_model::error::Result<Box<dyn Executor>> {
//!     let predict = signatures[DEFAULT_SIGNATURE].clone();
//!     let heads = Heads {
//!         inputs: features_of(&predict, &Missing::Refused)?,
//!         predict,
//!         classification: Some(Classification {
//!             scores: Some(Scores::PerClass("probabilities".to_owned())),
//!             labels: Labels::Columns(vec!["setosa".to_owned(), "virginica".to_owned()]),
//!         }),
//!         regression: None,
//!     };
//!     add_heads(executor, signatures, heads)
//! }
//! ```

#![forbid(unsafe_code)]

mod columns;
mod executor;
mod heads;
mod numbers;
mod outputs;

pub use columns::dense;
pub use executor::{CLASSIFICATION, REGRESSION, add_heads, features_of};
pub use heads::{Names, heads_of};
pub use outputs::{Classification, Heads, Labels, Scores};
