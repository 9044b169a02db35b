//! Files as memory, read-only.
#![allow(unsafe_code, reason = "mappings are memory of the system")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use crate::guard::{Guarded, page_size};
use crate::options::Preload;

/// A mapped file. Reads of it never end in a signal; see [`Mapping::is_whole`].
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    pages: usize,
    /// `None` only while the mapping is dropped.
    guard: Option<Guarded>,
    file: File,
}

// SAFETY: the memory is only read, and belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of a file, at least one.
    ///
    /// # Errors
    ///
    /// What the system refuses.
    pub(crate) fn open(file: File, len: usize, preload: Preload) -> io::Result<Self> {
        let pages = len.next_multiple_of(page_size());
        // SAFETY: a new mapping at an address that the system chooses.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::InvalidInput)?;
        let mut mapping = Self { start, len, pages, guard: None, file };
        mapping.guard = Some(
            Guarded::register(start.as_ptr() as usize, pages)
                .ok_or_else(|| io::Error::other("too many tables are mapped, or SIGBUS cannot be handled"))?,
        );
        let done = match preload {
            Preload::None => 0,
            // SAFETY: the range is that of the mapping.
            Preload::ReadAhead => unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_WILLNEED) },
            // SAFETY: the range is that of the mapping.
            Preload::Lock => unsafe { libc::mlock(start.as_ptr().cast(), len) },
        };
        if done == 0 { Ok(mapping) } else { Err(io::Error::last_os_error()) }
    }

    /// The bytes. Where the file was cut short they are zeros.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has this size, is readable and lives as long as `self`. Other processes may write to the
        // file. Then the bytes have any values, and no number format of a table forbids any.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Whether all that was read so far came from the file. Costs a system call.
    ///
    /// The last page of a file that was cut short reads as zeros without a signal, so the size is compared too.
    ///
    /// # Errors
    ///
    /// The present size of the file.
    pub(crate) fn is_whole(&self) -> Result<(), u64> {
        let size = self.file.metadata().map_or(0, |metadata| metadata.len());
        let is_damaged = self.guard.as_ref().is_none_or(Guarded::is_damaged);
        if is_damaged || size < self.len as u64 { Err(size) } else { Ok(()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // The addresses may be used for something else at once.
        self.guard = None;
        // SAFETY: the mapping is that of `open`, or the zeros in its place, and nothing reads it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.pages) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn mapped(len: usize) -> (File, Mapping) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; len]).unwrap();
        let mapping = Mapping::open(file.try_clone().unwrap(), len, Preload::ReadAhead).unwrap();
        (file, mapping)
    }

    fn sum(mapping: &Mapping) -> usize {
        mapping.bytes().iter().map(|&byte| usize::from(byte)).sum()
    }

    #[test]
    fn a_file_that_is_cut_short_reads_as_zeros_and_is_reported() {
        let len = 10 * page_size() + 100;
        let (file, mapping) = mapped(len);
        let (_other, whole) = mapped(len);
        assert_eq!((sum(&mapping), mapping.is_whole()), (7 * len, Ok(())));
        file.set_len(3 * page_size() as u64).unwrap();
        assert_eq!(sum(&mapping), 7 * 3 * page_size());
        assert_eq!(mapping.is_whole(), Err(3 * page_size() as u64));
        file.set_len(len as u64).unwrap();
        assert_eq!(mapping.is_whole(), Err(len as u64), "the zeros stay");
        assert_eq!((sum(&whole), whole.is_whole()), (7 * len, Ok(())));
        drop(mapping);
        assert_eq!(sum(&whole), 7 * len);
    }

    #[test]
    fn a_cut_within_the_last_page_is_reported() {
        let (file, mapping) = mapped(page_size() + 100);
        file.set_len(page_size() as u64 + 50).unwrap();
        assert_eq!(mapping.is_whole(), Err(page_size() as u64 + 50));
    }

    #[test]
    fn threads_may_read_what_is_cut_short() {
        let len = 64 * page_size();
        let (file, mapping) = mapped(len);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..20).map(|_| sum(&mapping)).max())).collect();
            file.set_len(0).unwrap();
            for reader in readers {
                assert!(reader.join().unwrap() <= Some(7 * len));
            }
        });
        assert_eq!(mapping.is_whole(), Err(0));
    }

    #[test]
    fn other_bus_errors_still_end_the_process() {
        if std::env::var_os("SERVABLE_TEST_BUS_ERROR").is_some() {
            let _guarded = mapped(100);
            let file = tempfile::tempfile().unwrap();
            file.set_len(1).unwrap();
            // SAFETY: a new mapping; the read below ends the process.
            unsafe {
                let start = libc::mmap(ptr::null_mut(), 1, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
                file.set_len(0).unwrap();
                start.cast::<u8>().read_volatile();
            }
            return;
        }
        let own = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new(own);
        command
            .env("SERVABLE_TEST_BUS_ERROR", "1")
            .args(["--exact", "mapping::tests::other_bus_errors_still_end_the_process"]);
        let status = command.output().unwrap().status;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGBUS));
    }
}
