//! Models of native runtimes, run by bare calls of the C functions of their libraries.
//!
//! Nothing of the server is in between, so these are the lower bounds of what the server adds to. Each file declares the
//! few functions that it calls. Inputs and outputs are made once, and used in each call, if the library allows it.

#![allow(unsafe_code)]

mod lightgbm;
mod litert;
mod onnx;
mod xgboost;

use std::error::Error;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::ValueEnum;

/// What can go wrong in any library.
pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// A native runtime.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Kind {
    /// ONNX Runtime.
    Onnx,
    /// `LiteRT`.
    Tflite,
    /// `XGBoost`.
    Xgboost,
    /// `LightGBM`.
    Lightgbm,
}

/// A loaded model, with one row of its input.
pub trait Model: Sync {
    /// Prepares calls with this many copies of the row, for one thread.
    ///
    /// # Errors
    ///
    /// The error of the library.
    fn calls(&self, rows: usize) -> Result<Box<dyn Calls + '_>>;
}

/// Calls with the same batch.
pub trait Calls {
    /// Runs the model once.
    ///
    /// # Errors
    ///
    /// The error of the library.
    fn run(&mut self) -> Result<()>;

    /// The first numbers of the answer to the last run.
    fn answer(&self, numbers: usize) -> Vec<f64>;
}

/// Opens a library, and loads a model.
///
/// The model takes a matrix of floats, of any number of rows. `threads` is the number of threads for one run.
///
/// # Errors
///
/// If the library or the model cannot be used.
pub fn load(kind: Kind, library: &Path, model: &Path, row: &[f32], threads: usize) -> Result<Box<dyn Model>> {
    let path = CString::new(model.as_os_str().as_bytes())?;
    Ok(match kind {
        Kind::Onnx => Box::new(onnx::Model::load(library, &path, row, threads)?),
        Kind::Tflite => Box::new(litert::Model::load(library, &path, row, threads)?),
        Kind::Xgboost => Box::new(xgboost::Model::load(library, &path, row, threads)?),
        Kind::Lightgbm => Box::new(lightgbm::Model::load(library, &path, row, threads)?),
    })
}

/// Refuses a status other than 0.
fn expect_success(function: &str, status: i32) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(format!("{function} returned {status}").into()) }
}

/// As many copies of a row.
fn batch(row: &[f32], rows: usize) -> Vec<f32> {
    row.repeat(rows)
}
