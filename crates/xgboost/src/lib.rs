//! `XGBoost`'s C API, loaded at run time from the library of an installed wheel, behind
//! [`servable_model::executor`].
//!
//! [`Runtime::open`] loads the library. [`Runtime::load`] makes a [`Model`] of a file that `save_model` wrote. Nothing is
//! linked: a process without `XGBoost` starts, and gets an [`OpenError`] that names the missing file.
//!
//! - `api`: the table of C functions.
//! - `booster`: an owned booster, and conversions of what the C functions return.
//! - `check`, `document`, `tree`: checks of a file, which the library trusts.
//! - `model`: the booster as an ensemble of trees, and what it predicts.
//! - `runtime`: the public interface.

mod api;
mod booster;
mod check;
mod document;
mod fields;
mod model;
mod runtime;
mod tree;

pub use model::{Booster, Model};
pub use runtime::{LoadOptions, Runtime};
pub use servable_native::OpenError;
