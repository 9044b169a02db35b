//! The estimated run time of batches of one size.

use super::EWMA_WEIGHT;

/// The upper bound of nearly all runs is the mean plus this many mean deviations.
const DEVIATIONS: f64 = 3.0;

/// The number of runs before an estimate counts. The first run may be far slower than the others.
const TRIALS: u64 = 2;

/// The estimate of a size that is not run any more expires, so that the size is tried again. It expires after this many
/// batches for each run of the size, and after the second number at most. Two slow runs may have been chance; a size
/// that is slow at every trial is tried less often.
const EXPIRY_PER_RUN: u64 = 100;
const MAX_EXPIRY: u64 = 1000;

/// Measurements are clamped to this many times the upper bound: a single slow run may be an outlier.
const OUTLIER_LIMIT: f64 = 2.0;

/// The batches of one size.
pub(super) struct Size {
    pub(super) rows: usize,
    /// The number of runs, expired ones included.
    pub(super) runs: u64,
    /// The number of the last run, counted over batches of all sizes.
    last: u64,
    pub(super) estimate: Option<Estimate>,
}

/// The estimated run time, in seconds.
#[derive(Clone, Copy)]
pub(super) struct Estimate {
    pub(super) mean: f64,
    deviation: f64,
    batches: u64,
}

impl Size {
    /// A size without an estimate.
    pub(super) fn new(rows: usize) -> Self {
        Self { rows, runs: 0, last: 0, estimate: None }
    }

    /// Records a run of `took` seconds, of the batch with this number.
    pub(super) fn ran(&mut self, took: f64, number: u64) {
        self.runs += 1;
        self.last = number;
        self.estimate = Some(match self.estimate {
            None => Estimate { mean: took, deviation: 0.0, batches: 1 },
            Some(Estimate { mean, batches: 1, .. }) => {
                Estimate { mean: took.min(mean), deviation: 0.0, batches: TRIALS }
            }
            Some(known) => known.after(took.min(known.high() * OUTLIER_LIMIT)),
        });
    }

    /// Drops the estimate if it has expired at the batch with this number.
    pub(super) fn expire(&mut self, number: u64) {
        if number - self.last >= MAX_EXPIRY.min(self.runs * EXPIRY_PER_RUN) {
            self.estimate = None;
        }
    }

    /// The estimate, if the size was run often enough.
    pub(super) fn known(&self) -> Option<Estimate> {
        self.estimate.filter(|estimate| estimate.batches >= TRIALS)
    }
}

impl Estimate {
    fn after(self, took: f64) -> Self {
        let Self { mean, deviation, batches } = self;
        Self {
            mean: mean + EWMA_WEIGHT * (took - mean),
            deviation: deviation + EWMA_WEIGHT * ((took - mean).abs() - deviation),
            batches: batches + 1,
        }
    }

    /// The upper bound of nearly all runs.
    pub(super) fn high(self) -> f64 {
        self.mean + DEVIATIONS * self.deviation
    }
}
