//! The fields of a document, with errors that name them.

use servable_model::error::{Code, Result, ServingError};

use crate::document::Value;

pub(crate) fn is_below(number: i64, end: usize) -> bool {
    usize::try_from(number).is_ok_and(|number| number < end)
}

pub(crate) fn damage(key: &str, found: &str, wanted: &str) -> ServingError {
    ServingError::new(Code::DataLoss, format!("{key}: got {found}, want {wanted}"))
}

pub(crate) fn field<'b, 'a>(of: &'b Value<'a>, key: &str) -> Result<&'b Value<'a>> {
    of.get(key).ok_or_else(|| damage(key, "none or several", "one"))
}

/// A number that is written as text, as all parameters are.
pub(crate) fn count(of: &Value<'_>, key: &str) -> Result<usize> {
    let text = field(of, key)?.text().map(String::from_utf8_lossy).unwrap_or_default();
    let number = text.parse::<u32>().ok().filter(|&number| i32::try_from(number).is_ok());
    number.map(|number| number as usize).ok_or_else(|| damage(key, &format!("{text:?}"), "a number in quotes"))
}

pub(crate) fn optional_count(of: &Value<'_>, key: &str) -> Result<Option<usize>> {
    of.get(key).map(|_| count(of, key)).transpose()
}

/// Checks that there are this many numbers.
pub(crate) fn numbers(of: &Value<'_>, key: &str, len: usize) -> Result<()> {
    let found = field(of, key)?.numbers();
    if found == Some(len) { Ok(()) } else { Err(wrong_length(key, found, len)) }
}

/// An array of this many integers.
pub(crate) fn integers(of: &Value<'_>, key: &str, len: usize) -> Result<Vec<i64>> {
    let found = field(of, key)?.integers();
    match found {
        Some(found) if found.len() == len => Ok(found),
        found => Err(wrong_length(key, found.map(|found| found.len()), len)),
    }
}

fn wrong_length(key: &str, found: Option<usize>, wanted: usize) -> ServingError {
    let found = found.map_or_else(|| "other values".to_owned(), |len| format!("{len} numbers"));
    damage(key, &found, &wanted.to_string())
}
