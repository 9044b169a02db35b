//! What the outputs of a model mean, and how they become the outputs of a classification or a regression.

use bytes::Bytes;

use servable_codec::example::features::FeatureTensor;
use servable_model::error::{Result, ServingError};
use servable_model::signature::Signature;
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Strings, Tensor, shape_text};

use crate::numbers::{Number, is_number, with_number};

/// What a model computes from features.
#[derive(Clone, Debug)]
pub struct Heads {
    /// The signature that is run.
    pub predict: Signature,
    /// How each of its inputs is made of features, in the order of [`Signature::inputs`]. See
    /// [`features_of`](crate::features_of) for inputs that are one feature each.
    pub inputs: Vec<FeatureTensor>,
    /// What a classification is made of; `None` if the model does not classify.
    pub classification: Option<Classification>,
    /// The output with one number for each example, `[n]` or `[n, 1]`; `None` if the model has none.
    pub regression: Option<String>,
}

/// What a classification is made of.
#[derive(Clone, Debug)]
pub struct Classification {
    /// The scores; `None` if the model has only labels.
    pub scores: Option<Scores>,
    /// The labels.
    pub labels: Labels,
}

/// Where scores are.
#[derive(Clone, Debug)]
pub enum Scores {
    /// In this output, with a column for each class: `[n, k]`.
    PerClass(String),
    /// In this output, with the probability `p` of the second of two classes: `[n]` or `[n, 1]`. The scores are `1 - p`
    /// and `p`.
    OfSecondClass(String),
}

/// Where labels are.
#[derive(Clone, Debug)]
pub enum Labels {
    /// These, one for each column of the scores.
    Columns(Vec<String>),
    /// The positions of the columns: `0`, `1` and so on.
    Positions,
    /// In this output: strings, or numbers, which are written as text. One for each example, `[n]` or `[n, 1]`, if there
    /// are no scores; otherwise one for each score.
    Output(String),
}

impl Scores {
    pub(crate) fn output(&self) -> &str {
        let (Self::PerClass(output) | Self::OfSecondClass(output)) = self;
        output
    }

    /// The number of classes according to the declared shape of the output.
    pub(crate) fn declared_classes(&self, shape: Option<&Vec<i64>>) -> i64 {
        match (self, shape.map(Vec::as_slice)) {
            (Self::OfSecondClass(_), _) => 2,
            (Self::PerClass(_), Some(&[_, classes])) => classes,
            (Self::PerClass(_), _) => -1,
        }
    }

    /// The number of examples and of classes in the output.
    pub(crate) fn dimensions(&self, tensor: &Tensor) -> Result<(i64, i64)> {
        match (self, tensor.shape()) {
            (Self::PerClass(_), &[rows, classes]) => Ok((rows, classes)),
            (Self::OfSecondClass(_), &[rows] | &[rows, 1]) => Ok((rows, 2)),
            (Self::PerClass(output), shape) => Err(misshapen(output, shape, "[n,k]")),
            (Self::OfSecondClass(output), shape) => Err(misshapen(output, shape, "[n] or [n,1]")),
        }
    }

    /// The scores as a matrix of `float`.
    pub(crate) fn matrix(&self, tensor: Tensor) -> Result<Tensor> {
        let (rows, classes) = self.dimensions(&tensor)?;
        match self {
            Self::PerClass(_) if tensor.dtype() == DType::FLOAT => Ok(tensor),
            Self::PerClass(output) => as_floats(output, &tensor, vec![rows, classes]),
            Self::OfSecondClass(output) => {
                let scores = floats(output, &tensor)?.into_iter().flat_map(|score| [1.0 - score, score]);
                Ok(float_tensor(vec![rows, 2], scores))
            }
        }
    }
}

/// Labels that are the same for each example.
#[derive(Debug)]
pub(crate) struct FixedLabels {
    block: Bytes,
    ranges: Vec<(usize, usize)>,
}

impl FixedLabels {
    pub(crate) fn new(labels: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let (mut block, mut ranges) = (Vec::new(), Vec::new());
        for label in labels {
            let start = block.len();
            block.extend_from_slice(label.as_ref().as_bytes());
            ranges.push((start, block.len()));
        }
        Self { block: block.into(), ranges }
    }

    /// The labels for each row of the scores.
    pub(crate) fn rows(&self, rows: i64, classes: i64, output: &str) -> Result<Tensor> {
        if self.ranges.len() as i64 != classes {
            let wanted = self.ranges.len();
            return Err(ServingError::internal(format!(
                "the output {output} has {classes} scores for an example, and the model has {wanted} labels"
            )));
        }
        let ranges = std::iter::repeat_n(&self.ranges, rows as usize).flatten().copied().collect();
        Ok(Tensor::from_strings(vec![rows, classes], Strings::new(self.block.clone(), ranges)))
    }
}

/// Labels from an output, as a matrix of strings.
pub(crate) fn label_matrix(output: &str, tensor: Tensor) -> Result<Tensor> {
    let shape = match *tensor.shape() {
        [rows] => vec![rows, 1],
        [rows, classes] => vec![rows, classes],
        ref shape => return Err(misshapen(output, shape, "[n] or [n,k]")),
    };
    let dtype = tensor.dtype();
    let (_, _, elements) = tensor.into_parts();
    let strings = match elements {
        Elements::Strings(strings) => strings,
        Elements::Numbers(buffer) => {
            macro_rules! texts {
                ($number:ty) => {
                    buffer.as_ref().as_chunks().0.iter().map(|&bytes| <$number>::read(bytes).to_string()).collect()
                };
            }
            match dtype {
                DType::BOOL => buffer.as_ref().iter().map(|&byte| if byte == 0 { "false" } else { "true" }).collect(),
                _ => with_number!(dtype, texts, return Err(no_numbers(output, dtype))),
            }
        }
    };
    Ok(Tensor::from_strings(shape, strings))
}

/// One number for each example, as a column of `float`.
pub(crate) fn value_column(output: &str, tensor: &Tensor) -> Result<Tensor> {
    match *tensor.shape() {
        [rows] | [rows, 1] => as_floats(output, tensor, vec![rows, 1]),
        ref shape => Err(misshapen(output, shape, "[n] or [n,1]")),
    }
}

fn as_floats(output: &str, tensor: &Tensor, shape: Vec<i64>) -> Result<Tensor> {
    Ok(float_tensor(shape, floats(output, tensor)?))
}

fn float_tensor(shape: Vec<i64>, values: impl IntoIterator<Item = f32>) -> Tensor {
    let bytes = AlignedBytes::from_iter(ALIGNMENT, values.into_iter().flat_map(f32::to_le_bytes));
    Tensor::from_numbers(DType::FLOAT, shape, Buffer::Owned(bytes))
}

fn floats(output: &str, tensor: &Tensor) -> Result<Vec<f32>> {
    let dtype = tensor.dtype();
    let Elements::Numbers(buffer) = tensor.elements() else { return Err(no_numbers(output, dtype)) };
    macro_rules! floats {
        ($number:ty) => {
            buffer.as_ref().as_chunks().0.iter().map(|&bytes| <$number>::read(bytes).to_f32()).collect()
        };
    }
    Ok(with_number!(dtype, floats, return Err(no_numbers(output, dtype))))
}

/// Whether an output of this dtype can be what a description says.
pub(crate) fn can_be(dtype: DType, labels: bool) -> bool {
    is_number(dtype) || (labels && dtype == DType::STRING)
}

fn no_numbers(output: &str, dtype: DType) -> ServingError {
    ServingError::internal(format!("the output {output} has {dtype}, which are no numbers"))
}

fn misshapen(output: &str, shape: &[i64], wanted: &str) -> ServingError {
    let found = shape_text(shape);
    ServingError::internal(format!("the output {output} has the shape {found}, want {wanted} for n examples"))
}
