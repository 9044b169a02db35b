//! What batches of one size take, as far as that is known.

use super::EWMA_WEIGHT;

/// So many mean deviations above the mean are hardly ever exceeded.
const DEVIATIONS: f64 = 3.0;

/// A size counts as known when it has been run so often: the first time may be far slower than the others.
const TRIALS: u64 = 2;

/// A size that is not run any more is forgotten, and tried again, after so many batches for each time that it was run, and
/// after so many at most. What was seen twice may have been chance; what is found too slow again and again is not.
const EXPIRY_PER_RUN: u64 = 100;
const MAX_EXPIRY: u64 = 1000;

/// A run counts for no more than this many times what a size was thought to exceed hardly ever: a single one may be the
/// fault of anything.
const OUTLIER_LIMIT: f64 = 2.0;

/// Batches of a size.
pub(super) struct Size {
    pub(super) rows: usize,
    /// How often it has been run, forgotten times included.
    pub(super) runs: u64,
    /// The number of the last one among all batches.
    last: u64,
    pub(super) estimate: Option<Estimate>,
}

/// What batches of a size have taken, in seconds.
#[derive(Clone, Copy)]
pub(super) struct Estimate {
    pub(super) mean: f64,
    deviation: f64,
    batches: u64,
}

impl Size {
    /// Nothing is known of it yet.
    pub(super) fn new(rows: usize) -> Self {
        Self { rows, runs: 0, last: 0, estimate: None }
    }

    /// Notes a run that took so many seconds, of the batch with this number.
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

    /// Forgets what is too old to count at the batch with this number.
    pub(super) fn expire(&mut self, number: u64) {
        if number - self.last >= MAX_EXPIRY.min(self.runs * EXPIRY_PER_RUN) {
            self.estimate = None;
        }
    }

    /// What it takes, if it has been run often enough to say so.
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

    /// What is hardly ever exceeded.
    pub(super) fn high(self) -> f64 {
        self.mean + DEVIATIONS * self.deviation
    }
}
