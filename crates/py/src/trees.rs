//! What the libraries of boosted trees have in common.

use std::sync::Arc;

use pyo3::prelude::*;
use servable_codec::metadata;
use servable_model::error::Result;
use servable_server::serving::servable::Servable;
use servable_trees::{Cell, Description, Ensemble, Labels, RunLimits, TreeExecutor, signatures};

/// `servable.loaders._trees.TreeOptions`.
#[derive(FromPyObject)]
pub(crate) struct TreeOptions {
    threads: usize,
    rows_per_thread: usize,
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
        let limits = RunLimits { threads: self.threads, rows_per_thread: self.rows_per_thread };
        let executor = TreeExecutor::new(ensemble, description, limits)?;
        let signature_defs = metadata::signature_defs(&signatures);
        Ok(Servable::new(signatures, signature_defs, Box::new(executor)))
    }
}
