//! Reads ordinary numbers eight bytes at a time, with the same results as [`super::number::scan`].
//!
//! The number of digits varies, so branches on it would be mispredicted. [`scan_plain`] therefore always reads sixteen
//! bytes, with few branches.

use super::number::{GREATEST_EXACT, scale, scan, scan_exponent};
use super::powers;
use super::syntax::peek;

/// The result of [`scan`] as a double.
///
/// `None` if `scan` returns an error.
#[inline]
pub(super) fn scan_f64(body: &[u8], start: usize) -> Option<(f64, usize)> {
    match scan_plain(body, start) {
        Some(found) => Some(found),
        None => scan(body, start).ok().map(|(number, next)| (number.as_f64(), next)),
    }
}

/// The double nearest to the number at `start`, and the position after it; `None` if [`scan`] returns an error.
#[inline]
pub(super) fn scan_f64_correctly(body: &[u8], start: usize) -> Option<(f64, usize)> {
    /// Numbers with up to this many digits, and the powers of ten for them, are exact doubles, so only one rounding
    /// occurs.
    const EXACT_DIGITS: usize = 15;
    let (value, next) = scan_f64(body, start)?;
    let text = &body[start..next];
    if text.len() <= EXACT_DIGITS && !text.iter().any(|byte| matches!(byte, b'e' | b'E')) {
        return Some((value, next));
    }
    let nearest = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    Some((nearest.unwrap_or(value), next))
}

/// The single nearest to the number at `start`, and the position after it; `None` if [`scan`] returns an error.
#[inline]
pub(super) fn scan_f32_correctly(body: &[u8], start: usize) -> Option<(f32, usize)> {
    /// The bits of a double beyond the precision of a single, and their value halfway between two singles.
    const LOST: u64 = (1 << 29) - 1;
    const HALFWAY: u64 = 1 << 28;
    /// An upper bound of the error of [`scan`], in units of the last bit of a double.
    const ERROR: u64 = 64;
    let (value, next) = scan_f64(body, start)?;
    let is_clear = (value.to_bits() & LOST).abs_diff(HALFWAY) > ERROR;
    if (is_clear && value.abs() >= f64::from(f32::MIN_POSITIVE)) || value == 0.0 {
        return Some((value as f32, next));
    }
    let nearest = std::str::from_utf8(&body[start..next]).ok().and_then(|text| text.parse().ok());
    Some((nearest.unwrap_or(value as f32), next))
}

/// The integer at `start`, and the position after it. `None` if it is not written as an integer between `-10^18` and
/// `10^18`, or if [`scan`] returns an error.
#[inline]
pub(super) fn scan_i64(body: &[u8], start: usize) -> Option<(i64, usize)> {
    let negative = peek(body, start) == b'-';
    let first = start + usize::from(negative);
    let (magnitude, count, next) = append_digits(body, first, 0, 18)?;
    if count == 0 || (peek(body, first) == b'0' && count > 1) || matches!(peek(body, next), b'.' | b'e' | b'E') {
        return None;
    }
    let value = magnitude as i64;
    Some((if negative { -value } else { value }, next))
}

/// Reads a number of at most seven digits, with an optional fraction and exponent, rounded as by [`scan`]; `None` for
/// all others, and near the end of the body.
#[inline]
fn scan_plain(body: &[u8], start: usize) -> Option<(f64, usize)> {
    let negative = peek(body, start) == b'-';
    let first = start + usize::from(negative);
    let text = body.get(first..)?.first_chunk::<17>()?;
    let (words, _) = text.as_chunks::<8>();
    let (low, high) = (load(words[0]), load(words[1]));
    let whole = leading_digits(low);
    if whole == 0 || whole == 8 || (low as u8 == 0 && whole > 1) {
        return None;
    }
    if text[whole as usize] != b'.' {
        let integer = value_at_end(low << (64 - 8 * whole));
        if matches!(text[whole as usize], b'e' | b'E') {
            return scan_scaled(body, first + whole as usize, integer, 0, negative);
        }
        // An integer: its zero has no sign.
        let value = signed(integer as i64 as f64, negative && integer != 0);
        return Some((value, first + whole as usize));
    }
    // The same without the point: eight bytes, and then seven in the upper bytes of `high`.
    let before = (1 << (8 * whole)) - 1;
    let joined = (low & before) | (((low >> 8) | (high << 56)) & !before);
    let count = leading_digits(joined);
    // Zero, unless all eight are digits.
    let further = leading_digits((high >> 8) | (0xff << 56)) & 0_u32.wrapping_sub(count / 8);
    let fraction = count + further - whole;
    let behind = (count + further + 1) as usize;
    let upper = value_at_end(joined << (64 - 8 * count));
    let lower = value_at_end((high & !0xff) << (56 - 8 * further));
    let significand = upper * POWERS[further as usize] + lower;
    match text[behind] {
        b'0'..=b'9' => scan_further(body, first + behind, significand, fraction, negative),
        _ if fraction == 0 => None,
        b'e' | b'E' => scan_scaled(body, first + behind, significand, fraction, negative),
        // Both operands are exact, so there is one rounding. TensorFlow Serving has the same.
        _ => Some((signed(significand as i64 as f64 / powers::double(fraction as usize), negative), first + behind)),
    }
}

/// Continues after the fifteenth digit.
fn scan_further(body: &[u8], start: usize, significand: u64, fraction: u32, negative: bool) -> Option<(f64, usize)> {
    let (significand, further, next) = append_digits(body, start, significand, 4)?;
    let fraction = fraction + further;
    if significand / 10 > GREATEST_EXACT {
        return None;
    }
    if matches!(peek(body, next), b'e' | b'E') {
        return scan_scaled(body, next, significand, fraction, negative);
    }
    Some((signed(significand as f64 / powers::double(fraction as usize), negative), next))
}

/// Continues at an exponent. Takes the digits, the number of those after the point, and the position of the `e`.
fn scan_scaled(body: &[u8], at: usize, significand: u64, fraction: u32, negative: bool) -> Option<(f64, usize)> {
    let fraction_exponent = -(fraction as i32);
    let (exponent, next) = scan_exponent(body, at + 1, at, fraction_exponent).ok()?;
    let value = scale(significand as f64, exponent.saturating_add(fraction_exponent));
    Some((signed(value, negative), next))
}

/// Appends the digits at `at` to `value`. Returns the new value, the number of digits, and the position after them.
///
/// `None` if there may be more digits than a `u64` holds, or near the end of the body.
#[inline]
fn append_digits(body: &[u8], mut at: usize, mut value: u64, room: u32) -> Option<(u64, u32, usize)> {
    let mut total = 0;
    loop {
        let chunk = load(*body.get(at..)?.first_chunk()?);
        let count = leading_digits(chunk);
        if count == 0 {
            return Some((value, total, at));
        }
        total += count;
        if total > room {
            return None;
        }
        value = value * POWERS[count as usize] + value_at_end(chunk << (64 - 8 * count));
        at += count as usize;
        if count < 8 {
            return Some((value, total, at));
        }
    }
}

const ZEROS: u64 = 0x3030_3030_3030_3030;
const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// Eight bytes, with the first in the lowest byte. Digits become their values.
#[inline]
fn load(text: [u8; 8]) -> u64 {
    u64::from_le_bytes(text) ^ ZEROS
}

/// The number of leading digits in these bytes.
#[inline]
fn leading_digits(chunk: u64) -> u32 {
    // Sets the top bit of each byte that is not a digit. The sum cannot carry into the next byte.
    let others = (((chunk & 0x7f7f_7f7f_7f7f_7f7f) + 0x7676_7676_7676_7676) | chunk) & 0x8080_8080_8080_8080;
    others.trailing_zeros() / 8
}

/// The value of eight digits. Fewer digits are at the end, after zeros.
#[inline]
fn value_at_end(digits: u64) -> u64 {
    // Combines neighbours to pairs, groups of four, and eight.
    let pairs = (digits * 10 + (digits >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    (fours * 10_000 + (fours >> 32)) & 0xffff_ffff
}

#[inline]
fn signed(magnitude: f64, negative: bool) -> f64 {
    f64::from_bits(magnitude.to_bits() | u64::from(negative) << 63)
}
