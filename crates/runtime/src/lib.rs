//! The threads of a server: which ones serve connections, and which ones run models.
//!
//! A worker polls connections, and runs models whose recent runs were quick. A model may hang at any time. A
//! [`Watchdog`] therefore replaces each worker that is in a long run by one from a reserve, and bans the servable of
//! that run from the workers. Slow runs use the blocking pool of the async runtime, bounded by [`RunPermits`], or a
//! [`BlockingPool`].
//!
//! A thread-local variable links a worker to its server. On other threads, as in tests, there are no limits.

#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, reason = "the expectations hold by construction")]

mod blocking_pool;
mod deferred;
mod inline;
mod permits;
pub mod placement;
mod release;
mod reserve;
mod run_time;
mod watchdog;

use std::cell::OnceCell;
use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

use inline::Slot;

pub use blocking_pool::BlockingPool;
pub use deferred::yield_to_ready_tasks;
pub use inline::{Holding, Inline, Mark, hold, may_hold};
pub use permits::RunPermits;
pub use release::release;
pub use run_time::RunTimeEstimate;
pub use watchdog::Watchdog;

thread_local! {
    static CURRENT: OnceCell<Member> = const { OnceCell::new() };
}

/// The thread-local state of a worker.
struct Member {
    threads: Arc<Workers>,
    /// Created by the first run, or by the first task that yields.
    slot: OnceCell<Arc<Slot>>,
}

impl Member {
    fn slot(&self) -> &Arc<Slot> {
        self.slot.get_or_init(|| self.threads.inline.join())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.get() {
            self.threads.inline.leave(slot);
        }
    }
}

/// The shared state of the worker threads of one server.
#[derive(Debug)]
pub struct Workers {
    /// The number of concurrent long runs that each version is guaranteed.
    share: usize,
    /// One permit for each long run beyond the share of its version.
    beyond_shares: Arc<Semaphore>,
    /// One permit for each large body that blocks its worker.
    large_bodies: Semaphore,
    inline: Inline,
    /// The thread that frees memory of runtimes while runs block workers; created on first use.
    releases: OnceLock<BlockingPool>,
}

impl Workers {
    /// Long runs beyond the shares of versions, for each worker.
    const BEYOND_SHARES: usize = 8;

    /// Large bodies in work at once, for each worker.
    const LARGE_BODIES: usize = 8;

    /// Creates the state of a server with this many workers, without those in reserve.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            share: workers,
            beyond_shares: Arc::new(Semaphore::new(workers * Self::BEYOND_SHARES)),
            large_bodies: Semaphore::new(workers * Self::LARGE_BODIES),
            inline: Inline::default(),
            releases: OnceLock::new(),
        })
    }

    /// Makes the calling thread a worker until it ends.
    pub fn join(self: &Arc<Self>) {
        CURRENT.with(|current| drop(current.set(Member { threads: Arc::clone(self), slot: OnceCell::new() })));
    }

    /// The runs that are inside workers.
    pub fn inline(&self) -> &Inline {
        &self.inline
    }

    /// The server of the calling worker.
    fn current() -> Option<Arc<Self>> {
        CURRENT.with(|current| current.get().map(|member| Arc::clone(&member.threads)))
    }
}

/// For larger bodies, another thread takes over the connections of the worker.
const LARGE: usize = 1 << 20;

/// Does work whose time grows with the size of a body, without blocking the other connections of the calling worker.
pub fn work_on<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > LARGE { block_in_place_bounded(work) } else { work() }
}

/// Does work whose time grows with the size of a body, while another thread takes over the connections of the caller.
///
/// At most a fixed number of such threads exist at once; beyond it, the caller keeps its connections.
fn block_in_place_bounded<T>(work: impl FnOnce() -> T) -> T {
    let threads = Workers::current();
    let permit = threads.as_ref().map(|threads| threads.large_bodies.try_acquire());
    if matches!(permit, Some(Err(_))) {
        return work();
    }
    // Another thread becomes the worker, and this one may stay in the blocking pool.
    placement::leave();
    tokio::task::block_in_place(work)
}
