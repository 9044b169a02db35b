//! The metrics of requests, and the metrics page (`docs/spec/observability.md`).
//!
//! A request costs a few additions to sharded counters. The counters of a model are looked up when a version is
//! published. Only requests that fail before a version is resolved look them up by name.

mod batches;
mod histogram;
pub mod page;
mod requests;
mod runs;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

pub(crate) use histogram::Sharded;
pub use requests::{Entry, ModelMetrics, VersionMetrics};
pub use runs::{Api, RunMetrics};

use page::Family;
use servable_model::error::Code;

/// The maximum number of unknown models with separate series. Clients choose these names, and series are never removed.
const MAX_STRANGERS: usize = 100;

/// The maximum length of a shown name, in bytes.
const MAX_STRANGER_NAME: usize = 128;

/// The name under which requests for further unknown models are counted.
const OTHERS: &str = "(other)";

/// The counters of all models. There is one per server, and counts are never reset.
#[derive(Default)]
pub struct Metrics {
    models: RwLock<Models>,
    refused: requests::Failures,
}

#[derive(Default)]
struct Models {
    by_name: BTreeMap<String, Counted>,
    strangers: usize,
}

struct Counted {
    metrics: Arc<ModelMetrics>,
    is_served: bool,
}

impl Metrics {
    /// The counters of a model that is or was served.
    pub fn served(&self, name: &[u8]) -> Arc<ModelMetrics> {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let Models { by_name, strangers } = &mut *models;
        let counted =
            by_name.entry(label(name)).or_insert_with(|| Counted { metrics: Arc::default(), is_served: true });
        if !counted.is_served {
            counted.is_served = true;
            *strangers -= 1;
        }
        Arc::clone(&counted.metrics)
    }

    /// Counts a request that was refused before it was routed.
    pub(crate) fn refuse(&self, code: Code) {
        self.refused.count(code);
    }

    /// The counters for a name that a client sent, served or not.
    pub fn of_any(&self, name: &[u8]) -> Arc<ModelMetrics> {
        let name = label(name);
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counted) = models.by_name.get(&name) {
            return Arc::clone(&counted.metrics);
        }
        drop(models);
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let is_shown = name.is_empty() || (name.len() <= MAX_STRANGER_NAME && models.strangers < MAX_STRANGERS);
        let name = if is_shown { name } else { OTHERS.to_owned() };
        if let Some(counted) = models.by_name.get(&name) {
            return Arc::clone(&counted.metrics);
        }
        let metrics: Arc<ModelMetrics> = Arc::default();
        models.by_name.insert(name, Counted { metrics: Arc::clone(&metrics), is_served: false });
        models.strangers += 1;
        metrics
    }

    /// The metric families, named as in TensorFlow Serving.
    pub fn families(&self) -> Vec<Family> {
        let mut request_count = Family::counter("/tensorflow/serving/request_count", &["model_name", "status"]);
        let labels = ["model_name", "API", "entrypoint"];
        let mut request_latency = Family::histogram("/tensorflow/serving/request_latency", &labels);
        let labels = ["model_name", "API", "runtime"];
        let mut runtime_latency = Family::histogram("/tensorflow/serving/runtime_latency", &labels);
        let mut example_counts = Family::histogram("/tensorflow/serving/request_example_counts", &["model"]);
        let mut example_total = Family::counter("/tensorflow/serving/request_example_count_total", &["model"]);
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let mut graph_runs = runs::GraphRuns::default();
        let mut batches = batches::BatchFamilies::default();
        let mut stuck_runs = Family::gauge("servable_stuck_runs", &["model_name"])
            .with_help("Runs that continue after their deadlines because they cannot be cancelled.");
        for (name, Counted { metrics, .. }) in &models.by_name {
            for (status, count) in metrics.counts() {
                request_count.add(&[name, status.name()], count);
            }
            for (entry, distribution) in metrics.latencies() {
                let (api, entrypoint) = entry.labels();
                request_latency.add(&[name, api, entrypoint], distribution);
            }
            for runs in metrics.all_runs() {
                for (api, distribution) in runs.latencies() {
                    runtime_latency.add(&[name, api.label(), runs.runtime()], distribution);
                }
                graph_runs.add(&runs);
            }
            batches.add(name, metrics.batches());
            if metrics.has_runs() {
                stuck_runs.add(&[name], metrics.stuck_runs() as u64);
            }
            if let Some(examples) = metrics.examples() {
                example_total.add(&[name], examples.sum as u64);
                example_counts.add(&[name], examples);
            }
        }
        let mut families = vec![request_count, request_latency, runtime_latency, example_counts, example_total];
        families.extend(graph_runs.families());
        families.extend(batches.families());
        families.extend([stuck_runs, self.refusals()]);
        families.extend(without_points());
        families
    }
}

impl Metrics {
    fn refusals(&self) -> Family {
        let mut refused = Family::counter("servable_requests_refused_total", &["reason"])
            .with_help("Requests that were refused because of their heads. No other metric counts them.");
        for (code, count) in self.refused.read() {
            let reason = match code {
                Code::Unauthenticated => "unauthenticated",
                Code::PermissionDenied => "permission_denied",
                Code::ResourceExhausted => "head_too_large",
                Code::InvalidArgument => "malformed_head",
                Code::DeadlineExceeded => "head_timed_out",
                _ => continue,
            };
            refused.add(&[reason], count);
        }
        refused
    }
}

/// Metrics that TensorFlow Serving always shows, and that stay empty here.
fn without_points() -> [Family; 2] {
    [
        Family::gauge("/tensorflow/serving/mlmd_map", &["model_name", "version"]),
        Family::counter("/tensorflow/serving/request_log_count", &["model_name", "status_code"]),
    ]
}

/// The name as a label value. Invalid UTF-8 is replaced.
fn label(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_strangers_make_up_share_one_series_beyond_a_limit() {
        let metrics = Metrics::default();
        let served = metrics.served(b"m");
        for number in 0..3 * MAX_STRANGERS {
            metrics.of_any(format!("x{number}").as_bytes()).count(Code::NotFound);
        }
        metrics.of_any(&[b'y'; MAX_STRANGER_NAME + 1]).count(Code::NotFound);
        metrics.of_any(b"").count(Code::InvalidArgument);
        assert!(Arc::ptr_eq(&served, &metrics.of_any(b"m")));
        assert_eq!(metrics.of_any(b"x1").counts().collect::<Vec<_>>(), [(Code::NotFound, 1)]);
        let others = metrics.of_any(OTHERS.as_bytes());
        assert_eq!(others.counts().collect::<Vec<_>>(), [(Code::NotFound, 201)]);
        let names = metrics.models.read().expect("no panic").by_name.len();
        assert_eq!(names, 100 + 3, "those shown, the others, the model, and none");
    }

    #[test]
    fn an_unknown_model_that_is_served_later_keeps_its_counts_and_makes_room() {
        let metrics = Metrics::default();
        metrics.of_any(b"m").count(Code::NotFound);
        let served = metrics.served(b"m");
        assert_eq!(served.counts().collect::<Vec<_>>(), [(Code::NotFound, 1)]);
        assert_eq!(metrics.models.read().expect("no panic").strangers, 0);
        assert!(Arc::ptr_eq(&served, &metrics.served(b"m")));
    }

    #[test]
    fn names_that_are_not_text_make_one_label() {
        let metrics = Metrics::default();
        assert!(Arc::ptr_eq(&metrics.of_any(b"\xff"), &metrics.of_any(b"\xfe")));
    }
}
