//! Printing of doubles as in `RapidJSON`, with Grisu2. The text is correct and short, but not always the closest or the
//! shortest.
//!
//! Only error messages contain such text, and it must be equal to that of TensorFlow Serving for every double.
//! The algorithm is Florian Loitsch's, "Printing Floating-Point Numbers Quickly and Accurately with Integers" (2010).

use super::powers;

/// `significand` * 2^`exponent`.
#[derive(Clone, Copy)]
struct Binary {
    significand: u64,
    exponent: i32,
}

impl Binary {
    fn normalised(self) -> Self {
        let shift = self.significand.leading_zeros();
        Self { significand: self.significand << shift, exponent: self.exponent - shift as i32 }
    }

    /// The upper half of the product, rounded.
    fn times(self, other: Self) -> Self {
        let product = u128::from(self.significand) * u128::from(other.significand);
        let rounded = (product >> 64) as u64 + (product >> 63 & 1) as u64;
        Self { significand: rounded, exponent: self.exponent + other.exponent + 64 }
    }
}

/// Appends a finite double.
pub(super) fn write_f64(out: &mut Vec<u8>, value: f64) {
    if value.is_sign_negative() {
        out.push(b'-');
    }
    if value == 0.0 {
        out.extend(b"0.0");
        return;
    }
    let (digits, exponent) = shortest(value.abs());
    write_digits(out, &digits, exponent);
}

/// The digits of a positive number, and the decimal exponent of the last digit.
fn shortest(value: f64) -> (Vec<u8>, i32) {
    const HIDDEN: u64 = 1 << 52;
    let bits = value.to_bits();
    let biased = (bits >> 52) as i32;
    let fraction = bits & (HIDDEN - 1);
    let number = if biased == 0 {
        Binary { significand: fraction, exponent: -1074 }
    } else {
        Binary { significand: fraction | HIDDEN, exponent: biased - 1075 }
    };

    // The midpoints to the neighbours. The lower neighbour of a power of two is nearer.
    let Binary { significand, exponent } = number;
    let upper = Binary { significand: 2 * significand + 1, exponent: exponent - 1 }.normalised();
    let mut lower = if significand == HIDDEN {
        Binary { significand: 4 * significand - 1, exponent: exponent - 2 }
    } else {
        Binary { significand: 2 * significand - 1, exponent: exponent - 1 }
    };
    lower.significand <<= lower.exponent - upper.exponent;
    lower.exponent = upper.exponent;

    let (power, decimal_exponent) = cached_power(upper.exponent);
    let scaled = number.normalised().times(power);
    let mut upper = upper.times(power);
    let mut lower = lower.times(power);
    upper.significand -= 1;
    lower.significand += 1;
    generate(scaled, upper, upper.significand - lower.significand, decimal_exponent)
}

/// The power of ten that scales numbers with this binary exponent to the range of [`generate`], and the decimal
/// exponent that compensates it. Only every eighth power is used.
fn cached_power(exponent: i32) -> (Binary, i32) {
    let estimate = f64::from(-61 - exponent) * 0.301_029_995_663_981_14 + 347.0;
    let index = (estimate.ceil() as i32 >> 3) + 1;
    let power = index * 8 - 348;
    let wide = powers::significand(power);
    let significand = (wide >> 64) as u64 + (wide >> 63 & 1) as u64;
    (Binary { significand, exponent: powers::binary_exponent(power) + 64 }, -power)
}

/// Generates digits of `upper` until the rest is less than `delta`, and then moves the last digit towards `scaled`.
fn generate(scaled: Binary, upper: Binary, mut delta: u64, decimal_exponent: i32) -> (Vec<u8>, i32) {
    let point = -upper.exponent;
    let one = 1_u64 << point;
    let distance = upper.significand - scaled.significand;
    let mut integer = upper.significand >> point;
    let mut fraction = upper.significand & (one - 1);
    let mut digits = Vec::with_capacity(20);

    let mut left = integer.checked_ilog10().map_or(1, |log| log + 1).min(9);
    while left > 0 {
        left -= 1;
        let unit = 10_u64.pow(left);
        let digit = (integer / unit) as u8;
        integer %= unit;
        if digit != 0 || !digits.is_empty() {
            digits.push(b'0' + digit);
        }
        let rest = (integer << point) + fraction;
        if rest <= delta {
            round(&mut digits, delta, rest, unit << point, distance);
            return (digits, decimal_exponent + left as i32);
        }
    }
    let mut places = 0_u32;
    loop {
        fraction *= 10;
        delta *= 10;
        places += 1;
        let digit = (fraction >> point) as u8;
        if digit != 0 || !digits.is_empty() {
            digits.push(b'0' + digit);
        }
        fraction &= one - 1;
        if fraction < delta {
            let scale = if places < 9 { 10_u64.pow(places) } else { 0 };
            round(&mut digits, delta, fraction, one, distance.wrapping_mul(scale));
            return (digits, decimal_exponent - places as i32);
        }
    }
}

fn round(digits: &mut [u8], delta: u64, mut rest: u64, unit: u64, distance: u64) {
    while rest < distance
        && delta - rest >= unit
        && (rest.wrapping_add(unit) < distance || distance - rest > rest.wrapping_add(unit).wrapping_sub(distance))
    {
        if let Some(last) = digits.last_mut() {
            *last -= 1;
        }
        rest = rest.wrapping_add(unit);
    }
}

fn write_digits(out: &mut Vec<u8>, digits: &[u8], exponent: i32) {
    let length = digits.len() as i32;
    // The position of the decimal point, counted from the first digit.
    let point = length + exponent;
    if (0..=21).contains(&point) && exponent >= 0 {
        out.extend(digits);
        out.extend(std::iter::repeat_n(b'0', exponent as usize));
        out.extend(b".0");
    } else if (1..=21).contains(&point) {
        out.extend(&digits[..point as usize]);
        out.push(b'.');
        out.extend(&digits[point as usize..]);
    } else if (-5..=0).contains(&point) {
        out.extend(b"0.");
        out.extend(std::iter::repeat_n(b'0', -point as usize));
        out.extend(digits);
    } else {
        out.push(digits[0]);
        if digits.len() > 1 {
            out.push(b'.');
            out.extend(&digits[1..]);
        }
        out.extend(format!("e{}", point - 1).bytes());
    }
}
