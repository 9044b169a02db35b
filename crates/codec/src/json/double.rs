//! Printing of doubles in the REST API; see [`super::float`].
//!
//! The seventeen digits are the integer part of the number times a power of ten, in 128 bits. That product is too small
//! by less than a known bound. If the bound leaves the rounding open, the exact formatting of the standard library
//! decides.

use super::digits::{Text, exact_digits, split_eight_digits, write_exponent};
use super::powers;

/// The number of significant digits that distinguish any two doubles.
const DIGITS: i32 = 17;
/// One unit of the sixth digit, in units of the last.
const SIXTH: u64 = 100_000_000_000;
/// The maximum distance of a double from a decimal that reads back to it, in units of the last digit.
///
/// Half the distance between neighbours is at most 2^-53 of the number, and the number is less than 10^17 units.
const REACH: u64 = 12;
/// The largest power of ten that a double represents exactly.
const EXACT_POWER: i32 = 22;

/// Writes a normal number. Returns the length of the text.
pub(super) fn write_normal(text: &mut Text, value: f64) -> usize {
    let scaled = Scaled::new(value);
    let (mut digits, mut exponent, mut precision) = (scaled.integer, scaled.exponent, DIGITS);
    let six = scaled.six_digits().filter(|&six| from_decimal(six, exponent - 5).to_bits() == value.abs().to_bits());
    if let Some(six) = six {
        (digits, precision) = (u64::from(six) * SIXTH, 6);
    } else {
        digits += u64::from(scaled.rounds_up().unwrap_or_else(|| scaled.rounds_up_exactly(value)));
    }
    if digits == 10_u64.pow(DIGITS as u32) {
        digits /= 10;
        exponent += 1;
    }
    text[0] = b'-';
    let start = usize::from(value.is_sign_negative());
    write_number(text, start, &Digits::new(digits), exponent, precision)
}

/// `significand` * 10^`exponent`, rounded.
fn from_decimal(significand: u32, exponent: i32) -> f64 {
    if exponent.abs() > EXACT_POWER {
        return format!("{significand}e{exponent}").parse().unwrap_or(f64::NAN);
    }
    // Both operands are exact, so the single operation rounds correctly.
    let power = powers::double(exponent.unsigned_abs() as usize);
    if exponent < 0 { f64::from(significand) / power } else { f64::from(significand) * power }
}

/// The magnitude of a number, times the power of ten that gives it seventeen integer digits.
struct Scaled {
    /// The integer part, truncated.
    integer: u64,
    /// The fraction, in units of 2^-`fraction_bits`; up to two units too small unless `is_exact`.
    fraction: u128,
    fraction_bits: u32,
    is_exact: bool,
    /// The decimal exponent of the first digit.
    exponent: i32,
}

impl Scaled {
    #[inline]
    fn new(value: f64) -> Self {
        let (significand, binary) = normalised(value);
        // The floor of the logarithm of the power of two below the number is right, or one too small.
        let estimate = ((binary + 63) * 78_913) >> 18;
        let step = powers::binary_exponent(estimate + 1) + 64;
        let reaches_next =
            binary > step || (binary == step && u128::from(significand) << 64 >= powers::significand(estimate + 1));
        let exponent = estimate + i32::from(reaches_next);

        let power = DIGITS - 1 - exponent;
        let wide = powers::significand(power);
        let high = u128::from(significand) * (wide >> 64);
        let low = u128::from(significand) * u128::from(wide as u64);
        let product = high + (low >> 64);
        let fraction_bits = -(binary + powers::binary_exponent(power) + 64) as u32;
        Self {
            integer: (product >> fraction_bits) as u64,
            fraction: product & ((1 << fraction_bits) - 1),
            fraction_bits,
            is_exact: low as u64 == 0 && (0..=powers::GREATEST_EXACT).contains(&power),
            exponent,
        }
    }

    /// The number rounded to six digits, if that is close enough that it may read back to the number.
    #[inline]
    fn six_digits(&self) -> Option<u32> {
        let rest = self.integer % SIXTH;
        // Two more, for the truncated fraction and the error of the product.
        let is_near = rest <= REACH + 2 || SIXTH - rest <= REACH + 2;
        is_near.then(|| ((self.integer + SIXTH / 2) / SIXTH) as u32)
    }

    /// Whether the integer part rounds up, with ties to even; `None` if the error of the product leaves that open.
    #[inline]
    fn rounds_up(&self) -> Option<bool> {
        let half = 1 << (self.fraction_bits - 1);
        if self.is_exact {
            Some(self.fraction > half || (self.fraction == half && self.integer % 2 == 1))
        } else if self.fraction > half {
            Some(true)
        } else if self.fraction + 2 < half {
            Some(false)
        } else {
            None
        }
    }

    #[cold]
    fn rounds_up_exactly(&self, value: f64) -> bool {
        // Either the integer part or one more, which may have lost a digit to the exponent.
        exact_digits(value, DIGITS as usize) != self.integer
    }
}

/// The magnitude as a normalized 64-bit significand, and the exponent of its last bit.
fn normalised(value: f64) -> (u64, i32) {
    const STORED: u32 = f64::MANTISSA_DIGITS - 1;
    let bits = value.to_bits();
    let biased = (bits >> STORED) as i32 & (2 * f64::MAX_EXP - 1);
    let significand = (bits & ((1 << STORED) - 1) | (1 << STORED)) << (63 - STORED);
    (significand, biased - (f64::MAX_EXP - 1) - 63)
}

/// Enough for 17 digits, in one copy of a fixed size.
const COPY: usize = 20;

/// Seventeen decimal digits as text.
struct Digits {
    /// Padded, so that copies of [`COPY`] bytes may start at any digit.
    text: [u8; 2 * COPY],
    /// The number of digits without trailing zeros; at least 1.
    length: usize,
}

impl Digits {
    #[inline]
    fn new(number: u64) -> Self {
        const ASCII: u64 = 0x3030_3030_3030_3030;
        let (first, rest) = (number / 10_u64.pow(16), number % 10_u64.pow(16));
        let upper = split_eight_digits(rest / 10_u64.pow(8));
        let lower = split_eight_digits(rest % 10_u64.pow(8));
        let mut text = [b'0'; 2 * COPY];
        text[0] += first as u8;
        text[1..9].copy_from_slice(&(upper | ASCII).to_le_bytes());
        text[9..17].copy_from_slice(&(lower | ASCII).to_le_bytes());
        // The last digit is in the highest byte.
        let zeros = if lower == 0 { 64 + upper.leading_zeros() } else { lower.leading_zeros() };
        Self { text, length: 17 - zeros as usize / 8 }
    }
}

/// Writes digits, the first of which stands for 10^`exponent`, in the format `%g` with this precision. Trailing zeros
/// are omitted. There is an exponent if it is below -4 or not below the precision. Returns the end of the text.
#[inline]
fn write_number(text: &mut Text, start: usize, digits: &Digits, exponent: i32, precision: i32) -> usize {
    let mut put = |at: usize, from: usize| {
        text[at..at + COPY].copy_from_slice(&digits.text[from..from + COPY]);
    };
    if exponent < -4 || exponent >= precision {
        put(start + 1, 0);
        text[start] = digits.text[0];
        text[start + 1] = b'.';
        let end = start + if digits.length > 1 { digits.length + 1 } else { 1 };
        write_exponent(text, end, exponent)
    } else if exponent < 0 {
        let zeros = (1 - exponent) as usize;
        put(start + zeros, 0);
        text[start..start + zeros].copy_from_slice(&b"0.000"[..zeros]);
        start + zeros + digits.length
    } else {
        // The digits are followed by zeros, for the integer part and for the one decimal that is always printed.
        let point = exponent as usize + 1;
        put(start, 0);
        put(start + point + 1, point);
        text[start + point] = b'.';
        start + digits.length.max(point + 1) + 1
    }
}
