//! Frees memory of runtimes without blocking connections.
//!
//! An allocator may block a thread that frees memory while another thread waits for memory. TensorFlow's does so on
//! x86, for up to ten seconds. A worker that frees memory therefore counts as in a run. While a servable is banned, a
//! separate thread frees the memory.

use std::sync::Arc;
use std::time::Instant;

use super::inline::{Mark, hold};
use super::{BlockingPool, CURRENT};

/// Drops memory of a runtime, on the calling thread unless that could block connections.
pub fn release<T: Send + 'static>(memory: T) {
    // The thread may be ending, and its thread-local variables destroyed.
    let member =
        CURRENT.try_with(|current| current.get().map(|member| (Arc::clone(&member.threads), member.slot().is_held())));
    match member {
        Ok(Some((threads, false))) if threads.inline.bans_any() => {
            let releases = threads.releases.get_or_init(|| BlockingPool::new("servable-release", 1));
            drop(releases.spawn(move || drop(memory)));
        }
        Ok(Some((_, false))) => {
            let _holding = hold(Mark::RUNTIME, Instant::now());
            drop(memory);
        }
        _ => drop(memory),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::thread::ThreadId;
    use std::time::Duration;

    use super::super::Workers;
    use super::*;

    /// Reports the thread that freed it, and whether that counted as a run.
    struct Memory(Arc<Workers>, Sender<(ThreadId, usize)>);

    impl Drop for Memory {
        fn drop(&mut self) {
            let held = self.0.inline.late(Duration::ZERO).count;
            self.1.send((std::thread::current().id(), held)).expect("the test waits for it");
        }
    }

    fn free(threads: &Arc<Workers>) -> (ThreadId, usize) {
        let (sender, freed) = channel();
        release(Memory(Arc::clone(threads), sender));
        freed.recv().expect("it is freed")
    }

    #[test]
    fn memory_is_freed_by_another_thread_while_runs_hold_some_for_long() {
        let threads = Workers::new(1);
        assert_eq!(free(&threads), (std::thread::current().id(), 0), "no thread of a server");
        std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                threads.join();
                let own = std::thread::current().id();
                assert_eq!(free(&threads), (own, 1), "it is looked after meanwhile");
                assert_eq!(threads.inline.late(Duration::ZERO).count, 0);
                let run = hold(Mark::new(7), Instant::now());
                threads.inline.ban(Mark::ALL);
                assert_eq!(free(&threads), (own, 1), "a run is looked after already");
                assert_eq!(threads.inline.late(Duration::ZERO).count, 1, "and goes on to be");
                drop(run);
                assert_ne!(free(&threads).0, own);
            });
            server.join().expect("it does not panic");
        });
    }
}
