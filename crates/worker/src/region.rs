//! Memory that a server and a worker share: one file in memory for the inputs of a slot, others for its outputs.
//!
//! The server makes the file and seals it, so that nobody can shrink it: access to a mapping never fails with `SIGBUS`. It
//! grows as needed. One side writes a region, and only while it is that side's turn: the server writes inputs before it
//! sends a request, the worker writes outputs before it sends a reply.
//!
//! - The worker maps inputs without the right to write. The server never reads them.
//! - The worker takes away its own right to write outputs before it replies ([`Region::freeze`]). A stray write then ends
//!   the worker, and does not reach memory that the server lends to a response.
#![allow(unsafe_code, reason = "mappings; each block says why it is sound")]

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect, munmap};

/// Files grow in steps of this many bytes.
const STEP: usize = 1 << 20;

/// What this side does with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It only lends the memory.
    Read,
    /// It writes the memory, and reads nothing of it.
    Write,
}

/// A file in memory, and this side's mapping of it.
#[derive(Debug)]
pub(crate) struct Region {
    file: OwnedFd,
    access: Access,
    mapping: Option<Arc<Mapping>>,
    is_frozen: bool,
}

impl Region {
    /// A new, empty file.
    ///
    /// # Errors
    ///
    /// The system gives no descriptor.
    pub(crate) fn new(access: Access) -> io::Result<Self> {
        let file = memfd_create("servable-tensors", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self::from_file(file, access))
    }

    /// A file of the other side.
    pub(crate) fn from_file(file: OwnedFd, access: Access) -> Self {
        Self { file, access, mapping: None, is_frozen: false }
    }

    /// The descriptor, to be sent to the other side.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The number of bytes that are mapped.
    pub(crate) fn mapped(&self) -> usize {
        self.mapping.as_ref().map_or(0, |mapping| mapping.len)
    }

    /// Whether memory of the region is lent.
    pub(crate) fn is_lent(&self) -> bool {
        self.mapping.as_ref().is_some_and(|mapping| Arc::strong_count(mapping) > 1)
    }

    /// Makes room for this many bytes, and permits writes again.
    ///
    /// # Errors
    ///
    /// There is not enough memory.
    pub(crate) fn reserve(&mut self, len: usize) -> io::Result<()> {
        if self.file_len()? < len {
            let grown = len.checked_next_multiple_of(STEP).ok_or(rustix::io::Errno::NOMEM)?;
            ftruncate(&self.file, grown as u64)?;
        }
        self.map(len)?;
        if self.is_frozen {
            self.protect(MprotectFlags::READ | MprotectFlags::WRITE)?;
            self.is_frozen = false;
        }
        Ok(())
    }

    /// Copies bytes into the region.
    ///
    /// # Panics
    ///
    /// If the range was not reserved.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(self.access == Access::Write && !self.is_frozen, "a region that is not for writing");
        if bytes.is_empty() {
            return;
        }
        let mapping = self.mapping.as_ref().filter(|mapping| mapping.has(offset, bytes.len()));
        let mapping = mapping.expect("room for the tensors was reserved");
        // SAFETY: the range is within the mapping, which may be written by its protection. No reference to the memory
        // exists in this process: it lends only regions with `Access::Read`. The source is other memory.
        unsafe { mapping.start.add(offset).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// Takes away this side's right to write until the next [`Region::reserve`].
    ///
    /// # Errors
    ///
    /// The system refuses it.
    pub(crate) fn freeze(&mut self) -> io::Result<()> {
        if !self.is_frozen {
            self.protect(MprotectFlags::READ)?;
            self.is_frozen = self.mapping.is_some();
        }
        Ok(())
    }

    /// Copies a range that the other side has written; `None` if the file has no such range.
    ///
    /// # Errors
    ///
    /// The file cannot be mapped.
    pub(crate) fn copy(&mut self, offset: usize, len: usize) -> io::Result<Option<Vec<u8>>> {
        let Some(mapping) = self.mapped_range(offset, len)? else { return Ok(None) };
        let mut copy = Vec::new();
        copy.try_reserve_exact(len).map_err(|_| rustix::io::Errno::NOMEM)?;
        // SAFETY: the range is within the mapping, and the vector has room for it. The copy is all that is read later,
        // so it does not matter if the other side writes meanwhile.
        unsafe {
            mapping.start.add(offset).copy_to_nonoverlapping(NonNull::new_unchecked(copy.as_mut_ptr()), len);
            copy.set_len(len);
        }
        Ok(Some(copy))
    }

    /// Lends a range that the other side has written, without a copy; `None` if the file has no such range.
    ///
    /// The caller does not let the other side write the region before the result is dropped; see [`Region::is_lent`].
    ///
    /// # Errors
    ///
    /// The file cannot be mapped.
    pub(crate) fn lend(&mut self, offset: usize, len: usize) -> io::Result<Option<Bytes>> {
        assert_eq!(self.access, Access::Read, "memory that this side writes is not lent");
        let range = self.mapped_range(offset, len)?;
        Ok(range.map(|mapping| Bytes::from_owner(Lent { mapping: Arc::clone(mapping), offset, len })))
    }

    /// The mapping, if it has this range; the whole file is mapped anew if that has grown.
    fn mapped_range(&mut self, offset: usize, len: usize) -> io::Result<Option<&Arc<Mapping>>> {
        let Some(end) = offset.checked_add(len) else { return Ok(None) };
        if self.mapped() < end {
            if end > self.file_len()? {
                return Ok(None);
            }
            self.map(end)?;
        }
        Ok(self.mapping.as_ref().filter(|mapping| mapping.has(offset, len)))
    }

    fn file_len(&self) -> io::Result<usize> {
        Ok(usize::try_from(fstat(&self.file)?.st_size).unwrap_or(0))
    }

    /// Maps the whole file, if not this many bytes are mapped. Memory that is lent keeps the mapping before.
    fn map(&mut self, len: usize) -> io::Result<()> {
        if self.mapped() < len {
            self.mapping = None;
            self.is_frozen = false;
            self.mapping = Some(Arc::new(Mapping::new(self.file.as_fd(), self.file_len()?, self.access)?));
        }
        Ok(())
    }

    fn protect(&self, flags: MprotectFlags) -> io::Result<()> {
        let Some(mapping) = &self.mapping else { return Ok(()) };
        // SAFETY: the range is exactly the mapping. Writes go through `write` alone, which needs the right to write.
        Ok(unsafe { mprotect(mapping.start.as_ptr().cast(), mapping.len, flags) }?)
    }
}

/// A mapping of a whole file.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is memory of the process, like any other; it is tied to no thread.
unsafe impl Send for Mapping {}
// SAFETY: as above. What is read through a shared reference is not written meanwhile; see `Lent`.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: BorrowedFd<'_>, len: usize, access: Access) -> io::Result<Self> {
        let write = if access == Access::Write { ProtFlags::WRITE } else { ProtFlags::empty() };
        // SAFETY: the system chooses an address where nothing is mapped.
        let start = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ | write, MapFlags::SHARED, file, 0) }?;
        Ok(Self { start: NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?, len })
    }

    fn has(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nothing refers to it any more: what is lent has a reference to this object.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A part of a mapping that is read in place.
struct Lent {
    mapping: Arc<Mapping>,
    offset: usize,
    len: usize,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the range was checked against the mapping, which lives as long as this object. The seal keeps the file
        // from shrinking, so the pages exist. They do not change meanwhile. Inputs: the server writes the next ones into
        // another region while the worker lends from this one, which the worker says in its reply. Outputs: the server
        // takes another region for the next run while this one is lent, and the worker has no right to write to its
        // mapping since before it replied. It could only ask the system for that right again, or write through the
        // descriptor, which no stray pointer does. The elements then are garbage, as they are if a library computes
        // garbage: every value is valid, and no length, index or text is derived from one without a check.
        unsafe { std::slice::from_raw_parts(self.mapping.start.add(self.offset).as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two sides of a new region.
    fn both() -> (Region, Region) {
        let writer = Region::new(Access::Write).expect("memory");
        let file = writer.file().try_clone_to_owned().expect("a descriptor");
        (writer, Region::from_file(file, Access::Read))
    }

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let (mut writer, mut reader) = both();
        writer.reserve(10).unwrap();
        writer.write(3, b"abc");
        assert_eq!(reader.lend(3, 3).unwrap().unwrap(), &b"abc"[..]);
        assert_eq!(reader.copy(2, 5).unwrap().unwrap(), b"\0abc\0");
        writer.reserve(3 * STEP).unwrap();
        writer.write(3 * STEP - 1, b"z");
        assert_eq!(reader.lend(3 * STEP - 1, 1).unwrap().unwrap(), &b"z"[..], "the reader follows when a region grows");
    }

    #[test]
    fn a_range_outside_the_file_is_none() {
        let (mut writer, mut reader) = both();
        assert!(reader.lend(0, 1).unwrap().is_none());
        writer.reserve(1).unwrap();
        assert!(reader.lend(STEP, 1).unwrap().is_none());
        assert!(reader.lend(STEP - 1, 2).unwrap().is_none());
        assert!(reader.lend(usize::MAX, 2).unwrap().is_none());
        assert!(reader.copy(usize::MAX - 1, 1).unwrap().is_none());
    }

    #[test]
    fn memory_that_is_lent_outlives_its_region() {
        let (mut writer, mut reader) = both();
        writer.reserve(8).unwrap();
        writer.write(0, b"kept");
        let lent = reader.lend(0, 4).unwrap().unwrap();
        assert!(reader.is_lent());
        drop((writer, reader));
        assert_eq!(lent, &b"kept"[..]);
    }

    #[test]
    fn no_side_can_shrink_a_region() {
        let (mut writer, reader) = both();
        writer.reserve(8).unwrap();
        assert!(ftruncate(reader.file(), 0).is_err());
        assert!(fcntl_add_seals(reader.file(), SealFlags::GROW).is_err());
    }

    #[test]
    fn a_frozen_region_can_be_written_after_the_next_reservation() {
        let (mut writer, mut reader) = both();
        writer.reserve(8).unwrap();
        writer.write(0, b"a");
        writer.freeze().unwrap();
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.write(0, b"b"))).is_err());
        writer.reserve(8).unwrap();
        writer.write(0, b"c");
        assert_eq!(reader.copy(0, 1).unwrap().unwrap(), b"c");
    }
}
