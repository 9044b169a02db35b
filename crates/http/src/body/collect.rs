//! Assembles a body of several parts in one buffer.

use std::sync::Arc;

use bytes::Bytes;

use crate::body_memory::{BodyMemory, Buffer, Shortage};
use servable_model::tensor::ALIGNMENT;

/// The memory that a declared length may claim before any byte has arrived.
const MAX_ADVANCE: usize = 1 << 20;

/// The ratio of claimed memory to received bytes afterwards.
const ADVANCE_FACTOR: usize = 16;

/// The layout of a body, as derived from its beginning. It is a hint: a wrong one only costs time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    /// The length of the body.
    pub length: usize,
    /// The position to align to [`ALIGNMENT`] in memory.
    pub aligned: usize,
}

/// A body whose parts are arriving.
pub(super) struct Collected {
    buffer: Buffer,
    layout: Layout,
    memory: Arc<BodyMemory>,
    /// The limit of all bodies together, in bytes.
    limit: usize,
}

impl Collected {
    pub(super) fn new(memory: &Arc<BodyMemory>, layout: Layout, limit: usize) -> Self {
        Self { buffer: memory.empty(), layout, memory: Arc::clone(memory), limit }
    }

    pub(super) fn len(&self) -> usize {
        self.buffer.as_ref().len()
    }

    pub(super) fn push(&mut self, part: &[u8]) -> Result<(), Shortage> {
        let needed = self.len() + part.len();
        if needed > self.buffer.capacity() {
            self.make_room(needed)?;
        }
        self.buffer.extend(part);
        Ok(())
    }

    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self.buffer)
    }

    fn make_room(&mut self, needed: usize) -> Result<(), Shortage> {
        let Layout { length, aligned } = self.layout;
        // Kept buffers may be claimed at once. New memory is claimed in proportion to the received bytes.
        let kept = self.memory.kept(length.max(needed).saturating_add(ALIGNMENT), self.limit)?;
        let mut larger = if let Some(kept) = kept {
            kept
        } else {
            let advance = length.min(MAX_ADVANCE.max(needed.saturating_mul(ADVANCE_FACTOR)));
            let capacity = ALIGNMENT + if needed > advance { 2 * needed } else { advance };
            self.memory.fresh(capacity, self.limit)?
        };
        larger.align(aligned, ALIGNMENT);
        larger.extend(self.buffer.as_ref());
        self.buffer = larger;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_parts_lies_where_it_is_asked_to() {
        let memory = Arc::new(BodyMemory::default());
        for aligned in [0, 5, 77, 1 << 20] {
            let mut body = Collected::new(&memory, Layout { length: 3 << 20, aligned }, usize::MAX);
            let mut sent = Vec::new();
            for number in 0..96_u8 {
                let part = vec![number; 1 << 15];
                body.push(&part).expect("memory");
                sent.extend_from_slice(&part);
                let start = body.buffer.as_ref().as_ptr().addr();
                assert_eq!(start.wrapping_add(aligned) % ALIGNMENT, 0, "{aligned}, {number}");
            }
            assert_eq!(body.len(), sent.len());
            assert_eq!(body.into_bytes(), sent);
        }
    }

    #[test]
    fn memory_is_taken_in_proportion_to_what_has_arrived() {
        let claim = |length, arrived: usize| {
            let mut body = Collected::new(&Arc::default(), Layout { length, aligned: 0 }, usize::MAX);
            body.push(&vec![0; arrived]).expect("memory");
            body.buffer.capacity()
        };
        assert!(claim(usize::MAX, 1) <= MAX_ADVANCE + ALIGNMENT);
        assert!(claim(usize::MAX, MAX_ADVANCE) <= ADVANCE_FACTOR * MAX_ADVANCE + ALIGNMENT);
        assert!(claim(100, 1000) <= 2000 + ALIGNMENT);
        // The whole length, once the received bytes justify it.
        assert!((3 << 20..(3 << 20) + 2 * ALIGNMENT).contains(&claim(3 << 20, MAX_ADVANCE)));
    }

    #[test]
    fn memory_that_is_kept_is_taken_at_once() {
        let memory = Arc::new(BodyMemory::default());
        drop(memory.fresh(9 << 20, usize::MAX));
        let mut body = Collected::new(&memory, Layout { length: 8 << 20, aligned: 0 }, usize::MAX);
        body.push(b"the first byte of many").expect("memory");
        assert!(body.buffer.capacity() >= 8 << 20);
        assert_eq!(memory.kept(8 << 20, usize::MAX).map(|kept| kept.is_some()), Ok(false));
    }
}
