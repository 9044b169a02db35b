//! Which outputs are the scores and labels of a classifier, or the value of a regression.

use servable_codec::example::features::{Feature, FeatureParser, FeatureTensor, Missing};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::DType;

use crate::executor::{features_of, missing_of};
use crate::outputs::{Classification, Heads, Labels, Scores};

/// What is known about features and classes beside the signature.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The names of the columns of the only input, in order; empty if they are unknown.
    pub features: Vec<String>,
    /// The labels of the classes, in the order of their scores; empty if they are unknown.
    pub classes: Vec<String>,
}

/// The heads of a model whose outputs are known only by their dtypes and shapes; `None` if it has none, or if examples
/// cannot fill its inputs. `missing` is that of [`features_of`].
#[must_use]
pub fn heads_of(signature: &Signature, names: &Names, missing: &Missing) -> Option<Heads> {
    let inputs = features(signature, &names.features, missing)?;
    FeatureParser::new(inputs.clone()).ok()?;
    let classification = classification(signature, names);
    let regression = if classification.is_none() { regression(signature) } else { None };
    let has_heads = classification.is_some() || regression.is_some();
    has_heads.then(|| Heads { predict: signature.clone(), inputs, classification, regression })
}

/// How inputs are made of features: the named columns of the only input, or each input as one feature.
fn features(signature: &Signature, names: &[String], missing: &Missing) -> Option<Vec<FeatureTensor>> {
    if let ([input], false) = (signature.inputs.as_slice(), names.is_empty())
        && let Some(&[_, columns]) = input.shape.as_deref()
        && columns == names.len() as i64
    {
        let missing = missing_of(input.dtype, missing);
        let feature = |name: &String| Feature { name: name.clone(), shape: Vec::new(), missing: missing.clone() };
        return Some(vec![FeatureTensor::matrix(input.dtype, names.iter().map(feature).collect())]);
    }
    let all = features_of(signature, missing).ok()?;
    (!all.is_empty()).then_some(all)
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::FLOAT | DType::DOUBLE)
}

/// The heads of a classifier: one matrix of floats, beside one label for each example.
fn classification(signature: &Signature, names: &Names) -> Option<Classification> {
    let is_label = |dtype| matches!(dtype, DType::STRING | DType::INT64 | DType::INT32);
    let label = only_output(signature, 1, is_label);
    // Without known classes, an output is a label only by its name: that of scikit-learn's converter.
    let only_labels = || {
        let label = label.filter(|label| label.alias.ends_with("label"))?;
        Some(Classification { scores: None, labels: Labels::Output(label.alias.clone()) })
    };
    let Some(scores) = only_output(signature, 2, is_float) else { return only_labels() };
    // A matrix alone may be anything. It is scores if there are labels for its columns.
    let columns = scores.shape.as_ref().map_or(-1, |shape| shape[1]);
    if names.classes.is_empty() || (columns >= 0 && columns != names.classes.len() as i64) {
        return only_labels();
    }
    let labels = Labels::Columns(names.classes.clone());
    Some(Classification { scores: Some(Scores::PerClass(scores.alias.clone())), labels })
}

/// The output of this rank and such a dtype, with the batch as its first dimension; `None` if there is not exactly one.
fn only_output(signature: &Signature, rank: usize, is_wanted: impl Fn(DType) -> bool) -> Option<&TensorSpec> {
    let fits = |spec: &&TensorSpec| {
        spec.shape.as_ref().is_some_and(|shape| shape.len() == rank && shape[0] < 0) && is_wanted(spec.dtype)
    };
    let mut found = signature.outputs.iter().filter(fits);
    found.next().filter(|_| found.next().is_none())
}

/// The only output, if it has one number for each example.
fn regression(signature: &Signature) -> Option<String> {
    let [output] = signature.outputs.as_slice() else { return None };
    let is_column = matches!(output.shape.as_deref(), Some([-1] | [-1, 1]));
    (is_float(output.dtype) && is_column).then(|| output.alias.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(alias: &str, dtype: DType, shape: &[i64]) -> TensorSpec {
        TensorSpec { alias: alias.to_owned(), tensor_name: alias.to_owned(), dtype, shape: Some(shape.to_vec()) }
    }

    fn found(outputs: &[TensorSpec], names: &Names) -> Option<Heads> {
        let inputs = vec![spec("x", DType::FLOAT, &[-1, 2])];
        heads_of(&Signature { inputs, outputs: outputs.to_vec(), ..Signature::default() }, names, &Missing::NotANumber)
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_matrix_is_scores_only_with_a_label_for_each_column() {
        let outputs = [spec("label", DType::INT64, &[-1]), spec("scores", DType::FLOAT, &[-1, 2])];
        let of = |labels: &[&str]| {
            let names = Names { classes: texts(labels), ..Names::default() };
            found(&outputs, &names).and_then(|heads| heads.classification).expect("a classification")
        };
        let both = of(&["no", "yes"]);
        assert!(matches!(both.scores, Some(Scores::PerClass(output)) if output == "scores"));
        assert!(matches!(both.labels, Labels::Columns(labels) if labels == ["no", "yes"]));
        for labels in [&[][..], &["one"]] {
            let only = of(labels);
            assert!(only.scores.is_none());
            assert!(matches!(only.labels, Labels::Output(output) if output == "label"));
        }
    }

    #[test]
    fn one_number_a_row_is_a_regression_and_other_outputs_are_neither() {
        let regression = |shape: &[i64]| found(&[spec("y", DType::FLOAT, shape)], &Names::default());
        assert_eq!(regression(&[-1, 1]).and_then(|heads| heads.regression).as_deref(), Some("y"));
        assert_eq!(regression(&[-1]).and_then(|heads| heads.regression).as_deref(), Some("y"));
        assert!(regression(&[-1, 3]).is_none());
        assert!(regression(&[3]).is_none());
        assert!(found(&[spec("token", DType::INT64, &[-1])], &Names::default()).is_none());
    }

    #[test]
    fn a_model_that_examples_cannot_fill_has_no_heads() {
        let of = |inputs: Vec<TensorSpec>| {
            let outputs = vec![spec("y", DType::FLOAT, &[-1])];
            heads_of(&Signature { inputs, outputs, ..Signature::default() }, &Names::default(), &Missing::Refused)
        };
        assert!(of(vec![spec("x", DType::BOOL, &[-1, 2])]).is_some());
        assert!(of(vec![spec("x", DType::COMPLEX64, &[-1, 2])]).is_none());
        assert!(of(vec![spec("x", DType::FLOAT, &[-1, -1])]).is_none());
        assert!(of(vec![spec("x", DType::FLOAT, &[-1]); 2]).is_none());
        assert!(of(Vec::new()).is_none());
    }

    #[test]
    fn named_columns_are_features() {
        let names = Names { features: texts(&["height", "weight"]), ..Names::default() };
        let heads = found(&[spec("y", DType::FLOAT, &[-1])], &names).expect("a regression");
        let [input] = heads.inputs.as_slice() else { panic!("one input") };
        let columns: Vec<_> = input.features.iter().map(|feature| feature.name.as_str()).collect();
        assert_eq!(columns, ["height", "weight"]);
    }
}
