//! Metrics of the runs of a model.

use std::sync::OnceLock;
use std::time::Duration;

use super::histogram::Histogram;
use super::page::Family;
use servable_model::distribution::{Distribution, exponential};
use servable_model::executor::TENSORFLOW;

/// The bucket limits for latencies, in microseconds.
pub(super) static LATENCY: [f64; 33] = exponential(10.0, 1.8);

/// The bucket limits for run times of graphs, in microseconds.
static GRAPH_RUN: [f64; 20] = exponential(1000.0, 2.0);

/// The API that causes a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// The outputs of any signature.
    Predict,
    /// Classes with scores.
    Classify,
    /// Values.
    Regress,
    /// Classify and Regress in one run. TensorFlow Serving has no latency metric for it.
    MultiInference,
}

impl Api {
    /// The APIs with a latency metric.
    const TIMED: [Self; 3] = [Self::Predict, Self::Classify, Self::Regress];

    /// The value of the label `API`.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Predict => "Predict",
            Self::Classify => "Classify",
            Self::Regress => "Regress",
            Self::MultiInference => "MultiInference",
        }
    }
}

/// The successful runs of one model on one kind of runtime.
pub struct RunMetrics {
    runtime: Box<str>,
    latency: [OnceLock<Histogram<33>>; Api::TIMED.len()],
    graph_runs: OnceLock<Histogram<20>>,
}

impl RunMetrics {
    /// Creates empty metrics for this runtime.
    pub fn new(runtime: &str) -> Self {
        Self { runtime: runtime.into(), latency: Default::default(), graph_runs: OnceLock::new() }
    }

    /// Records the time from a request's need for a run to the end of that run, queues included.
    pub fn waited(&self, api: Api, time: Duration) {
        if let Some(latency) = self.latency.get(api as usize) {
            latency.get_or_init(Histogram::default).record(&LATENCY, micros(time));
        }
    }

    /// Records the time of a run, which may have been for several requests.
    pub fn ran(&self, time: Duration) {
        self.graph_runs.get_or_init(Histogram::default).record(&GRAPH_RUN, micros(time));
    }

    /// Adds the counts from before the model was published.
    pub(crate) fn absorb(&self, other: &Self) {
        for (own, other) in self.latency.iter().zip(&other.latency) {
            if let Some(other) = other.get() {
                own.get_or_init(Histogram::default).absorb(other);
            }
        }
        if let Some(other) = other.graph_runs.get() {
            self.graph_runs.get_or_init(Histogram::default).absorb(other);
        }
    }

    /// The value of the label `runtime`.
    pub(super) fn runtime(&self) -> &str {
        &self.runtime
    }

    /// The distributions that are not empty.
    pub(super) fn latencies(&self) -> impl Iterator<Item = (Api, Distribution)> {
        let recorded = Api::TIMED.into_iter().zip(&self.latency);
        recorded.filter_map(|(api, latency)| Some((api, latency.get()?.read(&LATENCY))))
    }
}

pub(super) fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

/// The runs of all models, under the names of TensorFlow's own metrics.
#[derive(Default)]
pub(super) struct GraphRuns(Option<Distribution>);

impl GraphRuns {
    /// Adds the runs of one model, if it runs on TensorFlow.
    pub(super) fn add(&mut self, runs: &RunMetrics) {
        let Some(more) = runs.graph_runs.get().filter(|_| runs.runtime() == TENSORFLOW) else { return };
        let more = more.read(&GRAPH_RUN);
        match &mut self.0 {
            None => self.0 = Some(more),
            Some(sum) => {
                sum.counts.iter_mut().zip(&more.counts).for_each(|(sum, more)| *sum += more);
                sum.sum += more.sum;
            }
        }
    }

    pub(super) fn families(self) -> [Family; 3] {
        let mut count = Family::counter("/tensorflow/core/graph_runs", &[]);
        let mut time = Family::counter("/tensorflow/core/graph_run_time_usecs", &[]);
        let mut times = Family::histogram("/tensorflow/core/graph_run_time_usecs_histogram", &[]);
        if let Some(distribution) = self.0 {
            count.add(&[], distribution.count());
            time.add(&[], distribution.sum as u64);
            times.add(&[], distribution);
        }
        [count, time, times]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_kept_for_the_apis_of_tensorflow_serving() {
        let runs = RunMetrics::new("TF1");
        for api in [Api::Regress, Api::MultiInference, Api::Regress] {
            runs.waited(api, Duration::from_micros(12));
        }
        let read: Vec<_> = runs.latencies().collect();
        let [(Api::Regress, distribution)] = &read[..] else { panic!("{read:?}") };
        assert_eq!((distribution.counts[1], distribution.count(), distribution.sum), (2, 2, 24.0));
    }

    #[test]
    fn graph_runs_are_those_of_tensorflow_and_of_all_models_together() {
        let runs = ["TF1", "python", "TF1"].map(RunMetrics::new);
        let mut sum = GraphRuns::default();
        for (each, millis) in runs.iter().zip([3, 5, 7]) {
            each.ran(Duration::from_millis(millis));
            sum.add(each);
        }
        let text = super::super::page::text(sum.families().into(), super::super::page::Format::Prometheus);
        assert!(text.contains("\n:tensorflow:core:graph_runs{} 2\n"), "{text}");
        assert!(text.contains("\n:tensorflow:core:graph_run_time_usecs{} 10000\n"), "{text}");
        assert!(text.contains("\n:tensorflow:core:graph_run_time_usecs_histogram_bucket{le=\"4000\"} 1\n"), "{text}");
    }
}
