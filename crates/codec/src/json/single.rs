//! Singles as the REST API prints them; see [`super::float`].
//!
//! The nine digits are the integer part of one product, of the significand and a power of ten out of a table that has
//! two entries for each binary exponent: between two powers of two there may be a power of ten. That product is a little
//! too small, by a known bound; wherever the bound leaves a question open, slower and exact ways answer it.
//!
//! Neighbouring numbers of a tensor differ in everything, so that a processor foresees no branch that depends on a
//! number: what is written is arranged by shifts.

use super::digits::{Text, exact_digits, split_eight_digits, write_exponent};
use super::powers;

/// Writes a normal number; returns the length of its text.
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
    // Zeros up to the point stand before the digits of a small number, and zeros follow all digits.
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

/// What is to be printed of a number.
struct Decimal {
    /// Nine digits, of which the last three are zeros where six are enough.
    digits: u64,
    /// The power of ten that the first of them stands for.
    exponent: i32,
    /// How many digits the number is printed with, including zeros that are left out.
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

        // Numbers read back to this one if they are less than half a step away: `reach` units, and less than one more.
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
/// How far significands are moved up before they are multiplied: they have 24 bits of 32.
const SPARE: u32 = 8;

/// The biased exponent and the significand, whose last bit stands for 2^(exponent - 150).
#[inline]
fn parts(value: f32) -> (u32, u32) {
    let bits = value.to_bits();
    (bits >> 23 & 0xff, bits & (LEAST_SIGNIFICAND - 1) | LEAST_SIGNIFICAND)
}

/// `significand` * 10^`exponent`, rounded.
fn from_decimal(significand: u32, exponent: i32) -> f32 {
    // The greatest power of ten that a single holds exactly.
    const EXACT_POWER: i32 = 10;
    if exponent.abs() > EXACT_POWER {
        return format!("{significand}e{exponent}").parse().unwrap_or(f32::NAN);
    }
    // Both operands are exact, so the one operation rounds correctly.
    let power = powers::double(exponent.unsigned_abs() as usize) as f32;
    if exponent < 0 { significand as f32 / power } else { significand as f32 * power }
}

/// The numbers from one power of two to the next.
#[derive(Clone, Copy)]
struct Octave {
    /// The decimal exponent of the first of them.
    exponent: i32,
    /// The significand from which on the decimal exponent is one more; greater than all of them if there is none.
    power_of_ten: u32,
    /// How to make nine digits of the numbers below that, and of the others.
    scales: [Scale; 2],
}

/// A power of ten that gives numbers nine digits before the point.
#[derive(Clone, Copy)]
struct Scale {
    /// The power times 2^(64 - [`SPARE`]) for the last bit of a significand, cut off below.
    factor: u64,
    /// Whether nothing was cut off.
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

/// By biased exponent; the first is never looked at, nor is the one of infinities.
static OCTAVES: [Octave; 256] = octaves();

const fn octaves() -> [Octave; 256] {
    let nothing = Scale { factor: 0, is_exact: false };
    let mut table = [Octave { exponent: 0, power_of_ten: 0, scales: [nothing; 2] }; 256];
    let mut biased = 1;
    while biased < 255 {
        // The floor of the logarithm; 78913 / 2^18 is close enough to that of 2.
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

/// The least integer that, times 2^`last_bit`, is at least 10^`power`; a greater one than any significand if none is.
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
