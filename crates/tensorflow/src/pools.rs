//! Thread pools of one thread, one for each concurrent run of a graph that may loop or wait.
//!
//! TensorFlow cancels a run at its deadline only if it runs in a thread pool. In a shared pool, runs that loop without
//! end would occupy all threads (no bulkhead). Threads that hand the operations of a small graph to each other also
//! take half as much CPU again. So each run has a pool to itself. All sessions share the pools, which are global and
//! named.

use std::num::NonZero;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use servable_codec::wire::{Reader, Value, put_length_field, put_varint};

/// The number of graphs whose runs may all loop without end before runs of other graphs have to wait.
const GRAPHS: usize = 4;

/// The maximum number of concurrent runs of one graph that may loop or wait.
pub(crate) fn runs_at_once() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).max(8)
}

/// The free pools.
#[derive(Debug)]
pub(crate) struct Pools {
    free: Mutex<Vec<i32>>,
    freed: Condvar,
}

impl Default for Pools {
    fn default() -> Self {
        // The pool that was used last is taken first. Pool 0 is for everything else.
        Self { free: Mutex::new((1..=total() as i32).rev().collect()), freed: Condvar::new() }
    }
}

impl Pools {
    /// Takes a pool for one run; `None` if none becomes free before the deadline.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Option<Pool<'_>> {
        let mut free = self.free();
        loop {
            if let Some(index) = free.pop() {
                return Some(Pool { pools: self, index });
            }
            free = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => self.freed.wait(free).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return None,
                Some(left) => self.freed.wait_timeout(free, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<i32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool of a run. Dropping it frees the pool.
#[derive(Debug)]
pub(crate) struct Pool<'a> {
    pools: &'a Pools,
    index: i32,
}

impl Pool<'_> {
    /// The index in the configuration of a session.
    pub(crate) fn index(&self) -> i32 {
        self.index
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        self.pools.free().push(self.index);
        self.pools.freed.notify_one();
    }
}

fn total() -> usize {
    GRAPHS * runs_at_once()
}

/// Field numbers of `tensorflow.ConfigProto`, and of the `ThreadPoolOptionProto` in it.
const INTER_OP_THREADS: u32 = 5;
const PER_SESSION_THREADS: u32 = 9;
const POOL: u32 = 12;
const NUM_THREADS: u32 = 1;
const GLOBAL_NAME: u32 = 2;

/// Adds the pools, and one for everything else, to a serialized `tensorflow.ConfigProto`; `None` if that configures the
/// threads of the session itself.
pub(crate) fn with_pools(session_config: &[u8]) -> Option<Vec<u8>> {
    let mut fields = Reader::new(session_config);
    while let Some(field) = fields.next_field().ok()? {
        match (field.number, field.value) {
            (PER_SESSION_THREADS, Value::Varint(truth)) if truth != 0 => return None,
            // A negative number means the caller's thread.
            (INTER_OP_THREADS, Value::Varint(number)) if (number as i64) < 0 => return None,
            (POOL, _) => return None,
            _ => {}
        }
    }
    let mut config = session_config.to_vec();
    for index in 0..=total() {
        let mut pool = Vec::new();
        if index > 0 {
            put_varint(&mut pool, u64::from(NUM_THREADS) << 3);
            put_varint(&mut pool, 1);
        }
        put_length_field(&mut pool, GLOBAL_NAME, format!("servable {index}").as_bytes());
        put_length_field(&mut config, POOL, &pool);
    }
    Some(config)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_run_has_an_exclusive_pool_and_waits_no_longer_than_its_deadline() {
        let pools = Pools::default();
        let mut taken: Vec<_> = (0..total()).filter_map(|_| pools.take(None)).collect();
        let mut indices: Vec<_> = taken.iter().map(Pool::index).collect();
        indices.sort_unstable();
        assert!(indices.into_iter().eq(1..=total() as i32));
        assert!(pools.take(Some(Instant::now() + Duration::from_millis(10))).is_none());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| pools.take(None).map(|pool| pool.index()));
            let freed = taken.pop().expect("there are some");
            let index = freed.index();
            drop(freed);
            assert_eq!(waits.join().expect("it does not panic"), Some(index));
        });
    }

    #[test]
    fn a_configuration_with_thread_settings_is_left_alone() {
        for (config, has_a_say) in [
            (&b""[..], false),
            (b"\x28\x04", false),
            (b"\x48\x00", false),
            (b"\x48\x01", true),
            (b"\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", true),
            (b"\x62\x02\x08\x01", true),
            (b"\xff", true),
        ] {
            let with_pools = with_pools(config);
            assert_eq!(with_pools.is_none(), has_a_say, "{config:?}");
            assert!(with_pools.is_none_or(|with_pools| with_pools.starts_with(config)));
        }
    }
}
