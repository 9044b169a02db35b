//! Threads for one purpose.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::placement;

/// Longer than any server runs.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Threads that do one kind of work and nothing else; the first is started at once, others when they are needed.
///
/// Work beyond their number waits in order.
#[derive(Debug)]
pub struct OwnThreads(Option<Runtime>);

impl OwnThreads {
    /// At most so many threads of this name.
    pub fn new(name: &str, count: usize) -> Self {
        // Without drivers and workers a runtime is just its pool of blocking threads.
        // With one thread that stays, work waits where the system gives no further one; without, it would be lost.
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

    /// Runs `work` on one of the threads, whether or not anybody waits for it.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.0.as_ref().expect("it is taken only on drop").spawn_blocking(work)
    }
}

impl Drop for OwnThreads {
    /// Lets the threads end by themselves: this may be one of them, or one that must not block.
    fn drop(&mut self) {
        if let Some(pool) = self.0.take() {
            pool.shutdown_background();
        }
    }
}
