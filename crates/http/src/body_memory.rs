//! Memory of large bodies: how much of it all may have together, and what is kept for the next ones.
//!
//! Memory that is fresh from the system costs a page fault for each of its pages, which is more than all else that is
//! done to a large body. Kept buffers are bounded, and return to the system when unused for a while.

use std::io::{self, Read};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use servable_model::error::{Code, ServingError, no_memory};

/// Buffers of fewer bytes are not kept: the allocator has them at hand.
const LEAST_KEPT: usize = 2 << 20;

/// The most bytes that are kept in all.
const MOST_KEPT: usize = 64 << 20;

/// An unused buffer returns to the system after this time.
const PATIENCE: Duration = Duration::from_secs(5);

/// A buffer may be this many times larger than what it is used for.
const ALLOWED_WASTE: usize = 2;

/// Where the memory of bodies comes from.
#[derive(Debug, Default)]
pub struct BodyMemory {
    kept: Mutex<Vec<Kept>>,
    /// Told when something is kept again after nothing was.
    fills: Notify,
    /// How many bytes bodies under way and untaken answers have.
    claimed: AtomicUsize,
}

#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    since: Instant,
}

impl BodyMemory {
    /// An empty buffer that was kept, with room for `capacity` bytes.
    pub(crate) fn kept(self: &Arc<Self>, capacity: usize, limit: usize) -> Result<Option<Buffer>, Shortage> {
        let Some(bytes) = self.take_kept(capacity) else { return Ok(None) };
        // What is refused here is given back to the system: there is little of it.
        let claim = self.claim(bytes.capacity(), limit)?;
        Ok(Some(Buffer { bytes, start: 0, claim }))
    }

    fn take_kept(&self, capacity: usize) -> Option<Vec<u8>> {
        let fits = capacity..=capacity.saturating_mul(ALLOWED_WASTE);
        let mut kept = self.lock();
        let candidates =
            kept.iter().enumerate().rev().filter(|(_, Kept { bytes, .. })| fits.contains(&bytes.capacity()));
        let (index, _) = candidates.min_by_key(|(_, Kept { bytes, .. })| bytes.capacity())?;
        Some(kept.remove(index).bytes)
    }

    /// An empty buffer from the system.
    pub(crate) fn fresh(self: &Arc<Self>, capacity: usize, limit: usize) -> Result<Buffer, Shortage> {
        let claim = self.claim(capacity, limit)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(capacity).map_err(|_| Shortage::Memory(capacity))?;
        Ok(Buffer { bytes, start: 0, claim })
    }

    /// A buffer that has no memory yet.
    pub(crate) fn empty(self: &Arc<Self>) -> Buffer {
        Buffer { bytes: Vec::new(), start: 0, claim: Claim { memory: Arc::clone(self), bytes: 0 } }
    }

    /// Claims `bytes` until the result is dropped.
    ///
    /// # Errors
    ///
    /// If they would be more than `limit` with all that is claimed.
    pub fn claim(self: &Arc<Self>, bytes: usize, limit: usize) -> Result<Claim, Shortage> {
        let before = self.claimed.fetch_add(bytes, Ordering::Relaxed);
        let claim = Claim { memory: Arc::clone(self), bytes };
        if before.saturating_add(bytes) > limit { Err(Shortage::Limit(limit)) } else { Ok(claim) }
    }

    /// The same for what is there already: it may be more than is left, and not come when nothing is left.
    ///
    /// # Errors
    ///
    /// If nothing is left of the limit.
    pub fn claim_rest(self: &Arc<Self>, bytes: usize, limit: usize) -> Result<Claim, Shortage> {
        let claim = Claim { memory: Arc::clone(self), bytes };
        let before = self.claimed.fetch_add(bytes, Ordering::Relaxed);
        if before >= limit { Err(Shortage::Limit(limit)) } else { Ok(claim) }
    }

    /// Whether `bytes` could be claimed now.
    ///
    /// # Errors
    ///
    /// If not; most requests that are refused for this are before any memory is taken.
    pub fn expect(&self, bytes: usize, limit: usize) -> Result<(), Shortage> {
        let claimed = self.claimed.load(Ordering::Relaxed);
        if bytes > 0 && claimed.saturating_add(bytes) > limit { Err(Shortage::Limit(limit)) } else { Ok(()) }
    }

    /// Whether most of the limit is claimed.
    pub fn is_scarce(&self, limit: usize) -> bool {
        self.claimed.load(Ordering::Relaxed) > limit / 2
    }

    /// Returns unused buffers to the system, until it is dropped.
    pub async fn give_back_unused(self: Arc<Self>) {
        loop {
            self.fills.notified().await;
            while self.give_back(PATIENCE) {
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }

    /// Returns the buffers that have been unused for this time; says whether others are left.
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

/// Why there is no memory for a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// The limit of all bodies together, which is nearly reached.
    Limit(usize),
    /// The system does not give this many bytes.
    Memory(usize),
}

/// When it is worth to send a body again that there was no room for.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl From<Shortage> for ServingError {
    fn from(shortage: Shortage) -> Self {
        match shortage {
            Shortage::Limit(limit) => {
                let text = format!("the bodies under way have no room for another one: their limit is {limit} bytes");
                Self::new(Code::Unavailable, text).retry_after(RETRY_AFTER)
            }
            Shortage::Memory(bytes) => no_memory(bytes).retry_after(RETRY_AFTER),
        }
    }
}

/// A part of what all bodies together may have; given back when it is dropped.
#[derive(Debug)]
pub struct Claim {
    memory: Arc<BodyMemory>,
    bytes: usize,
}

impl Claim {
    /// Lasts as long as these bytes.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _claim: self })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.memory.claimed.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Held {
    bytes: Bytes,
    _claim: Claim,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A buffer on loan: its memory goes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    claim: Claim,
}

impl Buffer {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Reads until there is no room left; says whether there may be more to read.
    pub(crate) fn fill(&mut self, reader: &mut impl Read) -> io::Result<bool> {
        let room = self.bytes.capacity() - self.bytes.len();
        Ok(reader.take(room as u64).read_to_end(&mut self.bytes)? == room)
    }

    /// How many bytes there is room for, with those that are there.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity() - self.start
    }

    /// Has the content, which is empty, begin where the byte at `position` will lie on a multiple of `alignment`.
    pub(crate) fn align(&mut self, position: usize, alignment: usize) {
        self.start = self.bytes.as_ptr().addr().wrapping_add(position).wrapping_neg() % alignment;
        self.bytes.resize(self.start, 0);
    }

    pub(crate) fn extend(&mut self, part: &[u8]) {
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
        self.claim.memory.keep(mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 16 << 20;

    #[test]
    fn large_buffers_are_used_again() {
        let memory = Arc::new(BodyMemory::default());
        assert!(memory.kept(LARGE, usize::MAX).expect("room").is_none());
        let mut buffer = memory.fresh(LARGE, usize::MAX).expect("memory");
        buffer.align(5, 64);
        buffer.extend(b"one body");
        let place = buffer.bytes.as_ptr();
        drop(buffer);
        assert!(memory.kept(LARGE + 1, usize::MAX).expect("room").is_none(), "too small");
        assert!(memory.kept(LARGE / 4, usize::MAX).expect("room").is_none(), "out of proportion");
        let again = memory.kept(LARGE - 100, usize::MAX).expect("room").expect("it was kept");
        assert_eq!(again.bytes.as_ptr(), place);
        assert_eq!(again.as_ref(), b"");
        assert!(memory.kept(LARGE, usize::MAX).expect("room").is_none(), "it is on loan");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let memory = Arc::new(BodyMemory::default());
        drop([LARGE; 9].map(|capacity| memory.fresh(capacity, usize::MAX).expect("memory")));
        assert_eq!(memory.lock().len(), MOST_KEPT / LARGE);
        drop(memory.fresh(LEAST_KEPT - 1, usize::MAX).expect("memory"));
        assert!(memory.kept(LEAST_KEPT - 1, usize::MAX).expect("room").is_none());
    }

    #[test]
    fn what_nobody_wants_is_given_back() {
        let memory = Arc::new(BodyMemory::default());
        drop(memory.fresh(LARGE, usize::MAX).expect("memory"));
        assert!(memory.give_back(Duration::from_secs(60)));
        assert!(!memory.give_back(Duration::ZERO));
        assert!(memory.kept(LARGE, usize::MAX).expect("room").is_none());
    }
}
