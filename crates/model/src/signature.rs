//! What a request to a servable has to look like: named, typed inputs and outputs.

use std::collections::BTreeMap;

use crate::tensor::{DType, Tensor};

/// The signature that is meant when a request names none.
pub const DEFAULT_SIGNATURE: &str = "serving_default";

/// One input or output of a signature.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// The name that clients use.
    pub alias: String,
    /// The name inside the runtime, such as `serving_default_x:0`.
    pub tensor_name: String,
    /// The declared dtype; any number, as the model has it.
    pub dtype: DType,
    /// The declared shape, -1 where a size is free; `None` if even the rank is.
    pub shape: Option<Vec<i64>>,
}

/// One way to call a servable.
#[derive(Clone, Debug, Default)]
pub struct Signature {
    /// Inputs in the order of their aliases.
    pub inputs: Vec<TensorSpec>,
    /// Outputs in the order of their aliases.
    pub outputs: Vec<TensorSpec>,
    /// Such as `tensorflow/serving/predict`; informative unless the server is told to check it.
    pub method_name: String,
    /// Values for inputs that a request may leave out, by alias.
    pub defaults: BTreeMap<String, Tensor>,
    /// Whether some of the tensors are parts of a ragged or sparse value: their rows are not those of the batch.
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
