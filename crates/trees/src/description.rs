//! The features and the output of a model, and the signatures that follow from them.

use std::collections::{BTreeMap, HashSet};

use servable_model::error::{Result, ServingError};
use servable_model::signature::{DEFAULT_SIGNATURE, Signature, TensorSpec};
use servable_model::tensor::DType;

use crate::matrix::{COLUMN, Categories, Feature};

/// The name of the matrix, for clients and inside.
const MATRIX: &str = "inputs";
/// The signature with one input a feature.
pub const COLUMNS: &str = "columns";
const CONTRIBUTIONS: &str = "contributions";
const COLUMNS_CONTRIBUTIONS: &str = "columns_contributions";

/// What a model takes and returns.
#[derive(Clone, Debug)]
pub struct Description {
    /// The features, in the order of the columns.
    pub features: Vec<Feature>,
    /// The number of predictions a row.
    pub width: usize,
    /// What they are.
    pub output: Output,
    /// The number of groups of contributions a row, each with one more than there are features; 0 if the library cannot
    /// compute them.
    pub contribution_groups: usize,
}

/// What the predictions of a model are.
#[derive(Clone, Debug)]
pub enum Output {
    /// Numbers under this name: one or several a row.
    Values(&'static str),
    /// The probability of the second of two classes.
    Binary(Labels),
    /// The probability of each class.
    Multiclass(Labels),
    /// The position of the class.
    Class(Labels),
    /// The probability of each of several labels, of which any number may apply.
    Multilabel,
}

/// The labels of classes.
#[derive(Clone, Debug)]
pub enum Labels {
    /// Their positions.
    Positions,
    /// Numbers.
    Numbers(Vec<i64>),
    /// Texts.
    Texts(Vec<String>),
}

impl Labels {
    pub(crate) fn dtype(&self) -> DType {
        if matches!(self, Self::Texts(_)) { DType::STRING } else { DType::INT64 }
    }

    /// Checks that there is one for each class.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if there are more or fewer.
    pub fn check(&self, classes: usize) -> Result<()> {
        let found = match self {
            Self::Positions => return Ok(()),
            Self::Numbers(numbers) => numbers.len(),
            Self::Texts(texts) => texts.len(),
        };
        if found == classes {
            return Ok(());
        }
        Err(ServingError::invalid_argument(format!("got {found} class labels, want {classes} as the model has")))
    }
}

/// A part of what is computed, by its inner name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Values,
    Probabilities,
    Labels,
    Contributions,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Probabilities => "probabilities",
            Self::Labels => "labels",
            Self::Contributions => CONTRIBUTIONS,
        }
    }

    pub(crate) fn of(tensor_name: &str) -> Option<Self> {
        [Self::Values, Self::Probabilities, Self::Labels, Self::Contributions]
            .into_iter()
            .find(|part| part.name() == tensor_name)
    }

    fn spec(self, alias: &str, dtype: DType, shape: &[usize]) -> TensorSpec {
        let shape = Some(std::iter::once(-1).chain(shape.iter().map(|&size| size as i64)).collect());
        TensorSpec { alias: alias.to_owned(), tensor_name: self.name().to_owned(), dtype, shape }
    }
}

/// The signatures of a model whose library has numbers of this dtype, by name.
///
/// `serving_default` takes a matrix. If each feature has a name, `columns` takes one input a feature. `contributions`
/// and `columns_contributions` return the contributions of features.
pub fn signatures(description: &Description, dtype: DType) -> BTreeMap<String, Signature> {
    let features = &description.features;
    let matrix = vec![TensorSpec {
        alias: MATRIX.to_owned(),
        tensor_name: MATRIX.to_owned(),
        dtype,
        shape: Some(vec![-1, features.len() as i64]),
    }];
    let names: HashSet<&str> = features.iter().map(|feature| feature.name.as_str()).collect();
    let have_names = names.len() == features.len() && !names.contains("");
    let mut columns: Vec<TensorSpec> =
        features.iter().enumerate().map(|(index, each)| each.spec(index, dtype)).collect();
    columns.sort_by(|one, other| one.alias.cmp(&other.alias));

    let outputs = description.outputs(dtype);
    let groups = description.contribution_groups;
    let shape = [groups, features.len() + 1];
    let shape = if groups == 1 { &shape[1..] } else { &shape[..] };
    let contributions = vec![Part::Contributions.spec(CONTRIBUTIONS, dtype, shape)];

    let mut found = BTreeMap::new();
    let mut add = |name: &str, inputs: &Vec<TensorSpec>, outputs: &Vec<TensorSpec>| {
        let (inputs, outputs) = (inputs.clone(), outputs.clone());
        let method_name = "tensorflow/serving/predict".to_owned();
        found.insert(name.to_owned(), Signature { inputs, outputs, method_name, ..Signature::default() });
    };
    add(DEFAULT_SIGNATURE, &matrix, &outputs);
    if groups > 0 {
        add(CONTRIBUTIONS, &matrix, &contributions);
    }
    if have_names {
        add(COLUMNS, &columns, &outputs);
        if groups > 0 {
            add(COLUMNS_CONTRIBUTIONS, &columns, &contributions);
        }
    }
    found
}

impl Description {
    /// Names the features, unless the model carries names.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if there are more or fewer names than features.
    pub fn name_features(&mut self, names: &[String]) -> Result<()> {
        if names.is_empty() || self.features.iter().any(|feature| !feature.name.is_empty()) {
            return Ok(());
        }
        let (found, wanted) = (names.len(), self.features.len());
        if found != wanted {
            let text = format!("got {found} names of features, want {wanted} as the model has");
            return Err(ServingError::invalid_argument(text));
        }
        self.features.iter_mut().zip(names).for_each(|(feature, name)| feature.name.clone_from(name));
        Ok(())
    }

    /// The specs of what is predicted, sorted by alias.
    fn outputs(&self, dtype: DType) -> Vec<TensorSpec> {
        let probabilities = |classes| Part::Probabilities.spec("probabilities", dtype, &[classes]);
        let labels = |labels: &Labels| Part::Labels.spec("labels", labels.dtype(), &[]);
        match &self.output {
            Output::Values(name) if self.width == 1 => vec![Part::Values.spec(name, dtype, &[])],
            Output::Values(name) => vec![Part::Values.spec(name, dtype, &[self.width])],
            Output::Class(names) => vec![labels(names)],
            Output::Binary(names) => vec![labels(names), probabilities(2)],
            Output::Multiclass(names) => vec![labels(names), probabilities(self.width)],
            Output::Multilabel => {
                vec![Part::Labels.spec("labels", DType::INT64, &[self.width]), probabilities(self.width)]
            }
        }
    }
}

impl Feature {
    /// The input of this feature alone.
    fn spec(&self, index: usize, dtype: DType) -> TensorSpec {
        let has_strings = matches!(self.categories, Some(Categories::Strings(_)));
        TensorSpec {
            alias: self.name.clone(),
            tensor_name: format!("{COLUMN}{index}"),
            dtype: if has_strings { DType::STRING } else { dtype },
            shape: Some(vec![-1]),
        }
    }
}
