//! Shared by the programs of the benchmarks.

pub mod bare;
pub mod client;
pub mod load;
pub mod rate;
pub mod raw;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use servable_codec::metadata::signatures_from_meta_graph;
use servable_model::signature::Signature;
use servable_tensorflow::{LoadOptions, Runtime, Session};

/// The CPU time of the process, over all threads.
pub fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

/// The tag of `intra_op_parallelism_threads` in a `tensorflow.ConfigProto`.
const INTRA_OP_THREADS: u8 = 0x10;

/// Loads a model as the server does, with its default signature.
///
/// `tensorflow` is the directory of the installed package. `intra_op_threads` is the number of threads for one
/// operation; 0 for the default of the runtime.
///
/// # Errors
///
/// If the runtime or the model cannot be loaded, or the model has no such signature.
pub fn load_model(
    tensorflow: &Path,
    model: &Path,
    intra_op_threads: u8,
) -> Result<(Arc<Session>, Signature), Box<dyn Error>> {
    let options = LoadOptions {
        tags: vec!["serve".to_owned()],
        session_config: if intra_op_threads == 0 { Vec::new() } else { vec![INTRA_OP_THREADS, intra_op_threads] },
        run_in_caller_thread: true,
        ..LoadOptions::default()
    };
    let loaded = Runtime::open(tensorflow)?.load_saved_model(model, &options)?;
    let mut signatures = signatures_from_meta_graph(&loaded.meta_graph)?;
    let signature = signatures.by_name.remove("serving_default").ok_or("the model has no default signature")?;
    Ok((Arc::new(loaded.session), signature))
}
