//! Estimate of the run time of a servable, which decides the thread of its runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// An exponentially weighted moving average of the run times of a servable.
///
/// It decides whether a run may use the thread that serves connections. An estimate that is too high costs a hand-over
/// between threads; one that is too low stalls connections for one run. A mean balances the two: slow runs count by
/// their number and length. On a busy machine, preemption makes some quick runs seem slow. A maximum would then
/// classify all of them as slow.
#[derive(Debug)]
pub struct RunTimeEstimate {
    nanoseconds: AtomicU64,
}

/// The first run is assumed to be slow.
impl Default for RunTimeEstimate {
    fn default() -> Self {
        Self { nanoseconds: AtomicU64::new(Self::UNKNOWN) }
    }
}

impl RunTimeEstimate {
    /// Runs up to this long stay on the thread that decoded the request.
    const QUICK: Duration = Duration::from_micros(300);

    /// Each run moves the mean by this fraction of its distance to it.
    const WEIGHT: i64 = 16;

    /// Before the first run.
    const UNKNOWN: u64 = u64::MAX;

    /// After a slow first run. It is not representative, because runtimes initialise lazily.
    const STILL_UNKNOWN: u64 = u64::MAX - 1;

    /// Whether the next run is expected to be short.
    pub fn is_quick(&self) -> bool {
        self.nanoseconds.load(Ordering::Relaxed) < Self::QUICK.as_nanos() as u64
    }

    /// Records a run from `start` until now. Returns its time.
    pub fn record(&self, start: Instant) -> Duration {
        self.update(start, |before, took| {
            let moved = before.saturating_add_signed((took as i64 - before as i64) / Self::WEIGHT);
            if before == Self::STILL_UNKNOWN { took } else { moved }
        })
    }

    /// Records a run of a warm-up. It may be the first one of its shapes, so that only the quickest counts.
    pub fn record_warm_up(&self, start: Instant) -> Duration {
        self.update(start, u64::min)
    }

    fn update(&self, start: Instant, combined: impl FnOnce(u64, u64) -> u64) -> Duration {
        let elapsed = start.elapsed();
        let took = elapsed.as_nanos() as u64;
        let before = self.nanoseconds.load(Ordering::Relaxed);
        let now = match before {
            Self::UNKNOWN if took >= Self::QUICK.as_nanos() as u64 => Self::STILL_UNKNOWN,
            Self::UNKNOWN => took,
            before => combined(before, took),
        };
        // Of two runs that end at once, one sample may be lost, which is harmless.
        if now != before {
            self.nanoseconds.store(now, Ordering::Relaxed);
        }
        elapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_run_counts_as_slow_and_one_slow_run_is_forgotten_after_many_quick_ones() {
        let estimate = RunTimeEstimate::default();
        assert!(!estimate.is_quick());
        estimate.record(Instant::now());
        assert!(estimate.is_quick());
        estimate.record(long_ago());
        assert!(!estimate.is_quick());
        for _ in 0..100 {
            estimate.record(Instant::now());
        }
        assert!(estimate.is_quick());
    }

    #[test]
    fn a_slow_first_run_says_nothing_and_a_slow_second_one_does() {
        let estimate = RunTimeEstimate::default();
        estimate.record(long_ago());
        assert!(!estimate.is_quick());
        estimate.record(Instant::now());
        assert!(estimate.is_quick());

        let estimate = RunTimeEstimate::default();
        estimate.record(long_ago());
        estimate.record(long_ago());
        estimate.record(Instant::now());
        assert!(!estimate.is_quick());
    }

    #[test]
    fn of_a_warm_up_the_quickest_run_counts() {
        let estimate = RunTimeEstimate::default();
        estimate.record_warm_up(long_ago());
        estimate.record_warm_up(long_ago());
        assert!(!estimate.is_quick());
        estimate.record_warm_up(Instant::now());
        estimate.record_warm_up(long_ago());
        assert!(estimate.is_quick());
        estimate.record(long_ago());
        assert!(!estimate.is_quick(), "a run for a request counts in full");
    }

    /// The start of a run of 5 ms.
    fn long_ago() -> Instant {
        Instant::now().checked_sub(Duration::from_millis(5)).expect("the clock is not at its start")
    }
}
