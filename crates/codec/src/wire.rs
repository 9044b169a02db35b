//! The protobuf wire format, on the level of fields.
//!
//! The reader accepts the same input as protobuf's C++ parser, against which clients of TensorFlow Serving have been
//! tested. It differs from prost in three ways:
//!
//! - A known field with another wire type is unknown, instead of an error.
//! - Varints and tags may overflow. The surplus bits are dropped.
//! - Lengths have at most five bytes.

use bytes::BufMut;

/// The error for a malformed message.
///
/// It has no text, because none reaches the client: gRPC answers INTERNAL with an empty text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The maximum depth of messages and groups in the outermost message.
pub const MAX_DEPTH: u8 = 100;

/// The value of a field, by wire type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// An integer, a boolean or an enumeration.
    Varint(u64),
    /// A 64-bit number.
    Fixed64([u8; 8]),
    /// A string, bytes, a message or packed numbers.
    Length(&'a [u8]),
    /// A group. No known message has one, so its contents are only checked.
    Group,
    /// A 32-bit number.
    Fixed32([u8; 4]),
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field<'a> {
    /// The number, never 0.
    pub number: u32,
    /// The value.
    pub value: Value<'a>,
}

/// Reads the fields of one message, in order.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    depth: u8,
}

impl<'a> Reader<'a> {
    /// A reader of an outermost message.
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message, depth: MAX_DEPTH }
    }

    /// A reader of a message that is a field of this one.
    ///
    /// # Errors
    ///
    /// If messages are nested too deeply.
    pub fn nested(&self, message: &'a [u8]) -> Result<Self, Malformed> {
        Ok(Self { rest: message, depth: self.depth.checked_sub(1).ok_or(Malformed)? })
    }

    /// A reader of an entry of a map field of this message. An entry does not count as a level.
    #[must_use]
    pub fn entry(&self, entry: &'a [u8]) -> Self {
        Self { rest: entry, depth: self.depth }
    }

    /// The next field, `None` after the last one.
    ///
    /// # Errors
    ///
    /// If the bytes are not a field. The reader must not be used any more.
    pub fn next_field(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (number, wire_type) = self.tag()?;
        let value = self.value(number, wire_type)?;
        Ok(Some(Field { number, value }))
    }

    fn value(&mut self, number: u32, wire_type: u8) -> Result<Value<'a>, Malformed> {
        Ok(match wire_type {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.fixed()?),
            2 => {
                let length = self.length()?;
                Value::Length(self.take(length)?)
            }
            3 => {
                self.skip_group(number)?;
                Value::Group
            }
            5 => Value::Fixed32(self.fixed()?),
            _ => return Err(Malformed), // the end of a group that was not begun, or no wire type at all
        })
    }

    /// Skips a group, including its end tag.
    fn skip_group(&mut self, number: u32) -> Result<(), Malformed> {
        self.depth = self.depth.checked_sub(1).ok_or(Malformed)?;
        loop {
            match self.tag()? {
                (end, 4) if end == number => break,
                (inner, wire_type) => self.value(inner, wire_type)?,
            };
        }
        self.depth += 1;
        Ok(())
    }

    /// Reads a field number and a wire type: at most five bytes, of which 32 bits count.
    fn tag(&mut self) -> Result<(u32, u8), Malformed> {
        if let [byte @ 8..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok((u32::from(byte >> 3), byte & 7));
        }
        let mut tag = 0_u32;
        for (index, &byte) in self.rest.iter().take(5).enumerate() {
            tag |= u32::from(byte & 0x7f).wrapping_shl(7 * index as u32);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                let number = tag >> 3;
                return if number == 0 { Err(Malformed) } else { Ok((number, tag as u8 & 7)) };
            }
        }
        Err(Malformed)
    }

    /// Reads a varint: at most ten bytes, of which 64 bits count.
    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        if let [byte @ 0..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        let mut value = 0_u64;
        for (index, &byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f).wrapping_shl(7 * index as u32);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// Reads a length: at most five bytes, and less than 2 GiB.
    fn length(&mut self) -> Result<usize, Malformed> {
        let before = self.rest.len();
        let length = self.varint()?;
        if before - self.rest.len() > 5 || length > i32::MAX as u64 {
            return Err(Malformed);
        }
        Ok(length as usize)
    }

    /// Reads a varint of 32 bits outside a message, as TensorFlow does: at most five bytes.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn varint32(&mut self) -> Result<u32, Malformed> {
        let before = self.rest.len();
        let value = self.varint()?;
        if before - self.rest.len() > 5 { Err(Malformed) } else { Ok(value as u32) }
    }

    /// The remaining bytes.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }
}

/// The varints of a packed field.
///
/// Ends early at a malformed one. [`check_packed_varints`] excludes that.
pub fn packed_varints(packed: &[u8]) -> impl Iterator<Item = u64> {
    let mut reader = Reader::new(packed);
    std::iter::from_fn(move || if reader.rest.is_empty() { None } else { reader.varint().ok() })
}

/// Checks that a packed field is a sequence of whole varints.
///
/// # Errors
///
/// If it is not.
pub fn check_packed_varints(packed: &[u8]) -> Result<(), Malformed> {
    let mut continued = 0;
    for &byte in packed {
        continued = if byte < 0x80 { 0 } else { continued + 1 };
        if continued == 10 {
            return Err(Malformed);
        }
    }
    if continued == 0 { Ok(()) } else { Err(Malformed) }
}

/// The text of a string field.
///
/// # Errors
///
/// If it is not UTF-8.
pub fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}

/// The encoded length of a varint.
pub fn varint_len(value: u64) -> usize {
    // One byte for every seven bits, and one for zero.
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Writes a varint.
pub fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The encoded length of a field with this number and content: tag, length, content.
pub fn length_field_len(number: u32, content: usize) -> usize {
    varint_len(u64::from(number) << 3) + varint_len(content as u64) + content
}

/// Writes the tag and the length of a field. The caller writes the content.
pub fn put_length_tag(out: &mut impl BufMut, number: u32, content: usize) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, content as u64);
}

/// Writes a string, bytes or an encoded message.
pub fn put_length_field(out: &mut impl BufMut, number: u32, content: &[u8]) {
    put_length_tag(out, number, content.len());
    out.put_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(message: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Malformed> {
        let mut reader = Reader::new(message);
        let mut found = Vec::new();
        while let Some(field) = reader.next_field()? {
            found.push((field.number, field.value));
        }
        Ok(found)
    }

    #[test]
    fn fields_of_every_wire_type_are_read() {
        let message = b"\x08\x96\x01\x11\x01\x02\x03\x04\x05\x06\x07\x08\x1a\x02hi\x23\x08\x01\x24\x2d\x01\x02\x03\x04";
        let expected = vec![
            (1, Value::Varint(150)),
            (2, Value::Fixed64([1, 2, 3, 4, 5, 6, 7, 8])),
            (3, Value::Length(b"hi")),
            (4, Value::Group),
            (5, Value::Fixed32([1, 2, 3, 4])),
        ];
        assert_eq!(fields(message), Ok(expected));
    }

    #[test]
    fn broken_messages_are_malformed() {
        let cases: [&[u8]; 15] = [
            b"\xff",                                             // a tag without an end
            b"\x80\x80\x80\x80\x80\x00",                         // a tag of six bytes
            b"\x00\x00",                                         // field number 0
            b"\x06\x00",                                         // no such wire type
            b"\x0f\x00",                                         // nor this one
            b"\x08",                                             // no value
            b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", // a varint of eleven bytes
            b"\x0a\x02x",                                        // shorter than its length
            b"\x0a\x81\x80\x80\x80\x80\x00x",                    // a length of six bytes
            b"\x0a\xff\xff\xff\xff\x08",                         // a length of 2 GiB
            b"\x0d\x01\x02\x03",                                 // three bytes of four
            b"\x0c",                                             // the end of nothing
            b"\x0b",                                             // a group without an end
            b"\x0b\x14",                                         // the end of another group
            b"\x0b\x08\x80\x0c",                                 // a broken field in a group
        ];
        for message in cases {
            assert_eq!(fields(message), Err(Malformed), "{message:x?}");
        }
    }

    #[test]
    fn surplus_bits_are_dropped() {
        assert_eq!(fields(b"\x88\x80\x80\x80\x70\x01"), Ok(vec![(1, Value::Varint(1))]));
        assert_eq!(fields(b"\x08\x81\x80\x80\x80\x80\x80\x80\x80\x80\x7f"), Ok(vec![(1, Value::Varint(1 << 63 | 1))]));
    }

    #[test]
    fn groups_nest_to_a_limit() {
        let nested = |depth: usize| [vec![0x0b; depth], vec![0x0c; depth]].concat();
        assert_eq!(fields(&nested(100)), Ok(vec![(1, Value::Group)]));
        assert_eq!(fields(&nested(101)), Err(Malformed));
        assert_eq!(fields(&nested(1_000_000)), Err(Malformed));
        assert_eq!(fields(&nested(1).repeat(101)).map(|found| found.len()), Ok(101));
    }

    proptest! {
        #[test]
        fn varints_round_trip(value: u64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(bytes.len(), varint_len(value));
            prop_assert_eq!(check_packed_varints(&bytes), Ok(()));
            prop_assert_eq!(packed_varints(&bytes).collect::<Vec<_>>(), vec![value]);
        }

        #[test]
        fn packed_varints_are_checked_as_they_are_read(bytes in prop::collection::vec(prop_oneof![0..4_u8, 0x7e..0x82_u8], 0..40)) {
            let mut reader = Reader::new(&bytes);
            let mut readable = true;
            while readable && !reader.rest.is_empty() {
                readable = reader.varint().is_ok();
            }
            prop_assert_eq!(check_packed_varints(&bytes).is_ok(), readable);
        }

        #[test]
        fn random_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = fields(&bytes);
        }
    }
}
