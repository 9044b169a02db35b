//! What a queue has done, for whoever wants to know how well it batches, and how it stands.
//!
//! The thread that runs a batch notes it, once when it begins and once when it has ended, under a lock of the queue's own
//! which is held for a few additions: it costs some 0.1 µs a batch and 10 ns a request, and nobody waits for it but those
//! who note or read at that very moment. How long the queue is stands in plain numbers that are written under the lock of
//! the scheduler, which is held at that time anyway.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::queue::Closed;
use super::task::Dropped;
use servable_model::distribution::{Distribution, exponential};

/// Limits of the time that requests wait for their batch, in microseconds.
static WAIT: [f64; 52] = exponential(100.0, 1.2);

/// Limits of numbers of rows.
static ROWS: [f64; 14] = exponential(1.0, 2.0);

/// So many sizes of batches are told apart; a further one counts as the power of two at or above it.
const MAX_SIZES: usize = 128;

/// The recent run time of a size moves by this fraction of its distance to that of the last batch.
const EWMA_DIVISOR: u32 = 8;

/// What a queue has done so far, and how it stands.
pub struct Statistics {
    tally: Mutex<Tally>,
    waiting_batches: AtomicUsize,
    waiting_rows: AtomicUsize,
    running: AtomicUsize,
}

/// What one queue, or several together, have done.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// How long requests waited until a thread took their batch, in microseconds; those that were dropped then, too. A
    /// request that was run in pieces counts once for each.
    pub waits: Distribution,
    /// The batches that were run, by the rows that they were run with, padding included.
    pub sizes: BTreeMap<usize, SizeTally>,
    /// Why batches were taken when they were.
    pub closed: BTreeMap<Closed, u64>,
    /// Requests that found the queue full.
    pub refused: u64,
    /// Requests that were not run because their deadline had passed.
    pub expired: u64,
    /// Requests that were not run because their caller had gone away.
    pub cancelled: u64,
    /// Batches that were run of the requests of one that had failed; they count nowhere else.
    pub reruns: u64,
    /// Requests that such a batch has answered.
    pub rescued: u64,
}

/// The batches of one size.
#[derive(Clone, Debug, PartialEq)]
pub struct SizeTally {
    /// How many were run.
    pub batches: u64,
    /// How many of them ended with an error.
    pub failed: u64,
    /// Their rows without padding.
    pub rows: u64,
    /// The rows of padding of each.
    pub padding: Distribution,
    /// How long it took to join, run and split them, all together.
    pub run_time: Duration,
    /// The longest of these times.
    pub longest: Duration,
    /// A mean of these times in which the last batch has the most weight.
    pub recent: Duration,
}

/// How a queue stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The batches that wait for a thread or to be filled.
    pub waiting_batches: usize,
    /// The rows of these.
    pub waiting_rows: usize,
    /// The batches that threads are at work on.
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
    /// What the queue has done so far.
    pub fn read(&self) -> Tally {
        self.tally().clone()
    }

    /// How the queue stands.
    pub fn standing(&self) -> Standing {
        Standing {
            waiting_batches: self.waiting_batches.load(Ordering::Relaxed),
            waiting_rows: self.waiting_rows.load(Ordering::Relaxed),
            running_batches: self.running.load(Ordering::Relaxed),
        }
    }

    /// How long a batch of this size has taken of late: as those of the next larger size that there were, or else of the
    /// next smaller one; `None` before the first batch.
    pub fn recent_run_time(&self, padded: usize) -> Option<Duration> {
        let tally = self.tally();
        let larger = tally.sizes.range(padded..).next();
        larger.or_else(|| tally.sizes.range(..padded).next_back()).map(|(_, size)| size.recent)
    }

    /// How long it will take, as far as the last batches tell, until so many threads have run what waits.
    pub(super) fn time_to_clear(&self, threads: usize) -> Duration {
        let Standing { waiting_batches, waiting_rows, running_batches } = self.standing();
        let batches = u32::try_from(waiting_batches + running_batches).unwrap_or(u32::MAX);
        let run_time = self.recent_run_time(waiting_rows / waiting_batches.max(1)).unwrap_or_default();
        run_time.saturating_mul(batches) / u32::try_from(threads).unwrap_or(u32::MAX).max(1)
    }

    /// Notes how much waits; to be called under the lock of the scheduler.
    pub(super) fn waits(&self, batches: usize, rows: usize) {
        self.waiting_batches.store(batches, Ordering::Relaxed);
        self.waiting_rows.store(rows, Ordering::Relaxed);
    }

    /// Notes a request that found the queue full.
    pub(super) fn refused(&self) {
        self.tally().refused += 1;
    }

    /// Notes that a thread has taken a batch, whose requests have waited so long.
    pub(super) fn taken(&self, closed: Closed, waits: impl Iterator<Item = Duration>) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        let mut tally = self.tally();
        *tally.closed.entry(closed).or_default() += 1;
        waits.for_each(|wait| tally.waits.record(wait.as_nanos() as f64 / 1000.0));
        Running { statistics: self }
    }

    /// Notes a request that is not run.
    pub(super) fn dropped(&self, why: Dropped) {
        let mut tally = self.tally();
        match why {
            Dropped::Expired => tally.expired += 1,
            Dropped::Cancelled => tally.cancelled += 1,
        }
    }

    /// Notes that requests of a failed batch were run again, and how many of them have outputs now.
    pub(super) fn reran(&self, rescued: usize) {
        let mut tally = self.tally();
        tally.reruns += 1;
        tally.rescued += rescued as u64;
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch that a thread is at work on.
pub(super) struct Running<'a> {
    statistics: &'a Statistics,
}

impl Running<'_> {
    /// Notes how the batch was run; to be called before its requests are answered, so that whoever has an answer finds it
    /// counted.
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

    /// Where batches of a size are counted.
    fn size(&mut self, padded: usize) -> &mut SizeTally {
        let is_told_apart = self.sizes.len() < MAX_SIZES || self.sizes.contains_key(&padded);
        let size = if is_told_apart { padded } else { padded.checked_next_power_of_two().unwrap_or(padded) };
        self.sizes.entry(size).or_default()
    }

    /// Adds what another queue has done.
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

    /// The requests that no batch was run for, by a word for why.
    pub fn dropped(&self) -> [(&'static str, u64); 3] {
        [("queue_full", self.refused), ("deadline", self.expired), ("client_gone", self.cancelled)]
    }

    /// How many batches were run.
    pub fn batches(&self) -> u64 {
        self.sizes.values().map(|size| size.batches).sum()
    }

    /// The rows of all batches that were run, without padding.
    pub fn rows(&self) -> u64 {
        self.sizes.values().map(|size| size.rows).sum()
    }

    /// The rows of padding of all batches that were run.
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
    /// The mean of the times that the batches took; `None` if there are none.
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
    fn what_waits_takes_as_long_as_its_batches_divided_among_the_threads() {
        let statistics = Statistics::default();
        statistics.waits(6, 12);
        assert_eq!(statistics.time_to_clear(2), Duration::ZERO, "nothing is known yet");
        ran(&statistics, 2, 2, 500 * MILLISECOND);
        assert_eq!(statistics.time_to_clear(2), 1500 * MILLISECOND);
    }

    #[test]
    fn a_batch_runs_until_it_is_let_go() {
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
