//! UBJSON, of which the library reads a part: lengths are of type `L`.

use super::{Encoding, MAX_DEPTH, Numbers, Value, damaged, too_deep};
use servable_model::error::Result;

pub(super) struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a [u8]) -> Self {
        Self { file, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.file.get(self.at).copied()
    }

    fn takes(&mut self, wanted: u8) -> bool {
        let is_there = self.peek() == Some(wanted);
        self.at += usize::from(is_there);
        is_there
    }

    fn expect(&mut self, wanted: u8) -> Result<()> {
        if self.takes(wanted) { Ok(()) } else { self.want(&format!("{:?}", char::from(wanted))) }
    }

    fn want<T>(&self, wanted: &str) -> Result<T> {
        Err(damaged(self.at, self.peek(), wanted))
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let bytes = self.file[self.at..].get(..len);
        let bytes = bytes.ok_or_else(|| damaged(self.file.len(), None, &format!("{len} bytes at byte {}", self.at)))?;
        self.at += len;
        Ok(bytes)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes(N)?;
        Ok(std::array::from_fn(|index| bytes[index]))
    }

    /// A length; values of at least this many bytes follow for each of its units.
    fn length(&mut self, unit: usize) -> Result<usize> {
        self.expect(b'L')?;
        let at = self.at;
        let length = i64::from_be_bytes(self.number()?);
        let rest = self.file.len() - self.at;
        let fits =
            usize::try_from(length).ok().filter(|length| length.checked_mul(unit).is_some_and(|all| all <= rest));
        fits.ok_or_else(|| damaged(self.file.len(), None, &format!("{length} values, as byte {at} says")))
    }

    pub(super) fn value(&mut self, depth: usize) -> Result<Value<'a>> {
        let Some(marker) = self.peek() else { return self.want("a value") };
        if depth == MAX_DEPTH && matches!(marker, b'{' | b'[') {
            return Err(too_deep(self.at));
        }
        self.at += 1;
        Ok(match marker {
            b'{' => return self.object(depth),
            b'[' => return self.array(depth),
            b'S' => Value::Text(self.string()?),
            b'Z' | b'T' | b'F' => Value::Other,
            b'i' | b'C' => Value::Integer(i8::from_be_bytes(self.number()?).into()),
            b'U' => Value::Integer(u8::from_be_bytes(self.number()?).into()),
            b'I' => Value::Integer(i16::from_be_bytes(self.number()?).into()),
            b'l' => Value::Integer(i32::from_be_bytes(self.number()?).into()),
            b'L' => Value::Integer(i64::from_be_bytes(self.number()?)),
            b'd' => self.bytes(4).map(|_| Value::Float)?,
            b'D' => self.bytes(8).map(|_| Value::Float)?,
            _ => {
                self.at -= 1;
                return self.want("a value");
            }
        })
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        let len = self.length(1)?;
        self.bytes(len)
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>> {
        let mut fields = Vec::new();
        while !self.takes(b'}') {
            let name = self.string()?;
            fields.push((name, self.value(depth + 1)?));
        }
        Ok(Value::Object(fields))
    }

    fn array(&mut self, depth: usize) -> Result<Value<'a>> {
        if self.takes(b'$') {
            let (encoding, size) = match self.peek() {
                Some(b'U') => (Encoding::U8, 1),
                Some(b'i') => (Encoding::I8, 1),
                Some(b'I') => (Encoding::I16, 2),
                Some(b'l') => (Encoding::I32, 4),
                Some(b'L') => (Encoding::I64, 8),
                Some(b'd') => (Encoding::F32, 4),
                Some(b'D') => (Encoding::F64, 8),
                _ => return self.want("a type of numbers"),
            };
            self.at += 1;
            self.expect(b'#')?;
            let len = self.length(size)?;
            return Ok(Value::Numbers(Numbers { len, encoding, bytes: self.bytes(len * size)? }));
        }
        let mut values = Vec::new();
        if self.takes(b'#') {
            for _ in 0..self.length(1)? {
                values.push(self.value(depth + 1)?);
            }
        } else {
            while !self.takes(b']') {
                values.push(self.value(depth + 1)?);
            }
        }
        Ok(Value::List(values))
    }
}
