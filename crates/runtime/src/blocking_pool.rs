//! A pool of threads for one kind of blocking work.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::placement;

/// Longer than the life of any server.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A bounded pool of threads for one kind of blocking work. The first thread starts at once, the others on demand.
///
/// Work without a free thread waits in order.
#[derive(Debug)]
pub struct BlockingPool(Option<Runtime>);

impl BlockingPool {
    /// Creates a pool of at most `count` threads with this name.
    pub fn new(name: &str, count: usize) -> Self {
        // A runtime without drivers and workers is a pool of blocking threads. One thread is permanent: without it,
        // work would be lost if the system refused to create a thread.
        let pool = Builder::new_current_thread()
            .thread_keep_alive(FOREVER)
            .max_blocking_threads(count.max(1))
            .thread_name(name)
            .on_thread_start(placement::as_usual)
            .build()
            .expect("a runtime without drivers takes nothing from the system");
        drop(pool.spawn_blocking(|| ()));
        Self(Some(pool))
    }

    /// Runs `work` on one of the threads, even if the handle is dropped.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.0.as_ref().expect("it is taken only on drop").spawn_blocking(work)
    }
}

impl Drop for BlockingPool {
    /// Does not wait for the threads: the caller may be one of them, or must not block.
    fn drop(&mut self) {
        if let Some(pool) = self.0.take() {
            pool.shutdown_background();
        }
    }
}
