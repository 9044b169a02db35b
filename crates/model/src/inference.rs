//! The results of classify and regress calls: classes with scores, or one value, for each example.
//!
//! They are views of output tensors, whose dtypes and shapes are checked here.

use crate::error::{Result, ServingError};
use crate::tensor::{DType, Elements, Tensor, shape_text};

/// The results for a list of examples.
#[derive(Clone, Debug)]
pub enum Inference {
    /// The classes of each example.
    Classification(Classification),
    /// The value of each example.
    Regression(Regression),
}

/// The classes of each example, with scores.
#[derive(Clone, Debug)]
pub struct Classification {
    labels: Option<Tensor>,
    scores: Option<Tensor>,
    examples: usize,
    classes: usize,
}

impl Classification {
    /// Checks the labels and the scores that a graph computed for this many examples (`docs/spec/grpc_api.md` §7).
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if their dtypes or shapes are wrong.
    pub fn new(labels: Option<Tensor>, scores: Option<Tensor>, examples: usize) -> Result<Self> {
        let label_count =
            labels.as_ref().map(|tensor| check("classes", tensor, DType::STRING, examples)).transpose()?;
        let score_count = scores.as_ref().map(|tensor| check("scores", tensor, DType::FLOAT, examples)).transpose()?;
        if let (Some(labels), Some(scores)) = (label_count, score_count)
            && labels != scores
        {
            return Err(ServingError::invalid_argument(format!(
                "Tensors class and score should match in dim_size(1). Got {labels} vs. {scores}"
            )));
        }
        let classes = label_count.or(score_count).unwrap_or_default() as usize;
        Ok(Self { labels, scores, examples, classes })
    }

    /// The classes of each example, as label and score. A missing label is empty, and a missing score is 0.
    ///
    /// Labels may be any bytes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = impl ExactSizeIterator<Item = (&[u8], f32)>> {
        let labels = match self.labels.as_ref().map(Tensor::elements) {
            Some(Elements::Strings(strings)) => Some(strings),
            _ => None,
        };
        let scores = self.scores.as_ref().map(floats);
        (0..self.examples).map(move |example| {
            (0..self.classes).map(move |class| {
                let at = example * self.classes + class;
                (
                    labels.map_or(&[][..], |labels| labels.get(at)),
                    scores.map_or(0.0, |scores| f32::from_le_bytes(scores[at])),
                )
            })
        })
    }
}

/// The number of classes in an output of a classification.
fn check(name: &str, tensor: &Tensor, dtype: DType, examples: usize) -> Result<i64> {
    let fault = match *tensor.shape() {
        [rows, classes] if tensor.dtype() == dtype && rows == examples as i64 => return Ok(classes),
        [rows, _] if tensor.dtype() == dtype => {
            format!("Expected {name} output batch size of {examples}. Got: {rows}")
        }
        [_, _] => format!("Expected {name} Tensor of {}. Got: {}", type_name(dtype), type_name(tensor.dtype())),
        ref other => format!("Expected Tensor shape: [batch_size num_classes] but got {}", shape_text(other)),
    };
    Err(ServingError::invalid_argument(fault))
}

/// The value of each example.
#[derive(Clone, Debug)]
pub struct Regression {
    values: Tensor,
}

impl Regression {
    /// Checks the values that a graph computed for this many examples (`docs/spec/grpc_api.md` §8).
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if there is not one number for each example.
    pub fn new(values: Tensor, examples: usize) -> Result<Self> {
        let fault = match *values.shape() {
            [rows] | [rows, 1] if rows != examples as i64 => {
                format!("Input batch size did not match output batch size: {examples} vs. {rows}")
            }
            [_] | [_, 1] if values.dtype() != DType::FLOAT => {
                format!("Expected output Tensor of DT_FLOAT.  Got: {}", type_name(values.dtype()))
            }
            [_] | [_, 1] => return Ok(Self { values }),
            ref other => format!(
                "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {}",
                shape_text(other)
            ),
        };
        Err(ServingError::invalid_argument(fault))
    }

    /// The value of each example.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = f32> {
        floats(&self.values).iter().map(|&bytes| f32::from_le_bytes(bytes))
    }
}

/// The elements of a `float` tensor.
fn floats(tensor: &Tensor) -> &[[u8; 4]] {
    match tensor.elements() {
        Elements::Numbers(buffer) => buffer.as_ref().as_chunks().0,
        Elements::Strings(_) => &[],
    }
}

fn type_name(dtype: DType) -> String {
    dtype.proto_name().unwrap_or_else(|| dtype.0.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{ALIGNMENT, AlignedBytes, Buffer};

    fn zeros(dtype: DType, shape: &[i64]) -> Tensor {
        let count = shape.iter().product::<i64>() as usize;
        if dtype == DType::STRING {
            return Tensor::from_strings(shape.to_vec(), std::iter::repeat_n("label", count).collect());
        }
        let bytes = vec![0; count * dtype.size().expect("a dtype of numbers")];
        Tensor::from_numbers(dtype, shape.to_vec(), Buffer::Owned(AlignedBytes::from_slice(ALIGNMENT, &bytes)))
    }

    fn text<T>(result: Result<T>) -> String {
        result.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn outputs_of_a_classification_are_matrices_of_one_size() {
        let labels = |shape: &[i64]| Some(zeros(DType::STRING, shape));
        let scores = |shape: &[i64]| Some(zeros(DType::FLOAT, shape));
        for (labels, scores, expected) in [
            (labels(&[2, 3]), scores(&[2, 3]), ""),
            (labels(&[2, 3]), None, ""),
            (None, scores(&[2, 0]), ""),
            (labels(&[2]), None, "INVALID_ARGUMENT: Expected Tensor shape: [batch_size num_classes] but got [2]"),
            (labels(&[1, 3]), None, "INVALID_ARGUMENT: Expected classes output batch size of 2. Got: 1"),
            (None, scores(&[3, 1]), "INVALID_ARGUMENT: Expected scores output batch size of 2. Got: 3"),
            (scores(&[2, 3]), None, "INVALID_ARGUMENT: Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
            (
                None,
                Some(zeros(DType::DOUBLE, &[1, 3])),
                "INVALID_ARGUMENT: Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE",
            ),
            (
                labels(&[2, 3]),
                scores(&[2, 1]),
                "INVALID_ARGUMENT: Tensors class and score should match in dim_size(1). Got 3 vs. 1",
            ),
        ] {
            assert_eq!(text(Classification::new(labels, scores, 2)), expected);
        }
    }

    #[test]
    fn missing_labels_and_scores_are_empty() {
        let read = |labels, scores| -> Vec<Vec<(Vec<u8>, f32)>> {
            let classification = Classification::new(labels, scores, 2).expect("two rows");
            classification
                .iter()
                .map(|classes| classes.map(|(label, score)| (label.to_vec(), score)).collect())
                .collect()
        };
        let labelled = vec![vec![(b"label".to_vec(), 0.0)]; 2];
        assert_eq!(read(Some(zeros(DType::STRING, &[2, 1])), None), labelled);
        assert_eq!(read(None, Some(zeros(DType::FLOAT, &[2, 1]))), vec![vec![(Vec::new(), 0.0)]; 2]);
        assert_eq!(read(None, Some(zeros(DType::FLOAT, &[2, 0]))), vec![Vec::new(); 2]);
    }

    #[test]
    fn the_output_of_a_regression_is_one_column() {
        let shape =
            "INVALID_ARGUMENT: Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got";
        for (values, expected) in [
            (zeros(DType::FLOAT, &[2]), String::new()),
            (zeros(DType::FLOAT, &[2, 1]), String::new()),
            (zeros(DType::FLOAT, &[]), format!("{shape} []")),
            (zeros(DType::FLOAT, &[2, 3]), format!("{shape} [2,3]")),
            (
                zeros(DType::DOUBLE, &[4]),
                "INVALID_ARGUMENT: Input batch size did not match output batch size: 2 vs. 4".to_owned(),
            ),
            (
                zeros(DType::STRING, &[2]),
                "INVALID_ARGUMENT: Expected output Tensor of DT_FLOAT.  Got: DT_STRING".to_owned(),
            ),
        ] {
            assert_eq!(text(Regression::new(values, 2)), expected);
        }
    }
}
