use super::*;

const OBJECTIVE: Duration = Duration::from_millis(50);

/// A controller with a manual clock, and simulated threads. A function of the size gives the run time.
struct Bench<F> {
    controller: Controller,
    now: Instant,
    run_micros: F,
}

impl<F: Fn(usize) -> u64> Bench<F> {
    fn new(max_batch_size: usize, run_micros: F) -> Self {
        let options = BatchingOptions { max_batch_size, ..BatchingOptions::default() };
        Self { controller: Controller::new(OBJECTIVE, &options, 2), now: Instant::now(), run_micros }
    }

    /// Simulates both threads for this time, with batches of the decided size, while rows arrive at this rate.
    /// `is_late` tells from the run time whether the answers are late.
    fn play(&mut self, seconds: f64, rows_a_second: f64, is_late: impl Fn(Duration) -> bool) {
        let end = self.now + Duration::from_secs_f64(seconds);
        while self.now < end {
            let decision = self.controller.decide();
            let fill = Duration::from_secs_f64(decision.target_size as f64 / rows_a_second);
            let took = Duration::from_micros((self.run_micros)(decision.target_size));
            // Two threads share the work; a batch is ready when it has filled or its wait is over.
            let next_row = Duration::from_secs_f64(1.0 / rows_a_second);
            let gap = (took / 2).max(fill.min(decision.wait.max(next_row)));
            self.now += gap;
            let rows = ((gap.as_secs_f64() * rows_a_second) as usize).clamp(1, decision.target_size);
            let took = Duration::from_micros((self.run_micros)(rows));
            self.controller.arrived(rows, self.now);
            self.controller.ran(rows, took, rows, if is_late(took) { rows } else { 0 }, self.now);
        }
    }
}

#[test]
fn requests_are_not_joined_and_do_not_wait_before_the_first_measurement() {
    let bench = Bench::new(64, |_| 1000);
    let decision = bench.controller.decide();
    assert_eq!((decision.target_size, decision.wait), (1, Duration::ZERO));
    assert_eq!(decision.piece_size, 64, "nor cut");
    assert_eq!(decision.max_waiting_rows, 640, "the bound of the queue");
    assert!(bench.controller.explain().is_attainable, "nothing speaks against it");
}

#[test]
fn batches_grow_as_large_as_pays_and_the_objective_allows() {
    // 10 ms for anything: the largest batch is the best.
    let mut flat = Bench::new(64, |_| 10_000);
    flat.play(5.0, 100_000.0, |_| false);
    assert_eq!(flat.controller.decide().target_size, 64);
    // 1 ms a row and 1 ms for each batch: 25 rows and more take too long with the batch before.
    let mut steep = Bench::new(64, |rows| 1000 + 1000 * rows as u64);
    steep.play(5.0, 100_000.0, |_| false);
    assert_eq!(steep.controller.decide().target_size, 16);
    // Nothing to gain: a batch takes as long as its rows one by one.
    let mut proportional = Bench::new(64, |rows| 1000 * rows as u64);
    proportional.play(5.0, 100_000.0, |_| false);
    assert_eq!(proportional.controller.decide().target_size, 1);
}

#[test]
fn requests_are_cut_no_smaller_than_the_objective_asks_for() {
    let piece_size = |run_micros: fn(usize) -> u64| {
        let options = BatchingOptions { max_batch_size: 64, ..BatchingOptions::default() };
        let mut controller = Controller::new(OBJECTIVE, &options, 2);
        for size in (0..=6).map(|power| 1 << power) {
            let took = Duration::from_micros(run_micros(size));
            (0..2).for_each(|_| controller.ran(size, took, size, 0, Instant::now()));
        }
        let Decision { target_size, piece_size, .. } = controller.decide();
        (target_size, piece_size)
    };
    // 40 ms of the 50 may be used up, and each waits for half of another one.
    assert_eq!(piece_size(|rows| 1000 + 1000 * rows as u64), (16, 16), "32 take too long");
    assert_eq!(piece_size(|rows| 1000 * rows as u64), (1, 16), "the same rows a second, and less to join");
    assert_eq!(piece_size(|rows| if rows > 4 { 2000 * rows as u64 } else { 1000 }), (4, 4), "larger ones are slower");
    assert_eq!(piece_size(|_| 100_000), (64, 64), "no size is quick enough");
}

#[test]
fn a_faster_size_is_found_beyond_a_slower_one() {
    // As matrix products do: two rows take longer than four, and from the times of one and two, four look too slow.
    let run_micros = |rows| match rows {
        0..=1 => 10_000,
        2 => 17_000,
        3..=4 => 16_500,
        5..=8 => 20_000,
        _ => 39_000,
    };
    let mut busy = Bench::new(64, run_micros);
    busy.play(5.0, 100_000.0, |_| false);
    assert_eq!(busy.controller.decide().target_size, 8, "{:?}", busy.controller.explain());
    // While the threads keep up, no trial may endanger the objective.
    let mut calm = Bench::new(64, run_micros);
    calm.play(5.0, 50.0, |_| false);
    assert!(calm.controller.explain().run_times.len() <= 2, "{:?}", calm.controller.explain());
}

#[test]
fn the_target_size_is_always_an_allowed_one() {
    let options = BatchingOptions { max_batch_size: 30, allowed_batch_sizes: vec![3, 10, 30], ..Default::default() };
    let mut controller = Controller::new(OBJECTIVE, &options, 1);
    let now = Instant::now();
    for size in [3, 10, 30] {
        (0..2).for_each(|_| controller.ran(size, Duration::from_millis(9 + size as u64), size, 0, now));
    }
    assert_eq!(controller.decide().target_size, 10, "39 ms after another 39 ms are too much");
}

#[test]
fn batches_wait_only_while_the_threads_are_busy() {
    let mut idle = Bench::new(64, |rows| 2000 + 10 * rows as u64);
    idle.play(5.0, 20.0, |_| false);
    assert_eq!(idle.controller.decide().wait, Duration::ZERO);
    let mut busy = Bench::new(64, |rows| 2000 + 10 * rows as u64);
    busy.play(5.0, 20_000.0, |_| false);
    let decision = busy.controller.decide();
    assert_eq!(decision.target_size, 64);
    assert!(decision.wait <= Duration::from_millis(40), "{decision:?}");
    assert!(busy.controller.explain().utilization > 0.3, "{:?}", busy.controller.explain());
}

#[test]
fn a_busy_queue_waits_no_longer_than_its_batches_take_to_fill_and_the_objective_leaves() {
    let options = BatchingOptions { max_batch_size: 8, ..BatchingOptions::default() };
    let mut controller = Controller::new(OBJECTIVE, &options, 1);
    let start = Instant::now();
    for step in 1..=400_u32 {
        // Eight rows every 10 ms, and all of that time is spent on running them.
        let now = start + step * Duration::from_millis(10);
        controller.arrived(8, now);
        controller.ran(8, Duration::from_millis(10), 8, 0, now);
    }
    let decision = controller.decide();
    assert_eq!(decision.target_size, 8);
    let fill = Duration::from_millis(10);
    assert!((fill / 2..=fill * 6 / 5).contains(&decision.wait), "{decision:?}");
    // Four batches of 10 ms can be answered within 90 % of 50 ms, with one that runs.
    assert!((24..=36).contains(&decision.max_waiting_rows), "{decision:?}");
}

#[test]
fn late_answers_shrink_the_margin() {
    let mut bench = Bench::new(64, |rows| 1000 + 1000 * rows as u64);
    bench.play(2.0, 100_000.0, |_| false);
    let before = bench.controller.decide().target_size;
    bench.play(5.0, 100_000.0, |took| took > Duration::from_millis(10));
    let after = bench.controller.decide().target_size;
    assert!(after < before, "{after} after {before}");
    assert!(bench.controller.explain().margin < FIRST_MARGIN);
    bench.play(20.0, 100_000.0, |_| false);
    assert_eq!(bench.controller.decide().target_size, before, "and it recovers");
}

#[test]
fn an_objective_that_no_size_can_meet_is_reported_as_unattainable_and_ignored() {
    let mut bench = Bench::new(8, |_| 100_000);
    bench.play(2.0, 100.0, |_| true);
    let Explanation { decision, is_attainable, .. } = bench.controller.explain();
    assert!(!is_attainable);
    let rows = (decision.target_size, decision.max_waiting_rows);
    assert_eq!((rows, decision.wait), ((8, 80), Duration::ZERO), "the most rows a second, and none refused early");
}

#[test]
fn requests_are_refused_in_time_whatever_the_margin() {
    // With the batch before it, even one row takes longer than the smallest margin allows.
    let mut bench = Bench::new(64, |rows| 12_000 + 100 * rows as u64);
    bench.play(2.0, 100_000.0, |_| true);
    let Explanation { decision, is_attainable, margin, .. } = bench.controller.explain();
    assert!(margin < 0.3, "{margin}");
    assert!(is_attainable);
    assert!(decision.max_waiting_rows < 64, "{decision:?}");
    bench.play(30.0, 100_000.0, |_| false);
    assert_eq!(bench.controller.decide().target_size, 64, "{:?}", bench.controller.explain());
}

#[test]
fn requests_that_are_all_large_are_refused_in_time_as_well() {
    // No request is small enough to measure small batches, and the margin is below the latency of the larger ones.
    let options = BatchingOptions { max_batch_size: 64, ..BatchingOptions::default() };
    let mut controller = Controller::new(OBJECTIVE, &options, 1);
    let mut now = Instant::now();
    for late in [40, 0].iter().flat_map(|&late| [late; 60]) {
        now += Duration::from_millis(18);
        controller.arrived(40, now);
        controller.ran(40, Duration::from_millis(18), 40, late, now);
        assert!(controller.batches < 30 || controller.decide().max_waiting_rows <= 100, "{:?}", controller.explain());
    }
    assert!(controller.explain().is_attainable);
}

/// The target size after batches of the largest size were slower by these factors, one after the other.
fn target_after(times_as_long: &[u32], seconds: f64) -> usize {
    let took = Duration::from_millis(10);
    let mut bench = Bench::new(64, |_| 10_000);
    for times in times_as_long {
        bench.controller.ran(64, took * *times, 64, 0, bench.now);
    }
    bench.play(seconds, 100_000.0, |_| false);
    bench.controller.decide().target_size
}

#[test]
fn the_estimate_of_a_run_that_was_slow_by_chance_expires_soon() {
    // In a second, 200 batches of 10 ms are run.
    assert_eq!(target_after(&[1, 1, 20], 0.1), 64, "one counts for little");
    assert_eq!(target_after(&[1, 1, 1, 1, 1, 1, 1, 20], 0.1), 64, "nor later");
    assert_eq!(target_after(&[20, 20, 20], 0.1), 32, "three seem to be the rule");
    assert_eq!(target_after(&[20, 20, 20], 2.0), 64);
}

#[test]
fn a_size_that_is_too_slow_is_tried_less_and_less_often() {
    let mut bench = Bench::new(64, |rows| 1000 + 1000 * rows as u64);
    bench.play(200.0, 100_000.0, |_| false);
    let (batches, tried) = (bench.controller.batches, bench.controller.sizes[5].runs);
    assert_eq!(bench.controller.sizes[5].rows, 32);
    assert!((4..batches / 250).contains(&tried), "{tried} of {batches}");
}
