//! Memory of large bodies: a limit for all of them, and a pool of buffers.
//!
//! New memory costs a page fault for each page, more than all other work on a large body. The pool is bounded, and
//! returns unused buffers to the system after a while.

use std::io::{self, Read};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use servable_model::error::{Code, ServingError, no_memory};

/// Smaller buffers are not pooled: the allocator reuses their memory.
const LEAST_KEPT: usize = 2 << 20;

/// The maximum size of the pool.
const MOST_KEPT: usize = 64 << 20;

/// An unused buffer returns to the system after this time.
const PATIENCE: Duration = Duration::from_secs(5);

/// A pooled buffer may be this many times larger than requested.
const ALLOWED_WASTE: usize = 2;

/// The memory of bodies.
#[derive(Debug, Default)]
pub struct BodyMemory {
    kept: Mutex<Vec<Kept>>,
    /// Notified when a buffer enters the empty pool.
    fills: Notify,
    /// The bytes of bodies in progress and of unread answers.
    claimed: AtomicUsize,
}

#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    since: Instant,
}

impl BodyMemory {
    /// Takes an empty buffer of at least `capacity` bytes from the pool.
    pub(crate) fn kept(self: &Arc<Self>, capacity: usize, limit: usize) -> Result<Option<Buffer>, Shortage> {
        let Some(bytes) = self.take_kept(capacity) else { return Ok(None) };
        // A buffer that exceeds the limit is freed. This is rare.
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

    /// Allocates an empty buffer.
    pub(crate) fn fresh(self: &Arc<Self>, capacity: usize, limit: usize) -> Result<Buffer, Shortage> {
        let claim = self.claim(capacity, limit)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(capacity).map_err(|_| Shortage::Memory(capacity))?;
        Ok(Buffer { bytes, start: 0, claim })
    }

    /// Creates a buffer without memory.
    pub(crate) fn empty(self: &Arc<Self>) -> Buffer {
        Buffer { bytes: Vec::new(), start: 0, claim: Claim { memory: Arc::clone(self), bytes: 0 } }
    }

    /// Claims `bytes` until the result is dropped.
    ///
    /// # Errors
    ///
    /// If the total would exceed `limit`.
    pub fn claim(self: &Arc<Self>, bytes: usize, limit: usize) -> Result<Claim, Shortage> {
        let before = self.claimed.fetch_add(bytes, Ordering::Relaxed);
        let claim = Claim { memory: Arc::clone(self), bytes };
        if before.saturating_add(bytes) > limit { Err(Shortage::Limit(limit)) } else { Ok(claim) }
    }

    /// Claims memory that already exists, even if it exceeds the limit.
    ///
    /// # Errors
    ///
    /// If the limit was reached before.
    pub fn claim_rest(self: &Arc<Self>, bytes: usize, limit: usize) -> Result<Claim, Shortage> {
        let claim = Claim { memory: Arc::clone(self), bytes };
        let before = self.claimed.fetch_add(bytes, Ordering::Relaxed);
        if before >= limit { Err(Shortage::Limit(limit)) } else { Ok(claim) }
    }

    /// Whether `bytes` could be claimed now.
    ///
    /// # Errors
    ///
    /// If not. Most refused requests are refused here, before they take memory.
    pub fn expect(&self, bytes: usize, limit: usize) -> Result<(), Shortage> {
        let claimed = self.claimed.load(Ordering::Relaxed);
        if bytes > 0 && claimed.saturating_add(bytes) > limit { Err(Shortage::Limit(limit)) } else { Ok(()) }
    }

    /// Whether most of the limit is claimed.
    pub fn is_scarce(&self, limit: usize) -> bool {
        self.claimed.load(Ordering::Relaxed) > limit / 2
    }

    /// Returns unused buffers to the system until the future is dropped.
    pub async fn give_back_unused(self: Arc<Self>) {
        loop {
            self.fills.notified().await;
            while self.give_back(PATIENCE) {
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }

    /// Returns the buffers that have been unused for this time. Returns whether others are left.
    fn give_back(&self, unused: Duration) -> bool {
        let mut kept = self.lock();
        let (wanted, unwanted) = mem::take(&mut *kept).into_iter().partition(|kept| kept.since.elapsed() < unused);
        *kept = wanted;
        let is_left = !kept.is_empty();
        drop(kept);
        drop::<Vec<Kept>>(unwanted); // outside the lock: unmapping takes a while
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

/// The reason why there is no memory for a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// The limit of all bodies together would be exceeded.
    Limit(usize),
    /// The system could not allocate this many bytes.
    Memory(usize),
}

/// The delay after which clients should retry.
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

/// A share of the limit of all bodies. It is returned on drop.
#[derive(Debug)]
pub struct Claim {
    memory: Arc<BodyMemory>,
    bytes: usize,
}

impl Claim {
    /// Extends the claim to the lifetime of these bytes.
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

/// A buffer whose memory returns to the pool on drop.
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

    /// Reads until the buffer is full. Returns whether there may be more to read.
    pub(crate) fn fill(&mut self, reader: &mut impl Read) -> io::Result<bool> {
        let room = self.bytes.capacity() - self.bytes.len();
        Ok(reader.take(room as u64).read_to_end(&mut self.bytes)? == room)
    }

    /// The capacity in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity() - self.start
    }

    /// Sets the start of the empty content so that the byte at `position` is aligned to `alignment`.
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
    fn kept_memory_is_bounded() {
        let memory = Arc::new(BodyMemory::default());
        drop([LARGE; 9].map(|capacity| memory.fresh(capacity, usize::MAX).expect("memory")));
        assert_eq!(memory.lock().len(), MOST_KEPT / LARGE);
        drop(memory.fresh(LEAST_KEPT - 1, usize::MAX).expect("memory"));
        assert!(memory.kept(LEAST_KEPT - 1, usize::MAX).expect("room").is_none());
    }

    #[test]
    fn unused_memory_is_returned() {
        let memory = Arc::new(BodyMemory::default());
        drop(memory.fresh(LARGE, usize::MAX).expect("memory"));
        assert!(memory.give_back(Duration::from_secs(60)));
        assert!(!memory.give_back(Duration::ZERO));
        assert!(memory.kept(LARGE, usize::MAX).expect("room").is_none());
    }
}
