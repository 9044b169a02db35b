//! Signatures: the named, typed inputs and outputs of a servable.

use std::collections::BTreeMap;

use crate::tensor::{DType, Tensor};

/// The signature of requests that name none.
pub const DEFAULT_SIGNATURE: &str = "serving_default";

/// One input or output of a signature.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// The name that clients use.
    pub alias: String,
    /// The name inside the runtime, such as `serving_default_x:0`.
    pub tensor_name: String,
    /// The declared dtype. It may be any number.
    pub dtype: DType,
    /// The declared shape, with -1 for an unknown size; `None` for an unknown rank.
    pub shape: Option<Vec<i64>>,
}

/// One way to call a servable.
#[derive(Clone, Debug, Default)]
pub struct Signature {
    /// The inputs, sorted by alias.
    pub inputs: Vec<TensorSpec>,
    /// The outputs, sorted by alias.
    pub outputs: Vec<TensorSpec>,
    /// The method name, such as `tensorflow/serving/predict`. The server checks it only if an option says so.
    pub method_name: String,
    /// Default values of optional inputs, by alias.
    pub defaults: BTreeMap<String, Tensor>,
    /// Whether some tensors are components of a ragged or sparse value. The rows of such tensors are not those of the
    /// batch.
    pub has_components: bool,
}

impl Signature {
    /// The position of an input in [`Signature::inputs`].
    pub fn input(&self, alias: &[u8]) -> Option<usize> {
        self.inputs.binary_search_by(|spec| spec.alias.as_bytes().cmp(alias)).ok()
    }

    /// The position of an output in [`Signature::outputs`].
    pub fn output(&self, alias: &[u8]) -> Option<usize> {
        self.outputs.binary_search_by(|spec| spec.alias.as_bytes().cmp(alias)).ok()
    }
}
