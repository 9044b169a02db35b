//! Floats as the REST API prints them.
//!
//! Six significant digits where they are the number exactly as `%g` would print it and read back to the same number;
//! nine (single) or seventeen (double) digits otherwise, as `%.9g` and `%.17g` print them. A whole number that has
//! neither point nor exponent gets `.0`. Subnormal numbers print as zeros, as TensorFlow Serving flushes them, unless
//! [`Subnormals::Kept`] is asked for.
//!
//! [`super::single`] and [`super::double`] do the normal numbers. Six digits can only be right where the digits behind
//! them are close to a round number, which few numbers are.

use super::digits::Text;
use super::{double, single};

/// What is done with numbers below the normal range of their type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subnormals {
    /// They become zeros of their sign, as in TensorFlow Serving's REST API.
    Flushed,
    /// They are read and written as the numbers they are.
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

/// Writes a single; returns the length of its text.
#[inline]
pub(super) fn single_text(text: &mut Text, value: f32) -> usize {
    if value.is_normal() { single::write_normal(text, value) } else { write_special(text, f64::from(value)) }
}

/// Writes a double; returns the length of its text.
#[inline]
pub(super) fn double_text(text: &mut Text, value: f64) -> usize {
    if value.is_normal() { double::write_normal(text, value) } else { write_special(text, value) }
}

/// Zeros, infinities and NaN; and subnormal numbers as zeros.
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

/// Writes a single, subnormal ones included; returns the length of its text.
#[inline]
pub(super) fn single_text_kept(text: &mut Text, value: f32) -> usize {
    if !value.is_subnormal() {
        return single_text(text, value);
    }
    write_subnormal(text, f64::from(value), 9, |six| six.parse() == Ok(value))
}

/// Writes a double, subnormal ones included; returns the length of its text.
#[inline]
pub(super) fn double_text_kept(text: &mut Text, value: f64) -> usize {
    if !value.is_subnormal() {
        return double_text(text, value);
    }
    write_subnormal(text, value, 17, |six| six.parse() == Ok(value))
}

/// Writes six significant digits if they read back to the number, and otherwise as many as `precision` says.
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
