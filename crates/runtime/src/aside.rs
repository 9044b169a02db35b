//! Tasks that let the others of their thread go first.
//!
//! Until those have had their turns, the runtime keeps such a task where no other thread finds it. Where one of them holds
//! the thread it would wait for the end of that, so that whoever looks after the threads has to call it away.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::CURRENT;
use super::inline::Slot;

/// A task that stands aside until this is dropped.
struct Standing {
    slot: Arc<Slot>,
    number: usize,
}

impl Standing {
    /// Begins to stand aside on the calling thread, if that is one of a server.
    fn begin(task: &Waker) -> Option<Self> {
        CURRENT.with(|current| {
            let slot = Arc::clone(current.get()?.slot());
            let number = slot.aside().insert(task.clone());
            Some(Self { slot, number })
        })
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.slot.aside().remove(self.number);
    }
}

/// Puts the calling task behind those that are ready on its thread, and behind what the thread then finds to read.
pub async fn let_others_go_first() {
    let _standing = poll_fn(|context| Poll::Ready(Standing::begin(context.waker()))).await;
    tokio::task::yield_now().await;
}
