//! The tensors of the request path: a dtype, a shape, and elements that are shared instead of copied where possible.
//!
//! Codecs decode and encode tensors, and executors run them. Nothing here knows a wire format.

use std::fmt;
use std::ops::Range;

use aligned_vec::{AVec, ConstAlign};
use bytes::Bytes;

/// The alignment of every buffer that a codec fills, in bytes. TensorFlow uses memory in place only if it is so
/// aligned.
pub const ALIGNMENT: usize = 64;

/// A `tensorflow.DataType` number.
///
/// An open enumeration, as on the wire: a signature or a request may carry any number. Unknown numbers are reported
/// after decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DType(pub i32);

#[allow(missing_docs, reason = "the names of tensorflow.DataType")]
impl DType {
    pub const INVALID: Self = Self(0);
    pub const FLOAT: Self = Self(1);
    pub const DOUBLE: Self = Self(2);
    pub const INT32: Self = Self(3);
    pub const UINT8: Self = Self(4);
    pub const INT16: Self = Self(5);
    pub const INT8: Self = Self(6);
    pub const STRING: Self = Self(7);
    pub const COMPLEX64: Self = Self(8);
    pub const INT64: Self = Self(9);
    pub const BOOL: Self = Self(10);
    pub const QINT8: Self = Self(11);
    pub const QUINT8: Self = Self(12);
    pub const QINT32: Self = Self(13);
    pub const BFLOAT16: Self = Self(14);
    pub const QINT16: Self = Self(15);
    pub const QUINT16: Self = Self(16);
    pub const UINT16: Self = Self(17);
    pub const COMPLEX128: Self = Self(18);
    pub const HALF: Self = Self(19);
    pub const RESOURCE: Self = Self(20);
    pub const VARIANT: Self = Self(21);
    pub const UINT32: Self = Self(22);
    pub const UINT64: Self = Self(23);
}

/// The names in error messages, by number. The protobuf name is `DT_` and the same in capitals.
const NAMES: [&str; 34] = [
    "INVALID",
    "float",
    "double",
    "int32",
    "uint8",
    "int16",
    "int8",
    "string",
    "complex64",
    "int64",
    "bool",
    "qint8",
    "quint8",
    "qint32",
    "bfloat16",
    "qint16",
    "quint16",
    "uint16",
    "complex128",
    "half",
    "resource",
    "variant",
    "uint32",
    "uint64",
    "float8_e5m2",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e4m3b11fnuz",
    "float8_e5m2fnuz",
    "int4",
    "uint4",
    "int2",
    "uint2",
    "float4_e2m1fn",
];

/// The offset from the number of a dtype to that of its reference dtype, such as `DT_FLOAT_REF`.
const REF_OFFSET: i32 = 100;

impl DType {
    /// The dtype that a reference dtype refers to. Other dtypes are returned unchanged.
    #[must_use]
    pub fn base(self) -> Self {
        if self.0 > REF_OFFSET { Self(self.0 - REF_OFFSET) } else { self }
    }

    /// The name in error messages, such as `float` or `float_ref`; `unknown dtype enum (77)` for unknown numbers.
    pub fn name(self) -> String {
        match (NAMES.get(self.base().0 as usize), self == self.base()) {
            (Some(name), true) => (*name).to_owned(),
            (Some(name), false) => format!("{name}_ref"),
            (None, _) => format!("unknown dtype enum ({})", self.0),
        }
    }

    /// The name in the protobuf enumeration, such as `DT_FLOAT` or `DT_FLOAT_REF`; `None` for unknown numbers.
    pub fn proto_name(self) -> Option<String> {
        let name = NAMES.get(self.base().0 as usize)?.to_uppercase();
        Some(if self == self.base() { format!("DT_{name}") } else { format!("DT_{name}_REF") })
    }

    /// The size of an element in bytes; `None` for strings, resources, variants, references and unknown numbers.
    /// Numbers of 4 and 2 bits take a byte each, as in TensorFlow.
    pub fn size(self) -> Option<usize> {
        Some(match self.0 {
            4 | 6 | 10 | 11 | 12 | 24..=33 => 1,
            5 | 14 | 15 | 16 | 17 | 19 => 2,
            1 | 3 | 13 | 22 => 4,
            2 | 8 | 9 | 23 => 8,
            18 => 16,
            _ => return None,
        })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// A growable tensor buffer that is aligned to [`ALIGNMENT`].
pub type AlignedBytes = AVec<u8, ConstAlign<ALIGNMENT>>;

/// The elements of a tensor of numbers: little-endian, row-major, contiguous.
#[derive(Clone, Debug)]
pub enum Buffer {
    /// Memory that a codec has filled; aligned.
    Owned(AlignedBytes),
    /// A part of a request body, or memory of a runtime; of any alignment.
    Shared(Bytes),
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// The elements of a tensor of strings: ranges of one block of bytes.
///
/// The block may be a whole request body. Ranges may overlap and repeat.
#[derive(Clone, Debug, Default)]
pub struct Strings {
    bytes: Bytes,
    ranges: Vec<(usize, usize)>,
}

impl Strings {
    /// Strings at the given `(start, end)` ranges of `bytes`.
    ///
    /// # Panics
    ///
    /// If a range is not within `bytes`.
    pub fn new(bytes: Bytes, ranges: Vec<(usize, usize)>) -> Self {
        assert!(ranges.iter().all(|&(start, end)| start <= end && end <= bytes.len()), "a string outside its block");
        Self { bytes, ranges }
    }

    /// The number of strings.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The string at this index.
    ///
    /// # Panics
    ///
    /// If the index is out of range.
    pub fn get(&self, index: usize) -> &[u8] {
        let (start, end) = self.ranges[index];
        &self.bytes[start..end]
    }

    /// The strings at these indices. The block is shared.
    fn range(&self, range: Range<usize>) -> Self {
        Self { bytes: self.bytes.clone(), ranges: self.ranges[range].to_vec() }
    }

    /// All strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.ranges.iter().map(|&(start, end)| &self.bytes[start..end])
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Strings {
    fn from_iter<I: IntoIterator<Item = T>>(strings: I) -> Self {
        let mut bytes = Vec::new();
        let mut ranges = Vec::new();
        for string in strings {
            let start = bytes.len();
            bytes.extend_from_slice(string.as_ref());
            ranges.push((start, bytes.len()));
        }
        Self { bytes: bytes.into(), ranges }
    }
}

/// The elements of a tensor, in row-major order.
#[derive(Clone, Debug)]
pub enum Elements {
    /// Numbers and booleans.
    Numbers(Buffer),
    /// `DType::STRING`.
    Strings(Strings),
}

/// A tensor: dtype, shape and elements, which are consistent.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<i64>,
    elements: Elements,
}

impl Tensor {
    /// A tensor of numbers.
    ///
    /// # Panics
    ///
    /// If the size of the buffer does not match the shape, or the dtype has no fixed element size.
    pub fn from_numbers(dtype: DType, shape: Vec<i64>, buffer: Buffer) -> Self {
        let size = dtype.size().expect("a dtype of numbers");
        let count = element_count(&shape).expect("a shape that was checked");
        assert_eq!(buffer.as_ref().len(), count * size, "bytes of a {dtype} tensor of shape {shape:?}");
        Self { dtype, shape, elements: Elements::Numbers(buffer) }
    }

    /// A tensor of strings.
    ///
    /// # Panics
    ///
    /// If the number of strings does not match the shape.
    pub fn from_strings(shape: Vec<i64>, strings: Strings) -> Self {
        let count = element_count(&shape).expect("a shape that was checked");
        assert_eq!(strings.len(), count, "strings of a tensor of shape {shape:?}");
        Self { dtype: DType::STRING, shape, elements: Elements::Strings(strings) }
    }

    /// The dtype.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes of the dimensions, none negative; empty for a scalar.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// The elements.
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// Makes later clones share the elements instead of copying them.
    pub fn share(&mut self) {
        if let Elements::Numbers(Buffer::Owned(bytes)) = &mut self.elements {
            let owned = std::mem::replace(bytes, AlignedBytes::new(ALIGNMENT));
            self.elements = Elements::Numbers(Buffer::Shared(Bytes::from_owner(owned)));
        }
    }

    /// The rows at these indices of dimension 0. The tensor and the result share their elements.
    ///
    /// # Panics
    ///
    /// If the tensor is a scalar, or the range is out of bounds.
    #[must_use]
    pub fn rows(&mut self, range: Range<usize>) -> Self {
        self.share();
        let mut shape = self.shape.clone();
        assert!(range.start <= range.end && range.end <= shape[0] as usize, "rows {range:?} of {shape:?}");
        shape[0] = range.len() as i64;
        let row: usize = shape[1..].iter().map(|&size| size as usize).product();
        let (start, end) = (range.start * row, range.end * row);
        let elements = match &self.elements {
            Elements::Strings(strings) => Elements::Strings(strings.range(start..end)),
            Elements::Numbers(Buffer::Shared(bytes)) => {
                let size = self.dtype.size().expect("a dtype of numbers");
                Elements::Numbers(Buffer::Shared(bytes.slice(start * size..end * size)))
            }
            Elements::Numbers(Buffer::Owned(_)) => unreachable!("it has just been made to share them"),
        };
        Self { dtype: self.dtype, shape, elements }
    }

    /// Decomposes the tensor, so that the buffer can be moved.
    pub fn into_parts(self) -> (DType, Vec<i64>, Elements) {
        (self.dtype, self.shape, self.elements)
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().map(|&size| size as usize).product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// The size of the elements in bytes, without overhead of strings.
    pub fn size_in_bytes(&self) -> usize {
        match &self.elements {
            Elements::Numbers(buffer) => buffer.as_ref().len(),
            Elements::Strings(strings) => strings.iter().map(<[u8]>::len).sum(),
        }
    }
}

/// The number of elements of a shape; `None` if a size is negative or the product overflows `i64`.
pub fn element_count(shape: &[i64]) -> Option<usize> {
    let mut count: i64 = 1;
    for &size in shape {
        count = if size < 0 { return None } else { count.checked_mul(size)? };
    }
    usize::try_from(count).ok()
}

/// A shape as in error messages: `[2,3]`, `[]`.
pub fn shape_text(shape: &[i64]) -> String {
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("[{}]", sizes.join(","))
}
