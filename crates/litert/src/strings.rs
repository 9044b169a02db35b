//! TensorFlow Lite's format for tensors of strings: the number of strings, the offsets of their starts and of the end of
//! the last one, and their bytes. All numbers are `i32`, little-endian.

use servable_model::error::{Result, ServingError};
use servable_model::tensor::Strings;

use crate::memory::Memory;

/// Packs strings.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if they are too long for the format.
pub(crate) fn pack(strings: &Strings) -> Result<Memory> {
    let table = 4 * (strings.len() + 2);
    let size = table + strings.iter().map(<[u8]>::len).sum::<usize>();
    if i32::try_from(size).is_err() {
        return Err(ServingError::invalid_argument(format!("got {size} bytes of strings, want less than 2 GiB")));
    }
    let mut memory = Memory::with_capacity(size)?;
    let mut put = |number: usize| memory.extend(&(number as i32).to_le_bytes());
    put(strings.len());
    let mut end = table;
    put(end);
    for string in strings.iter() {
        end += string.len();
        put(end);
    }
    for string in strings.iter() {
        memory.extend(string);
    }
    Ok(memory)
}

/// Unpacks strings; `None` if the bytes are not in the format.
pub(crate) fn unpack(bytes: &[u8]) -> Option<Strings> {
    let number = |index: usize| {
        let bytes = bytes.get(4 * index..4 * index + 4)?;
        usize::try_from(i32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let count = number(0)?;
    if count > bytes.len() / 4 {
        return None;
    }
    let ranges: Vec<(usize, usize)> =
        (1..=count).map(|index| Some((number(index)?, number(index + 1)?))).collect::<Option<_>>()?;
    let fit = |&(start, end): &(usize, usize)| start <= end && end <= bytes.len();
    ranges.iter().all(fit).then(|| ranges.iter().map(|&(start, end)| &bytes[start..end]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_packed_and_unpacked() {
        for texts in [vec![], vec![&b""[..]], vec![b"a", b"", b"bcd\0e"]] {
            let strings: Strings = texts.iter().collect();
            let packed = pack(&strings).unwrap();
            let unpacked = unpack(packed.bytes()).unwrap();
            assert_eq!(unpacked.iter().collect::<Vec<_>>(), texts);
        }
        let packed = pack(&["ab", "c"].into_iter().collect()).unwrap();
        assert_eq!(packed.bytes(), b"\x02\0\0\0\x10\0\0\0\x12\0\0\0\x13\0\0\0abc");
    }

    #[test]
    fn bytes_in_another_format_are_refused() {
        for bytes in [
            &b""[..],
            b"\x01\0\0\0",
            b"\xff\xff\xff\xff",
            b"\x01\0\0\0\x0c\0\0\0\x0d\0\0\0",
            b"\x01\0\0\0\x09\0\0\0\x08\0\0\0",
        ] {
            assert!(unpack(bytes).is_none(), "{bytes:?}");
        }
    }
}
