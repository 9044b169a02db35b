//! Floats as the REST API prints them.
//!
//! Six significant digits where they are the number exactly as `%g` would print it and read back to the same number;
//! nine (single) or seventeen (double) digits otherwise, as `%.9g` and `%.17g` print them. A whole number that has
//! neither point nor exponent gets `.0`. Subnormal numbers print as zeros, as TensorFlow Serving flushes them, unless
//! [`Subnormals::Kept`] is asked for.
//!
//! [`super::single`] and [`super::double`] do the normal numbers. Six digits can only be right where the digits behind
//! them are close to a round number, which few numbers are.

use super::{double, single};

/// What is done with numbers below the normal range of their type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subnormals {
    /// They become zeros of their sign, as in TensorFlow Serving's REST API.
    Flushed,
    /// They are read and written as the numbers they are.
    Kept,
}

/// Room for one number. Writing into more room than a text needs spares asking how much it does need.
pub(super) type Text = [u8; 48];

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

/// Writes the exponent of a number; returns where it ends.
pub(super) fn write_exponent(text: &mut Text, mut at: usize, exponent: i32) -> usize {
    let mut push = |byte| {
        text[at] = byte;
        at += 1;
    };
    push(b'e');
    push(if exponent < 0 { b'-' } else { b'+' });
    let magnitude = exponent.unsigned_abs();
    if magnitude >= 100 {
        push(b'0' + (magnitude / 100) as u8);
    }
    push(b'0' + (magnitude / 10 % 10) as u8);
    push(b'0' + (magnitude % 10) as u8);
    at
}

/// The first digits of a number, exactly rounded, as an integer.
#[cold]
pub(super) fn exact_digits(value: f64, count: usize) -> u64 {
    let text = format!("{:.*e}", count - 1, value.abs());
    let digits = text.bytes().take_while(|&byte| byte != b'e').filter(u8::is_ascii_digit);
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// The digits of a number below 10^8, one a byte, the first in the lowest byte.
#[inline]
pub(super) fn split_eight_digits(number: u64) -> u64 {
    // Fours, pairs, digits: each step divides all parts at once, by multiplying and shifting.
    let fours = (number / 10_000) | ((number % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let pairs = hundreds | ((fours - 100 * hundreds) << 16);
    let tens = ((pairs * 103) >> 10) & 0x000f_000f_000f_000f;
    tens | ((pairs - 10 * tens) << 8)
}
