//! Metrics of requests: those of TensorFlow Serving, by model, and our own, by version.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::Sharded;
use super::batches::BatchMetrics;
use super::histogram::Histogram;
use super::runs::{LATENCY, RunMetrics, micros};
use crate::runs::RunsUnderWay;
use servable_model::distribution::{Distribution, exponential};
use servable_model::error::Code;

/// The bucket limits for numbers of examples.
static EXAMPLES: [f64; 15] = exponential(1.0, 2.0);

/// The API by which a request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Entry {
    GrpcPredict,
    GrpcClassify,
    GrpcRegress,
    RestPredict,
    RestClassify,
    RestRegress,
    /// Status, metadata, and CORS preflights.
    RestOther,
}

impl Entry {
    const ALL: [Self; 7] = [
        Self::GrpcPredict,
        Self::GrpcClassify,
        Self::GrpcRegress,
        Self::RestPredict,
        Self::RestClassify,
        Self::RestRegress,
        Self::RestOther,
    ];

    /// The values of the labels `API` and `entrypoint`.
    pub(super) fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::GrpcPredict => ("Predict", "GRPC"),
            Self::GrpcClassify => ("Classify", "GRPC"),
            Self::GrpcRegress => ("Regress", "GRPC"),
            Self::RestPredict => ("predict", "REST"),
            Self::RestClassify => ("classify", "REST"),
            Self::RestRegress => ("regress", "REST"),
            Self::RestOther => ("", "REST"),
        }
    }
}

/// The number of requests for each code.
///
/// Failures are rare, so that threads share these counters.
#[derive(Default)]
pub(super) struct Failures([AtomicU64; Code::COUNT]);

impl Failures {
    pub(super) fn count(&self, code: Code) {
        self.0[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> impl Iterator<Item = (Code, u64)> {
        (0..).map(Code::from_number).zip(&self.0).map(|(code, count)| (code, count.load(Ordering::Relaxed)))
    }
}

/// The metrics of one model.
///
/// A successful request is counted by its latency alone.
#[derive(Default)]
pub struct ModelMetrics {
    latency: [OnceLock<Histogram<33>>; Entry::ALL.len()],
    failures: Failures,
    examples: OnceLock<Histogram<15>>,
    runs: Mutex<Vec<Arc<RunMetrics>>>,
    under_way: Mutex<Vec<Weak<RunsUnderWay>>>,
    batches: BatchMetrics,
}

impl ModelMetrics {
    /// Records a successful request.
    pub fn answered(&self, entry: Entry, time: Duration) {
        self.latency[entry as usize].get_or_init(Histogram::default).record(&LATENCY, micros(time));
    }

    /// Records a failed request.
    pub fn count(&self, failure: Code) {
        self.failures.count(failure);
    }

    /// Records the number of examples in a successful `MultiInference`.
    pub(crate) fn count_examples(&self, examples: usize) {
        self.examples.get_or_init(Histogram::default).record(&EXAMPLES, examples as f64);
    }

    /// The metrics of runs on this runtime.
    pub fn runs(&self, runtime: &str) -> Arc<RunMetrics> {
        let mut all = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runs) = all.iter().find(|runs| runs.runtime() == runtime) {
            return Arc::clone(runs);
        }
        let runs = Arc::new(RunMetrics::new(runtime));
        all.push(Arc::clone(&runs));
        runs
    }

    /// Includes the stuck runs of a version while it is loaded.
    pub(crate) fn follow_runs(&self, runs: &Arc<RunsUnderWay>) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|known| known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), Arc::as_ptr(runs)));
        under_way.push(Arc::downgrade(runs));
    }

    /// Whether any version is loaded, even if it is unloading.
    pub(super) fn has_runs(&self) -> bool {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.iter().any(|runs| runs.strong_count() > 0)
    }

    /// The number of stuck runs of its versions.
    pub(crate) fn stuck_runs(&self) -> usize {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.iter().filter_map(Weak::upgrade).map(|runs| runs.stuck()).sum()
    }

    /// The metrics of its batches.
    pub(crate) fn batches(&self) -> &BatchMetrics {
        &self.batches
    }

    /// The number of requests for each code that occurred.
    pub(super) fn counts(&self) -> impl Iterator<Item = (Code, u64)> {
        let answered = self.latencies().map(|(_, latency)| latency.count()).sum();
        [(Code::Ok, answered)].into_iter().chain(self.failures.read()).filter(|(_, count)| *count > 0)
    }

    pub(super) fn latencies(&self) -> impl Iterator<Item = (Entry, Distribution)> {
        let recorded = Entry::ALL.into_iter().zip(&self.latency);
        recorded.filter_map(|(entry, latency)| Some((entry, latency.get()?.read(&LATENCY))))
    }

    pub(super) fn examples(&self) -> Option<Distribution> {
        Some(self.examples.get()?.read(&EXAMPLES))
    }

    pub(super) fn all_runs(&self) -> Vec<Arc<RunMetrics>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The metrics of one version. They are dropped when the version is.
#[derive(Default)]
pub struct VersionMetrics {
    answered: Sharded<AtomicU64>,
    failures: Failures,
}

impl VersionMetrics {
    /// Records the end of a request that was routed to the version.
    pub(crate) fn count(&self, code: Code) {
        match code {
            Code::Ok => drop(self.answered.own().fetch_add(1, Ordering::Relaxed)),
            failure => self.failures.count(failure),
        }
    }

    /// The number of requests for each code that occurred, and for success in any case.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (Code, u64)> {
        let answered = self.answered.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        [(Code::Ok, answered)].into_iter().chain(self.failures.read().filter(|(_, count)| *count > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successes_are_counted_over_all_entries() {
        let metrics = ModelMetrics::default();
        metrics.answered(Entry::GrpcPredict, Duration::from_micros(20));
        metrics.answered(Entry::RestOther, Duration::from_secs(3600));
        metrics.count(Code::NotFound);
        metrics.count(Code::NotFound);
        assert_eq!(metrics.counts().collect::<Vec<_>>(), [(Code::Ok, 2), (Code::NotFound, 2)]);
        let entries: Vec<_> = metrics.latencies().map(|(entry, latency)| (entry, latency.sum)).collect();
        assert_eq!(entries, [(Entry::GrpcPredict, 20.0), (Entry::RestOther, 3.6e9)]);
    }

    #[test]
    fn a_version_counts_by_code() {
        let metrics = VersionMetrics::default();
        assert_eq!(metrics.counts().collect::<Vec<_>>(), [(Code::Ok, 0)]);
        for code in [Code::Ok, Code::Cancelled, Code::Ok] {
            metrics.count(code);
        }
        assert_eq!(metrics.counts().collect::<Vec<_>>(), [(Code::Ok, 2), (Code::Cancelled, 1)]);
    }
}
