//! Statistics of a queue: counters and histograms of its batches, and gauges of its current length.
//!
//! The thread that runs a batch records it at the beginning and at the end, under a lock of the queue. The lock is held
//! for a few additions. Recording costs about 0.1 µs a batch and 10 ns a request. The length of the queue is kept in
//! atomic numbers, which are written while the lock of the scheduler is held anyway.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::queue::Closed;
use super::task::Dropped;
use servable_model::distribution::{Distribution, exponential};

/// Upper bounds of the histogram of waiting times, in microseconds.
static WAIT: [f64; 52] = exponential(100.0, 1.2);

/// Upper bounds of histograms of rows.
static ROWS: [f64; 14] = exponential(1.0, 2.0);

/// The maximum number of batch sizes with separate counters. Further sizes are rounded up to a power of two.
const MAX_SIZES: usize = 128;

/// The recent run time is an EWMA with the weight 1 / 8.
const EWMA_DIVISOR: u32 = 8;

/// The statistics of one queue.
pub struct Statistics {
    tally: Mutex<Tally>,
    waiting_batches: AtomicUsize,
    waiting_rows: AtomicUsize,
    running: AtomicUsize,
}

/// The counters of one queue, or the sum over several.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// The time from the arrival of requests until a thread took their batch, in microseconds. Dropped requests are
    /// included. Each piece of a split request counts.
    pub waits: Distribution,
    /// The batches that were run, by their number of rows, padding included.
    pub sizes: BTreeMap<usize, SizeTally>,
    /// The number of batches, by the reason for which they were closed.
    pub closed: BTreeMap<Closed, u64>,
    /// Requests that were refused because the queue was full.
    pub refused: u64,
    /// Requests that were not run because their deadline had passed.
    pub expired: u64,
    /// Requests that were not run because their caller had gone away.
    pub cancelled: u64,
    /// Batches that were run to isolate the failing requests of another. They are in no other counter.
    pub reruns: u64,
    /// Requests that were answered by such a batch.
    pub rescued: u64,
}

/// The batches of one size.
#[derive(Clone, Debug, PartialEq)]
pub struct SizeTally {
    /// The number of batches that were run.
    pub batches: u64,
    /// The number of batches that failed.
    pub failed: u64,
    /// The sum of their rows, without padding.
    pub rows: u64,
    /// The histogram of their rows of padding.
    pub padding: Distribution,
    /// The total time to join, run and split them.
    pub run_time: Duration,
    /// The longest of these times.
    pub longest: Duration,
    /// The EWMA of these times.
    pub recent: Duration,
}

/// The current length of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The number of waiting batches, the open one included.
    pub waiting_batches: usize,
    /// The number of rows in waiting batches.
    pub waiting_rows: usize,
    /// The number of running batches.
    pub running_batches: usize,
}

impl AddAssign for Standing {
    fn add_assign(&mut self, other: Self) {
        self.waiting_batches += other.waiting_batches;
        self.waiting_rows += other.waiting_rows;
        self.running_batches += other.running_batches;
    }
}

impl Default for Statistics {
    fn default() -> Self {
        let zero = || AtomicUsize::new(0);
        Self { tally: Mutex::default(), waiting_batches: zero(), waiting_rows: zero(), running: zero() }
    }
}

impl Statistics {
    /// A copy of the counters.
    pub fn read(&self) -> Tally {
        self.tally().clone()
    }

    /// The current length of the queue.
    pub fn standing(&self) -> Standing {
        Standing {
            waiting_batches: self.waiting_batches.load(Ordering::Relaxed),
            waiting_rows: self.waiting_rows.load(Ordering::Relaxed),
            running_batches: self.running.load(Ordering::Relaxed),
        }
    }

    /// The recent run time of a batch of this size; `None` before the first batch.
    ///
    /// It is taken from the next larger size that was run, or else from the next smaller one.
    pub fn recent_run_time(&self, padded: usize) -> Option<Duration> {
        let tally = self.tally();
        let larger = tally.sizes.range(padded..).next();
        larger.or_else(|| tally.sizes.range(..padded).next_back()).map(|(_, size)| size.recent)
    }

    /// The estimated time in which this number of threads runs all waiting batches.
    pub(super) fn time_to_clear(&self, threads: usize) -> Duration {
        let Standing { waiting_batches, waiting_rows, running_batches } = self.standing();
        let batches = u32::try_from(waiting_batches + running_batches).unwrap_or(u32::MAX);
        let run_time = self.recent_run_time(waiting_rows / waiting_batches.max(1)).unwrap_or_default();
        run_time.saturating_mul(batches) / u32::try_from(threads).unwrap_or(u32::MAX).max(1)
    }

    /// Records the length of the queue. The caller holds the lock of the scheduler.
    pub(super) fn waits(&self, batches: usize, rows: usize) {
        self.waiting_batches.store(batches, Ordering::Relaxed);
        self.waiting_rows.store(rows, Ordering::Relaxed);
    }

    /// Records a request that was refused because the queue was full.
    pub(super) fn refused(&self) {
        self.tally().refused += 1;
    }

    /// Records that a thread has taken a batch, and the waiting times of its requests.
    pub(super) fn taken(&self, closed: Closed, waits: impl Iterator<Item = Duration>) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        let mut tally = self.tally();
        *tally.closed.entry(closed).or_default() += 1;
        waits.for_each(|wait| tally.waits.record(wait.as_nanos() as f64 / 1000.0));
        Running { statistics: self }
    }

    /// Records a request that is not run.
    pub(super) fn dropped(&self, why: Dropped) {
        let mut tally = self.tally();
        match why {
            Dropped::Expired => tally.expired += 1,
            Dropped::Cancelled => tally.cancelled += 1,
        }
    }

    /// Records a batch that was run to isolate failing requests, and the number of requests that it answered.
    pub(super) fn reran(&self, rescued: usize) {
        let mut tally = self.tally();
        tally.reruns += 1;
        tally.rescued += rescued as u64;
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running batch.
pub(super) struct Running<'a> {
    statistics: &'a Statistics,
}

impl Running<'_> {
    /// Records the end of the run. To be called before the requests are answered: a client that has its answer must
    /// find it counted.
    pub(super) fn ended(self, rows: usize, padded: usize, took: Duration, is_ok: bool) {
        self.statistics.tally().ran(rows, padded, took, is_ok);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.statistics.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            waits: Distribution::new(&WAIT),
            sizes: BTreeMap::new(),
            closed: BTreeMap::new(),
            refused: 0,
            expired: 0,
            cancelled: 0,
            reruns: 0,
            rescued: 0,
        }
    }
}

impl Tally {
    fn ran(&mut self, rows: usize, padded: usize, took: Duration, is_ok: bool) {
        let size = self.size(padded);
        size.recent = match size.batches {
            0 => took,
            _ => size.recent * (EWMA_DIVISOR - 1) / EWMA_DIVISOR + took / EWMA_DIVISOR,
        };
        size.batches += 1;
        size.failed += u64::from(!is_ok);
        size.rows += rows as u64;
        size.padding.record(padded.saturating_sub(rows) as f64);
        size.run_time += took;
        size.longest = size.longest.max(took);
    }

    /// The counters for batches of a size.
    fn size(&mut self, padded: usize) -> &mut SizeTally {
        let has_counters = self.sizes.len() < MAX_SIZES || self.sizes.contains_key(&padded);
        let size = if has_counters { padded } else { padded.checked_next_power_of_two().unwrap_or(padded) };
        self.sizes.entry(size).or_default()
    }

    /// Adds the counters of another queue.
    pub fn absorb(&mut self, other: &Self) {
        self.waits.absorb(&other.waits);
        for (&size, more) in &other.sizes {
            self.size(size).absorb(more);
        }
        for (&closed, more) in &other.closed {
            *self.closed.entry(closed).or_default() += more;
        }
        self.refused += other.refused;
        self.expired += other.expired;
        self.cancelled += other.cancelled;
        self.reruns += other.reruns;
        self.rescued += other.rescued;
    }

    /// The numbers of requests that were not run, by reason.
    pub fn dropped(&self) -> [(&'static str, u64); 3] {
        [("queue_full", self.refused), ("deadline", self.expired), ("client_gone", self.cancelled)]
    }

    /// The number of batches that were run.
    pub fn batches(&self) -> u64 {
        self.sizes.values().map(|size| size.batches).sum()
    }

    /// The number of rows in all batches that were run, without padding.
    pub fn rows(&self) -> u64 {
        self.sizes.values().map(|size| size.rows).sum()
    }

    /// The number of rows of padding in all batches that were run.
    pub fn padding(&self) -> u64 {
        self.sizes.values().map(|size| size.padding.sum as u64).sum()
    }
}

impl Default for SizeTally {
    fn default() -> Self {
        Self {
            batches: 0,
            failed: 0,
            rows: 0,
            padding: Distribution::new(&ROWS),
            run_time: Duration::ZERO,
            longest: Duration::ZERO,
            recent: Duration::ZERO,
        }
    }
}

impl SizeTally {
    /// The mean run time; `None` if no batch was run.
    pub fn mean(&self) -> Option<Duration> {
        (self.batches > 0).then(|| self.run_time.div_f64(self.batches as f64))
    }

    fn absorb(&mut self, other: &Self) {
        let batches = self.batches + other.batches;
        if batches > 0 {
            let share = other.batches as f64 / batches as f64;
            self.recent = self.recent.mul_f64(1.0 - share) + other.recent.mul_f64(share);
        }
        self.batches = batches;
        self.failed += other.failed;
        self.rows += other.rows;
        self.padding.absorb(&other.padding);
        self.run_time += other.run_time;
        self.longest = self.longest.max(other.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn ran(statistics: &Statistics, rows: usize, padded: usize, took: Duration) {
        statistics.taken(Closed::Size, std::iter::empty()).ended(rows, padded, took, true);
    }

    #[test]
    fn batches_are_counted_by_their_padded_size() {
        let statistics = Statistics::default();
        ran(&statistics, 3, 4, 8 * MILLISECOND);
        ran(&statistics, 4, 4, 16 * MILLISECOND);
        statistics.taken(Closed::Timeout, [Duration::ZERO, MILLISECOND].into_iter()).ended(1, 2, MILLISECOND, false);
        let tally = statistics.read();
        assert_eq!((tally.batches(), tally.rows(), tally.padding()), (3, 8, 2));
        assert_eq!(tally.closed, BTreeMap::from([(Closed::Size, 2), (Closed::Timeout, 1)]));
        assert_eq!((tally.waits.count(), tally.waits.sum), (2, 1000.0));
        let four = &tally.sizes[&4];
        assert_eq!((four.batches, four.failed, four.rows, four.padding.sum), (2, 0, 7, 1.0));
        assert_eq!((four.run_time, four.longest, four.recent), (24 * MILLISECOND, 16 * MILLISECOND, 9 * MILLISECOND));
        assert_eq!(four.mean(), Some(12 * MILLISECOND));
        assert_eq!(tally.sizes[&2].failed, 1);
    }

    #[test]
    fn the_run_time_of_a_size_without_batches_is_that_of_its_neighbour() {
        let statistics = Statistics::default();
        assert_eq!(statistics.recent_run_time(1), None);
        ran(&statistics, 2, 2, 3 * MILLISECOND);
        ran(&statistics, 8, 8, 5 * MILLISECOND);
        let times = [1, 2, 3, 9].map(|size| statistics.recent_run_time(size));
        assert_eq!(times, [3, 3, 5, 5].map(|millis| Some(millis * MILLISECOND)));
    }

    #[test]
    fn waiting_batches_are_divided_among_the_threads() {
        let statistics = Statistics::default();
        statistics.waits(6, 12);
        assert_eq!(statistics.time_to_clear(2), Duration::ZERO, "nothing is known yet");
        ran(&statistics, 2, 2, 500 * MILLISECOND);
        assert_eq!(statistics.time_to_clear(2), 1500 * MILLISECOND);
    }

    #[test]
    fn a_batch_runs_until_it_is_released() {
        let statistics = Statistics::default();
        statistics.waits(2, 7);
        let running = statistics.taken(Closed::Idle, std::iter::empty());
        let standing = Standing { waiting_batches: 2, waiting_rows: 7, running_batches: 1 };
        assert_eq!(statistics.standing(), standing);
        running.ended(1, 1, MILLISECOND, true);
        assert_eq!(statistics.standing().running_batches, 0);
    }

    #[test]
    fn sizes_beyond_a_number_are_counted_by_powers_of_two() {
        let statistics = Statistics::default();
        (1..=1000).for_each(|rows| ran(&statistics, rows, rows, MILLISECOND));
        let tally = statistics.read();
        assert_eq!((tally.batches(), tally.rows()), (1000, 500_500));
        assert_eq!(tally.sizes.len(), MAX_SIZES + 3, "256, 512 and 1024");
        assert_eq!(tally.sizes[&1024].batches, 1000 - 512);
    }

    #[test]
    fn the_tallies_of_queues_add_up() {
        let (one, other) = (Statistics::default(), Statistics::default());
        ran(&one, 1, 2, 2 * MILLISECOND);
        ran(&other, 2, 2, 8 * MILLISECOND);
        ran(&other, 2, 2, 8 * MILLISECOND);
        other.refused();
        other.dropped(Dropped::Expired);
        other.dropped(Dropped::Cancelled);
        other.reran(2);
        other.reran(0);
        let mut sum = one.read();
        sum.absorb(&other.read());
        assert_eq!((sum.batches(), sum.rows(), sum.padding()), (3, 5, 1));
        assert_eq!((sum.refused, sum.expired, sum.cancelled), (1, 1, 1));
        assert_eq!((sum.reruns, sum.rescued), (2, 2));
        assert_eq!(sum.sizes[&2].recent, 6 * MILLISECOND);
        assert_eq!(sum.closed, BTreeMap::from([(Closed::Size, 3)]));
    }
}
