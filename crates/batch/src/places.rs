//! How many batches run at once, and which of them have run for so long that they no longer count.
//!
//! A run cannot be broken off. One that hangs would keep its place for ever, and a few of them all the places that a
//! servable shares with others. So a batch that has run for [`PATIENCE`] gives up its place when the batch of somebody
//! else needs one; but it goes on to count for its owner, who never has more batches under way than there are places.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use slab::Slab;

/// A batch that has run for so long gives up its place to one that waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whose batches are counted together: those of one version, in all of its queues.
#[derive(Debug, Default)]
pub struct Owner {
    /// How many of its batches run. Changed under the lock of the pool only.
    running: AtomicUsize,
}

/// The places in which batches run.
pub(super) struct Places {
    total: usize,
    taken: usize,
    runs: Slab<Run>,
}

struct Run {
    began: Instant,
    owner: Arc<Owner>,
    /// Whether it still has a place.
    counts: bool,
}

impl Places {
    pub(super) fn new(total: usize) -> Self {
        Self { total, taken: 0, runs: Slab::new() }
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    pub(super) fn are_full(&self) -> bool {
        self.taken >= self.total
    }

    /// Whether a batch of this owner may begin where there is a place.
    pub(super) fn are_open_to(&self, owner: &Owner) -> bool {
        owner.running.load(Ordering::Relaxed) < self.total
    }

    /// Gives a batch that begins its place, and the number of its run.
    pub(super) fn take(&mut self, owner: &Arc<Owner>, now: Instant) -> usize {
        self.taken += 1;
        owner.running.fetch_add(1, Ordering::Relaxed);
        self.runs.insert(Run { began: now, owner: Arc::clone(owner), counts: true })
    }

    /// Notes that a run has ended.
    pub(super) fn leave(&mut self, number: usize) {
        let run = self.runs.remove(number);
        run.owner.running.fetch_sub(1, Ordering::Relaxed);
        self.taken -= usize::from(run.counts);
    }

    /// When the first of the runs that have places has had it for long enough.
    pub(super) fn next_given_up(&self) -> Option<Instant> {
        self.longest().map(|(_, began)| began + PATIENCE)
    }

    /// Has a run give up its place, if one has had it for long enough.
    pub(super) fn give_one_up(&mut self, now: Instant) -> bool {
        let Some((number, _)) = self.longest().filter(|&(_, began)| began + PATIENCE <= now) else { return false };
        self.runs[number].counts = false;
        self.taken -= 1;
        true
    }

    fn longest(&self) -> Option<(usize, Instant)> {
        let counting = self.runs.iter().filter(|(_, run)| run.counts);
        counting.map(|(number, run)| (number, run.began)).min_by_key(|&(_, began)| began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_gives_up_its_place_after_a_while_and_counts_for_its_owner_until_it_ends() {
        let (hanging, other) = (Arc::<Owner>::default(), Arc::<Owner>::default());
        let mut places = Places::new(2);
        let start = Instant::now();
        let first = places.take(&hanging, start);
        let second = places.take(&hanging, start + Duration::from_millis(1));
        assert!(places.are_full());
        assert!(!places.are_open_to(&hanging) && places.are_open_to(&other));
        assert_eq!(places.next_given_up(), Some(start + PATIENCE));
        assert!(!places.give_one_up(start + Duration::from_millis(999)));
        assert!(places.give_one_up(start + PATIENCE));
        assert!(!places.give_one_up(start + PATIENCE), "the second began later");
        assert_eq!(places.taken(), 1);
        assert!(!places.are_open_to(&hanging));
        let third = places.take(&other, start + PATIENCE);
        places.leave(first);
        assert_eq!(places.taken(), 2, "it had no place any more");
        assert!(places.are_open_to(&hanging));
        places.leave(second);
        places.leave(third);
        assert_eq!((places.taken(), places.next_given_up()), (0, None));
    }
}
