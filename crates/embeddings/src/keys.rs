//! The index from keys to rows.

use std::fmt;
use std::hash::BuildHasher;
use std::io::BufRead;

use hashbrown::{DefaultHashBuilder, HashTable};

use servable_model::error::Result;

use crate::place::{Place, shown};

/// Keys, each with the number of its row. The bytes of all keys are one block.
#[derive(Default)]
pub(crate) struct Keys {
    bytes: Vec<u8>,
    /// The end of each key in `bytes`.
    ends: Vec<usize>,
    rows: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

/// Why a key cannot be added.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeyError {
    /// This row has the same key.
    Repeated(usize),
    NotUtf8,
    TooMany,
}

impl Keys {
    /// Adds the key of the next row.
    pub(crate) fn push(&mut self, key: &[u8]) -> Result<(), KeyError> {
        if std::str::from_utf8(key).is_err() {
            return Err(KeyError::NotUtf8);
        }
        if let Some(row) = self.find(key) {
            return Err(KeyError::Repeated(row));
        }
        let row = u32::try_from(self.ends.len()).map_err(|_| KeyError::TooMany)?;
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
        let (bytes, ends, hasher) = (&self.bytes, &self.ends, &self.hasher);
        let hash = |&row: &u32| hasher.hash_one(slice(bytes, ends, row as usize));
        self.rows.insert_unique(hasher.hash_one(key), row, hash);
        Ok(())
    }

    /// The row of a key.
    pub(crate) fn find(&self, key: &[u8]) -> Option<usize> {
        let is_it = |&row: &u32| self.get(row as usize) == key;
        self.rows.find(self.hasher.hash_one(key), is_it).map(|&row| row as usize)
    }

    /// The key of a row.
    pub(crate) fn get(&self, row: usize) -> &[u8] {
        slice(&self.bytes, &self.ends, row)
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Reads a file with one key a line.
    ///
    /// # Errors
    ///
    /// `DATA_LOSS` with the line of a key that is repeated or no UTF-8.
    pub(crate) fn read(mut file: impl BufRead, place: Place<'_>) -> Result<Self> {
        let mut keys = Self::default();
        let mut line = Vec::new();
        while read_line(&mut file, &mut line, place)? {
            let number = keys.len() + 1;
            keys.push(&line).map_err(|error| place.wrong_line(number, error.of(&line, "line", 1)))?;
        }
        Ok(keys)
    }
}

fn slice<'a>(bytes: &'a [u8], ends: &[usize], row: usize) -> &'a [u8] {
    let start = if row == 0 { 0 } else { ends[row - 1] };
    &bytes[start..ends[row]]
}

impl KeyError {
    /// The problem in words. Places of keys are called `unit`, and count from `first`.
    pub(crate) fn of(&self, key: &[u8], unit: &'static str, first: usize) -> impl fmt::Display {
        match self {
            Self::Repeated(row) => format!("got key {} of {unit} {} again", shown(key), row + first),
            Self::NotUtf8 => format!("got key {}, want UTF-8", shown(key)),
            Self::TooMany => format!("got more than {} keys", u32::MAX),
        }
    }
}

/// Reads a line without its end. Returns whether there was one.
pub(crate) fn read_line(file: &mut impl BufRead, line: &mut Vec<u8>, place: Place<'_>) -> Result<bool> {
    line.clear();
    if file.read_until(b'\n', line).map_err(|error| place.system(&error))? == 0 {
        return Ok(false);
    }
    if line.ends_with(b"\n") {
        line.pop();
    }
    if line.ends_with(b"\r") {
        line.pop();
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &[u8]) -> Result<Keys, String> {
        Keys::read(text, Place(Path::new("keys.txt"))).map_err(|error| error.text().into_owned())
    }

    #[test]
    fn keys_are_found_by_their_bytes() {
        let keys = read("apple\r\n\nπ".as_bytes()).unwrap();
        let found: Vec<_> = ["apple", "", "π", "pear"].map(|key| keys.find(key.as_bytes())).into();
        assert_eq!(found, [Some(0), Some(1), Some(2), None]);
        assert_eq!((keys.len(), keys.get(2)), (3, "π".as_bytes()));
        let many: Vec<String> = (0..5000).map(|number| format!("key {number}")).collect();
        let keys = read(many.join("\n").as_bytes()).unwrap();
        assert!(many.iter().enumerate().all(|(row, key)| keys.find(key.as_bytes()) == Some(row)));
    }

    #[test]
    fn a_key_twice_or_in_another_encoding_is_named_with_its_line() {
        assert_eq!(read(b"a\nb\na\n").err().unwrap(), "keys.txt:3: got key \"a\" of line 1 again");
        assert_eq!(read(b"a\n\xff\n").err().unwrap(), "keys.txt:2: got key \"\\xff\", want UTF-8");
    }
}
