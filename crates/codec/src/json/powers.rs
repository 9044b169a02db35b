//! Powers of ten, computed when the crate is compiled.
//!
//! One exact construction serves three users: printing floats ([`super::float`]), printing doubles as `RapidJSON` does
//! ([`super::grisu`]), and reading numbers ([`super::number`]). The trailing factor 2^k of 10^k only moves the binary
//! point, so all that has to be known is 5^k, which a small big integer gives without any rounding.

/// The least exponent in the table; what `RapidJSON`'s Grisu needs.
const LEAST: i32 = -348;
/// The greatest exponent in the table; likewise.
const GREATEST: i32 = 340;
const COUNT: usize = (GREATEST - LEAST + 1) as usize;
/// Enough for 5^340 (790 bits), and for 2^1023 / 5^348 to keep more than 128 of its bits.
const LIMBS: usize = 16;

static SIGNIFICANDS: [u128; COUNT] = significands();
static DOUBLES: [f64; 309] = doubles();

/// The greatest exponent for which [`significand`] is exact: 5^55 is the last to fit 128 bits.
pub(super) const GREATEST_EXACT: i32 = 55;

/// The 128 leading bits of 10^`exponent`, cut off below; the first of them is set.
pub(super) const fn significand(exponent: i32) -> u128 {
    SIGNIFICANDS[(exponent - LEAST) as usize]
}

/// The exponent of the power of two that the last of those bits stands for.
pub(super) const fn binary_exponent(exponent: i32) -> i32 {
    // 217706 / 2^16 is log2(10), close enough for the floor to be right throughout the table.
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
        // Adding, not or-ing: a carry out of the significand belongs to the exponent.
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
            // Four bits make room for the factor; what they held, and what was cut off before, is the tolerance.
            let tenfold = ((this >> 4) * 10) >> step;
            assert!(tenfold.abs_diff(next >> 4) < 4, "10^{exponent}");
        }
    }

    #[test]
    fn powers_with_few_bits_are_exact() {
        // A float of 64 bits can only be equal to a table entry where that entry is the power itself.
        for exponent in LEAST..=GREATEST {
            let has_few_bits = significand(exponent) as u64 == 0;
            assert_eq!(has_few_bits, (0..=27).contains(&exponent), "10^{exponent}");
        }
    }
}
