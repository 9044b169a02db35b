//! JSON, in which numbers may also be `NaN`, `Infinity` and `-Infinity`.

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

    /// Skips white space, and takes a byte if it is this one.
    fn takes(&mut self, wanted: u8) -> bool {
        self.skip_spaces();
        let is_there = self.peek() == Some(wanted);
        self.at += usize::from(is_there);
        is_there
    }

    fn want<T>(&self, wanted: &str) -> Result<T> {
        Err(damaged(self.at, self.peek(), wanted))
    }

    fn skip_spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    pub(super) fn value(&mut self, depth: usize) -> Result<Value<'a>> {
        self.skip_spaces();
        if depth == MAX_DEPTH && matches!(self.peek(), Some(b'{' | b'[')) {
            return Err(too_deep(self.at));
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Value::Text(self.string()?)),
            _ => {
                let word = self.word();
                match word {
                    b"" => self.want("a value"),
                    b"null" | b"true" | b"false" => Ok(Value::Other),
                    _ if !is_number(word) => self.want("a value"),
                    _ => {
                        let integer = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
                        Ok(integer.map_or(Value::Float, Value::Integer))
                    }
                }
            }
        }
    }

    /// The letters, digits and signs that come next.
    fn word(&mut self) -> &'a [u8] {
        let rest = &self.file[self.at..];
        let len = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)).count();
        self.at += len;
        &rest[..len]
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        let start = self.at + 1;
        self.at = start;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(&self.file[start..self.at - 1]);
                }
                Some(b'\\') if self.at + 1 < self.file.len() => self.at += 2,
                Some(b'\\') | None => return Err(damaged(self.file.len(), None, "the end of a string")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>> {
        self.at += 1;
        let mut fields = Vec::new();
        if self.takes(b'}') {
            return Ok(Value::Object(fields));
        }
        loop {
            self.skip_spaces();
            if self.peek() != Some(b'"') {
                return self.want("the name of a field");
            }
            let name = self.string()?;
            if !self.takes(b':') {
                return self.want("a colon");
            }
            fields.push((name, self.value(depth + 1)?));
            if self.takes(b'}') {
                return Ok(Value::Object(fields));
            }
            if !self.takes(b',') {
                return self.want("a comma");
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value<'a>> {
        self.at += 1;
        let start = self.at;
        if let Some(numbers) = self.numbers() {
            return Ok(Value::Numbers(numbers));
        }
        self.at = start;
        let mut values = Vec::new();
        loop {
            values.push(self.value(depth + 1)?);
            if self.takes(b']') {
                return Ok(Value::List(values));
            }
            if !self.takes(b',') {
                return self.want("a comma");
            }
        }
    }

    /// The rest of an array, if it has nothing but numbers and Booleans.
    fn numbers(&mut self) -> Option<Numbers<'a>> {
        let start = self.at;
        let mut len = 0;
        if !self.takes(b']') {
            loop {
                self.skip_spaces();
                let word = self.word();
                if !is_number(word) && !matches!(word, b"true" | b"false") {
                    return None;
                }
                len += 1;
                if self.takes(b']') {
                    break;
                }
                if !self.takes(b',') {
                    return None;
                }
            }
        }
        Some(Numbers { len, encoding: Encoding::Text, bytes: &self.file[start..self.at - 1] })
    }
}

fn is_number(word: &[u8]) -> bool {
    let digits = word.strip_prefix(b"-").unwrap_or(word);
    matches!(digits, b"NaN" | b"Infinity") || digits.first().is_some_and(u8::is_ascii_digit)
}
