//! How large batches may grow and how long they may wait, so that answers keep to a latency objective.
//!
//! [`Controller`] decides from what it is told: rows that arrive, batches that have run. It has no clock and no thread, and
//! can say what it knows and what follows from it. [`Adaptive`] is what a queue and the threads that run its batches
//! share of it.
//!
//! The rule: of the sizes that leave time for a request to wait for the batch before its own, the one with the most rows
//! a second. A batch that is not full waits only if the threads are busy, and then as long as its size takes to arrive
//! and the objective allows. More than can be answered in time is refused. The estimates are of the recent past, and a
//! margin that shrinks while too many answers are late makes up for what they miss.

mod size;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::options::BatchingOptions;
use size::Size;

/// An estimate moves by this fraction of its distance to the last measurement.
const EWMA_WEIGHT: f64 = 0.125;

/// Sizes whose throughput differs by less than this are as good as each other, and the smaller one is quicker.
const TOLERANCE: f64 = 0.03;

/// How long rates are measured before they count.
const WINDOW: Duration = Duration::from_millis(50);

/// After so many answers the margin is looked at, and where it begins and ends.
const MARGIN_INTERVAL: usize = 64;
const FIRST_MARGIN: f64 = 0.8;
const MARGINS: std::ops::RangeInclusive<f64> = 0.2..=0.9;

/// Answers that may be late, of those that the margin is looked at for.
const ALLOWED_LATE: usize = MARGIN_INTERVAL / 20;

/// Below the first, threads have time enough for small batches; above the second, every batch is worth filling.
const BUSY: (f64, f64) = (0.5, 0.9);

/// What follows from what is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// The rows at which a batch is full.
    pub target_size: usize,
    /// The rows of the pieces that large requests are cut into, where they are.
    pub piece_size: usize,
    /// How long a batch that is not full waits.
    pub wait: Duration,
    /// How many rows may wait.
    pub max_waiting_rows: usize,
}

/// A decision, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// By when answers should be there.
    pub objective: Duration,
    /// What follows.
    pub decision: Decision,
    /// Whether any size is quick enough.
    pub is_attainable: bool,
    /// The part of the objective that estimates may use up.
    pub margin: f64,
    /// Rows a second that arrive.
    pub arrival_rate: f64,
    /// The part of the time that the threads have spent on these batches, from 0 to 1.
    pub utilization: f64,
    /// For each size that has been run: how long that takes, and what it hardly ever exceeds.
    pub run_times: Vec<(usize, Duration, Duration)>,
}

/// Decides for one queue.
pub struct Controller {
    objective: f64,
    slots: f64,
    /// The sizes that are told apart, ascending.
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

/// What a batch can be expected to take, and what it will hardly exceed, in seconds.
#[derive(Clone, Copy)]
struct Forecast {
    mean: f64,
    high: f64,
}

/// What has happened since the rates were last looked at.
struct Window {
    began: Instant,
    rows: f64,
    busy: f64,
}

/// Rows a second in batches of a size.
fn rate((size, forecast): (usize, Forecast)) -> f64 {
    size as f64 / forecast.mean.max(f64::MIN_POSITIVE)
}

/// Of some sizes, ascending, the one with the most rows a second; `None` if there are none.
fn most_rows(sizes: impl Iterator<Item = (usize, Forecast)>) -> Option<(usize, Forecast)> {
    sizes.reduce(|best, other| if rate(other) <= rate(best) * (1.0 + TOLERANCE) { best } else { other })
}

impl Controller {
    /// One for batches that so many threads run.
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

    /// Notes rows that have arrived until `now`.
    pub fn arrived(&mut self, rows: usize, now: Instant) {
        self.window(now).rows += rows as f64;
        self.close_window(now);
    }

    /// Notes a batch: the rows that it was run with, padding included, how long that took, and how many answers there
    /// were and how many of them came after the objective.
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
        // A window that lasted longer says more.
        let weight = 1.0 - (1.0 - EWMA_WEIGHT).powf(seconds / WINDOW.as_secs_f64());
        self.arrival_rate += weight * (window.rows / seconds - self.arrival_rate);
        self.utilization += weight * ((window.busy / seconds / self.slots).min(1.0) - self.utilization);
        self.window = None;
    }

    /// What a batch of the size at this place takes.
    ///
    /// One that has not been run is hoped to take no longer than the next smaller one, so that it is tried, and feared to
    /// take longer in proportion to its size, so that it is not tried at the cost of the objective: unless the threads
    /// are busy all the time, when requests are refused for certain, and few of them are late if the trial fails.
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

    /// The sizes, ascending, with what they take.
    fn forecasts(&self) -> impl Iterator<Item = (usize, Forecast)> {
        (0..self.sizes.len()).filter_map(|index| Some((self.sizes[index].rows, self.forecast(index)?)))
    }

    /// How long a request takes in all whose batch is run in this time, if it has to wait for a thread.
    fn response(&self, run_time: f64) -> f64 {
        run_time * (1.0 + 1.0 / self.slots)
    }

    /// How long the answer to a request may take by the estimates.
    ///
    /// Late answers shrink it, but not below what the smallest batches take of which that is known. If these were given up
    /// as well, all requests would be let in that the queue has room for, their answers would be late for that, and so it
    /// would stay.
    fn budget(&self) -> f64 {
        let wanted = self.objective * self.margin;
        let quickest = self.sizes.iter().find_map(Size::known).map(|known| self.response(known.high()));
        quickest
            .filter(|&quickest| quickest <= self.objective * MARGINS.end())
            .map_or(wanted, |least| wanted.max(least))
    }

    /// The sizes that are quick enough, ascending, with what they take.
    fn fast_enough(&self, budget: f64) -> impl Iterator<Item = (usize, Forecast)> {
        self.forecasts().filter(move |(_, forecast)| self.response(forecast.high) <= budget)
    }

    /// What follows from what is known by now. Before the first batch has run, requests are not joined.
    pub fn decide(&self) -> Decision {
        let budget = self.budget();
        let Some((best_size, forecast)) = most_rows(self.fast_enough(budget)) else {
            // Small batches are the quickest there are, and have to be known. If not even they are quick enough, answers
            // are late whatever is done, and come soonest where a request waits for as few batches as can be.
            let smallest = self.sizes[0].known().and_then(|_| most_rows(self.forecasts()));
            let target_size = smallest.map_or(self.sizes[0].rows, |(size, _)| size);
            let (piece_size, max_waiting_rows) = (self.sizes[self.sizes.len() - 1].rows, self.max_rows);
            return Decision { target_size, piece_size, wait: Duration::ZERO, max_waiting_rows };
        };
        // Of sizes beyond what the margin leaves, the smallest has to be known. It may never be, if requests are larger.
        let is_last_resort = budget > self.objective * self.margin && self.sizes[0].known().is_none();
        let target_size = if is_last_resort { self.sizes[0].rows } else { best_size };
        let best = (best_size, forecast);
        // Whatever is cut more often than it has to be is joined again for nothing.
        let as_good = self.fast_enough(budget).filter(|&other| rate(other) >= rate(best) * (1.0 - TOLERANCE));
        let piece_size = as_good.map(|(size, _)| size).max().unwrap_or(best_size);
        let slack = (budget - self.response(forecast.high)).max(0.0);
        let fill = target_size as f64 / self.arrival_rate.max(f64::MIN_POSITIVE);
        let eagerness = ((self.utilization - BUSY.0) / (BUSY.1 - BUSY.0)).clamp(0.0, 1.0);
        // If they cannot be filled in time there is no use in waiting for that.
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

    /// The decision, and what it is made of.
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

/// A controller as a queue and the threads share it: the queue reads the last decision, and never waits for one.
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

    /// Notes rows that have come into the queue.
    pub(super) fn arrived(&self, rows: usize) {
        self.arrived.fetch_add(rows, Ordering::Relaxed);
    }

    /// Notes a batch that has ended `now`; see [`Controller::ran`].
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
