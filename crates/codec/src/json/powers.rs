//! Powers of ten, computed at compile time.
//!
//! One exact table has three users: printing of floats ([`super::float`]), printing of doubles as in `RapidJSON`
//! ([`super::grisu`]), and reading of numbers ([`super::number`]). The factor 2^k of 10^k only moves the binary point.
//! So only 5^k is computed, exactly, with a small big integer.

/// The smallest exponent in the table, required by Grisu in `RapidJSON`.
const LEAST: i32 = -348;
/// The largest exponent in the table, required likewise.
const GREATEST: i32 = 340;
const COUNT: usize = (GREATEST - LEAST + 1) as usize;
/// Enough for 5^340 (790 bits), and for 2^1023 / 5^348 to keep more than 128 of its bits.
const LIMBS: usize = 16;

static SIGNIFICANDS: [u128; COUNT] = significands();
static DOUBLES: [f64; 309] = doubles();

/// The largest exponent for which [`significand`] is exact: 5^55 is the last power that fits 128 bits.
pub(super) const GREATEST_EXACT: i32 = 55;

/// The 128 leading bits of 10^`exponent`, truncated. The first of them is set.
pub(super) const fn significand(exponent: i32) -> u128 {
    SIGNIFICANDS[(exponent - LEAST) as usize]
}

/// The binary exponent of the last of those bits.
pub(super) const fn binary_exponent(exponent: i32) -> i32 {
    // 217706 / 2^16 approximates log2(10). The floor is right for the whole table.
    ((exponent * 217_706) >> 16) - 127
}

/// 10^`exponent` as the nearest double, for an exponent from 0 to 308.
#[inline]
pub(super) fn double(exponent: usize) -> f64 {
    DOUBLES[exponent]
}

const fn significands() -> [u128; COUNT] {
    let mut table = [0; COUNT];
    let zero = -LEAST as usize;
    // 5^k, multiplied up.
    let mut power = [0; LIMBS];
    power[0] = 1;
    let mut index = zero;
    while index < COUNT {
        table[index] = leading_bits(&power);
        let mut carry = 0;
        let mut limb = 0;
        while limb < LIMBS {
            let product = power[limb] as u128 * 5 + carry;
            power[limb] = product as u64;
            carry = product >> 64;
            limb += 1;
        }
        index += 1;
    }
    // 2^1023 / 5^k, divided down; the floor of a floor's quotient is the floor of the whole quotient.
    let mut quotient = [0; LIMBS];
    quotient[LIMBS - 1] = 1 << 63;
    let mut index = zero;
    while index > 0 {
        index -= 1;
        let mut remainder = 0;
        let mut limb = LIMBS;
        while limb > 0 {
            limb -= 1;
            let dividend = (remainder << 64) | quotient[limb] as u128;
            quotient[limb] = (dividend / 5) as u64;
            remainder = dividend % 5;
        }
        table[index] = leading_bits(&quotient);
    }
    table
}

const fn leading_bits(number: &[u64; LIMBS]) -> u128 {
    let mut top = LIMBS - 1;
    while number[top] == 0 {
        top -= 1;
    }
    let shift = number[top].leading_zeros();
    let second = if top > 0 { number[top - 1] } else { 0 };
    let third = if top > 1 { number[top - 2] } else { 0 };
    let upper = ((number[top] as u128) << 64) | second as u128;
    if shift == 0 { upper } else { (upper << shift) | (third >> (64 - shift)) as u128 }
}

const fn doubles() -> [f64; 309] {
    const DROPPED: u32 = 128 - 53;
    let table = significands();
    let mut doubles = [0.0; 309];
    let mut exponent = 0;
    while exponent < doubles.len() {
        let bits = table[exponent + -LEAST as usize];
        let dropped = bits & ((1 << DROPPED) - 1);
        let half = 1 << (DROPPED - 1);
        let mut kept = (bits >> DROPPED) as u64;
        if dropped > half || (dropped == half && (exponent > GREATEST_EXACT as usize || kept % 2 == 1)) {
            kept += 1;
        }
        let binary = (exponent as u64 * 217_706) >> 16;
        // Addition instead of `|`, because a carry out of the significand increments the exponent.
        doubles[exponent] = f64::from_bits(((1023 + binary) << 52) + (kept - (1 << 52)));
        exponent += 1;
    }
    doubles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_the_nearest() {
        for exponent in 0..=308 {
            let nearest: f64 = format!("1e{exponent}").parse().unwrap();
            assert_eq!(double(exponent).to_bits(), nearest.to_bits(), "10^{exponent}");
        }
    }

    #[test]
    fn significands_grow_by_ten() {
        for exponent in LEAST..GREATEST {
            let (this, next) = (significand(exponent), significand(exponent + 1));
            assert!(this >> 127 == 1 && next >> 127 == 1, "10^{exponent}");
            let step = binary_exponent(exponent + 1) - binary_exponent(exponent);
            // Four bits are dropped to make room for the factor. They, and earlier truncation, are the tolerance.
            let tenfold = ((this >> 4) * 10) >> step;
            assert!(tenfold.abs_diff(next >> 4) < 4, "10^{exponent}");
        }
    }

    #[test]
    fn powers_with_few_bits_are_exact() {
        // A double can be equal to an entry of the table only if the entry is exact.
        for exponent in LEAST..=GREATEST {
            let has_few_bits = significand(exponent) as u64 == 0;
            assert_eq!(has_few_bits, (0..=27).contains(&exponent), "10^{exponent}");
        }
    }
}
