//! Which threads do the work of requests, so that no model can take them from the others.
//!
//! The threads of a server know it by a thread-local variable. Work that is run on the server's account by any other thread,
//! as tests do, is not limited.

#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, reason = "the expectations hold by construction")]

mod aside;
mod inline;
mod lookout;
mod own;
pub mod pace;
pub mod placement;
mod release;
mod reserve;
mod turns;

use std::cell::OnceCell;
use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

use inline::Slot;

pub use aside::let_others_go_first;
pub use inline::{Holding, Inline, Mark, hold, may_hold};
pub use lookout::Lookout;
pub use own::OwnThreads;
pub use release::release;
pub use turns::Turns;

thread_local! {
    static CURRENT: OnceCell<Member> = const { OnceCell::new() };
}

/// One of the threads.
struct Member {
    threads: Arc<Threads>,
    /// What it says about itself, once it has something to say.
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

/// What the threads of one server share.
#[derive(Debug)]
pub struct Threads {
    /// So many long runs of each version may be under way at once, whatever others do.
    share: usize,
    /// One permit for each long run beyond the share of its version.
    beyond_shares: Arc<Semaphore>,
    /// One permit for each body that may be worked on beside the connections of its thread.
    large_bodies: Semaphore,
    inline: Inline,
    /// What frees memory of runtimes while runs hold threads, once there was some to free.
    releases: OnceLock<OwnThreads>,
}

impl Threads {
    /// How many long runs beyond the shares of versions may be under way at once, for each worker thread.
    const BEYOND_SHARES: usize = 8;

    /// How many large bodies may be worked on at once, for each worker thread.
    const LARGE_BODIES: usize = 8;

    /// Threads of a server that has so many to serve connections.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            share: workers,
            beyond_shares: Arc::new(Semaphore::new(workers * Self::BEYOND_SHARES)),
            large_bodies: Semaphore::new(workers * Self::LARGE_BODIES),
            inline: Inline::default(),
            releases: OnceLock::new(),
        })
    }

    /// Makes the calling thread one of these, for good.
    pub fn enter(self: &Arc<Self>) {
        CURRENT.with(|current| drop(current.set(Member { threads: Arc::clone(self), slot: OnceCell::new() })));
    }

    /// The runs that hold threads of connections.
    pub fn inline(&self) -> &Inline {
        &self.inline
    }

    /// Those that the calling thread is one of.
    fn current() -> Option<Arc<Self>> {
        CURRENT.with(|current| current.get().map(|member| Arc::clone(&member.threads)))
    }
}

/// Work on more bytes is done with the connections of the thread moved away.
const LARGE: usize = 1 << 20;

/// Does work that grows with a body of so many bytes, without holding up the other connections of the thread.
pub fn work_on<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > LARGE { move_connections_away(work) } else { work() }
}

/// Does work that grows with a body, with the connections of the calling thread moved to another one, unless that is done
/// for many already.
fn move_connections_away<T>(work: impl FnOnce() -> T) -> T {
    let threads = Threads::current();
    let permit = threads.as_ref().map(|threads| threads.large_bodies.try_acquire());
    if matches!(permit, Some(Err(_))) {
        return work();
    }
    // Another thread takes the place of this one, which may stay with the work.
    placement::leave();
    tokio::task::block_in_place(work)
}
