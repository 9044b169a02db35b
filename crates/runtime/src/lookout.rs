//! Looks out for connections while threads that would are held up by runs.
//!
//! Of the runtime's threads, one that rests waits for the sockets on behalf of all. When it has got a request and is the
//! only one with work, it tells nobody, as it will be back soon. Where it is not, because a model that was quick so far takes
//! long, the sockets have nobody, although other threads rest. A task that comes from outside has one of them look around.
//!
//! For each thread that a run holds for long, another comes out of the [`Reserve`], and the servable of that run gets no
//! further one. No servable does while the reserve is empty: whoever came out of it last is there for the connections.
//! So models can hang, at any time and as many as they like, and the server goes on. A task that has let others go first on
//! that thread is called away from it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeMetrics};

use super::reserve::Reserve;
use crate::{Mark, Threads};

/// A thread that has been at work for so long is held up.
const SHORTEST: Duration = Duration::from_millis(5);

/// While all threads rest, they are looked at this often.
const LONGEST: Duration = Duration::from_millis(80);

/// A run that holds its thread for so long needs another one in its place. On a busy machine, quick ones may seem to take
/// some milliseconds.
const LATE: Duration = Duration::from_millis(10);

/// The thread that looks out; it ends when this is dropped, and gives back all threads in reserve.
pub struct Lookout {
    _open: mpsc::Sender<()>,
}

impl Lookout {
    /// Begins to look after a runtime, so many of whose threads are there for when others are held up.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub fn start(runtime: Handle, threads: Arc<Threads>, spare: usize) -> io::Result<Self> {
        let (open, end) = mpsc::channel();
        let watch = Watch { runtime, threads, spare, reserve: Arc::default() };
        watch.relieve();
        std::thread::Builder::new().name("servable-lookout".to_owned()).spawn(move || watch.until(&end))?;
        Ok(Self { _open: open })
    }
}

/// Whoever looks out. Where nobody can, or does any more, no thread is left in reserve.
struct Watch {
    runtime: Handle,
    threads: Arc<Threads>,
    spare: usize,
    reserve: Arc<Reserve>,
}

impl Watch {
    fn until(&self, end: &mpsc::Receiver<()>) {
        let (metrics, mut pause) = (self.runtime.metrics(), SHORTEST);
        let mut before = turns(&metrics);
        while end.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            let is_complete = self.relieve();
            let (now, resting) = (turns(&metrics), self.reserve.resting());
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

    /// Has threads out of the reserve stand in for those that are held up; says whether there are none.
    fn relieve(&self) -> bool {
        let late = self.threads.inline().late(LATE);
        if late.count > 0 {
            self.threads.inline().call_away_from_late(LATE);
        }
        let wanted = self.spare.saturating_sub(late.count);
        // Before the last of them comes out, and until one is back.
        let is_empty = wanted == 0 || self.reserve.resting() == 0;
        self.threads.inline().avoid(if is_empty { Mark::ALL } else { late.marks });
        self.reserve.keep(wanted, &self.runtime);
        self.reserve.resting() == self.spare
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.reserve.keep(0, &self.runtime);
    }
}

/// How often each thread has gone to rest and come back: odd while it rests.
fn turns(metrics: &RuntimeMetrics) -> Vec<u64> {
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

    /// A runtime of so many threads, and some in reserve, which have to be given back first.
    fn looked_after(workers: usize, spare: usize) -> (Arc<Threads>, Runtime, Lookout) {
        let threads = Threads::new(workers);
        let member = Arc::clone(&threads);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers + spare)
            .on_thread_start(move || member.enter())
            .enable_all()
            .build()
            .expect("a runtime");
        let lookout = Lookout::start(runtime.handle().clone(), Arc::clone(&threads), spare).expect("a thread");
        (threads, runtime, lookout)
    }

    /// Blocks the calling thread until it may end.
    fn hang(may_end: &AtomicBool) {
        let start = Instant::now();
        while !may_end.load(Ordering::Relaxed) && start.elapsed() < FAR {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether a task of the runtime finds this within time.
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
        let (_threads, runtime, _lookout) = looked_after(2, 1);
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
        let (_threads, runtime, _lookout) = looked_after(2, 2);
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
            let (threads, runtime, _lookout) = looked_after(2, spare);
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
    fn a_task_that_has_let_others_go_first_goes_on_beside_one_of_them_that_hangs() {
        let (_threads, runtime, _lookout) = looked_after(1, 1);
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
                threads::let_others_go_first().await;
                let _ = sender.send(());
            });
        });
        let goes_on = gone_on.recv_timeout(FAR / 2).is_ok();
        may_end.store(true, Ordering::Relaxed);
        assert!(goes_on);
    }

    #[test]
    fn all_threads_are_given_back_when_nobody_looks_out_any_more() {
        let (_threads, runtime, lookout) = looked_after(1, 3);
        assert!(finds(&runtime, || threads::may_hold(OTHER)));
        drop(lookout);
        // Waits for every thread of the runtime.
        drop(runtime);
    }

    #[test]
    fn all_threads_are_given_back_when_nobody_begins_to_look_out() {
        let threads = Threads::new(1);
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
