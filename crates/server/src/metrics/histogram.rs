//! Sharded histograms and counters: each thread adds to a separate cache line.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use servable_model::distribution::Distribution;

/// Additive values in several shards, so that threads do not contend for a cache line.
pub(crate) struct Sharded<T>(Box<[Padded<T>]>);

#[derive(Default)]
#[repr(align(64))]
struct Padded<T>(T);

/// More shards would cost more memory than they save time.
const MAX_SHARDS: usize = 8;

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        static SHARDS: LazyLock<usize> = LazyLock::new(|| {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            threads.next_power_of_two().min(MAX_SHARDS)
        });
        Self((0..*SHARDS).map(|_| Padded::default()).collect())
    }
}

impl<T> Sharded<T> {
    /// The shard of the calling thread.
    pub(crate) fn own(&self) -> &T {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed));
        let number = NUMBER.with(|number| *number);
        &self.0[number & (self.0.len() - 1)].0
    }

    /// All shards.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|padded| &padded.0)
    }
}

/// A histogram. The caller passes the bucket limits to each method.
pub(super) struct Histogram<const LIMITS: usize>(Sharded<Shard<LIMITS>>);

struct Shard<const LIMITS: usize> {
    /// The number of values in each bucket, below its limit and not below the previous one.
    counts: [AtomicU64; LIMITS],
    /// The number of values at or above the last limit.
    beyond: AtomicU64,
    /// The sum of the values, in thousandths.
    sum: AtomicU64,
}

impl<const LIMITS: usize> Default for Shard<LIMITS> {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { counts: std::array::from_fn(|_| zero()), beyond: zero(), sum: zero() }
    }
}

impl<const LIMITS: usize> Default for Histogram<LIMITS> {
    fn default() -> Self {
        Self(Sharded::default())
    }
}

impl<const LIMITS: usize> Histogram<LIMITS> {
    /// Adds a value, which must not be negative. A value that equals a limit counts as above it.
    pub(super) fn record(&self, limits: &[f64; LIMITS], value: f64) {
        let shard = self.0.own();
        let at = limits.partition_point(|limit| *limit <= value);
        shard.counts.get(at).unwrap_or(&shard.beyond).fetch_add(1, Ordering::Relaxed);
        shard.sum.fetch_add((value * 1000.0) as u64, Ordering::Relaxed);
    }

    /// Adds the counts of another histogram.
    pub(super) fn absorb(&self, other: &Self) {
        let into = self.0.own();
        let pour = |into: &AtomicU64, from: &AtomicU64| {
            into.fetch_add(from.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        };
        for from in other.0.iter() {
            into.counts.iter().zip(&from.counts).for_each(|(into, from)| pour(into, from));
            pour(&into.beyond, &from.beyond);
            pour(&into.sum, &from.sum);
        }
    }

    /// The current distribution.
    pub(super) fn read(&self, limits: &'static [f64; LIMITS]) -> Distribution {
        let mut read = Distribution::new(limits);
        let mut thousandths = 0;
        for shard in self.0.iter() {
            for (sum, count) in read.counts.iter_mut().zip(shard.counts.iter().chain([&shard.beyond])) {
                *sum += count.load(Ordering::Relaxed);
            }
            thousandths += shard.sum.load(Ordering::Relaxed);
        }
        Distribution { sum: thousandths as f64 / 1000.0, ..read }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use servable_model::distribution::exponential;

    static LIMITS: [f64; 4] = exponential(1.0, 2.0);

    #[test]
    fn a_value_at_a_limit_counts_as_above_it() {
        let histogram = Histogram::default();
        for value in [0.0, 0.999, 1.0, 2.0, 3.5, 8.0, 100.25] {
            histogram.record(&LIMITS, value);
        }
        let Distribution { limits, counts, sum } = histogram.read(&LIMITS);
        assert_eq!(*limits, [1.0, 2.0, 4.0, 8.0]);
        assert_eq!(counts, [2, 1, 2, 0, 2]);
        assert!((sum - 115.749).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn nothing_is_lost_between_threads_and_when_one_absorbs_another() {
        let (histogram, other) = (Histogram::default(), Histogram::default());
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..1000).for_each(|_| other.record(&LIMITS, 3.0)));
            }
        });
        histogram.record(&LIMITS, 3.0);
        histogram.absorb(&other);
        let Distribution { counts, sum, .. } = histogram.read(&LIMITS);
        assert_eq!((counts[2], sum), (20_001, 60_003.0));
        assert_eq!(other.read(&LIMITS).counts, [0; 5]);
    }
}
