//! Adaptive batching: chooses the size and the timeout of batches to meet a latency objective.
//!
//! [`Controller`] decides from two inputs: the rows that arrive, and the batches that were run. It has no clock and no
//! thread, and can explain its decisions. [`Adaptive`] shares a controller between a queue and the threads that run its
//! batches.
//!
//! - Size: a request may have to wait for another batch first. Of the sizes that leave time for that, the one with the
//!   highest throughput is chosen.
//! - Timeout: a batch that is not full waits only if the threads are busy. It waits for the time in which it is
//!   expected to fill, as far as the objective allows.
//! - Load shedding: rows that cannot be answered in time are refused.
//!
//! Estimates are EWMAs. A margin, which shrinks while too many answers are late, compensates for their errors.

mod size;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::options::BatchingOptions;
use size::Size;

/// The weight of the last measurement in EWMAs.
const EWMA_WEIGHT: f64 = 0.125;

/// Throughputs that differ by less than this fraction count as equal. The smaller size is then preferred: it is faster.
const TOLERANCE: f64 = 0.03;

/// The interval over which rates are measured.
const WINDOW: Duration = Duration::from_millis(50);

/// The margin is adjusted once in this many answers. It begins at the second value, and stays within the range.
const MARGIN_INTERVAL: usize = 64;
const FIRST_MARGIN: f64 = 0.8;
const MARGINS: std::ops::RangeInclusive<f64> = 0.2..=0.9;

/// The number of late answers in one such interval up to which the margin grows.
const ALLOWED_LATE: usize = MARGIN_INTERVAL / 20;

/// Utilization below the first value: batches do not wait. Above the second: they wait as long as they may. Linear
/// between.
const BUSY: (f64, f64) = (0.5, 0.9);

/// The decision of a controller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// The rows at which a batch is full.
    pub target_size: usize,
    /// The rows of the pieces of split requests.
    pub piece_size: usize,
    /// How long a batch that is not full waits.
    pub wait: Duration,
    /// The maximum number of waiting rows.
    pub max_waiting_rows: usize,
}

/// A decision, with the estimates that led to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The latency objective.
    pub objective: Duration,
    /// The decision.
    pub decision: Decision,
    /// Whether any size can meet the objective.
    pub is_attainable: bool,
    /// The fraction of the objective that estimates may use.
    pub margin: f64,
    /// The arrival rate, in rows a second.
    pub arrival_rate: f64,
    /// The fraction of the time of the threads that was spent on these batches, from 0 to 1.
    pub utilization: f64,
    /// For each size that was run: its mean run time, and the upper bound of nearly all runs.
    pub run_times: Vec<(usize, Duration, Duration)>,
}

/// The controller of one queue.
pub struct Controller {
    objective: f64,
    slots: f64,
    /// The sizes with separate estimates, ascending.
    sizes: Vec<Size>,
    max_rows: usize,
    arrival_rate: f64,
    utilization: f64,
    margin: f64,
    batches: u64,
    answers: usize,
    late: usize,
    window: Option<Window>,
}

/// The forecast run time of a batch, in seconds: the mean, and the upper bound of nearly all runs.
#[derive(Clone, Copy)]
struct Forecast {
    mean: f64,
    high: f64,
}

/// The measurements since the rates were last updated.
struct Window {
    began: Instant,
    rows: f64,
    busy: f64,
}

/// The throughput of batches of a size, in rows a second.
fn rate((size, forecast): (usize, Forecast)) -> f64 {
    size as f64 / forecast.mean.max(f64::MIN_POSITIVE)
}

/// The size with the highest throughput, of sizes in ascending order; `None` if there are none.
fn most_rows(sizes: impl Iterator<Item = (usize, Forecast)>) -> Option<(usize, Forecast)> {
    sizes.reduce(|best, other| if rate(other) <= rate(best) * (1.0 + TOLERANCE) { best } else { other })
}

impl Controller {
    /// A controller for batches that run in this number of slots.
    pub fn new(objective: Duration, options: &BatchingOptions, slots: usize) -> Self {
        let size = options.execution_size();
        let mut sizes: Vec<usize> = match &options.allowed_batch_sizes[..] {
            [] => std::iter::successors(Some(1_usize), |size| size.checked_mul(2)).take_while(|&n| n < size).collect(),
            allowed => allowed.iter().copied().filter(|&allowed| allowed < size).collect(),
        };
        sizes.push(size);
        Self {
            objective: objective.as_secs_f64(),
            slots: slots.max(1) as f64,
            sizes: sizes.into_iter().map(Size::new).collect(),
            max_rows: options.max_enqueued_batches.saturating_mul(size),
            arrival_rate: 0.0,
            utilization: 0.0,
            margin: FIRST_MARGIN,
            batches: 0,
            answers: 0,
            late: 0,
            window: None,
        }
    }

    /// Records rows that have arrived until `now`.
    pub fn arrived(&mut self, rows: usize, now: Instant) {
        self.window(now).rows += rows as f64;
        self.close_window(now);
    }

    /// Records a batch: its rows with padding, its run time, the number of answers, and how many of them were late.
    pub fn ran(&mut self, padded: usize, took: Duration, answers: usize, late: usize, now: Instant) {
        let took = took.as_secs_f64();
        let index = self.sizes.partition_point(|size| size.rows < padded).min(self.sizes.len() - 1);
        self.batches += 1;
        self.sizes[index].ran(took, self.batches);
        for size in &mut self.sizes {
            size.expire(self.batches);
        }
        self.window(now).busy += took;
        self.close_window(now);
        self.answers += answers;
        self.late += late;
        if self.answers >= MARGIN_INTERVAL {
            let factor = if self.late * MARGIN_INTERVAL > ALLOWED_LATE * self.answers { 0.9 } else { 1.02 };
            self.margin = (self.margin * factor).clamp(*MARGINS.start(), *MARGINS.end());
            (self.answers, self.late) = (0, 0);
        }
    }

    fn window(&mut self, now: Instant) -> &mut Window {
        self.window.get_or_insert(Window { began: now, rows: 0.0, busy: 0.0 })
    }

    fn close_window(&mut self, now: Instant) {
        let Some(window) = &self.window else { return };
        let elapsed = now.saturating_duration_since(window.began);
        if elapsed < WINDOW {
            return;
        }
        let seconds = elapsed.as_secs_f64();
        // A longer window has more weight.
        let weight = 1.0 - (1.0 - EWMA_WEIGHT).powf(seconds / WINDOW.as_secs_f64());
        self.arrival_rate += weight * (window.rows / seconds - self.arrival_rate);
        self.utilization += weight * ((window.busy / seconds / self.slots).min(1.0) - self.utilization);
        self.window = None;
    }

    /// The forecast for a batch of the size at this index.
    ///
    /// The forecast of a size that was not run is optimistic in the mean, and pessimistic in the bound. The mean is
    /// that of the next smaller size, so that the size is tried. The bound grows in proportion to the size, so that a
    /// trial does not endanger the objective. While the threads are saturated, the bound does not grow: requests are
    /// refused anyway, and a failed trial makes only few of them late.
    fn forecast(&self, index: usize) -> Option<Forecast> {
        let known = |index: usize| self.sizes[index].known();
        if let Some(known) = known(index) {
            return Some(Forecast { mean: known.mean, high: known.high() });
        }
        if let Some(smaller) = index.checked_sub(1).and_then(known) {
            let is_worth_a_trial = self.utilization > BUSY.1;
            let growth =
                if is_worth_a_trial { 1.0 } else { self.sizes[index].rows as f64 / self.sizes[index - 1].rows as f64 };
            return Some(Forecast { mean: smaller.mean, high: smaller.high() * growth });
        }
        let larger = (index + 1..self.sizes.len()).find_map(known)?;
        Some(Forecast { mean: larger.mean, high: larger.high() })
    }

    /// The sizes, ascending, with their forecasts.
    fn forecasts(&self) -> impl Iterator<Item = (usize, Forecast)> {
        (0..self.sizes.len()).filter_map(|index| Some((self.sizes[index].rows, self.forecast(index)?)))
    }

    /// The latency of a request whose batch has this run time, if it has to wait for a slot.
    fn response(&self, run_time: f64) -> f64 {
        run_time * (1.0 + 1.0 / self.slots)
    }

    /// The latency that a forecast may have: the objective times the margin.
    ///
    /// Late answers shrink the margin, but the budget stays at least the latency of the smallest batch with an
    /// estimate. Otherwise no size would be within the budget, and load shedding would end. The queue would fill up,
    /// all answers would be late, and the margin could not recover.
    fn budget(&self) -> f64 {
        let wanted = self.objective * self.margin;
        let quickest = self.sizes.iter().find_map(Size::known).map(|known| self.response(known.high()));
        quickest
            .filter(|&quickest| quickest <= self.objective * MARGINS.end())
            .map_or(wanted, |least| wanted.max(least))
    }

    /// The sizes within the budget, ascending, with their forecasts.
    fn fast_enough(&self, budget: f64) -> impl Iterator<Item = (usize, Forecast)> {
        self.forecasts().filter(move |(_, forecast)| self.response(forecast.high) <= budget)
    }

    /// The current decision. Before the first batch has run, requests are not joined.
    pub fn decide(&self) -> Decision {
        let budget = self.budget();
        let Some((best_size, forecast)) = most_rows(self.fast_enough(budget)) else {
            // No size is within the budget. First the smallest size is measured. If that is too slow as well, all
            // answers are late; the size with the highest throughput then gives the shortest queue.
            let smallest = self.sizes[0].known().and_then(|_| most_rows(self.forecasts()));
            let target_size = smallest.map_or(self.sizes[0].rows, |(size, _)| size);
            let (piece_size, max_waiting_rows) = (self.sizes[self.sizes.len() - 1].rows, self.max_rows);
            return Decision { target_size, piece_size, wait: Duration::ZERO, max_waiting_rows };
        };
        // If the best size is beyond the margin, the smallest size is measured first. If requests are larger, it never
        // is.
        let is_last_resort = budget > self.objective * self.margin && self.sizes[0].known().is_none();
        let target_size = if is_last_resort { self.sizes[0].rows } else { best_size };
        let best = (best_size, forecast);
        // Smaller pieces than necessary would only have to be joined again.
        let as_good = self.fast_enough(budget).filter(|&other| rate(other) >= rate(best) * (1.0 - TOLERANCE));
        let piece_size = as_good.map(|(size, _)| size).max().unwrap_or(best_size);
        let slack = (budget - self.response(forecast.high)).max(0.0);
        let fill = target_size as f64 / self.arrival_rate.max(f64::MIN_POSITIVE);
        let eagerness = ((self.utilization - BUSY.0) / (BUSY.1 - BUSY.0)).clamp(0.0, 1.0);
        // If batches do not fill in time, waiting gains nothing.
        let wait = if fill > self.objective { 0.0 } else { slack.min(fill) * eagerness };
        let in_time = (budget - forecast.high) * self.slots * rate(best);
        let in_time = in_time.min(self.max_rows as f64) as usize;
        Decision {
            target_size,
            piece_size,
            wait: Duration::from_secs_f64(wait),
            max_waiting_rows: in_time.clamp(target_size.min(self.max_rows), self.max_rows),
        }
    }

    /// The current decision, with the estimates that led to it.
    pub fn explain(&self) -> Explanation {
        let known: Vec<_> = self.sizes.iter().filter_map(|size| Some((size.rows, size.estimate?))).collect();
        let seconds = Duration::from_secs_f64;
        Explanation {
            objective: seconds(self.objective),
            decision: self.decide(),
            is_attainable: known.is_empty() || self.fast_enough(self.budget()).next().is_some(),
            margin: self.margin,
            arrival_rate: self.arrival_rate,
            utilization: self.utilization,
            run_times: known
                .into_iter()
                .map(|(size, known)| (size, seconds(known.mean), seconds(known.high())))
                .collect(),
        }
    }
}

/// A controller shared by a queue and the threads that run its batches.
///
/// The queue reads the last decision from atomic numbers, and never takes the lock.
pub(super) struct Adaptive {
    controller: Mutex<Controller>,
    pub(super) objective: Duration,
    arrived: AtomicUsize,
    target_size: AtomicUsize,
    piece_size: AtomicUsize,
    wait_nanos: AtomicU64,
    max_waiting_rows: AtomicUsize,
}

impl Adaptive {
    pub(super) fn new(objective: Duration, options: &BatchingOptions, slots: usize) -> Self {
        let controller = Controller::new(objective, options, slots);
        let Decision { target_size, piece_size, wait, max_waiting_rows } = controller.decide();
        Self {
            controller: Mutex::new(controller),
            objective,
            arrived: AtomicUsize::new(0),
            target_size: AtomicUsize::new(target_size),
            piece_size: AtomicUsize::new(piece_size),
            wait_nanos: AtomicU64::new(wait.as_nanos() as u64),
            max_waiting_rows: AtomicUsize::new(max_waiting_rows),
        }
    }

    /// Records rows that were queued.
    pub(super) fn arrived(&self, rows: usize) {
        self.arrived.fetch_add(rows, Ordering::Relaxed);
    }

    /// Records a batch that ended `now`, and decides anew; see [`Controller::ran`].
    pub(super) fn ran(&self, padded: usize, took: Duration, answers: usize, late: usize, now: Instant) {
        let mut controller = self.controller();
        controller.arrived(self.arrived.swap(0, Ordering::Relaxed), now);
        controller.ran(padded, took, answers, late, now);
        let Decision { target_size, piece_size, wait, max_waiting_rows } = controller.decide();
        self.target_size.store(target_size, Ordering::Relaxed);
        self.piece_size.store(piece_size, Ordering::Relaxed);
        self.wait_nanos.store(wait.as_nanos() as u64, Ordering::Relaxed);
        self.max_waiting_rows.store(max_waiting_rows, Ordering::Relaxed);
    }

    /// The last decision.
    pub(super) fn decision(&self) -> Decision {
        Decision {
            target_size: self.target_size.load(Ordering::Relaxed),
            piece_size: self.piece_size.load(Ordering::Relaxed),
            wait: Duration::from_nanos(self.wait_nanos.load(Ordering::Relaxed)),
            max_waiting_rows: self.max_waiting_rows.load(Ordering::Relaxed),
        }
    }

    pub(super) fn explain(&self) -> Explanation {
        self.controller().explain()
    }

    fn controller(&self) -> MutexGuard<'_, Controller> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
