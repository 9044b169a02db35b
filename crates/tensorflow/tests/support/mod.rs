//! Shared by the tests of the runtime: paths of the wheel and of models, and shorthands for tensors.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use servable_model::error::Result;
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Strings, Tensor};
use servable_tensorflow::{LoadOptions, Runtime, Session};

/// A wheel and the directories with models, from the environment.
pub struct Installation {
    pub runtime: Arc<Runtime>,
    /// Models of other projects, if available.
    testdata: Option<PathBuf>,
    /// What `tests/testdata/export_runtime_models.py` wrote.
    models: PathBuf,
}

/// The installation to test with; `None`, with a line that explains it, if there is none.
pub fn installation() -> Option<&'static Installation> {
    static INSTALLATION: OnceLock<Option<Installation>> = OnceLock::new();
    let open = || {
        let (tensorflow, models) = (directory("SERVABLE_TENSORFLOW_DIR")?, directory("SERVABLE_RUNTIME_MODELS")?);
        let testdata = directory("SERVABLE_TESTDATA");
        Some(Installation { runtime: Runtime::open(&tensorflow).unwrap(), testdata, models })
    };
    INSTALLATION.get_or_init(open).as_ref()
}

fn directory(variable: &str) -> Option<PathBuf> {
    let value = std::env::var_os(variable);
    if value.is_none() {
        println!("skipped: {variable} is not set");
    }
    value.map(PathBuf::from)
}

impl Installation {
    /// The directory of a model that others exported, such as `saved_model_half_plus_two_cpu/00000123`.
    pub fn testdata(&self, path: &str) -> Option<PathBuf> {
        Some(self.testdata.as_ref()?.join(path))
    }

    /// The directory of an exported model.
    pub fn model(&self, name: &str) -> PathBuf {
        self.models.join(name).join("1")
    }

    /// A session of an exported model that runs in the caller's thread.
    pub fn session(&self, name: &str) -> Session {
        self.runtime.load_saved_model(&self.model(name), &options(true)).unwrap().session
    }

    /// A model that gives half of its input plus two.
    pub fn half_plus_two(&self, run_in_caller_thread: bool) -> Session {
        let path = self.model("linear");
        self.runtime.load_saved_model(&path, &options(run_in_caller_thread)).unwrap().session
    }
}

pub fn options(run_in_caller_thread: bool) -> LoadOptions {
    LoadOptions { tags: vec!["serve".to_owned()], run_in_caller_thread, ..LoadOptions::default() }
}

/// A signature of `(alias, tensor name, dtype)`.
pub fn signature(inputs: &[(&str, &str, DType)], outputs: &[(&str, &str, DType)]) -> Signature {
    let specs = |entries: &[(&str, &str, DType)]| {
        let spec = |&(alias, tensor_name, dtype): &(&str, &str, DType)| TensorSpec {
            alias: alias.to_owned(),
            tensor_name: tensor_name.to_owned(),
            dtype,
            shape: None,
        };
        entries.iter().map(spec).collect()
    };
    Signature { inputs: specs(inputs), outputs: specs(outputs), ..Signature::default() }
}

/// The predict signature of `half_plus_two`.
pub fn half_plus_two_signature() -> Signature {
    signature(&[("x", "x:0", DType::FLOAT)], &[("y", "y:0", DType::FLOAT)])
}

/// A tensor over a new aligned buffer.
pub fn numbers(dtype: DType, shape: &[i64], bytes: &[u8]) -> Tensor {
    Tensor::from_numbers(dtype, shape.to_vec(), Buffer::Owned(AlignedBytes::from_slice(ALIGNMENT, bytes)))
}

/// A tensor over a part of a larger block, with an offset of `misalignment` from the alignment.
pub fn misaligned(dtype: DType, shape: &[i64], bytes: &[u8], misalignment: usize) -> Tensor {
    let mut block = AlignedBytes::from_slice(ALIGNMENT, &vec![0; misalignment]);
    block.extend_from_slice(bytes);
    let shared = Bytes::from_owner(block).slice(misalignment..);
    Tensor::from_numbers(dtype, shape.to_vec(), Buffer::Shared(shared))
}

pub fn floats(shape: &[i64], values: &[f32]) -> Tensor {
    numbers(DType::FLOAT, shape, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

pub fn ints(shape: &[i64], values: &[i32]) -> Tensor {
    numbers(DType::INT32, shape, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

pub fn int64s(shape: &[i64], values: &[i64]) -> Tensor {
    numbers(DType::INT64, shape, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

pub fn texts<T: AsRef<[u8]>>(shape: &[i64], values: &[T]) -> Tensor {
    Tensor::from_strings(shape.to_vec(), values.iter().collect::<Strings>())
}

/// Runs a signature for all of its outputs.
pub fn run(session: &Session, signature: &Signature, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
    let outputs: Vec<usize> = (0..signature.outputs.len()).collect();
    session.run(signature, inputs, &outputs, &RunOptions::default())
}

pub fn bytes_of(tensor: &Tensor) -> &[u8] {
    match tensor.elements() {
        Elements::Numbers(buffer) => buffer.as_ref(),
        Elements::Strings(_) => panic!("a tensor of strings"),
    }
}

pub fn floats_of(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.dtype(), DType::FLOAT);
    bytes_of(tensor).chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

pub fn ints_of(tensor: &Tensor) -> Vec<i32> {
    assert_eq!(tensor.dtype(), DType::INT32);
    bytes_of(tensor).chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

pub fn int64s_of(tensor: &Tensor) -> Vec<i64> {
    assert_eq!(tensor.dtype(), DType::INT64);
    bytes_of(tensor).chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

pub fn texts_of(tensor: &Tensor) -> Vec<Vec<u8>> {
    match tensor.elements() {
        Elements::Strings(strings) => strings.iter().map(<[u8]>::to_vec).collect(),
        Elements::Numbers(_) => panic!("a tensor of {}", tensor.dtype()),
    }
}
