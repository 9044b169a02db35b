//! Watchdog: keeps sockets polled while workers are inside long runs, and bans the servables of those runs from workers.
//!
//! One of the parked workers polls the sockets for all. If it gets a single request, it wakes no other worker, because
//! it expects to poll again soon. If that request hangs in a run, no worker polls the sockets, although others are
//! parked. A task spawned from outside wakes one of them.
//!
//! For each worker in a long run, another one leaves the [`Reserve`], and the servable of that run is banned. While the
//! reserve is empty, all servables are banned, so that the last worker from the reserve serves connections only. Models
//! may therefore hang at any time without blocking the sockets. Tasks that have yielded on a blocked worker are woken.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeMetrics};

use super::reserve::Reserve;
use crate::{Mark, Workers};

/// The period of the watchdog while a worker is busy. A worker that has been busy for a period may be inside a long run.
const SHORTEST: Duration = Duration::from_millis(5);

/// The period while all workers are parked.
const LONGEST: Duration = Duration::from_millis(80);

/// After this time inside a run, a worker is replaced. On a busy machine, a preempted quick run seems to take some
/// milliseconds.
const LATE: Duration = Duration::from_millis(10);

/// The thread of the watchdog. On drop it ends and releases all workers in reserve.
pub struct Watchdog {
    _open: mpsc::Sender<()>,
}

impl Watchdog {
    /// Starts to watch the workers of a runtime. `spare` of them are the reserve.
    ///
    /// # Errors
    ///
    /// If the system cannot create a thread.
    pub fn start(runtime: Handle, threads: Arc<Workers>, spare: usize) -> io::Result<Self> {
        let (open, end) = mpsc::channel();
        let watch = Watch { runtime, threads, spare, reserve: Arc::default() };
        watch.relieve();
        std::thread::Builder::new().name("servable-watchdog".to_owned()).spawn(move || watch.until(&end))?;
        Ok(Self { _open: open })
    }
}

/// The state of the watchdog. When it is dropped, no worker stays in reserve.
struct Watch {
    runtime: Handle,
    threads: Arc<Workers>,
    spare: usize,
    reserve: Arc<Reserve>,
}

impl Watch {
    fn until(&self, end: &mpsc::Receiver<()>) {
        let (metrics, mut pause) = (self.runtime.metrics(), SHORTEST);
        let mut before = park_counts(&metrics);
        while end.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            let is_complete = self.relieve();
            let (now, resting) = (park_counts(&metrics), self.reserve.resting());
            let is_working = |turn: &u64| turn.is_multiple_of(2);
            let stuck = now.iter().zip(&before).filter(|(now, before)| now == before && is_working(now)).count();
            if stuck > resting {
                self.runtime.spawn(async {});
            }
            let is_quiet = is_complete && now.iter().filter(|turn| is_working(turn)).count() <= resting;
            pause = if is_quiet { LONGEST.min(pause * 2) } else { SHORTEST };
            before = now;
        }
    }

    /// Replaces workers in long runs by workers of the reserve. Returns whether the reserve is complete.
    fn relieve(&self) -> bool {
        let late = self.threads.inline().late(LATE);
        if late.count > 0 {
            self.threads.inline().wake_deferred(LATE);
        }
        let wanted = self.spare.saturating_sub(late.count);
        // Before the last worker leaves the reserve, and until one is back.
        let is_empty = wanted == 0 || self.reserve.resting() == 0;
        self.threads.inline().ban(if is_empty { Mark::ALL } else { late.marks });
        self.reserve.keep(wanted, &self.runtime);
        self.reserve.resting() == self.spare
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.reserve.keep(0, &self.runtime);
    }
}

/// The number of times that each worker has parked and unparked; odd while it is parked.
fn park_counts(metrics: &RuntimeMetrics) -> Vec<u64> {
    (0..metrics.num_workers()).map(|worker| metrics.worker_park_unpark_count(worker)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use tokio::net::TcpListener;
    use tokio::runtime::Runtime;

    use super::*;
    use crate as threads;

    const FAR: Duration = Duration::from_secs(10);

    /// A runtime of `workers`, and of `spare` workers in reserve, which must be released before it is dropped.
    fn watched_runtime(workers: usize, spare: usize) -> (Arc<Workers>, Runtime, Watchdog) {
        let threads = Workers::new(workers);
        let member = Arc::clone(&threads);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers + spare)
            .on_thread_start(move || member.join())
            .enable_all()
            .build()
            .expect("a runtime");
        let watchdog = Watchdog::start(runtime.handle().clone(), Arc::clone(&threads), spare).expect("a thread");
        (threads, runtime, watchdog)
    }

    /// Blocks the calling thread until it may end.
    fn hang(may_end: &AtomicBool) {
        let start = Instant::now();
        while !may_end.load(Ordering::Relaxed) && start.elapsed() < FAR {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether a task of the runtime observes the condition in time.
    fn finds(runtime: &Runtime, condition: fn() -> bool) -> bool {
        let (sender, found) = mpsc::channel();
        runtime.spawn(async move {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let _ = sender.send(());
        });
        found.recv_timeout(FAR / 2).is_ok()
    }

    #[test]
    fn sockets_are_served_beside_a_task_that_blocks_its_thread() {
        let (_threads, runtime, _watchdog) = watched_runtime(2, 1);
        let may_end = Arc::new(AtomicBool::new(false));
        let listener = runtime.block_on(async { TcpListener::bind("127.0.0.1:0").await.expect("a port") });
        let address = listener.local_addr().expect("its address");
        let blocks = Arc::clone(&may_end);
        runtime.spawn(async move {
            let _ = listener.accept().await;
            hang(&blocks);
        });
        let other = runtime.block_on(async { TcpListener::bind("127.0.0.1:0").await.expect("a port") });
        let other_address = other.local_addr().expect("its address");
        let (sender, served) = mpsc::channel();
        runtime.spawn(async move {
            let _ = other.accept().await;
            let _ = sender.send(());
        });
        // All threads rest, one of them for the sockets.
        std::thread::sleep(Duration::from_millis(20));
        let _first = std::net::TcpStream::connect(address).expect("a connection");
        std::thread::sleep(Duration::from_millis(20));
        let _second = std::net::TcpStream::connect(other_address).expect("a connection");
        let is_served = served.recv_timeout(FAR / 2).is_ok();
        may_end.store(true, Ordering::Relaxed);
        assert!(is_served);
    }

    const HANGS: Mark = Mark::new(1);
    const OTHER: Mark = Mark::new(2);

    #[test]
    fn a_servable_that_hangs_takes_no_more_threads_than_it_has_when_that_is_seen() {
        let (_threads, runtime, _watchdog) = watched_runtime(2, 2);
        assert!(finds(&runtime, || threads::may_hold(HANGS)));
        let may_end = Arc::new(AtomicBool::new(false));
        let hangs = Arc::clone(&may_end);
        runtime.spawn(async move {
            let _held = threads::hold(HANGS, Instant::now());
            hang(&hangs);
        });
        assert!(finds(&runtime, || !threads::may_hold(HANGS) && threads::may_hold(OTHER)));
        may_end.store(true, Ordering::Relaxed);
        assert!(finds(&runtime, || threads::may_hold(HANGS)));
    }

    #[test]
    fn runs_that_hold_every_thread_leave_one_for_others_that_no_run_gets() {
        for spare in [1, 2] {
            let (threads, runtime, _watchdog) = watched_runtime(2, spare);
            assert!(finds(&runtime, || threads::may_hold(HANGS)));
            let may_end = Arc::new(AtomicBool::new(false));
            for _ in 0..50 {
                let hangs = Arc::clone(&may_end);
                runtime.spawn(async move {
                    if let Some(_held) = threads::hold(HANGS, Instant::now()) {
                        hang(&hangs);
                    }
                });
            }
            assert!(finds(&runtime, || !threads::may_hold(HANGS)), "{spare} in reserve");
            let held = threads.inline().late(Duration::ZERO).count;
            assert!((2..=1 + spare).contains(&held), "{held} threads held, {spare} in reserve");
            assert!(finds(&runtime, || !threads::may_hold(OTHER)));
            may_end.store(true, Ordering::Relaxed);
            assert!(finds(&runtime, || threads::may_hold(HANGS) && threads::may_hold(OTHER)));
        }
    }

    #[test]
    fn a_task_that_has_yielded_continues_while_a_ready_task_hangs() {
        let (_threads, runtime, _watchdog) = watched_runtime(1, 1);
        assert!(finds(&runtime, || threads::may_hold(HANGS)));
        let may_end = Arc::new(AtomicBool::new(false));
        let hangs = Arc::clone(&may_end);
        let (sender, gone_on) = mpsc::channel();
        runtime.spawn(async move {
            tokio::spawn(async move {
                let _held = threads::hold(HANGS, Instant::now());
                hang(&hangs);
            });
            // What is spawned last begins first.
            tokio::spawn(async move {
                threads::yield_to_ready_tasks().await;
                let _ = sender.send(());
            });
        });
        let goes_on = gone_on.recv_timeout(FAR / 2).is_ok();
        may_end.store(true, Ordering::Relaxed);
        assert!(goes_on);
    }

    #[test]
    fn all_threads_are_released_when_the_watchdog_ends() {
        let (_threads, runtime, watchdog) = watched_runtime(1, 3);
        assert!(finds(&runtime, || threads::may_hold(OTHER)));
        drop(watchdog);
        // Waits for every thread of the runtime.
        drop(runtime);
    }

    #[test]
    fn all_threads_are_released_if_no_watchdog_starts() {
        let threads = Workers::new(1);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
        let watch = Watch { runtime: runtime.handle().clone(), threads, spare: 1, reserve: Arc::default() };
        while watch.reserve.resting() == 0 {
            watch.relieve();
            std::thread::yield_now();
        }
        drop(watch);
        drop(runtime);
    }
}
