//! Floats as the REST API prints them.
//!
//! Six significant digits where they are the number exactly as `%g` would print it and read back to the same number;
//! nine (single) or seventeen (double) digits otherwise, as `%.9g` and `%.17g` print them. A whole number that has
//! neither point nor exponent gets `.0`. Subnormal numbers print as zeros: the original flushes them.
//!
//! The nine or seventeen digits are computed first, as the integer part of the number times a power of ten in 128 bits.
//! That product is a little too small, by a known bound; wherever the bound leaves the rounding open, the standard
//! library's exact formatting decides. Six digits can only be right where the digits behind them are close to a round
//! number, which few numbers are, and then the candidate is converted back and compared.

use super::powers;

/// What the two formats differ in.
trait Float: Copy + PartialEq {
    /// Significant digits that tell any two numbers apart.
    const DIGITS: i32;
    /// How far the number may be from a decimal that reads back to it, in units of the last of those digits.
    ///
    /// Half a step between neighbours is at most 2^-24 (2^-53) of the number, and the number less than 10^DIGITS units.
    const REACH: u64;
    /// The greatest power of ten that the format holds exactly.
    const EXACT_POWER: i32;

    /// Magnitude as a 64-bit significand whose first bit is set, and the exponent of its last bit.
    fn normalised(self) -> (u64, i32);
    /// `significand` * 10^`exponent` rounded to the format: quick for exponents that [`Self::EXACT_POWER`] allows.
    fn from_decimal(significand: u32, exponent: i32) -> Self;
    /// Scientific notation with this many digits behind the point, exactly rounded.
    fn exact_text(self, places: usize) -> String;
}

macro_rules! impl_float {
    ($float:ty, $bits:ty, digits: $digits:expr, reach: $reach:expr, exact_power: $power:expr) => {
        impl Float for $float {
            const DIGITS: i32 = $digits;
            const REACH: u64 = $reach;
            const EXACT_POWER: i32 = $power;

            #[inline]
            fn normalised(self) -> (u64, i32) {
                const STORED: u32 = <$float>::MANTISSA_DIGITS - 1;
                let bits = self.to_bits();
                let biased = (bits >> STORED) as i32 & (2 * <$float>::MAX_EXP - 1);
                let significand = u64::from(bits & ((1 << STORED) - 1) | (1 << STORED)) << (63 - STORED);
                (significand, biased - (<$float>::MAX_EXP - 1) - 63)
            }

            #[inline]
            fn from_decimal(significand: u32, exponent: i32) -> Self {
                if exponent.abs() > Self::EXACT_POWER {
                    return format!("{significand}e{exponent}").parse().unwrap_or(<$float>::NAN);
                }
                // Both operands are exact, so the one operation rounds correctly.
                let power = powers::double(exponent.unsigned_abs() as usize) as $float;
                if exponent < 0 { significand as $float / power } else { significand as $float * power }
            }

            #[cold]
            fn exact_text(self, places: usize) -> String {
                format!("{:.*e}", places, self.abs())
            }
        }
    };
}

impl_float!(f32, u32, digits: 9, reach: 60, exact_power: 10);
impl_float!(f64, u64, digits: 17, reach: 12, exact_power: 22);

/// Appends a single.
#[inline]
pub fn write_f32(out: &mut Vec<u8>, value: f32) {
    if value.is_normal() {
        write_normal(out, value, value.abs(), value.is_sign_negative());
    } else {
        write_special(out, f64::from(value));
    }
}

/// Appends a double.
#[inline]
pub fn write_f64(out: &mut Vec<u8>, value: f64) {
    if value.is_normal() {
        write_normal(out, value, value.abs(), value.is_sign_negative());
    } else {
        write_special(out, value);
    }
}

/// Zeros, infinities and NaN; and subnormal numbers as zeros.
fn write_special(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
        return;
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    out.extend_from_slice(if value.is_infinite() { b"Infinity" } else { b"0.0" });
}

#[inline]
fn write_normal<F: Float>(out: &mut Vec<u8>, value: F, magnitude: F, is_negative: bool) {
    let unit = 10_u64.pow(F::DIGITS as u32 - 6);
    let scaled = Scaled::new(value);
    let (mut digits, mut exponent, mut precision) = (scaled.integer, scaled.exponent, F::DIGITS);
    let six = scaled.six_digits::<F>().filter(|&six| F::from_decimal(six, exponent - 5) == magnitude);
    if let Some(six) = six {
        (digits, precision) = (u64::from(six) * unit, 6);
    } else {
        digits += u64::from(scaled.rounds_up().unwrap_or_else(|| scaled.rounds_up_exactly(value)));
    }
    if digits == 10_u64.pow(F::DIGITS as u32) {
        digits /= 10;
        exponent += 1;
    }
    let mut text = Text::new();
    text.bytes[0] = b'-';
    text.length = usize::from(is_negative);
    text.push_number(&Digits::new(digits * 10_u64.pow(17 - F::DIGITS as u32)), exponent, precision);
    append(out, &text.bytes, text.length);
}

/// Appends the first `length` of these bytes: all of them, and then takes the others away again. A copy whose size the
/// compiler knows is worth that.
#[inline]
pub(super) fn append<const SIZE: usize>(out: &mut Vec<u8>, bytes: &[u8; SIZE], length: usize) {
    let end = out.len() + length;
    out.extend_from_slice(bytes);
    out.truncate(end);
}

/// The number's magnitude times the power of ten that gives it as many integer digits as the format has.
struct Scaled {
    /// The integer part, cut off.
    integer: u64,
    /// The fraction, in units of 2^-`fraction_bits`; up to two units too small unless `is_exact`.
    fraction: u128,
    fraction_bits: u32,
    is_exact: bool,
    /// The decimal exponent of the number's first digit.
    exponent: i32,
}

impl Scaled {
    #[inline]
    fn new<F: Float>(value: F) -> Self {
        let (significand, binary) = value.normalised();
        // The floor of the logarithm of the power of two below the number is right, or one too small.
        let estimate = ((binary + 63) * 78_913) >> 18;
        let step = powers::binary_exponent(estimate + 1) + 64;
        let reaches_next =
            binary > step || (binary == step && u128::from(significand) << 64 >= powers::significand(estimate + 1));
        let exponent = estimate + i32::from(reaches_next);

        let power = F::DIGITS - 1 - exponent;
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

    /// The number rounded to six digits, if it is so close to that that it may read back to the number.
    #[inline]
    fn six_digits<F: Float>(&self) -> Option<u32> {
        let unit = 10_u64.pow(F::DIGITS as u32 - 6);
        let rest = self.integer % unit;
        // Two more, for the fraction that was cut off and the error of the product.
        let is_near = rest <= F::REACH + 2 || unit - rest <= F::REACH + 2;
        is_near.then(|| ((self.integer + unit / 2) / unit) as u32)
    }

    /// Whether the integer part rounds up, ties going to even; `None` where the error of the product leaves it open.
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
    fn rounds_up_exactly<F: Float>(&self, value: F) -> bool {
        let text = value.exact_text(F::DIGITS as usize - 1);
        let digits = text.bytes().take_while(|&byte| byte != b'e').filter(u8::is_ascii_digit);
        let rounded = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        // Either the integer part or one more, which may have lost a digit to the exponent.
        rounded != self.integer
    }
}

/// Seventeen decimal digits as text.
struct Digits {
    /// Padded, so that copies of [`Text::COPY`] bytes may start at any digit.
    text: [u8; 2 * Text::COPY],
    /// How many there are up to the last that is not zero; at least 1.
    length: usize,
}

impl Digits {
    #[inline]
    fn new(number: u64) -> Self {
        const ASCII: u64 = 0x3030_3030_3030_3030;
        let (first, rest) = (number / 10_u64.pow(16), number % 10_u64.pow(16));
        let upper = split_eight_digits(rest / 10_u64.pow(8));
        let lower = split_eight_digits(rest % 10_u64.pow(8));
        let mut text = [b'0'; 2 * Text::COPY];
        text[0] += first as u8;
        text[1..9].copy_from_slice(&(upper | ASCII).to_le_bytes());
        text[9..17].copy_from_slice(&(lower | ASCII).to_le_bytes());
        // The last digit is in the highest byte.
        let zeros = if lower == 0 { 64 + upper.leading_zeros() } else { lower.leading_zeros() };
        Self { text, length: 17 - zeros as usize / 8 }
    }
}

/// The digits of a number below 10^8, one a byte, the first in the lowest byte.
#[inline]
fn split_eight_digits(number: u64) -> u64 {
    // Fours, pairs, digits: each step divides all parts at once, by multiplying and shifting.
    let fours = (number / 10_000) | ((number % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let pairs = hundreds | ((fours - 100 * hundreds) << 16);
    let tens = ((pairs * 103) >> 10) & 0x000f_000f_000f_000f;
    tens | ((pairs - 10 * tens) << 8)
}

/// The text of one number.
struct Text {
    bytes: [u8; 2 * Self::COPY],
    length: usize,
}

impl Text {
    /// Enough for 17 digits, in one copy of a fixed size.
    const COPY: usize = 20;

    #[inline]
    fn new() -> Self {
        Self { bytes: [0; 2 * Self::COPY], length: 0 }
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    /// Puts digits, from this one on, at this position, without moving the end of the text.
    #[inline]
    fn put(&mut self, at: usize, digits: &Digits, from: usize) {
        self.bytes[at..at + Self::COPY].copy_from_slice(&digits.text[from..from + Self::COPY]);
    }

    /// Appends a number, the first of whose digits stands for 10^`exponent`, as `%g` does with this precision: without
    /// trailing zeros, and with an exponent where that is below -4 or not below the precision.
    #[inline]
    fn push_number(&mut self, digits: &Digits, exponent: i32, precision: i32) {
        let start = self.length;
        if exponent < -4 || exponent >= precision {
            self.put(start + 1, digits, 0);
            self.bytes[start] = digits.text[0];
            self.bytes[start + 1] = b'.';
            self.length += if digits.length > 1 { digits.length + 1 } else { 1 };
            self.push_exponent(exponent);
        } else if exponent < 0 {
            let zeros = (1 - exponent) as usize;
            self.bytes[start..start + 5].copy_from_slice(b"0.000");
            self.put(start + zeros, digits, 0);
            self.length += zeros + digits.length;
        } else {
            // Behind the digits there are zeros, for the whole part and for the one place that always follows.
            let point = exponent as usize + 1;
            self.put(start, digits, 0);
            self.put(start + point + 1, digits, point);
            self.bytes[start + point] = b'.';
            self.length += digits.length.max(point + 1) + 1;
        }
    }

    fn push_exponent(&mut self, exponent: i32) {
        self.push(b'e');
        self.push(if exponent < 0 { b'-' } else { b'+' });
        let magnitude = exponent.unsigned_abs();
        if magnitude >= 100 {
            self.push(b'0' + (magnitude / 100) as u8);
        }
        self.push(b'0' + (magnitude / 10 % 10) as u8);
        self.push(b'0' + (magnitude % 10) as u8);
    }
}
