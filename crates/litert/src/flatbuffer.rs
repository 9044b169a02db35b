//! Reads tables of a flatbuffer that may be damaged or hostile.
//!
//! Offsets and lengths are checked where they are used. A budget bounds the total work, because a small file can refer
//! to the same vector many times.

use std::cell::Cell;

/// The file is not what it claims to be. The text names the part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damaged(pub(crate) String);

impl Damaged {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

type Result<T> = std::result::Result<T, Damaged>;

/// The bytes of a flatbuffer.
pub(crate) struct Flatbuffer<'a> {
    bytes: &'a [u8],
    /// How many more elements of vectors are read.
    budget: Cell<usize>,
}

impl<'a> Flatbuffer<'a> {
    /// A buffer whose root table is read with [`Flatbuffer::root`].
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        // A sound file has each element in at most one place, and the reader visits it at most a few times.
        Self { bytes, budget: Cell::new(bytes.len().saturating_mul(4)) }
    }

    /// Whether the file identifier is this one.
    pub(crate) fn has_identifier(&self, identifier: [u8; 4]) -> bool {
        self.bytes.get(4..8) == Some(&identifier)
    }

    /// The root table.
    pub(crate) fn root(&self) -> Result<Table<'_>> {
        self.table_at(self.offset(0)?)
    }

    fn array<const N: usize>(&self, position: usize) -> Result<[u8; N]> {
        let end = position.checked_add(N).ok_or_else(outside)?;
        let bytes = self.bytes.get(position..end).ok_or_else(outside)?;
        Ok(bytes.try_into().expect("a slice of N bytes"))
    }

    fn u32(&self, position: usize) -> Result<u32> {
        self.array(position).map(u32::from_le_bytes)
    }

    /// The position that the offset at a position refers to.
    fn offset(&self, position: usize) -> Result<usize> {
        position.checked_add(self.u32(position)? as usize).ok_or_else(outside)
    }

    fn table_at(&self, position: usize) -> Result<Table<'_>> {
        let back = i64::from(i32::from_le_bytes(self.array(position)?));
        let vtable = usize::try_from(position as i64 - back).map_err(|_| outside())?;
        let size = usize::from(u16::from_le_bytes(self.array(vtable)?));
        if size < 4 || size % 2 != 0 || vtable.checked_add(size).is_none_or(|end| end > self.bytes.len()) {
            return Err(outside());
        }
        Ok(Table { buffer: self, position, vtable, size })
    }

    /// The start and the number of the elements of the vector at a position.
    fn vector_at(&self, position: usize, element: usize) -> Result<(usize, usize)> {
        let count = self.u32(position)? as usize;
        let start = position + 4;
        let fits = count.checked_mul(element).and_then(|size| start.checked_add(size));
        if fits.is_none_or(|end| end > self.bytes.len()) {
            return Err(outside());
        }
        Ok((start, count))
    }

    fn spend(&self, elements: usize) -> Result<()> {
        let left = self.budget.get().checked_sub(elements);
        self.budget.set(left.ok_or_else(|| Damaged::new("refers to the same elements too often"))?);
        Ok(())
    }
}

fn outside() -> Damaged {
    Damaged::new("refers to a place outside the file")
}

/// A table: fields by number.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    buffer: &'a Flatbuffer<'a>,
    position: usize,
    vtable: usize,
    size: usize,
}

impl<'a> Table<'a> {
    /// The position of a field; `None` if it has its default.
    fn field(&self, number: usize) -> Result<Option<usize>> {
        let entry = 4 + 2 * number;
        if entry + 2 > self.size {
            return Ok(None);
        }
        let offset = usize::from(u16::from_le_bytes(self.buffer.array(self.vtable + entry)?));
        Ok((offset != 0).then_some(self.position + offset))
    }

    fn scalar<const N: usize>(&self, number: usize) -> Result<Option<[u8; N]>> {
        self.field(number)?.map(|position| self.buffer.array(position)).transpose()
    }

    /// A number that is 0 by default.
    pub(crate) fn u8(&self, number: usize) -> Result<u8> {
        Ok(self.scalar(number)?.map_or(0, u8::from_le_bytes))
    }

    /// A number that is 0 by default.
    pub(crate) fn u32(&self, number: usize) -> Result<u32> {
        Ok(self.scalar(number)?.map_or(0, u32::from_le_bytes))
    }

    /// A number that is 0 by default.
    pub(crate) fn u64(&self, number: usize) -> Result<u64> {
        Ok(self.scalar(number)?.map_or(0, u64::from_le_bytes))
    }

    fn vector(&self, number: usize, element: usize) -> Result<(usize, usize)> {
        match self.field(number)? {
            None => Ok((0, 0)),
            Some(field) => self.buffer.vector_at(self.buffer.offset(field)?, element),
        }
    }

    /// The bytes of a vector; empty if it is absent.
    pub(crate) fn bytes(&self, number: usize) -> Result<&'a [u8]> {
        let (start, count) = self.vector(number, 1)?;
        Ok(&self.buffer.bytes[start..start + count])
    }

    /// A text; empty if it is absent.
    pub(crate) fn text(&self, number: usize) -> Result<&'a str> {
        let bytes = self.bytes(number)?;
        self.buffer.spend(bytes.len())?;
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Ok(text),
            _ => Err(Damaged::new("has a name that is not text")),
        }
    }

    /// The numbers of a vector; `None` if it is absent.
    pub(crate) fn numbers(&self, number: usize) -> Result<Option<Vec<i32>>> {
        if self.field(number)?.is_none() {
            return Ok(None);
        }
        let (start, count) = self.vector(number, 4)?;
        self.buffer.spend(count)?;
        let bytes = &self.buffer.bytes[start..start + 4 * count];
        Ok(Some(bytes.chunks_exact(4).map(|number| i32::from_le_bytes(number.try_into().expect("4 bytes"))).collect()))
    }

    /// The tables of a vector; empty if it is absent.
    pub(crate) fn tables(&self, number: usize) -> Result<Vec<Table<'a>>> {
        let (start, count) = self.vector(number, 4)?;
        // A table is visited with its fields.
        self.buffer.spend(count.saturating_mul(4))?;
        (0..count).map(|index| self.buffer.table_at(self.buffer.offset(start + 4 * index)?)).collect()
    }
}

/// The entries of a flexbuffer that is a map from texts to byte strings.
pub(crate) fn flexbuffer_map(bytes: &[u8]) -> Result<Vec<(String, &[u8])>> {
    const KEY: u8 = 4;
    const STRING: u8 = 5;
    const MAP: u8 = 9;
    const BLOB: u8 = 25;
    let flexible = |start: usize, width: usize| -> Result<usize> {
        let bytes = start.checked_add(width).and_then(|end| bytes.get(start..end)).ok_or_else(outside)?;
        let mut number = [0; 8];
        number.get_mut(..width).ok_or_else(outside)?.copy_from_slice(bytes);
        usize::try_from(u64::from_le_bytes(number)).map_err(|_| outside())
    };
    let follow = |position: usize, width: usize| -> Result<usize> {
        position.checked_sub(flexible(position, width)?).ok_or_else(outside)
    };
    let width_of = |packed: u8| 1_usize << (packed & 3);
    let &[.., root_type, root_width] = bytes else { return Err(outside()) };
    let root = bytes.len().checked_sub(2 + usize::from(root_width)).ok_or_else(outside)?;
    if root_type >> 2 != MAP || !matches!(root_width, 1 | 2 | 4 | 8) {
        return Err(Damaged::new("has definitions of signatures that are no map"));
    }
    let width = width_of(root_type);
    let values = follow(root, usize::from(root_width))?;
    let before = |slots: usize| values.checked_sub(slots * width).ok_or_else(outside);
    let (count, key_width) = (flexible(before(1)?, width)?, flexible(before(2)?, width)?);
    let keys = follow(before(3)?, width)?;
    if !matches!(key_width, 1 | 2 | 4 | 8) || count > bytes.len() / width {
        return Err(outside());
    }
    let mut entries = Vec::with_capacity(count);
    let mut copied = 0;
    for index in 0..count {
        let key = follow(keys + index * key_width, key_width)?;
        let key = bytes.get(key..).ok_or_else(outside)?;
        let key = key.split(|&byte| byte == 0).next().unwrap_or_default();
        copied += key.len();
        if copied > bytes.len() {
            return Err(Damaged::new("refers to the same elements too often"));
        }
        let packed = *bytes.get(values + count * width + index).ok_or_else(outside)?;
        let value = follow(values + index * width, width)?;
        let value = match packed >> 2 {
            STRING | BLOB => {
                let length_width = width_of(packed);
                let length = flexible(value.checked_sub(length_width).ok_or_else(outside)?, length_width)?;
                value.checked_add(length).and_then(|end| bytes.get(value..end)).ok_or_else(outside)?
            }
            KEY => bytes.get(value..).and_then(|rest| rest.split(|&byte| byte == 0).next()).ok_or_else(outside)?,
            _ => return Err(Damaged::new("has a definition of a signature that is no string")),
        };
        let key = std::str::from_utf8(key).map_err(|_| Damaged::new("has a name that is not text"))?;
        entries.push((key.to_owned(), value));
    }
    Ok(entries)
}
