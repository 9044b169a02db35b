//! Printing of floats in the REST API.
//!
//! A number is printed with six significant digits, as by `%g`, if these read back to the same number. Otherwise it is
//! printed with nine (single) or seventeen (double) digits, as by `%.9g` and `%.17g`. A text with neither point nor
//! exponent gets `.0`. Subnormal numbers are printed as zeros, because TensorFlow Serving flushes them, except with
//! [`Subnormals::Kept`].
//!
//! [`super::single`] and [`super::double`] print the normal numbers. Six digits can be exact only if the further digits
//! are close to a round number, which is rare.

use super::digits::Text;
use super::{double, single};

/// The treatment of subnormal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subnormals {
    /// They become zeros with the same sign, as in the REST API of TensorFlow Serving.
    Flushed,
    /// They are kept.
    Kept,
}

/// The longest text of a number, such as `-1.2345678901234567e-308`.
pub(super) const LONGEST: usize = 24;

/// Appends a single.
pub fn write_f32(out: &mut Vec<u8>, value: f32) {
    let mut text = [0; _];
    let length = single_text(&mut text, value);
    out.extend_from_slice(&text[..length]);
}

/// Appends a double.
pub fn write_f64(out: &mut Vec<u8>, value: f64) {
    let mut text = [0; _];
    let length = double_text(&mut text, value);
    out.extend_from_slice(&text[..length]);
}

/// Writes a single. Returns the length of the text.
#[inline]
pub(super) fn single_text(text: &mut Text, value: f32) -> usize {
    if value.is_normal() { single::write_normal(text, value) } else { write_special(text, f64::from(value)) }
}

/// Writes a double. Returns the length of the text.
#[inline]
pub(super) fn double_text(text: &mut Text, value: f64) -> usize {
    if value.is_normal() { double::write_normal(text, value) } else { write_special(text, value) }
}

/// Writes zeros, infinities and NaN, and subnormal numbers as zeros.
fn write_special(text: &mut Text, value: f64) -> usize {
    let word: &[u8] = match (value.is_nan(), value.is_infinite(), value.is_sign_negative()) {
        (true, _, _) => b"NaN",
        (_, true, false) => b"Infinity",
        (_, true, true) => b"-Infinity",
        (_, _, false) => b"0.0",
        (_, _, true) => b"-0.0",
    };
    text[..word.len()].copy_from_slice(word);
    word.len()
}

/// Writes a single, which may be subnormal. Returns the length of the text.
#[inline]
pub(super) fn single_text_kept(text: &mut Text, value: f32) -> usize {
    if !value.is_subnormal() {
        return single_text(text, value);
    }
    write_subnormal(text, f64::from(value), 9, |six| six.parse() == Ok(value))
}

/// Writes a double, which may be subnormal. Returns the length of the text.
#[inline]
pub(super) fn double_text_kept(text: &mut Text, value: f64) -> usize {
    if !value.is_subnormal() {
        return double_text(text, value);
    }
    write_subnormal(text, value, 17, |six| six.parse() == Ok(value))
}

/// Writes six significant digits if they read back to the number, and otherwise `precision` digits.
#[cold]
fn write_subnormal(text: &mut Text, value: f64, precision: usize, reads_back: impl FnOnce(&str) -> bool) -> usize {
    let six = format!("{value:.5e}");
    let written = if reads_back(&six) { six } else { format!("{value:.*e}", precision - 1) };
    let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    let length = digits.len() + 1 + exponent.len();
    text[..digits.len()].copy_from_slice(digits.as_bytes());
    text[digits.len()] = b'e';
    text[digits.len() + 1..length].copy_from_slice(exponent.as_bytes());
    length
}
