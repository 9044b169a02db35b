//! Metrics of batches: those of TensorFlow Serving, for all models together, and our own, by model.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::histogram::Histogram;
use super::page::Family;
use servable_batch::{Standing, Statistics, Tally};
use servable_model::distribution::{Distribution, exponential};

/// The bucket limits for numbers of rows.
static ROWS: [f64; 14] = exponential(1.0, 2.0);

/// The statistics of all queues of a model, including those of unloaded versions.
#[derive(Default)]
pub(crate) struct BatchMetrics {
    queues: Mutex<Queues>,
    request_rows: OnceLock<Histogram<14>>,
}

#[derive(Default)]
struct Queues {
    ended: Tally,
    /// The other reference to each is owned by its queue.
    live: Vec<Arc<Statistics>>,
    /// Whether the model has or had a queue.
    is_batched: bool,
}

impl BatchMetrics {
    /// Includes the past and future statistics of a queue.
    pub(crate) fn follow(&self, statistics: Arc<Statistics>) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.settle();
        queues.is_batched = true;
        queues.live.push(statistics);
    }

    /// Records the rows of a request, once for each input, as TensorFlow Serving does.
    pub(crate) fn asked(&self, rows: usize, inputs: usize) {
        let histogram = self.request_rows.get_or_init(Histogram::default);
        (0..inputs).for_each(|_| histogram.record(&ROWS, rows as f64));
    }

    fn read(&self) -> Option<(Tally, Standing)> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.settle();
        let (mut tally, mut standing) = (queues.ended.clone(), Standing::default());
        for statistics in &queues.live {
            tally.absorb(&statistics.read());
            standing += statistics.standing();
        }
        queues.is_batched.then_some((tally, standing))
    }
}

impl Queues {
    /// Adds the statistics of dropped queues to the total, and forgets those queues.
    fn settle(&mut self) {
        let Self { ended, live, .. } = self;
        live.retain(|statistics| {
            let is_live = Arc::strong_count(statistics) > 1;
            if !is_live {
                ended.absorb(&statistics.read());
            }
            is_live
        });
    }
}

/// The metric families of batches.
#[derive(Default)]
pub(super) struct BatchFamilies {
    all: Tally,
    request_rows: Option<Distribution>,
    by_model: ByModel,
}

impl BatchFamilies {
    /// Adds the metrics of one model.
    pub(super) fn add(&mut self, model: &str, metrics: &BatchMetrics) {
        if let Some(rows) = metrics.request_rows.get() {
            let rows = rows.read(&ROWS);
            match &mut self.request_rows {
                None => self.request_rows = Some(rows),
                Some(sum) => sum.absorb(&rows),
            }
        }
        if let Some((tally, standing)) = metrics.read() {
            self.all.absorb(&tally);
            self.by_model.add(model, tally, standing);
        }
    }

    pub(super) fn families(self) -> impl Iterator<Item = Family> {
        originals(&self.all, self.request_rows).into_iter().chain(self.by_model.families())
    }
}

/// TensorFlow Serving's metrics, for all models together (`docs/spec/observability.md` §5).
fn originals(all: &Tally, request_rows: Option<Distribution>) -> Vec<Family> {
    let mut waits = Family::histogram("/tensorflow/serving/batching_session/queuing_latency", &["thread_pool_name"]);
    let mut runs = Family::counter("/tensorflow/serving/batching_session/wrapped_run_count", &[]);
    if all.waits.count() > 0 {
        waits.add(&[""], all.waits.clone());
    }
    let mut families = Vec::new();
    if all.batches() > 0 {
        runs.add(&[], all.batches());
        let name = "/tensorflow/serving/batching_session/padding_size";
        let mut padding = Family::histogram(name, &["execution_batch_size"]);
        let mut processed = Distribution::new(&ROWS);
        for (&size, batches) in &all.sizes {
            padding.add(&[&size.to_string()], batches.padding.clone());
            processed.record_times(size as f64, batches.batches);
        }
        let mut sizes = Family::histogram("/tensorflow/serving/batching_session/processed_batch_size", &[]);
        sizes.add(&[], processed);
        families.extend([padding, sizes]);
    }
    if let Some(rows) = request_rows {
        let mut sizes = Family::histogram("/tensorflow/serving/batching_session/input_batch_size", &[]);
        sizes.add(&[], rows);
        families.push(sizes);
    }
    families.extend([waits, runs]);
    families
}

/// The metrics that only this server has.
struct ByModel {
    batches: Family,
    dropped: Family,
    waits: Family,
    runs: Family,
    failures: Family,
    reruns: Family,
    rescued: Family,
    rows: Family,
    run_seconds: Family,
    queued_batches: Family,
    queued_rows: Family,
    running: Family,
}

impl Default for ByModel {
    fn default() -> Self {
        let model = &["model_name"];
        let by_size = &["model_name", "size"];
        Self {
            batches: Family::counter("servable_batches_total", &["model_name", "closed"])
                .with_help("Batches that a thread has taken, by the reason for which they were closed."),
            dropped: Family::counter("servable_batch_requests_dropped_total", &["model_name", "reason"])
                .with_help("Requests that were not run in a batch, by reason."),
            waits: Family::histogram("servable_batch_wait_seconds", model)
                .with_help("Time that requests waited until a thread took their batch."),
            runs: Family::counter("servable_batch_runs_total", by_size)
                .with_help("Batches that were run, by batch size with padding."),
            failures: Family::counter("servable_batch_failures_total", by_size)
                .with_help("Batches whose run failed, by batch size with padding."),
            reruns: Family::counter("servable_batch_reruns_total", model).with_help(
                "Smaller batches that were run after a batch had failed, to find the requests that cause it.",
            ),
            rescued: Family::counter("servable_batch_requests_rescued_total", model)
                .with_help("Requests that were answered by a smaller batch after a failed one."),
            rows: Family::counter("servable_batch_rows_total", by_size)
                .with_help("Rows without padding in the batches that were run, by batch size with padding."),
            run_seconds: Family::counter("servable_batch_run_seconds_total", by_size)
                .with_help("Time to join, run and split batches, by batch size with padding."),
            queued_batches: Family::gauge("servable_batch_queue_batches", model)
                .with_help("Batches that wait for a thread or for more requests."),
            queued_rows: Family::gauge("servable_batch_queue_rows", model).with_help("Rows in waiting batches."),
            running: Family::gauge("servable_batches_running", model).with_help("Batches that are running."),
        }
    }
}

impl ByModel {
    fn add(&mut self, model: &str, tally: Tally, standing: Standing) {
        for (closed, count) in &tally.closed {
            self.batches.add(&[model, closed.name()], *count);
        }
        for (reason, count) in tally.dropped() {
            self.dropped.add(&[model, reason], count);
        }
        self.reruns.add(&[model], tally.reruns);
        self.rescued.add(&[model], tally.rescued);
        for (size, batches) in &tally.sizes {
            let labels = [model, &size.to_string()];
            self.runs.add(&labels, batches.batches);
            self.failures.add(&labels, batches.failed);
            self.rows.add(&labels, batches.rows);
            self.run_seconds.add(&labels, batches.run_time);
        }
        self.waits.add(&[model], in_seconds(tally.waits));
        self.queued_batches.add(&[model], standing.waiting_batches as u64);
        self.queued_rows.add(&[model], standing.waiting_rows as u64);
        self.running.add(&[model], standing.running_batches as u64);
    }

    fn families(self) -> [Family; 12] {
        [
            self.batches,
            self.dropped,
            self.waits,
            self.runs,
            self.failures,
            self.reruns,
            self.rescued,
            self.rows,
            self.run_seconds,
            self.queued_batches,
            self.queued_rows,
            self.running,
        ]
    }
}

/// Microseconds as seconds.
fn in_seconds(micros: Distribution) -> Distribution {
    let limits: Vec<f64> = micros.limits.iter().map(|limit| limit / 1e6).collect();
    Distribution { limits: limits.into(), sum: micros.sum / 1e6, ..micros }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::page;
    use servable_batch::{BatchingOptions, PoolOptions, Queue, Scheduler};
    use servable_model::call::Call;
    use servable_model::executor::RunOptions;
    use servable_model::tensor::Tensor;

    fn text(models: &[(&str, &BatchMetrics)]) -> String {
        let mut families = BatchFamilies::default();
        for (name, metrics) in models {
            families.add(name, metrics);
        }
        page::text(families.families().collect(), page::Format::Prometheus)
    }

    /// A queue of batches that are padded to 4 rows.
    fn queue(scheduler: &Scheduler) -> Queue {
        let options = BatchingOptions { max_batch_size: 4, allowed_batch_sizes: vec![4], ..BatchingOptions::default() };
        scheduler.queue(options, |inputs: Vec<Tensor>, _: &RunOptions| Ok(inputs)).expect("options that fit")
    }

    fn ask(queue: &Queue, rows: &[&str]) {
        let input = Tensor::from_strings(vec![rows.len() as i64], rows.iter().copied().collect());
        queue.submit(vec![input], Call::default()).expect("there is room").wait().expect("it echoes");
    }

    #[test]
    fn without_batches_there_are_names_and_no_points() {
        let page = text(&[("m", &BatchMetrics::default())]);
        let session: Vec<&str> = page.lines().filter(|line| line.contains(":batching_session:")).collect();
        assert_eq!(
            session,
            [
                "# TYPE :tensorflow:serving:batching_session:queuing_latency histogram",
                "# TYPE :tensorflow:serving:batching_session:wrapped_run_count counter",
            ]
        );
        assert!(page.lines().all(|line| line.starts_with('#')), "{page}");
    }

    #[test]
    fn batches_are_counted_for_all_models_and_by_model_and_stay_when_their_queues_go() {
        let scheduler = Scheduler::new(&PoolOptions::default()).expect("threads");
        let (one, other) = (BatchMetrics::default(), BatchMetrics::default());
        for metrics in [&one, &one, &other] {
            let queue = queue(&scheduler);
            metrics.follow(Arc::clone(queue.statistics()));
            metrics.asked(3, 2);
            ask(&queue, &["a", "b", "c"]);
        }
        let page = text(&[("one", &one), ("other", &other)]);
        for line in [
            "# TYPE :tensorflow:serving:batching_session:input_batch_size histogram",
            ":tensorflow:serving:batching_session:input_batch_size_bucket{le=\"4\"} 6",
            ":tensorflow:serving:batching_session:input_batch_size_sum{} 18",
            ":tensorflow:serving:batching_session:padding_size_bucket{execution_batch_size=\"4\",le=\"1\"} 0",
            ":tensorflow:serving:batching_session:padding_size_bucket{execution_batch_size=\"4\",le=\"2\"} 3",
            ":tensorflow:serving:batching_session:processed_batch_size_sum{} 12",
            ":tensorflow:serving:batching_session:queuing_latency_count{thread_pool_name=\"\"} 3",
            ":tensorflow:serving:batching_session:wrapped_run_count{} 3",
            "servable_batches_total{model_name=\"one\",closed=\"idle_thread\"} 2",
            "servable_batch_rows_total{model_name=\"one\",size=\"4\"} 6",
            "servable_batch_runs_total{model_name=\"other\",size=\"4\"} 1",
            "servable_batch_requests_dropped_total{model_name=\"other\",reason=\"queue_full\"} 0",
            "servable_batch_wait_seconds_count{model_name=\"other\"} 1",
            "servable_batch_queue_rows{model_name=\"other\"} 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        // The thread that answered drops the queue a moment later.
        while !one.queues.lock().expect("no panic").live.is_empty() {
            assert_eq!(one.read().map(|(tally, _)| tally.batches()), Some(2));
        }
    }
}
