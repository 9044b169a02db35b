//! Raw contents of tensors. Numbers are little-endian and row-major, as in memory. Each string is preceded by its
//! length in four bytes.

use bytes::{BufMut, Bytes};

use servable_model::error::{Result, ServingError, no_memory};
use servable_model::tensor::{
    ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Strings, Tensor, element_count, shape_text,
};

/// The maximum number of dimensions.
const MAX_RANK: usize = 254;

/// The size of the length of each string, in bytes.
const LENGTH: usize = 4;

/// Decodes a tensor from a part of a request body. Strings, and aligned numbers, are not copied.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if the bytes are not exactly those of such a tensor. `name` is the name of the input.
pub fn raw_tensor(name: &str, dtype: DType, shape: Vec<i64>, part: Bytes) -> Result<Tensor> {
    let fault = |text: String| ServingError::invalid_argument(format!("input {name:?}: {text}"));
    let count = element_count(&shape)
        .filter(|_| shape.len() <= MAX_RANK)
        .ok_or_else(|| fault(format!("{} is not the shape of a tensor", shape_text(&shape))))?;
    if dtype == DType::STRING {
        let ranges = string_ranges(&part, count).map_err(fault)?;
        return Ok(Tensor::from_strings(shape, Strings::new(part, ranges)));
    }
    let size = dtype.size().ok_or_else(|| fault(format!("tensors of {dtype} cannot be sent")))?;
    if count.checked_mul(size) != Some(part.len()) {
        let shape = shape_text(&shape);
        return Err(fault(format!("got {} bytes of data, want {count} elements of {size} for {shape}", part.len())));
    }
    if dtype == DType::BOOL && part.iter().any(|&byte| byte > 1) {
        return Err(fault("a BOOL is a byte of 0 or 1".to_owned()));
    }
    let is_aligned = part.as_ptr().addr().is_multiple_of(ALIGNMENT);
    let buffer =
        if is_aligned { Buffer::Shared(part) } else { Buffer::Owned(AlignedBytes::from_slice(ALIGNMENT, &part)) };
    Ok(Tensor::from_numbers(dtype, shape, buffer))
}

/// The ranges of the strings of a tensor.
fn string_ranges(part: &[u8], count: usize) -> Result<Vec<(usize, usize)>, String> {
    if count > part.len() / LENGTH {
        return Err(format!("got {} bytes of data, want {count} strings, each behind its length", part.len()));
    }
    let mut ranges = Vec::with_capacity(count);
    let mut rest = part;
    for index in 0..count {
        let Some((length, behind)) = rest.split_first_chunk::<LENGTH>() else {
            return Err(format!("the data ends before string {index} of {count}"));
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some((string, behind)) = behind.split_at_checked(length) else {
            return Err(format!("string {index} of {count} has {length} bytes by its length, and {}", behind.len()));
        };
        let begin = part.len() - behind.len() - string.len();
        ranges.push((begin, begin + length));
        rest = behind;
    }
    if rest.is_empty() { Ok(ranges) } else { Err(format!("{} bytes follow after {count} strings", rest.len())) }
}

/// The number of bytes that [`write_raw`] writes.
pub fn raw_len(tensor: &Tensor) -> usize {
    match tensor.elements() {
        Elements::Numbers(buffer) => buffer.as_ref().len(),
        Elements::Strings(strings) => strings.iter().map(|string| LENGTH + string.len()).sum(),
    }
}

/// Appends the elements of a tensor.
///
/// # Errors
///
/// `INTERNAL` if the length of a string does not fit four bytes.
pub fn write_raw(tensor: &Tensor, out: &mut impl BufMut) -> Result<()> {
    match tensor.elements() {
        Elements::Numbers(buffer) => out.put_slice(buffer.as_ref()),
        Elements::Strings(strings) => {
            for string in strings.iter() {
                let length =
                    u32::try_from(string.len()).map_err(|_| ServingError::internal("a string of over 4 GiB"))?;
                out.put_u32_le(length);
                out.put_slice(string);
            }
        }
    }
    Ok(())
}

/// The elements of a tensor as shared bytes. Numbers are not copied.
///
/// # Errors
///
/// As [`write_raw`].
pub fn raw_bytes(tensor: &Tensor) -> Result<Bytes> {
    if let Elements::Numbers(Buffer::Shared(bytes)) = tensor.elements() {
        return Ok(bytes.clone());
    }
    let (mut bytes, length) = (Vec::new(), raw_len(tensor));
    bytes.try_reserve_exact(length).map_err(|_| no_memory(length))?;
    write_raw(tensor, &mut bytes)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: DType, shape: &[i64], data: &[u8]) -> Result<Tensor, String> {
        raw_tensor("x", dtype, shape.to_vec(), Bytes::copy_from_slice(data)).map_err(|error| error.text().into_owned())
    }

    #[test]
    fn what_was_read_can_be_written() {
        for (dtype, shape, data) in [
            (DType::FLOAT, &[2, 1][..], &[0, 0, 128, 63, 0, 0, 0, 64][..]),
            (DType::BFLOAT16, &[1], &[128, 63]),
            (DType::BOOL, &[2], &[0, 1]),
            (DType::STRING, &[2], b"\x02\0\0\0ab\0\0\0\0"),
            (DType::STRING, &[0], b""),
            (DType::INT64, &[0, 7], b""),
        ] {
            let tensor = tensor(dtype, shape, data).expect("well-formed data");
            assert_eq!((tensor.dtype(), tensor.shape(), raw_len(&tensor)), (dtype, shape, data.len()));
            assert_eq!(raw_bytes(&tensor).expect("short strings"), data);
        }
    }

    #[test]
    fn tensors_that_do_not_match_their_shape_are_refused_with_a_reason() {
        for (dtype, shape, data, expected) in [
            (DType::FLOAT, &[2][..], &b"1234567"[..], "got 7 bytes of data, want 2 elements of 4 for [2]"),
            (DType::FLOAT, &[-1], b"", "[-1] is not the shape of a tensor"),
            (DType::FLOAT, &[1 << 40, 1 << 40], b"", "[1099511627776,1099511627776] is not the shape of a tensor"),
            (
                DType::FLOAT,
                &[1 << 62],
                b"",
                "got 0 bytes of data, want 4611686018427387904 elements of 4 for \
              [4611686018427387904]",
            ),
            (DType::BOOL, &[1], b"2", "a BOOL is a byte of 0 or 1"),
            (DType::RESOURCE, &[1], b"2", "tensors of resource cannot be sent"),
            (DType::STRING, &[2], b"\0\0\0\0", "got 4 bytes of data, want 2 strings, each behind its length"),
            (DType::STRING, &[2], b"\x04\0\0\0abcd", "the data ends before string 1 of 2"),
            (DType::STRING, &[1], b"\x05\0\0\0abcd", "string 0 of 1 has 5 bytes by its length, and 4"),
            (DType::STRING, &[1], b"\x01\0\0\0abcd", "3 bytes follow after 1 strings"),
        ] {
            assert_eq!(tensor(dtype, shape, data).err(), Some(format!("input \"x\": {expected}")));
        }
    }
}
