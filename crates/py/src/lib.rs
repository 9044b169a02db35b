//! `servable._core`: the extension module. `_core.pyi` declares and documents its names.
#![allow(clippy::needless_pass_by_value, reason = "PyO3 hands arguments over by value")]

mod background;
mod batching;
mod buffers;
mod control_plane;
mod embeddings;
mod errors;
mod lightgbm;
mod litert;
mod metrics;
mod onnx;
mod options;
mod python_executor;
mod servable;
mod server;
mod tensorflow;
mod trees;
mod worker;
mod workers;
mod xgboost;

use pyo3::prelude::*;

/// The checksum of `TFRecord` files.
#[pyfunction]
fn crc32c(py: Python<'_>, data: &[u8]) -> u32 {
    py.detach(|| servable_codec::crc32c::crc32c(data))
}

#[pymodule]
mod _core {
    /// The commit of the build; empty if unknown.
    #[pymodule_export]
    const COMMIT: &str = env!("SERVABLE_COMMIT");
    #[pymodule_export]
    use super::batching::{PyBatchQueue, PyBatchThreads, PyBatchTicket, PyCompletions};
    #[pymodule_export]
    use super::buffers::LentTensor;
    #[pymodule_export]
    use super::crc32c;
    #[pymodule_export]
    use super::embeddings::load_embeddings;
    #[pymodule_export]
    use super::lightgbm::PyLightGbm;
    #[pymodule_export]
    use super::litert::PyLiteRt;
    #[pymodule_export]
    use super::onnx::PyOnnxRuntime;
    #[pymodule_export]
    use super::servable::PyServable;
    #[pymodule_export]
    use super::server::PyServer;
    #[pymodule_export]
    use super::tensorflow::PyTensorFlow;
    #[pymodule_export]
    use super::workers::PyWorkers;
    #[pymodule_export]
    use super::xgboost::PyXgBoost;
}
