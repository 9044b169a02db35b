//! Printing of singles in the REST API; see [`super::float`].
//!
//! The nine digits are the integer part of the product of the significand and a power of ten. The power is from a table
//! with two entries for each binary exponent, because there may be a power of ten between two powers of two. The
//! product is too small by less than a known bound. If the bound leaves a decision open, slower exact methods are used.
//!
//! Branches that depend on a number would be mispredicted, because neighbouring numbers of a tensor are unrelated. So
//! the text is arranged by shifts.

use super::digits::{Text, exact_digits, split_eight_digits, write_exponent};
use super::powers;

/// Writes a normal number. Returns the length of the text.
#[inline]
pub(super) fn write_normal(text: &mut Text, value: f32) -> usize {
    let Decimal { digits, exponent, precision } = Decimal::new(value);
    let eight = split_eight_digits(digits % 100_000_000);
    let significant = 9 - eight.leading_zeros() as usize / 8;
    let nine = u128::from(digits / 100_000_000) | u128::from(eight) << 8;
    text[0] = b'-';
    let start = usize::from(value.is_sign_negative());
    if exponent < -4 || exponent >= precision {
        return write_scientific(text, start, nine, significant, exponent);
    }
    // The digits of a small number are preceded by zeros up to the point. All digits are followed by zeros.
    let zeros = (-exponent).max(0) as usize;
    let point = exponent.max(0) as usize + 1;
    let plain = (nine << (8 * zeros)) | ZEROS;
    put(text, start, plain);
    put(text, start + point + 1, plain >> (8 * point));
    text[start + point] = b'.';
    start + (zeros + significant).max(point + 1) + 1
}

/// Sixteen times `0`.
const ZEROS: u128 = u128::from_ne_bytes([b'0'; 16]);

fn write_scientific(text: &mut Text, start: usize, nine: u128, significant: usize, exponent: i32) -> usize {
    put(text, start + 1, nine | ZEROS);
    text[start] = text[start + 1];
    text[start + 1] = b'.';
    let end = start + if significant > 1 { significant + 1 } else { 1 };
    write_exponent(text, end, exponent)
}

#[inline]
fn put(text: &mut Text, at: usize, bytes: u128) {
    text[at..at + 16].copy_from_slice(&bytes.to_le_bytes());
}

/// The digits to print.
struct Decimal {
    /// Nine digits. If six are enough, the last three are zeros.
    digits: u64,
    /// The decimal exponent of the first digit.
    exponent: i32,
    /// The precision in digits, including trailing zeros that are omitted.
    precision: i32,
}

impl Decimal {
    #[inline]
    fn new(value: f32) -> Self {
        const HALF: u64 = 1 << 63;
        /// The product is too small by less than this.
        const ERROR: u64 = 1 << 32;
        let (biased, significand) = parts(value);
        let octave = &OCTAVES[biased as usize];
        let reaches_power = significand >= octave.power_of_ten;
        let scale = &octave.scales[usize::from(reaches_power)];
        let mut exponent = octave.exponent + i32::from(reaches_power);

        let product = u128::from(significand << SPARE) * u128::from(scale.factor);
        let (integer, fraction) = ((product >> 64) as u64, product as u64);
        let is_open = fraction.wrapping_sub(HALF - ERROR) <= ERROR;
        let rounds_up = if is_open { scale.rounds_up(integer, fraction, value) } else { fraction > HALF };

        // Decimals within half a step read back to this number: within `reach` units, and less than one more.
        let six = (integer + 500) / 1000;
        let distance = (1000 * six).abs_diff(integer);
        let reach = scale.factor >> (65 - SPARE);
        // The step below a power of two is half of the step above.
        let sure_reach = if significand == LEAST_SIGNIFICAND { reach / 2 } else { reach };
        let is_six = if distance < sure_reach {
            true
        } else {
            distance < reach + 2 && from_decimal(six as u32, exponent - 5).to_bits() == value.abs().to_bits()
        };

        let mut digits = if is_six { 1000 * six } else { integer + u64::from(rounds_up) };
        if digits == 1_000_000_000 {
            digits = 100_000_000;
            exponent += 1;
        }
        Self { digits, exponent, precision: if is_six { 6 } else { 9 } }
    }
}

const LEAST_SIGNIFICAND: u32 = 1 << 23;
/// The left shift of significands before multiplication: they have 24 bits of 32.
const SPARE: u32 = 8;

/// The biased exponent and the significand, whose last bit stands for 2^(exponent - 150).
#[inline]
fn parts(value: f32) -> (u32, u32) {
    let bits = value.to_bits();
    (bits >> 23 & 0xff, bits & (LEAST_SIGNIFICAND - 1) | LEAST_SIGNIFICAND)
}

/// `significand` * 10^`exponent`, rounded.
fn from_decimal(significand: u32, exponent: i32) -> f32 {
    // The largest power of ten that a single represents exactly.
    const EXACT_POWER: i32 = 10;
    if exponent.abs() > EXACT_POWER {
        return format!("{significand}e{exponent}").parse().unwrap_or(f32::NAN);
    }
    // Both operands are exact, so the single operation rounds correctly.
    let power = powers::double(exponent.unsigned_abs() as usize) as f32;
    if exponent < 0 { significand as f32 / power } else { significand as f32 * power }
}

/// The table entry for the numbers from one power of two to the next.
#[derive(Clone, Copy)]
struct Octave {
    /// The decimal exponent of the smallest of them.
    exponent: i32,
    /// The significand from which the decimal exponent is larger by one; above all of them if there is none.
    power_of_ten: u32,
    /// The scales to nine digits, for numbers below that significand and for the others.
    scales: [Scale; 2],
}

/// A power of ten that scales numbers to nine integer digits.
#[derive(Clone, Copy)]
struct Scale {
    /// The power times 2^(64 - [`SPARE`]) for the last bit of a significand, truncated.
    factor: u64,
    /// Whether the truncation was exact.
    is_exact: bool,
}

impl Scale {
    /// Whether a product that is close to halfway rounds up.
    #[cold]
    fn rounds_up(&self, integer: u64, fraction: u64, value: f32) -> bool {
        if self.is_exact {
            return fraction > 1 << 63 || (fraction == 1 << 63 && integer % 2 == 1);
        }
        // Either the integer part or one more, which may have lost a digit to the exponent.
        exact_digits(f64::from(value), 9) != integer
    }
}

/// The table by biased exponent. The entries for zeros and for infinities are unused.
static OCTAVES: [Octave; 256] = octaves();

const fn octaves() -> [Octave; 256] {
    let nothing = Scale { factor: 0, is_exact: false };
    let mut table = [Octave { exponent: 0, power_of_ten: 0, scales: [nothing; 2] }; 256];
    let mut biased = 1;
    while biased < 255 {
        // The floor of the logarithm. 78913 / 2^18 approximates log10(2) closely enough.
        let exponent = ((biased as i32 - 127) * 78_913) >> 18;
        let last_bit = biased as i32 - 150;
        table[biased] = Octave {
            exponent,
            power_of_ten: least_significand(exponent + 1, last_bit),
            scales: [scale(8 - exponent, last_bit), scale(7 - exponent, last_bit)],
        };
        biased += 1;
    }
    table
}

/// The smallest integer that, times 2^`last_bit`, is at least 10^`power`; above all significands if there is none.
const fn least_significand(power: i32, last_bit: i32) -> u32 {
    let bits = powers::significand(power);
    let shift = last_bit - powers::binary_exponent(power);
    let floor = (bits >> shift) as u32;
    let is_whole = bits & ((1 << shift) - 1) == 0 && is_exact(power);
    if is_whole { floor } else { floor + 1 }
}

const fn scale(power: i32, last_bit: i32) -> Scale {
    let bits = powers::significand(power);
    let shift = -(powers::binary_exponent(power) + last_bit + 64 - SPARE as i32);
    Scale { factor: (bits >> shift) as u64, is_exact: bits & ((1 << shift) - 1) == 0 && is_exact(power) }
}

const fn is_exact(power: i32) -> bool {
    power >= 0 && power <= powers::GREATEST_EXACT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octaves_know_their_decimal_exponents() {
        // As doubles: the shortest text of a single just below a power of ten may be that power.
        let exponent =
            |value: f32| -> i32 { format!("{:e}", f64::from(value)).split_once('e').unwrap().1.parse().unwrap() };
        for biased in 1..255_u32 {
            let octave = &OCTAVES[biased as usize];
            let value = |significand: u32| f32::from_bits(biased << 23 | (significand - LEAST_SIGNIFICAND));
            assert_eq!(octave.exponent, exponent(value(LEAST_SIGNIFICAND)), "{biased}");
            let last = 2 * LEAST_SIGNIFICAND - 1;
            if octave.power_of_ten > last {
                assert_eq!(octave.exponent, exponent(value(last)), "{biased}");
            } else {
                assert!(octave.power_of_ten > LEAST_SIGNIFICAND, "{biased}");
                assert_eq!(octave.exponent, exponent(value(octave.power_of_ten - 1)), "{biased}");
                assert_eq!(octave.exponent + 1, exponent(value(octave.power_of_ten)), "{biased}");
            }
        }
    }
}
