//! What models of boosted trees have in common, behind [`servable_model::executor`].
//!
//! A library's crate implements [`Ensemble`], which predicts a dense matrix, and describes the model with a
//! [`Description`]. [`TreeExecutor`] adds the signatures: one matrix or one input a feature, categories, classes with
//! their labels, contributions of features, and the division of large batches among threads.
//!
//! - `numbers`: conversions between dtypes.
//! - `matrix`: the inputs of a run as the rows of one matrix.
//! - `description`: the features and the output of a model, and the signatures that follow from them.
//! - `executor`: the public interface.

#[cfg(not(target_endian = "little"))]
compile_error!("the elements of tensors are handed over as little-endian memory");

mod description;
mod executor;
mod matrix;
mod numbers;

pub use description::{COLUMNS, Description, Labels, Output, signatures};
pub use executor::{Ensemble, Kind, RunLimits, TreeExecutor};
pub use matrix::{Categories, Feature, MAX_FEATURES, Rows, UnknownCategory};
pub use numbers::Cell;
