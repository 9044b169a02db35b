//! The runs that hold threads which serve connections: who does, and since when.
//!
//! A quick run is done where its request was read. Nothing can be said about how long it takes, so that whoever looks
//! after the threads has to see those that do not come back. What a request pays for that is two writes to memory that
//! only its thread writes to, and a look at one number that nearly never changes.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;

use super::CURRENT;

/// What tells servables apart, as far as a few bits can: a set of them is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

impl Mark {
    const BITS: u32 = 6;

    /// All marks that there are, as a set.
    pub const ALL: u64 = u64::MAX;

    #[cfg(test)]
    /// The mark of the servable with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The mark of what a runtime does for all servables, which is that of some servable, too.
    pub(super) const RUNTIME: Self = Self(0);

    /// The mark of whatever is at this place in memory.
    pub fn of<T>(place: &T) -> Self {
        // The multiplier spreads addresses, which have their differences in a few bits, over the highest.
        let spread = (std::ptr::from_ref(place).addr() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self(spread >> (u64::BITS - Self::BITS))
    }

    fn set(self) -> u64 {
        1 << self.0
    }
}

impl Slot {
    /// Whether a run holds the thread.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed) != 0
    }

    /// The tasks that stand aside on the thread.
    pub(super) fn aside(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a thread says about itself.
///
/// It has its cache line for itself.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Slot {
    /// About the run that holds it: since when, in nanoseconds, above the bits of a mark; 0 for none.
    held: AtomicU64,
    /// The tasks that stand aside until others have had their turns on it.
    aside: Mutex<Slab<Waker>>,
}

/// The runs that hold threads of one server.
#[derive(Debug)]
pub struct Inline {
    /// What times are counted from.
    base: Instant,
    slots: Mutex<Vec<Arc<Slot>>>,
    /// The marks of servables that must not hold threads.
    avoided: AtomicU64,
}

/// The runs that have held their threads for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    pub count: usize,
    /// The marks of their servables.
    pub marks: u64,
}

impl Default for Inline {
    fn default() -> Self {
        Self { base: Instant::now(), slots: Mutex::default(), avoided: AtomicU64::new(0) }
    }
}

impl Inline {
    /// The runs that have held their threads for so long by now.
    pub fn late(&self, after: Duration) -> Late {
        let mut late = Late { count: 0, marks: 0 };
        self.for_each_late(after, |_, mark| {
            late.count += 1;
            late.marks |= mark.set();
        });
        late
    }

    /// Has other threads go on with the tasks that let such a run go first.
    pub fn call_away_from_late(&self, after: Duration) {
        self.for_each_late(after, |slot, _| slot.aside().iter().for_each(|(_, task)| task.wake_by_ref()));
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

    /// Has no run begin to hold a thread whose servable has one of these marks.
    pub fn avoid(&self, marks: u64) {
        if self.avoided.load(Ordering::Relaxed) != marks {
            self.avoided.store(marks, Ordering::Relaxed);
        }
    }

    /// Whether any run has held its thread for long.
    pub(super) fn avoids_any(&self) -> bool {
        self.avoided.load(Ordering::Relaxed) != 0
    }

    /// A slot for one more thread.
    pub(super) fn join(&self) -> Arc<Slot> {
        let slot = Arc::<Slot>::default();
        self.slots().push(Arc::clone(&slot));
        slot
    }

    /// Takes away the slot of a thread that ends.
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

/// A run that holds the calling thread, until this is dropped.
#[must_use = "the run holds its thread for as long"]
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

/// Whether a run of this servable may hold the calling thread.
pub fn may_hold(mark: Mark) -> bool {
    CURRENT.with(|current| {
        let avoided = current.get().map_or(0, |member| member.threads.inline.avoided.load(Ordering::Relaxed));
        avoided & mark.set() == 0
    })
}

/// Notes that a run of this servable holds the calling thread from now on; `None` if it must not.
pub fn hold(mark: Mark, now: Instant) -> Option<Holding> {
    CURRENT.with(|current| {
        if let Some(member) = current.get() {
            let inline = &member.threads.inline;
            if inline.avoided.load(Ordering::Relaxed) & mark.set() != 0 {
                return None;
            }
            member.slot().held.store(inline.nanoseconds(now) << Mark::BITS | mark.0, Ordering::Relaxed);
        }
        Some(Holding(PhantomData))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Threads;
    use super::*;

    /// Does something on one thread of a server.
    fn on_a_thread(threads: &Arc<Threads>, test: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                threads.enter();
                test();
            });
            thread.join().expect("it does not panic");
        });
    }

    #[test]
    fn runs_are_late_until_they_end_and_those_that_are_avoided_do_not_begin() {
        let threads = Threads::new(1);
        let (one, other) = (Mark(3), Mark(60));
        on_a_thread(&threads, || {
            let inline = &threads.inline;
            let start = Instant::now();
            let held = hold(one, start).expect("nothing is avoided");
            assert_eq!(inline.late(Duration::from_secs(60)), Late { count: 0, marks: 0 });
            assert_eq!(inline.late(Duration::ZERO), Late { count: 1, marks: 1 << 3 });
            on_a_thread(&threads, || {
                let _held = hold(other, start);
                assert_eq!(inline.late(Duration::ZERO), Late { count: 2, marks: 1 << 3 | 1 << 60 });
            });
            inline.avoid(one.set());
            assert!(!may_hold(one) && hold(one, start).is_none());
            assert!(may_hold(other));
            inline.avoid(Mark::ALL);
            assert!(!may_hold(other) && hold(other, start).is_none());
            assert_eq!(inline.late(Duration::ZERO).count, 1, "the second thread is gone");
            drop(held);
            assert_eq!(inline.late(Duration::ZERO).count, 0);
            inline.avoid(0);
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
