//! The document in a model file, in JSON or UBJSON, as `XGBoost` writes it.
//!
//! The parsers of the library do not check it: a length out of range reads beyond the buffer, and an array without an
//! end is an endless loop. Here each length is checked against the size of the file. Values borrow the file, and
//! numbers are parsed when they are read.

mod json;
mod ubjson;

use servable_model::error::{Code, Result, ServingError};

/// The maximum nesting. Both readers of the library are recursive.
const MAX_DEPTH: usize = 32;

/// A value of a document.
#[derive(Debug)]
pub(crate) enum Value<'a> {
    /// Null, or a Boolean alone.
    Other,
    Integer(i64),
    Float,
    /// The bytes between the quotes, with their escapes.
    Text(&'a [u8]),
    Numbers(Numbers<'a>),
    List(Vec<Value<'a>>),
    Object(Vec<(&'a [u8], Value<'a>)>),
}

/// An array of numbers.
#[derive(Debug)]
pub(crate) struct Numbers<'a> {
    len: usize,
    encoding: Encoding,
    bytes: &'a [u8],
}

/// How an array of numbers is written; binary numbers are big-endian.
#[derive(Clone, Copy, Debug)]
enum Encoding {
    /// Separated by commas; Booleans are numbers too.
    Text,
    U8,
    I8,
    I16,
    I32,
    I64,
    F32,
    F64,
}

impl<'a> Value<'a> {
    /// Reads the document of a file; bytes behind it are ignored, as by the library.
    ///
    /// # Errors
    ///
    /// `DATA_LOSS` with the place of the damage.
    pub(crate) fn of_json(file: &'a [u8]) -> Result<Self> {
        json::Reader::new(file).value(0)
    }

    /// As [`Self::of_json`].
    pub(crate) fn of_ubjson(file: &'a [u8]) -> Result<Self> {
        ubjson::Reader::new(file).value(0)
    }

    /// A field of an object. A repeated one is none: of several, the two readers of the library take different ones.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(fields) = self else { return None };
        let mut found = fields.iter().filter(|(name, _)| *name == key.as_bytes()).map(|(_, value)| value);
        found.next().filter(|_| found.next().is_none())
    }

    pub(crate) fn text(&self) -> Option<&'a [u8]> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The elements of an array that has other values than numbers, or none.
    pub(crate) fn list(&self) -> Option<&[Self]> {
        match self {
            Self::List(values) => Some(values),
            Self::Numbers(Numbers { len: 0, .. }) => Some(&[]),
            _ => None,
        }
    }

    /// The length of an array of numbers.
    pub(crate) fn numbers(&self) -> Option<usize> {
        match self {
            Self::Numbers(numbers) => Some(numbers.len),
            Self::List(values) => {
                let are_numbers = values.iter().all(|value| matches!(value, Self::Integer(_) | Self::Float));
                are_numbers.then_some(values.len())
            }
            _ => None,
        }
    }

    /// The elements of an array of integers.
    pub(crate) fn integers(&self) -> Option<Vec<i64>> {
        match self {
            Self::Numbers(numbers) => numbers.integers(),
            Self::List(values) => values
                .iter()
                .map(|value| if let Self::Integer(number) = value { Some(*number) } else { None })
                .collect(),
            _ => None,
        }
    }
}

impl Numbers<'_> {
    fn integers(&self) -> Option<Vec<i64>> {
        macro_rules! decoded {
            ($number:ty) => {{
                let numbers = self.bytes.as_chunks().0.iter();
                Some(numbers.map(|bytes| i64::from(<$number>::from_be_bytes(*bytes))).collect())
            }};
        }
        match self.encoding {
            Encoding::Text if self.len == 0 => Some(Vec::new()),
            Encoding::Text => {
                let parse = |word: &[u8]| match word.trim_ascii() {
                    b"true" => Some(1),
                    b"false" => Some(0),
                    word => std::str::from_utf8(word).ok()?.parse().ok(),
                };
                self.bytes.split(|&byte| byte == b',').map(parse).collect()
            }
            Encoding::U8 => decoded!(u8),
            Encoding::I8 => decoded!(i8),
            Encoding::I16 => decoded!(i16),
            Encoding::I32 => decoded!(i32),
            Encoding::I64 => decoded!(i64),
            Encoding::F32 | Encoding::F64 => None,
        }
    }
}

/// The error for a document that is damaged at this place.
fn damaged(at: usize, found: Option<u8>, wanted: &str) -> ServingError {
    let found = found.map_or_else(|| "the end of the file".to_owned(), |byte| format!("{:?}", char::from(byte)));
    ServingError::new(Code::DataLoss, format!("byte {at}: got {found}, want {wanted}"))
}

fn too_deep(at: usize) -> ServingError {
    ServingError::new(Code::DataLoss, format!("byte {at}: got more than {MAX_DEPTH} nested values"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_have_the_same_values() {
        let json =
            br#" {"a\"b": [1, -2,3], "f": [1E0, NaN, -Infinity], "s": "x\\", "e": [], "o": [{"k": null}, true]}"#;
        let ubjson = b"{L\0\0\0\0\0\0\0\x04a\\\"b[$l#L\0\0\0\0\0\0\0\x03\0\0\0\x01\xff\xff\xff\xfe\0\0\0\x03\
            L\0\0\0\0\0\0\0\x01f[dabcdddefgd....]L\0\0\0\0\0\0\0\x01sSL\0\0\0\0\0\0\0\x03x\\\\\
            L\0\0\0\0\0\0\0\x01e[#L\0\0\0\0\0\0\0\0L\0\0\0\0\0\0\0\x01o[#L\0\0\0\0\0\0\0\x02{L\0\0\0\0\0\0\0\x01kZ}T}";
        for value in [Value::of_json(json), Value::of_ubjson(ubjson)] {
            let value = value.expect("it is sound");
            let get = |key| value.get(key).expect("it has that key");
            assert_eq!(get("a\\\"b").integers(), Some(vec![1, -2, 3]));
            assert_eq!((get("f").numbers(), get("f").integers()), (Some(3), None));
            assert_eq!(get("s").text(), Some(&b"x\\\\"[..]));
            assert_eq!((get("e").numbers(), get("e").list().map(<[_]>::len)), (Some(0), Some(0)));
            assert!(matches!(get("o").list(), Some([Value::Object(fields), Value::Other]) if fields.len() == 1));
            assert!(value.get("none").is_none());
        }
    }

    #[test]
    fn cut_off_documents_are_refused() {
        let json = br#"{"a": [1, 2], "b": {"c": "d", "e": [{}, 1.5]}}"#;
        let ubjson =
            b"{L\0\0\0\0\0\0\0\x01a[$L#L\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01L\0\0\0\0\0\0\0\x01b[i\x01U\x02ZF]}";
        Value::of_json(json).expect("it is sound");
        Value::of_ubjson(ubjson).expect("it is sound");
        for len in 0..json.len() {
            assert!(Value::of_json(&json[..len]).is_err(), "{len}");
        }
        for len in 0..ubjson.len() {
            assert!(Value::of_ubjson(&ubjson[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn nested_values_and_lengths_are_bounded() {
        let deep = vec![b'['; 1 << 20];
        for error in [Value::of_json(&deep), Value::of_ubjson(&deep)] {
            let text = error.expect_err("it is too deep").text().into_owned();
            assert_eq!(text, "byte 32: got more than 32 nested values");
        }
        for length in [i64::MAX, -1, 1 << 40] {
            for start in [&b"[#L"[..], b"[$d#L", b"SL", b"{L"] {
                let file = [start, &length.to_be_bytes(), &[b'i'; 20]].concat();
                assert!(Value::of_ubjson(&file).is_err(), "{length} in {start:?}");
            }
        }
    }

    #[test]
    fn repeated_fields_are_none() {
        assert!(Value::of_json(br#"{"a": 1, "b": 2, "a": 3}"#).expect("it is sound").get("a").is_none());
    }
}
