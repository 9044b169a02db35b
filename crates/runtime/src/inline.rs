//! The runs on worker threads: their servables, and the times of their starts.
//!
//! A quick run stays on the worker that has read the request; a hand-over to another thread costs several times as
//! much. The length of a run is unknown until it ends, so each worker publishes the start of its run. This costs two
//! writes to a cache line of the worker, and one read of a rarely changed number.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;

use super::CURRENT;

/// A servable as one of 64 bits, so that a set of servables is an integer. Servables that share a bit are banned
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

impl Mark {
    const BITS: u32 = 6;

    /// The set of all servables.
    pub const ALL: u64 = u64::MAX;

    #[cfg(test)]
    /// The mark of the servable with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The mark of the work of a runtime that belongs to no servable.
    pub(super) const RUNTIME: Self = Self(0);

    /// The mark of the servable at this address.
    pub fn of<T>(place: &T) -> Self {
        // The multiplier spreads the few bits in which addresses differ over the highest ones.
        let spread = (std::ptr::from_ref(place).addr() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self(spread >> (u64::BITS - Self::BITS))
    }

    fn set(self) -> u64 {
        1 << self.0
    }
}

impl Slot {
    /// Whether a run occupies the worker.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed) != 0
    }

    /// The tasks that have yielded on the worker.
    pub(super) fn deferred(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.deferred.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The published state of a worker, in a separate cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Slot {
    /// The start of the current run in nanoseconds, with its mark in the low bits; 0 for none.
    held: AtomicU64,
    /// The tasks that have yielded on this worker.
    deferred: Mutex<Slab<Waker>>,
}

/// The runs on the workers of one server.
#[derive(Debug)]
pub struct Inline {
    /// The origin of the times in slots.
    base: Instant,
    slots: Mutex<Vec<Arc<Slot>>>,
    /// The servables that are banned from workers.
    banned: AtomicU64,
}

/// The long runs on workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    pub count: usize,
    /// The marks of their servables.
    pub marks: u64,
}

impl Default for Inline {
    fn default() -> Self {
        Self { base: Instant::now(), slots: Mutex::default(), banned: AtomicU64::new(0) }
    }
}

impl Inline {
    /// The runs that started at least this time ago.
    pub fn late(&self, after: Duration) -> Late {
        let mut late = Late { count: 0, marks: 0 };
        self.for_each_late(after, |_, mark| {
            late.count += 1;
            late.marks |= mark.set();
        });
        late
    }

    /// Wakes the tasks that have yielded on such workers, so that other workers run them.
    pub fn wake_deferred(&self, after: Duration) {
        self.for_each_late(after, |slot, _| slot.deferred().iter().for_each(|(_, task)| task.wake_by_ref()));
    }

    fn for_each_late(&self, after: Duration, mut act: impl FnMut(&Slot, Mark)) {
        let now = self.nanoseconds(Instant::now());
        for slot in self.slots().iter() {
            let held = slot.held.load(Ordering::Relaxed);
            if held != 0 && u128::from(now.saturating_sub(held >> Mark::BITS)) >= after.as_nanos() {
                act(slot, Mark(held & ((1 << Mark::BITS) - 1)));
            }
        }
    }

    /// Bans these servables from workers, and no others.
    pub fn ban(&self, marks: u64) {
        if self.banned.load(Ordering::Relaxed) != marks {
            self.banned.store(marks, Ordering::Relaxed);
        }
    }

    /// Whether any servable is banned.
    pub(super) fn bans_any(&self) -> bool {
        self.banned.load(Ordering::Relaxed) != 0
    }

    /// Adds the slot of a worker.
    pub(super) fn join(&self) -> Arc<Slot> {
        let slot = Arc::<Slot>::default();
        self.slots().push(Arc::clone(&slot));
        slot
    }

    /// Removes the slot of a worker that ends.
    pub(super) fn leave(&self, left: &Arc<Slot>) {
        self.slots().retain(|slot| !Arc::ptr_eq(slot, left));
    }

    /// Never 0.
    fn nanoseconds(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.base).as_nanos() as u64 + 1
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guard: a run occupies the calling worker until it is dropped.
#[must_use = "the run is inside for as long"]
pub struct Holding(PhantomData<*const ()>);

impl Drop for Holding {
    fn drop(&mut self) {
        CURRENT.with(|current| {
            if let Some(slot) = current.get().and_then(|member| member.slot.get()) {
                slot.held.store(0, Ordering::Relaxed);
            }
        });
    }
}

/// Whether the servable is not banned from the calling worker.
pub fn may_hold(mark: Mark) -> bool {
    CURRENT.with(|current| {
        let banned = current.get().map_or(0, |member| member.threads.inline.banned.load(Ordering::Relaxed));
        banned & mark.set() == 0
    })
}

/// Publishes that a run of this servable occupies the calling worker; `None` if the servable is banned.
pub fn hold(mark: Mark, now: Instant) -> Option<Holding> {
    CURRENT.with(|current| {
        if let Some(member) = current.get() {
            let inline = &member.threads.inline;
            if inline.banned.load(Ordering::Relaxed) & mark.set() != 0 {
                return None;
            }
            member.slot().held.store(inline.nanoseconds(now) << Mark::BITS | mark.0, Ordering::Relaxed);
        }
        Some(Holding(PhantomData))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Workers;
    use super::*;

    /// Runs a test on one thread of a server.
    fn on_a_thread(threads: &Arc<Workers>, test: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                threads.join();
                test();
            });
            thread.join().expect("it does not panic");
        });
    }

    #[test]
    fn runs_are_late_until_they_end_and_those_that_are_banned_do_not_begin() {
        let threads = Workers::new(1);
        let (one, other) = (Mark(3), Mark(60));
        on_a_thread(&threads, || {
            let inline = &threads.inline;
            let start = Instant::now();
            let held = hold(one, start).expect("nothing is banned");
            assert_eq!(inline.late(Duration::from_secs(60)), Late { count: 0, marks: 0 });
            assert_eq!(inline.late(Duration::ZERO), Late { count: 1, marks: 1 << 3 });
            on_a_thread(&threads, || {
                let _held = hold(other, start);
                assert_eq!(inline.late(Duration::ZERO), Late { count: 2, marks: 1 << 3 | 1 << 60 });
            });
            inline.ban(one.set());
            assert!(!may_hold(one) && hold(one, start).is_none());
            assert!(may_hold(other));
            inline.ban(Mark::ALL);
            assert!(!may_hold(other) && hold(other, start).is_none());
            assert_eq!(inline.late(Duration::ZERO).count, 1, "the second thread is gone");
            drop(held);
            assert_eq!(inline.late(Duration::ZERO).count, 0);
            inline.ban(0);
            assert!(hold(one, start).is_some());
        });
        assert!(threads.inline.slots().is_empty());
    }

    #[test]
    fn marks_of_servables_in_a_row_differ() {
        let servables: Vec<[u8; 640]> = vec![[0; 640]; 64];
        let marks = servables.iter().map(Mark::of).fold(0, |marks, mark| marks | mark.set());
        assert!(marks.count_ones() >= 24, "{marks:b}");
    }
}
