//! The `.npy` format of `NumPy` format: a text that describes an array, and its elements.
//!
//! `numpy.lib.format` specifies it: a magic string, two bytes of version, the length of the header in two bytes, or four
//! from version 2 on, and a Python literal with the keys `descr`, `fortran_order` and `shape`.

use servable_model::error::Result;

use crate::layout::Layout;
use crate::numbers::Kind;
use crate::place::{Place, shown};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Headers of matrices have about 100 bytes.
const MAX_HEADER: usize = 64 << 10;

/// The number of bytes at the begin of a file that [`read_layout`] needs at most.
pub(crate) const HEAD: usize = MAX_HEADER + 12;

/// Reads the header of a matrix. `head` is the begin of the file.
///
/// # Errors
///
/// `DATA_LOSS` if it is no header, or that of an array which cannot be served.
pub(crate) fn read_layout(head: &[u8], place: Place<'_>) -> Result<Layout> {
    let cut = || place.wrong("got a file that ends in its header, want a whole one");
    if !head.starts_with(MAGIC) {
        let found = shown(&head[..head.len().min(MAGIC.len())]);
        return Err(place.wrong(format!("got {found} as its first bytes, want \"\\x93NUMPY\"")));
    }
    let version = *head.get(6).ok_or_else(cut)?;
    let (size, start) = match version {
        1 => (usize::from(u16::from_le_bytes(*head.get(8..).and_then(<[u8]>::first_chunk).ok_or_else(cut)?)), 10),
        2 | 3 => (u32::from_le_bytes(*head.get(8..).and_then(<[u8]>::first_chunk).ok_or_else(cut)?) as usize, 12),
        _ => return Err(place.wrong(format!("got version {version} of the format, want 1, 2 or 3"))),
    };
    if size > MAX_HEADER {
        return Err(place.wrong(format!("got a header of {size} bytes, want at most {MAX_HEADER}")));
    }
    let text = head.get(start..start + size).ok_or_else(cut)?;
    let damaged = || place.wrong(format!("got the header {}, want a dictionary of NumPy", shown(text)));
    let header = Header::parse(text).ok_or_else(damaged)?;
    let kind = kind_of(&header.dtype).ok_or_else(|| {
        let wanted = "want '<f4', '<f2', '<f8' or '|i1'";
        let hint = if header.dtype.contains('V') { " (bfloat16 is for safetensors)" } else { "" };
        place.wrong(format!("got the dtype '{}', {wanted}{hint}", header.dtype))
    })?;
    if header.is_fortran {
        return Err(place.wrong("got an array in Fortran order, want C order (numpy.ascontiguousarray)"));
    }
    let [rows, width] = header.shape[..] else {
        let found = format!("got {} dimensions {:?}", header.shape.len(), header.shape);
        return Err(place.wrong(format!("{found}, want 2: rows and columns")));
    };
    Ok(Layout { kind, rows, width, start: start + size, scales: None })
}

fn kind_of(dtype: &str) -> Option<Kind> {
    Some(match dtype {
        "<f4" => Kind::Float32,
        "<f8" => Kind::Float64,
        "<f2" => Kind::Float16,
        "|i1" | "<i1" => Kind::Int8,
        _ => return None,
    })
}

struct Header {
    dtype: String,
    is_fortran: bool,
    shape: Vec<usize>,
}

impl Header {
    /// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, in any order.
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.trim();
        let mut rest = text.strip_prefix('{')?.strip_suffix('}')?.trim();
        let (mut dtype, mut is_fortran, mut shape) = (None, None, None);
        while !rest.is_empty() {
            let (name, value) = quoted(rest)?;
            let value = value.trim_start().strip_prefix(':')?.trim_start();
            rest = match name {
                "descr" => {
                    let (found, rest) = quoted(value)?;
                    dtype = Some(found.to_owned());
                    rest
                }
                "fortran_order" => {
                    is_fortran = Some(value.starts_with("True"));
                    value.strip_prefix("True").or_else(|| value.strip_prefix("False"))?
                }
                "shape" => {
                    let (sizes, rest) = value.strip_prefix('(')?.split_once(')')?;
                    let sizes = sizes.split(',').map(str::trim).filter(|size| !size.is_empty());
                    shape = Some(sizes.map(str::parse).collect::<Result<_, _>>().ok()?);
                    rest
                }
                _ => return None,
            };
            rest = rest.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        Some(Self { dtype: dtype?, is_fortran: is_fortran?, shape: shape? })
    }
}

/// A string literal without escapes, and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|&c| c == '\'' || c == '"')?;
    text[1..].split_once(quote)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn file(version: u8, header: &str) -> Vec<u8> {
        let mut file = [MAGIC, &[version, 0]].concat();
        match version {
            1 => file.extend((header.len() as u16).to_le_bytes()),
            _ => file.extend((header.len() as u32).to_le_bytes()),
        }
        file.extend(header.as_bytes());
        file
    }

    fn read(file: &[u8]) -> Result<Layout, String> {
        read_layout(file, Place(Path::new("a.npy"))).map_err(|error| error.text().into_owned())
    }

    #[test]
    fn headers_of_all_versions_are_read() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   \n";
        let wanted = |start| Layout { kind: Kind::Float32, rows: 3, width: 4, start, scales: None };
        assert_eq!(read(&file(1, header)), Ok(wanted(10 + header.len())));
        assert_eq!(read(&file(2, header)), Ok(wanted(12 + header.len())));
        let header = "{\"shape\":(2,1),\"descr\":\"|i1\",\"fortran_order\":False}";
        assert_eq!(read(&file(3, header)).map(|found| (found.kind, found.rows)), Ok((Kind::Int8, 2)));
    }

    #[test]
    fn arrays_that_cannot_be_served_are_described() {
        let with = |dtype: &str, order: &str, shape: &str| {
            read(&file(1, &format!("{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}, }}")))
                .unwrap_err()
        };
        assert_eq!(with(">f4", "False", "(3, 4)"), "a.npy: got the dtype '>f4', want '<f4', '<f2', '<f8' or '|i1'");
        assert!(with("<V2", "False", "(3, 4)").ends_with("(bfloat16 is for safetensors)"));
        assert!(with("<f4", "True", "(3, 4)").contains("Fortran order"));
        assert_eq!(with("<f4", "False", "(3,)"), "a.npy: got 1 dimensions [3], want 2: rows and columns");
        assert!(with("<f4", "False", "(3, -4)").contains("want a dictionary of NumPy"));
    }

    #[test]
    fn a_cut_or_strange_file_is_an_error() {
        let whole = file(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }");
        for len in 0..whole.len() {
            assert!(read(&whole[..len]).is_err(), "{len}");
        }
        assert!(read(b"\x93NUMPY\x09\x00").unwrap_err().contains("got version 9"));
        assert!(read(b"PK\x03\x04 an archive").unwrap_err().contains("got \"PK\\x03\\x04 a\""));
        assert!(read(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").unwrap_err().contains("a header of 4294967295 bytes"));
    }
}
