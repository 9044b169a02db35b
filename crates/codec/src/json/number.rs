//! Reads numbers exactly as `RapidJSON` 1.1.0 does in its normal precision.
//!
//! That conversion is not correctly rounded. It collects about 17 digits, scales them by one power of ten, and rounds
//! at each step. TensorFlow Serving also flushes subnormal numbers to zero. Clients see the results of both, so both
//! are reproduced to the last bit.

use super::powers;
use super::syntax::{Fault, SyntaxError, peek};

/// A number, by the kinds that type checks distinguish.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    /// Written as a non-negative integer, such as `-0`.
    Unsigned(u64),
    /// Written as a negative integer.
    Negative(i64),
    /// Written with a fraction or exponent, or as NaN or infinity, or an integer that fits neither of the above.
    Double(f64),
}

impl Number {
    /// The value as a double, rounded where an integer has more than 53 bits.
    pub(super) fn as_f64(self) -> f64 {
        match self {
            Self::Unsigned(value) => value as f64,
            Self::Negative(value) => value as f64,
            Self::Double(value) => value,
        }
    }
}

/// The largest significand to which another digit of the fraction can be added without rounding.
pub(super) const GREATEST_EXACT: u64 = (1 << 53) - 1;
/// The number of significant digits up to which the fraction is read, without the first digit of the integer part.
const SIGNIFICANT_DIGITS: u32 = 17;
/// Further digits of a larger exponent are skipped.
const EXPONENT_LIMIT: i32 = 214_748_364;

/// Reads the number at `start`. Returns it, and the position after it.
pub(super) fn scan(body: &[u8], start: usize) -> Result<(Number, usize), SyntaxError> {
    let mut at = start;
    let negative = peek(body, at) == b'-';
    at += usize::from(negative);
    let Integer { value: integer, digits, overflowed, special, next } = match peek(body, at) {
        b'0'..=b'9' => scan_integer(body, at, start, negative)?,
        b'N' | b'I' => scan_special(body, at, negative)?,
        _ => return Err(Fault::InvalidValue.at(at)),
    };
    at = next;

    let mut double = overflowed;
    let mut fraction_exponent = 0;
    if peek(body, at) == b'.' {
        at += 1;
        if digit(body, at).is_none() {
            return Err(Fault::MissingFraction.at(at));
        }
        let (value, exponent, next) = scan_fraction(body, at, integer, overflowed, digits);
        (double, fraction_exponent, at) = (Some(value), exponent, next);
    }

    let mut exponent = 0;
    if matches!(peek(body, at), b'e' | b'E') {
        (exponent, at) = scan_exponent(body, at + 1, start, fraction_exponent)?;
        double = Some(double.unwrap_or(integer as f64));
    }

    let number = match (double, special) {
        (Some(significand), _) => {
            let value = scale(significand, exponent.saturating_add(fraction_exponent));
            Number::Double(if negative { -value } else { value })
        }
        (None, Some(special)) => Number::Double(special),
        (None, None) if negative && integer != 0 => Number::Negative((integer as i64).wrapping_neg()),
        (None, None) => Number::Unsigned(integer),
    };
    Ok((number, at))
}

/// The integer part of a number.
struct Integer {
    value: u64,
    /// The number of digits after the first.
    digits: u32,
    /// The value, if it is not in the range of integers.
    overflowed: Option<f64>,
    /// NaN or an infinity. If a fraction or an exponent follows, TensorFlow Serving replaces it by zero.
    special: Option<f64>,
    next: usize,
}

fn scan_integer(body: &[u8], start: usize, sign: usize, negative: bool) -> Result<Integer, SyntaxError> {
    let limit = if negative { 1 << 63 } else { u64::MAX };
    let mut value = u64::from(peek(body, start) - b'0');
    let mut at = start + 1;
    let mut digits = 0;
    let mut overflowed = None;
    // No digit may follow a leading zero. The grammar rejects it.
    while value != 0
        && overflowed.is_none()
        && let Some(digit) = digit(body, at)
    {
        match value.checked_mul(10).and_then(|tenfold| tenfold.checked_add(digit)) {
            Some(longer) if longer <= limit => {
                value = longer;
                at += 1;
                digits += 1;
            }
            _ => overflowed = Some(value as f64),
        }
    }
    if let Some(value) = &mut overflowed {
        while let Some(digit) = digit(body, at) {
            if *value >= 1.797_693_134_862_315_7e307 {
                return Err(Fault::NumberTooBig.at(sign));
            }
            *value = *value * 10.0 + digit as f64;
            at += 1;
        }
    }
    Ok(Integer { value, digits, overflowed, special: None, next: at })
}

#[inline]
fn digit(body: &[u8], at: usize) -> Option<u64> {
    let digit = peek(body, at).wrapping_sub(b'0');
    (digit < 10).then_some(u64::from(digit))
}

/// Adds the digits after the point at `at` to the integer part.
///
/// Returns the significand, the power of ten to scale it by, and the position after the last digit.
fn scan_fraction(
    body: &[u8],
    mut at: usize,
    mut integer: u64,
    overflowed: Option<f64>,
    mut digits: u32,
) -> (f64, i32, usize) {
    let mut exponent = 0;
    let mut value = if let Some(value) = overflowed {
        value
    } else {
        while integer <= GREATEST_EXACT
            && let Some(digit) = digit(body, at)
        {
            integer = integer * 10 + digit;
            at += 1;
            exponent -= 1;
            digits += u32::from(integer != 0);
        }
        integer as f64
    };
    while let Some(digit) = digit(body, at) {
        if digits < SIGNIFICANT_DIGITS {
            value = value * 10.0 + digit as f64;
            exponent -= 1;
            digits += u32::from(value > 0.0);
        }
        at += 1;
    }
    (value, exponent, at)
}

/// Reads the exponent after the `e` of the number at `start`. Returns it, and the position after it.
pub(super) fn scan_exponent(
    body: &[u8],
    mut at: usize,
    start: usize,
    fraction_exponent: i32,
) -> Result<(i32, usize), SyntaxError> {
    let negative = peek(body, at) == b'-';
    at += usize::from(matches!(peek(body, at), b'-' | b'+'));
    let Some(first) = digit(body, at) else { return Err(Fault::MissingExponent.at(at)) };
    at += 1;
    let mut exponent = first as i32;
    while let Some(digit) = digit(body, at) {
        at += 1;
        if negative && exponent >= EXPONENT_LIMIT {
            continue;
        }
        exponent = exponent * 10 + digit as i32;
        if !negative && exponent > 308 - fraction_exponent {
            return Err(Fault::NumberTooBig.at(start));
        }
    }
    Ok((if negative { -exponent } else { exponent }, at))
}

/// Reads `NaN`, `Inf` or `Infinity` at `at`, behind the sign.
///
/// TensorFlow Serving tries the letters of `NaN` one by one, and then those of `Inf` from the position that it has
/// reached. So `NInf` and `NaInf` are infinities.
fn scan_special(body: &[u8], mut at: usize, negative: bool) -> Result<Integer, SyntaxError> {
    let consume = |at: &mut usize, letters: &[u8]| {
        letters.iter().all(|&letter| {
            let matches = peek(body, *at) == letter;
            *at += usize::from(matches);
            matches
        })
    };
    let special = if consume(&mut at, b"NaN") {
        f64::NAN
    } else if consume(&mut at, b"Inf") && (peek(body, at) != b'i' || consume(&mut at, b"inity")) {
        if negative { f64::NEG_INFINITY } else { f64::INFINITY }
    } else {
        return Err(Fault::InvalidValue.at(at));
    };
    Ok(Integer { value: 0, digits: 0, overflowed: None, special: Some(special), next: at })
}

/// `significand` * 10^`exponent`, rounded as in TensorFlow Serving.
pub(super) fn scale(significand: f64, exponent: i32) -> f64 {
    match exponent {
        0.. => significand * powers::double(exponent.min(308) as usize),
        -308..0 => divide(significand, powers::double(-exponent as usize)),
        -616..-308 => divide(divide(significand, powers::double(308)), powers::double((-exponent - 308) as usize)),
        _ => 0.0,
    }
}

/// The quotient of non-negative numbers, with subnormal results flushed to zero.
///
/// The processor decides after rounding to 53 bits, before the rounding to the coarser subnormal grid. So a quotient
/// that only the latter would round up to the smallest normal number is flushed as well.
fn divide(dividend: f64, divisor: f64) -> f64 {
    const SPARE: f64 = 18_446_744_073_709_551_616.0;
    let quotient = dividend / divisor;
    if quotient > f64::MIN_POSITIVE || quotient == 0.0 {
        return quotient;
    }
    let is_tiny = (dividend * SPARE) / divisor < f64::MIN_POSITIVE * SPARE;
    if is_tiny { 0.0 } else { quotient }
}

/// A double rounded to single precision. Subnormal results become zero, as in TensorFlow Serving.
#[inline]
pub(super) fn to_f32(value: f64) -> f32 {
    // Half a step of the 24-bit grid below the smallest normal number: from here on, numbers are rounded up to it.
    const LEAST: f64 = f32::MIN_POSITIVE as f64 * (1.0 - 1.0 / 33_554_432.0);
    if value.abs() < LEAST { 0.0_f32.copysign(value as f32) } else { value as f32 }
}
