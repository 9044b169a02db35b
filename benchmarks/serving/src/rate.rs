//! Counts the runs of a model by several threads, and measures them for a while.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cpu_time;

/// The duration of the warm-up.
const WARM_UP: Duration = Duration::from_millis(100);

/// The result of one combination.
pub struct Sample {
    rows_per_second: f64,
    cpu_micros: f64,
    rows_per_run: f64,
}

impl Sample {
    /// The members of a JSON object.
    pub fn members(&self) -> String {
        format!(
            r#""rows_per_second": {:.1}, "cpu_micros": {:.3}, "rows_per_run": {:.2}"#,
            self.rows_per_second, self.cpu_micros, self.rows_per_run
        )
    }
}

/// The counters of threads or tasks.
#[derive(Default)]
pub struct Count {
    rows: AtomicU64,
    runs: AtomicU64,
    is_over: AtomicBool,
}

impl Count {
    /// Counts a run.
    pub fn ran(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.runs.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the measurement has ended.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Measures for the duration, or until a run has ended, after a short warm-up. Then it is over.
    pub fn sample(&self, time: Duration) -> Sample {
        let _end = Over(self);
        let now = || (self.rows.load(Ordering::Relaxed), self.runs.load(Ordering::Relaxed), cpu_time(), Instant::now());
        std::thread::sleep(WARM_UP);
        let (first_rows, first_runs, first_cpu, start) = now();
        std::thread::sleep(time);
        while self.runs.load(Ordering::Relaxed) == first_runs {
            std::thread::sleep(WARM_UP);
        }
        let (rows, runs, cpu, end) = now();
        let (rows, runs) = ((rows - first_rows) as f64, (runs - first_runs) as f64);
        Sample {
            rows_per_second: rows / (end - start).as_secs_f64(),
            cpu_micros: cpu.saturating_sub(first_cpu).as_secs_f64() * 1e6 / rows,
            rows_per_run: rows / runs,
        }
    }
}

/// Ends the work when it is dropped.
struct Over<'a>(&'a Count);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}
