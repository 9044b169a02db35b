//! Memory of large bodies, kept for the next ones.
//!
//! Memory that is fresh from the system costs a page fault for each of its pages, which is more than all else that is
//! done to a large body. What is kept is bounded, and goes back to the system when nobody has wanted it for a while.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Buffers of fewer bytes are not kept: the allocator has them at hand.
const LEAST_KEPT: usize = 2 << 20;

/// How many bytes are kept in all, for nobody.
const MOST_KEPT: usize = 64 << 20;

/// After how long a buffer that nobody wanted goes back to the system.
const PATIENCE: Duration = Duration::from_secs(5);

/// A buffer may be so many times larger than what it is taken for.
const ALLOWED_WASTE: usize = 2;

/// Where the memory of bodies comes from.
#[derive(Debug, Default)]
pub(crate) struct BodyMemory {
    kept: Mutex<Vec<Kept>>,
    /// Told when something is kept again after nothing was.
    fills: Notify,
}

#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    since: Instant,
}

impl BodyMemory {
    /// An empty buffer that was kept, with room for so many bytes.
    pub(super) fn kept(self: &Arc<Self>, capacity: usize) -> Option<Buffer> {
        let fits = capacity..=capacity.saturating_mul(ALLOWED_WASTE);
        let mut kept = self.lock();
        let candidates =
            kept.iter().enumerate().rev().filter(|(_, Kept { bytes, .. })| fits.contains(&bytes.capacity()));
        let (index, _) = candidates.min_by_key(|(_, Kept { bytes, .. })| bytes.capacity())?;
        let Kept { bytes, .. } = kept.remove(index);
        Some(Buffer { bytes, start: 0, memory: Arc::clone(self) })
    }

    /// An empty buffer from the system.
    pub(super) fn fresh(self: &Arc<Self>, capacity: usize) -> Buffer {
        Buffer { bytes: Vec::with_capacity(capacity), start: 0, memory: Arc::clone(self) }
    }

    /// Gives back what nobody wants, for ever.
    pub(crate) async fn give_back_unused(self: Arc<Self>) {
        loop {
            self.fills.notified().await;
            while self.give_back(PATIENCE) {
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }

    /// Gives back what nobody has wanted for so long; says whether something is left.
    fn give_back(&self, unused: Duration) -> bool {
        let mut kept = self.lock();
        let (wanted, unwanted) = mem::take(&mut *kept).into_iter().partition(|kept| kept.since.elapsed() < unused);
        *kept = wanted;
        let is_left = !kept.is_empty();
        drop(kept);
        drop::<Vec<Kept>>(unwanted); // only now: it takes the system a while
        is_left
    }

    fn keep(&self, mut bytes: Vec<u8>) {
        if bytes.capacity() < LEAST_KEPT {
            return;
        }
        bytes.clear();
        let mut kept = self.lock();
        let in_all = kept.iter().map(|kept| kept.bytes.capacity()).sum::<usize>() + bytes.capacity();
        if in_all > MOST_KEPT {
            drop(kept);
            return;
        }
        if kept.is_empty() {
            self.fills.notify_one();
        }
        kept.push(Kept { bytes, since: Instant::now() });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer on loan: its memory goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    memory: Arc<BodyMemory>,
}

impl Buffer {
    /// How many bytes there is room for, with those that are there.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity() - self.start
    }

    /// Has the content, which is empty, begin where the byte at `position` will lie on a multiple of `alignment`.
    pub(super) fn align(&mut self, position: usize, alignment: usize) {
        self.start = self.bytes.as_ptr().addr().wrapping_add(position).wrapping_neg() % alignment;
        self.bytes.resize(self.start, 0);
    }

    pub(super) fn extend(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.memory.keep(mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 16 << 20;

    #[test]
    fn large_buffers_are_used_again() {
        let memory = Arc::new(BodyMemory::default());
        assert!(memory.kept(LARGE).is_none());
        let mut buffer = memory.fresh(LARGE);
        buffer.align(5, 64);
        buffer.extend(b"one body");
        let place = buffer.bytes.as_ptr();
        drop(buffer);
        assert!(memory.kept(LARGE + 1).is_none(), "too small");
        assert!(memory.kept(LARGE / 4).is_none(), "out of proportion");
        let again = memory.kept(LARGE - 100).expect("it was kept");
        assert_eq!(again.bytes.as_ptr(), place);
        assert_eq!(again.as_ref(), b"");
        assert!(memory.kept(LARGE).is_none(), "it is on loan");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let memory = Arc::new(BodyMemory::default());
        drop([LARGE; 9].map(|capacity| memory.fresh(capacity)));
        assert_eq!(memory.lock().len(), MOST_KEPT / LARGE);
        drop(memory.fresh(LEAST_KEPT - 1));
        assert!(memory.kept(LEAST_KEPT - 1).is_none());
    }

    #[test]
    fn what_nobody_wants_is_given_back() {
        let memory = Arc::new(BodyMemory::default());
        drop(memory.fresh(LARGE));
        assert!(memory.give_back(Duration::from_secs(60)));
        assert!(!memory.give_back(Duration::ZERO));
        assert!(memory.kept(LARGE).is_none());
    }
}
