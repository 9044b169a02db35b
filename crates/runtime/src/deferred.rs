//! Tasks that yield to the ready tasks of their worker.
//!
//! The async runtime keeps a task that has yielded on its worker, where no other worker finds it. If one of the tasks before
//! it then blocks the worker in a run, the yielded task would wait for the end of that run. The watchdog wakes it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::CURRENT;
use super::inline::Slot;

/// An entry of a task that has yielded; removed on drop.
struct Entry {
    slot: Arc<Slot>,
    key: usize,
}

impl Entry {
    /// Adds a task on the calling thread, if that is a worker.
    fn add(task: &Waker) -> Option<Self> {
        CURRENT.with(|current| {
            let slot = Arc::clone(current.get()?.slot());
            let key = slot.deferred().insert(task.clone());
            Some(Self { slot, key })
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.slot.deferred().remove(self.key);
    }
}

/// Yields until the ready tasks of this worker have run, and those that its next poll of sockets makes ready.
pub async fn yield_to_ready_tasks() {
    let _entry = poll_fn(|context| Poll::Ready(Entry::add(context.waker()))).await;
    tokio::task::yield_now().await;
}
