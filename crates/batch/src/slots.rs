//! Slots: the limit on batches that run concurrently, with reclamation from batches that hang.
//!
//! A run cannot be interrupted. Without reclamation, a few hung runs would hold all slots that a servable shares with
//! others. A slot that has been held for [`RECLAIM_AFTER`] is reclaimed when the batch of another owner needs it. The run
//! still counts for its owner, which never runs more batches than there are slots.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use slab::Slab;

/// The time after which a slot may be reclaimed for a batch that waits.
const RECLAIM_AFTER: Duration = Duration::from_secs(1);

/// The batches of one version, across all of its queues; the unit of the limit on concurrent runs.
#[derive(Debug, Default)]
pub struct Owner {
    /// The number of its batches that run. Changed under the lock of the pool only.
    running: AtomicUsize,
}

/// The slots of one pool.
pub(super) struct BatchSlots {
    total: usize,
    taken: usize,
    runs: Slab<Run>,
}

struct Run {
    began: Instant,
    owner: Arc<Owner>,
    /// False once the slot has been reclaimed.
    has_slot: bool,
}

impl BatchSlots {
    pub(super) fn new(total: usize) -> Self {
        Self { total, taken: 0, runs: Slab::new() }
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    pub(super) fn is_full(&self) -> bool {
        self.taken >= self.total
    }

    /// Whether the limit of this owner admits another batch. A slot must be free as well.
    pub(super) fn admits(&self, owner: &Owner) -> bool {
        owner.running.load(Ordering::Relaxed) < self.total
    }

    /// Takes a slot for a batch that begins. Returns the number of the run.
    pub(super) fn acquire(&mut self, owner: &Arc<Owner>, now: Instant) -> usize {
        self.taken += 1;
        owner.running.fetch_add(1, Ordering::Relaxed);
        self.runs.insert(Run { began: now, owner: Arc::clone(owner), has_slot: true })
    }

    /// Ends a run, and frees its slot unless that was reclaimed.
    pub(super) fn release(&mut self, number: usize) {
        let run = self.runs.remove(number);
        run.owner.running.fetch_sub(1, Ordering::Relaxed);
        self.taken -= usize::from(run.has_slot);
    }

    /// The time from which the slot of the longest run may be reclaimed.
    pub(super) fn next_reclaimable(&self) -> Option<Instant> {
        self.longest().map(|(_, began)| began + RECLAIM_AFTER)
    }

    /// Reclaims the slot of the longest run, if that has held it for [`RECLAIM_AFTER`].
    pub(super) fn reclaim_one(&mut self, now: Instant) -> bool {
        let Some((number, _)) = self.longest().filter(|&(_, began)| began + RECLAIM_AFTER <= now) else { return false };
        self.runs[number].has_slot = false;
        self.taken -= 1;
        true
    }

    fn longest(&self) -> Option<(usize, Instant)> {
        let holding = self.runs.iter().filter(|(_, run)| run.has_slot);
        holding.map(|(number, run)| (number, run.began)).min_by_key(|&(_, began)| began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_reclaimed_from_a_long_run_which_counts_for_its_owner_until_it_ends() {
        let (hanging, other) = (Arc::<Owner>::default(), Arc::<Owner>::default());
        let mut slots = BatchSlots::new(2);
        let start = Instant::now();
        let first = slots.acquire(&hanging, start);
        let second = slots.acquire(&hanging, start + Duration::from_millis(1));
        assert!(slots.is_full());
        assert!(!slots.admits(&hanging) && slots.admits(&other));
        assert_eq!(slots.next_reclaimable(), Some(start + RECLAIM_AFTER));
        assert!(!slots.reclaim_one(start + Duration::from_millis(999)));
        assert!(slots.reclaim_one(start + RECLAIM_AFTER));
        assert!(!slots.reclaim_one(start + RECLAIM_AFTER), "the second began later");
        assert_eq!(slots.taken(), 1);
        assert!(!slots.admits(&hanging));
        let third = slots.acquire(&other, start + RECLAIM_AFTER);
        slots.release(first);
        assert_eq!(slots.taken(), 2, "its slot had been reclaimed");
        assert!(slots.admits(&hanging));
        slots.release(second);
        slots.release(third);
        assert_eq!((slots.taken(), slots.next_reclaimable()), (0, None));
    }
}
