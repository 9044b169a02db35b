//! What the libraries of boosted trees have in common.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyo3::prelude::*;
use servable_codec::example::features::{Feature, FeatureTensor, Missing};
use servable_model::error::Result;
use servable_model::signature::{DEFAULT_SIGNATURE, Signature};
use servable_model::tensor::{DType, Strings, Tensor};
use servable_server::serving::servable::Servable;
use servable_tabular::{Classification, Heads, Scores, features_of};
use servable_trees::{COLUMNS, Cell, Description, Ensemble, Labels, Output, RunLimits, TreeExecutor, signatures};

use crate::options::longest;
use crate::servable::with_heads;

/// `servable.loaders._trees.TreeOptions`.
#[derive(FromPyObject)]
pub(crate) struct TreeOptions {
    threads: usize,
    rows_per_thread: usize,
    max_run_seconds: f64,
    feature_names: Vec<String>,
    class_labels: ClassLabels,
}

#[derive(FromPyObject)]
enum ClassLabels {
    Numbers(Vec<i64>),
    Texts(Vec<String>),
}

impl TreeOptions {
    pub(crate) fn labels(&self) -> Labels {
        match &self.class_labels {
            ClassLabels::Numbers(numbers) if numbers.is_empty() => Labels::Positions,
            ClassLabels::Numbers(numbers) => Labels::Numbers(numbers.clone()),
            ClassLabels::Texts(texts) => Labels::Texts(texts.clone()),
        }
    }

    /// The servable of a loaded model.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if names or labels do not fit the model.
    pub(crate) fn servable<E: Ensemble>(&self, ensemble: E, mut description: Description) -> Result<Arc<Servable>> {
        description.name_features(&self.feature_names)?;
        let signatures = signatures(&description, E::Number::DTYPE);
        let heads = heads(&description, &signatures)?;
        let limits = RunLimits {
            threads: self.threads,
            rows_per_thread: self.rows_per_thread,
            longest_run: longest(self.max_run_seconds),
        };
        with_heads(Box::new(TreeExecutor::new(ensemble, description, limits)?), signatures, heads)
    }
}

/// What Classify and Regress are made of; `None` if the model has neither.
fn heads(description: &Description, signatures: &BTreeMap<String, Signature>) -> Result<Option<Heads>> {
    let scores = || Some(Scores::PerClass("probabilities".to_owned()));
    let by_position = servable_tabular::Labels::Positions;
    let classification = match &description.output {
        Output::Binary(labels) | Output::Multiclass(labels) => {
            Some(Classification { scores: scores(), labels: column_labels(labels) })
        }
        Output::Multilabel => Some(Classification { scores: scores(), labels: by_position }),
        Output::Class(_) => {
            Some(Classification { scores: None, labels: servable_tabular::Labels::Output("labels".to_owned()) })
        }
        Output::Values(_) => None,
    };
    let regression = match description.output {
        Output::Values(name) if description.width == 1 => Some(name.to_owned()),
        _ => None,
    };
    if classification.is_none() && regression.is_none() {
        return Ok(None);
    }
    let (predict, inputs) = example_inputs(description, signatures)?;
    Ok(Some(Heads { predict, inputs, classification, regression }))
}

fn column_labels(labels: &Labels) -> servable_tabular::Labels {
    match labels {
        Labels::Positions => servable_tabular::Labels::Positions,
        Labels::Numbers(numbers) => {
            servable_tabular::Labels::Columns(numbers.iter().map(ToString::to_string).collect())
        }
        Labels::Texts(texts) => servable_tabular::Labels::Columns(texts.clone()),
    }
}

/// The signature that examples are sent to, and how each of its inputs is made of their features.
///
/// Named features are columns of the matrix. With categories, each is an input. Without names, the matrix is one feature.
fn example_inputs(
    description: &Description,
    signatures: &BTreeMap<String, Signature>,
) -> Result<(Signature, Vec<FeatureTensor>)> {
    let matrix = &signatures[DEFAULT_SIGNATURE];
    let Some(columns) = signatures.get(COLUMNS) else {
        return Ok((matrix.clone(), features_of(matrix, &Missing::NotANumber)?));
    };
    if description.features.iter().all(|feature| feature.categories.is_none()) {
        let feature = |name: &String| Feature { name: name.clone(), shape: Vec::new(), missing: Missing::NotANumber };
        let features = description.features.iter().map(|each| feature(&each.name)).collect();
        return Ok((matrix.clone(), vec![FeatureTensor::matrix(matrix.inputs[0].dtype, features)]));
    }
    let mut inputs = features_of(columns, &Missing::NotANumber)?;
    for feature in inputs.iter_mut().filter(|input| input.dtype == DType::STRING).flat_map(|input| &mut input.features)
    {
        // An empty string is a missing category.
        let empty: Strings = [""].into_iter().collect();
        feature.missing = Missing::Values(Tensor::from_strings(vec![1], empty));
    }
    Ok((columns.clone(), inputs))
}
