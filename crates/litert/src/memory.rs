//! Memory that `LiteRT` takes without a copy.

use aligned_vec::AVec;
use servable_model::error::{Result, expect_memory};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer};

/// The number of bytes that XNNPACK may read behind the end of a tensor; it ignores their values.
const READ_BEHIND: usize = 16;

/// The smallest size of pages. A read that stays in the page of a valid byte cannot fail.
const PAGE: usize = 4096;

/// Aligned memory of a known capacity.
pub(crate) struct Memory {
    bytes: AlignedBytes,
    capacity: usize,
}

impl Memory {
    /// Memory for this number of bytes, and for what is read behind them.
    ///
    /// # Errors
    ///
    /// `RESOURCE_EXHAUSTED` if there is none.
    pub(crate) fn with_capacity(capacity: usize) -> Result<Self> {
        expect_memory(capacity + READ_BEHIND)?;
        Ok(Self { bytes: AVec::with_capacity(ALIGNMENT, capacity + READ_BEHIND), capacity })
    }

    /// The same, filled with zeros.
    pub(crate) fn zeroed(capacity: usize) -> Result<Self> {
        let mut memory = Self::with_capacity(capacity)?;
        memory.bytes.resize(capacity, 0);
        Ok(memory)
    }

    /// A copy of these bytes.
    pub(crate) fn copy_of(bytes: &[u8]) -> Result<Self> {
        let mut memory = Self::with_capacity(bytes.len())?;
        memory.extend(bytes);
        Ok(memory)
    }

    /// Appends bytes. They must fit.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        assert!(self.bytes.len() + bytes.len() <= self.capacity, "more bytes than memory");
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes that have been written.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }

    /// Takes the bytes, after a callee has written `length` of them.
    ///
    /// # Safety
    ///
    /// The first `length` bytes must have been written.
    pub(crate) unsafe fn written(mut self, length: usize) -> AlignedBytes {
        assert!(length <= self.capacity, "more bytes than memory");
        // SAFETY: the capacity is sufficient, and the caller vouches for the values.
        unsafe { self.bytes.set_len(length) };
        self.bytes
    }
}

/// Whether `LiteRT` can read the elements of a buffer in place.
pub(crate) fn is_usable(buffer: &Buffer) -> bool {
    let bytes = buffer.as_ref();
    let (start, end) = (bytes.as_ptr().addr(), bytes.as_ptr().addr() + bytes.len());
    start.is_multiple_of(ALIGNMENT) && !bytes.is_empty() && (1..=PAGE - READ_BEHIND).contains(&(end % PAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_in_place_if_reads_behind_it_cannot_fail() {
        // Two pages and more, so that a whole page lies inside.
        let memory = AVec::<u8, aligned_vec::ConstAlign<PAGE>>::from_slice(PAGE, &[7; 3 * PAGE]);
        let all = bytes::Bytes::from_owner(memory);
        let usable = |start, end| is_usable(&Buffer::Shared(all.slice(start..end)));
        assert!(usable(0, 4));
        assert!(usable(64, PAGE - READ_BEHIND));
        assert!(!usable(64, PAGE - READ_BEHIND + 1));
        assert!(!usable(64, PAGE));
        assert!(usable(0, PAGE + 1));
        assert!(!usable(4, 8), "it is not aligned");
        assert!(!usable(64, 64), "an empty slice has no address");
    }
}
