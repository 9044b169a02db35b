//! `TF_TString`, the 24 bytes of each element of a tensor of strings in TensorFlow.
//!
//! The layout is in the headers of the C API (`tensorflow/core/platform/ctstring_internal.h`). Its functions are inline
//! there, so the library does not export them. The two lowest bits of the first byte encode one of four forms:
//!
//! | form | bytes |
//! |---|---|
//! | small (0) | `size << 2` in one byte, up to 22 bytes of text, NUL |
//! | large (1) | `size << 2 \| 1`, capacity, pointer to malloc'ed text and NUL; eight bytes each |
//! | offset (2) | `size << 2 \| 2`, distance of the text from the string itself, count; four bytes each |
//! | view (3) | `size << 2 \| 3`, pointer to someone else's text, pointer to its owner; eight bytes each |
//!
//! Only the first two are created here. A view would save a copy. But the runtime copies views as views, and an
//! operation may keep such a copy, in a queue or a table, longer than the request lives.

use std::ptr;

/// The longest text of a small string.
const SMALL_CAPACITY: usize = 22;

const LARGE: usize = 1;
const OFFSET: usize = 2;
const VIEW: usize = 3;
const FORM_MASK: usize = 3;

/// One string, owned.
#[repr(C)]
pub(crate) struct TString {
    words: [usize; 3],
}

const _: () = assert!(size_of::<TString>() == 24, "the layout is that of 64-bit machines");

impl TString {
    /// A copy of `text`.
    pub(crate) fn new(text: &[u8]) -> Self {
        if text.len() > SMALL_CAPACITY {
            return Self::large(text);
        }
        let mut bytes = [0; 24];
        bytes[0] = (text.len() << 2) as u8;
        bytes[1..=text.len()].copy_from_slice(text);
        let word = |index: usize| usize::from_le_bytes(bytes[index * 8..][..8].try_into().expect("eight bytes"));
        Self { words: [word(0), word(1), word(2)] }
    }

    fn large(text: &[u8]) -> Self {
        // Rounded up to 16 bytes including the NUL, as in the runtime. `capacity` excludes the NUL.
        let capacity = (text.len() + 16) / 16 * 16 - 1;
        // SAFETY: the size is not zero.
        let memory = unsafe { libc::malloc(capacity + 1) }.cast::<u8>();
        assert!(!memory.is_null(), "no memory for a string of {} bytes", text.len());
        // SAFETY: `capacity` is at least the length of the text, and the new memory cannot overlap it.
        unsafe {
            ptr::copy_nonoverlapping(text.as_ptr(), memory, text.len());
            *memory.add(text.len()) = 0;
        }
        Self { words: [text.len() << 2 | LARGE, capacity, memory as usize] }
    }

    /// The text of a string of any form.
    ///
    /// # Safety
    ///
    /// `string` must point to a string that the runtime or [`TString::new`] made, in the place where it was made. Its
    /// whole array must be readable. The string must be neither changed nor freed during `'a`.
    pub(crate) unsafe fn text<'a>(string: *const Self) -> &'a [u8] {
        // SAFETY: guaranteed by the caller.
        let words = unsafe { (*string).words };
        let (start, size) = match words[0] & FORM_MASK {
            LARGE => (words[2] as *const u8, words[0] >> 2),
            VIEW => (words[1] as *const u8, words[0] >> 2),
            OFFSET => {
                let (size, offset) = (words[0] as u32 >> 2, (words[0] >> 32) as u32);
                (string.cast::<u8>().wrapping_add(offset as usize), size as usize)
            }
            _ => (string.cast::<u8>().wrapping_add(1), (words[0] & 0xff) >> 2),
        };
        if size == 0 {
            return &[];
        }
        // SAFETY: a string of this form has `size` bytes there, which live as long as it does.
        unsafe { std::slice::from_raw_parts(start, size) }
    }
}

impl Drop for TString {
    fn drop(&mut self) {
        if self.words[0] & FORM_MASK == LARGE {
            // SAFETY: strings that are dropped were made by `TString::new`, which allocated this with `malloc`.
            unsafe { libc::free(self.words[2] as *mut libc::c_void) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_every_length_around_the_forms_come_back() {
        for length in (0..70).chain([255, 4096, 1 << 20]) {
            let text: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            let string = TString::new(&text);
            assert_eq!(string.words[0] & FORM_MASK == LARGE, length > SMALL_CAPACITY);
            // SAFETY: made above, alive.
            assert_eq!(unsafe { TString::text(&raw const string) }, text);
        }
    }

    #[test]
    fn a_large_string_has_room_for_its_nul() {
        for length in [23, 30, 31, 32, 47, 48] {
            let string = TString::new(&vec![b'x'; length]);
            assert_eq!((string.words[1] + 1) % 16, 0);
            assert!(string.words[1] >= length && string.words[1] < length + 16);
        }
    }

    #[test]
    fn views_and_offsets_are_read() {
        let text = b"somebody else's text";
        let view = TString { words: [text.len() << 2 | VIEW, text.as_ptr() as usize, 0] };
        // SAFETY: a view of text that is alive.
        assert_eq!(unsafe { TString::text(&raw const view) }, text);

        let block = [TString { words: [11 << 2 | OFFSET | 25 << 32, 0, 0] }, TString::new(b"in an array")];
        // SAFETY: the text lies 25 bytes after the start of the first string, in the same array.
        assert_eq!(unsafe { TString::text(block.as_ptr()) }, b"in an array");
    }
}
