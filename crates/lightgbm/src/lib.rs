//! `LightGBM`'s C API, loaded at run time from the library of an installed wheel, behind
//! [`servable_model::executor`].
//!
//! [`Runtime::open`] loads the library. [`Runtime::load`] makes a [`Model`] of a file that `save_model` wrote. Nothing is
//! linked: a process without `LightGBM` starts, and gets an [`OpenError`] that names the missing file.
//!
//! - `api`: the table of C functions.
//! - `booster`: an owned booster.
//! - `check`: checks of the trees, which the library trusts.
//! - `header`: what the text of a model says about features and predictions.
//! - `model`: copies of a booster as an ensemble of trees.
//! - `runtime`: the public interface.

mod api;
mod booster;
mod check;
mod header;
mod model;
mod runtime;

pub use model::{Boosters, Model};
pub use runtime::{LoadOptions, Runtime};
pub use servable_native::OpenError;
