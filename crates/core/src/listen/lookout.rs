//! Looks out for connections while the thread that would is held up by a run.
//!
//! Of the runtime's threads, one that rests waits for the sockets on behalf of all. When it has got a request and is the
//! only one with work, it tells nobody, as it will be back soon. Where it is not, because a model that was quick so far takes
//! long, the sockets have nobody, although other threads rest. A task that comes from outside has one of them look around.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeMetrics};

/// A thread that has been at work for so long is held up.
const SHORTEST: Duration = Duration::from_millis(5);

/// While all threads rest, they are looked at this often.
const LONGEST: Duration = Duration::from_millis(80);

/// The thread that looks out; it ends when this is dropped.
pub(super) struct Lookout {
    _open: mpsc::Sender<()>,
}

impl Lookout {
    /// Begins to look after a runtime.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub(super) fn start(runtime: Handle) -> io::Result<Self> {
        let (open, end) = mpsc::channel();
        std::thread::Builder::new().name("servable-lookout".to_owned()).spawn(move || watch(&runtime, &end))?;
        Ok(Self { _open: open })
    }
}

fn watch(runtime: &Handle, end: &mpsc::Receiver<()>) {
    let (metrics, mut pause) = (runtime.metrics(), SHORTEST);
    let mut before = turns(&metrics);
    while end.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let now = turns(&metrics);
        let is_working = |turn: &u64| turn.is_multiple_of(2);
        if now.iter().zip(&before).any(|(now, before)| now == before && is_working(now)) {
            runtime.spawn(async {});
        }
        pause = if now.iter().any(is_working) { SHORTEST } else { LONGEST.min(pause * 2) };
        before = now;
    }
}

/// How often each thread has gone to rest and come back: odd while it rests.
fn turns(metrics: &RuntimeMetrics) -> Vec<u64> {
    (0..metrics.num_workers()).map(|worker| metrics.worker_park_unpark_count(worker)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn sockets_are_served_beside_a_task_that_blocks_its_thread() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("one");
        let _lookout = Lookout::start(runtime.handle().clone()).expect("a thread");
        let may_end = Arc::new(AtomicBool::new(false));
        let listener = runtime.block_on(async { TcpListener::bind("127.0.0.1:0").await.expect("a port") });
        let address = listener.local_addr().expect("its address");
        let blocks = Arc::clone(&may_end);
        runtime.spawn(async move {
            let _ = listener.accept().await;
            let start = Instant::now();
            while !blocks.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(1));
            }
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
        let is_served = served.recv_timeout(Duration::from_secs(5)).is_ok();
        may_end.store(true, Ordering::Relaxed);
        assert!(is_served);
    }

    #[test]
    fn the_thread_ends_when_nobody_needs_it() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("one");
        let (open, end) = mpsc::channel();
        let watching = std::thread::spawn({
            let handle = runtime.handle().clone();
            move || watch(&handle, &end)
        });
        drop(open);
        watching.join().expect("it ends");
    }
}
