//! A booster as an ensemble of trees, and what it predicts.

use std::ffi::CString;

use servable_model::error::{Result, ServingError};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, DType};
use servable_trees::{Description, Ensemble, Feature, Kind, Labels, MAX_FEATURES, Output, Rows, UnknownCategory};

use crate::api::CategoryApi;
use crate::booster::{Prediction, RawBooster};

/// A loaded model.
pub struct Model {
    /// What it takes and returns.
    pub description: Description,
    /// What predicts.
    pub booster: Booster,
}

/// A booster that is ready to predict.
pub struct Booster {
    raw: RawBooster,
    /// Whether predictions need a matrix of the library, and one thread at a time.
    is_linear: bool,
    predictions: CString,
    contributions: CString,
}

impl Model {
    /// Describes a loaded booster, and predicts a first row: that configures it, and tells the number of results.
    pub(crate) fn new(
        mut raw: RawBooster,
        categories: Option<&CategoryApi>,
        all_rounds: bool,
        labels: Labels,
    ) -> Result<Self> {
        // Requests that run in parallel use the CPUs better than a request with several threads.
        raw.set_param(c"nthread", c"1")?;
        let config = raw.config()?;
        let learner = &config["learner"];
        let objective = learner["objective"]["name"].as_str().unwrap_or_default().to_owned();
        let is_linear = learner["gradient_booster"]["name"] == "gblinear";
        let count = |name: &str| -> usize {
            let text = learner["learner_model_param"][name].as_str().unwrap_or_default();
            text.parse().unwrap_or_default()
        };
        let groups = count("num_class").max(count("num_target")).max(1);
        let features = features(&raw, categories.filter(|_| !is_linear))?;
        let end = if all_rounds || is_linear { 0 } else { best_end(&raw)? };
        let config = |kind: u8| {
            let text = format!(
                r#"{{"type":{kind},"training":false,"iteration_begin":0,"iteration_end":{end},"missing":NaN,"strict_shape":true,"cache_id":0}}"#
            );
            CString::new(text).expect("the text has no NUL")
        };
        let booster = Booster { raw, is_linear, predictions: config(0), contributions: config(2) };

        // Bytes of ones are NaN.
        let row = AlignedBytes::from_slice(ALIGNMENT, &vec![0xff; features.len() * size_of::<f32>()]);
        let row = Rows::new(DType::FLOAT, 1, features.len(), &row).expect("aligned memory of one row");
        let first = booster.results(row, Kind::Predictions)?;
        let width = first.values.len();
        if width == 0 || first.shape.first() != Some(&1) {
            let text = format!("the model returns predictions of shape {:?} for a row", first.shape);
            return Err(ServingError::internal(text));
        }
        let has_contributions = booster
            .results(row, Kind::Contributions)
            .is_ok_and(|found| found.values.len() == groups * (features.len() + 1));
        let output = output(&objective, width, labels);
        if let Output::Class(labels) = &output {
            labels.check(count("num_class").max(2))?;
        }
        let contribution_groups = if has_contributions { groups } else { 0 };
        Ok(Self { description: Description { features, width, output, contribution_groups }, booster })
    }
}

/// What the predictions of an objective are.
fn output(objective: &str, width: usize, labels: Labels) -> Output {
    match objective {
        "binary:logistic" if width == 1 => Output::Binary(labels),
        "binary:logistic" => Output::Multilabel,
        "multi:softprob" => Output::Multiclass(labels),
        "multi:softmax" | "binary:hinge" => Output::Class(labels),
        _ if objective.starts_with("rank:") => Output::Values("scores"),
        _ => Output::Values("predictions"),
    }
}

fn features(raw: &RawBooster, categories: Option<&CategoryApi>) -> Result<Vec<Feature>> {
    let count = raw.num_feature()?;
    if count > MAX_FEATURES {
        return Err(ServingError::internal(format!("got {count} features, want at most {MAX_FEATURES}")));
    }
    let mut features = vec![Feature::default(); count];
    let names = raw.feature_names()?;
    if names.len() == features.len() {
        features.iter_mut().zip(names).for_each(|(feature, name)| feature.name = name);
    }
    let found = categories.map(|api| raw.categories(api)).transpose()?.unwrap_or_default();
    features.iter_mut().zip(found).for_each(|(feature, categories)| feature.categories = categories);
    Ok(features)
}

/// The end of the iterations that predict: behind the best one, if the training stopped early; 0 for all.
fn best_end(raw: &RawBooster) -> Result<u32> {
    let Some(best) = raw.attribute(c"best_iteration")? else { return Ok(0) };
    let end = best.parse::<u32>().ok().and_then(|best| best.checked_add(1));
    end.ok_or_else(|| {
        ServingError::internal(format!("attribute best_iteration: got {best:?}, want a number of rounds"))
    })
}

impl Booster {
    fn results(&self, rows: Rows<'_>, kind: Kind) -> Result<Prediction<'_>> {
        match kind {
            Kind::Predictions if self.is_linear => self.raw.predict_copied(rows, &self.predictions),
            Kind::Predictions => self.raw.predict(rows, &self.predictions),
            Kind::Contributions => self.raw.predict_copied(rows, &self.contributions),
        }
    }
}

impl Ensemble for Booster {
    type Number = f32;
    const PLATFORM: &'static str = "xgboost";
    const RUNTIME: &'static str = "xgboost";
    const UNKNOWN_CATEGORY: UnknownCategory = UnknownCategory::Refused;

    fn predict(&self, rows: Rows<'_>, kind: Kind, results: &mut [f32]) -> Result<()> {
        let found = self.results(rows, kind)?;
        if found.values.len() != results.len() {
            let text = format!("the model returned results of shape {:?}, want {}", found.shape, results.len());
            return Err(ServingError::internal(text));
        }
        results.copy_from_slice(found.values);
        Ok(())
    }

    fn is_concurrent(&self) -> bool {
        !self.is_linear
    }
}
