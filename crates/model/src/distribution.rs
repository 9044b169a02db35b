//! The histogram type that all statistics share.

use std::borrow::Cow;

/// Exponential bucket bounds: `scale`, `scale × growth`, and so on.
pub const fn exponential<const LIMITS: usize>(scale: f64, growth: f64) -> [f64; LIMITS] {
    let mut limits = [scale; LIMITS];
    let mut at = 1;
    while at < LIMITS {
        limits[at] = limits[at - 1] * growth;
        at += 1;
    }
    limits
}

/// A histogram: counts of values by bucket, and their sum.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// The upper bounds of all buckets but the last. A value that equals a bound belongs to the next bucket.
    pub limits: Cow<'static, [f64]>,
    /// The number of values in each bucket. There is one more bucket than bounds.
    pub counts: Vec<u64>,
    /// The sum of all values.
    pub sum: f64,
}

impl Distribution {
    /// An empty histogram with these bounds.
    pub fn new(limits: &'static [f64]) -> Self {
        Self { limits: Cow::Borrowed(limits), counts: vec![0; limits.len() + 1], sum: 0.0 }
    }

    /// Adds a value.
    pub fn record(&mut self, value: f64) {
        self.record_times(value, 1);
    }

    /// Adds a value `times` times.
    pub fn record_times(&mut self, value: f64, times: u64) {
        let at = self.limits.partition_point(|limit| *limit <= value);
        self.counts[at] += times;
        self.sum += value * times as f64;
    }

    /// Adds the values of another histogram, which must have the same bounds.
    pub fn absorb(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, more)| *own += more);
        self.sum += other.sum;
    }

    /// The number of all values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The bound below which this share of the values lies; infinity beyond the last bound, `None` without values.
    pub fn quantile_below(&self, share: f64) -> Option<f64> {
        let count = self.count();
        let wanted = (count as f64 * share).ceil().max(1.0) as u64;
        let mut below = 0;
        let at = self.counts.iter().position(|count| {
            below += count;
            below >= wanted
        });
        at.filter(|_| count > 0).map(|at| self.limits.get(at).copied().unwrap_or(f64::INFINITY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static LIMITS: [f64; 3] = exponential(1.0, 2.0);

    fn of(values: &[f64]) -> Distribution {
        let mut distribution = Distribution::new(&LIMITS);
        for &value in values {
            distribution.record(value);
        }
        distribution
    }

    #[test]
    fn a_value_at_a_limit_counts_as_above_it_and_distributions_add_up() {
        let mut distribution = of(&[0.5, 1.0, 2.5]);
        distribution.absorb(&of(&[4.0, 2.0]));
        assert_eq!(*distribution.limits, [1.0, 2.0, 4.0]);
        assert_eq!((distribution.counts, distribution.sum), (vec![1, 1, 2, 1], 10.0));
    }

    #[test]
    fn quantiles_are_rounded_up_to_bounds() {
        let distribution = of(&[0.5, 1.5, 1.5, 3.0, 9.0]);
        let quantiles = [0.0, 0.2, 0.5, 0.8, 0.99].map(|share| distribution.quantile_below(share));
        assert_eq!(quantiles, [1.0, 1.0, 2.0, 4.0, f64::INFINITY].map(Some));
        assert_eq!(of(&[]).quantile_below(0.5), None);
    }
}
