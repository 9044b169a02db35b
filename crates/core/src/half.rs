//! IEEE half-precision numbers, which Rust has no type for yet.

/// The value of such a number.
pub(crate) fn to_f64(bits: u16) -> f64 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
    }
}

/// The number nearest to a value, the even one of two; infinity beyond the greatest.
pub(crate) fn from_f64(value: f64) -> u16 {
    /// Half a step above the greatest number: from here on, rounding leaves the range.
    const TOO_LARGE: f64 = 65_520.0;
    const LEAST_NORMAL: f64 = 1.0 / 16_384.0;
    let sign = u16::from(value.is_sign_negative()) << 15;
    let magnitude = value.abs();
    if magnitude.is_nan() {
        return sign | 0x7e00;
    }
    if magnitude >= TOO_LARGE {
        return sign | 0x7c00;
    }
    if magnitude < LEAST_NORMAL {
        return sign | (magnitude * 2_f64.powi(24)).round_ties_even() as u16;
    }
    let exponent = (magnitude.to_bits() >> 52) as i32 - 1023;
    let fraction = ((magnitude * 2_f64.powi(-exponent) - 1.0) * 1024.0).round_ties_even() as u16;
    // A fraction that was rounded up to 1 carries into the exponent.
    sign | ((((exponent + 15) as u16) << 10) + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back() {
        for bits in 0..=u16::MAX {
            let value = to_f64(bits);
            if value.is_nan() {
                assert!(to_f64(from_f64(value)).is_nan(), "{bits:x}");
            } else {
                assert_eq!(from_f64(value), bits, "{value}");
            }
        }
    }

    #[test]
    fn values_between_two_numbers_go_to_the_nearer_or_the_even_one() {
        for bits in 0..0x7bff_u16 {
            let (low, high) = (to_f64(bits), to_f64(bits + 1));
            let middle = f64::midpoint(low, high);
            assert_eq!(from_f64(middle), bits + (bits & 1), "{middle}");
            assert_eq!(from_f64(middle.next_down()), bits, "{middle}");
            assert_eq!(from_f64(-middle.next_up()), 0x8000 | (bits + 1), "{middle}");
        }
        assert_eq!([65_519.9, 65_520.0, f64::INFINITY].map(from_f64), [0x7bff, 0x7c00, 0x7c00]);
    }
}
