//! The digits and the exponent of a number, for [`super::single`] and [`super::double`].

/// The buffer for one number. Copies of a fixed size may exceed the text, which avoids branches on its length.
pub(super) type Text = [u8; 48];

/// Writes the exponent of a number. Returns the end of the text.
pub(super) fn write_exponent(text: &mut Text, mut at: usize, exponent: i32) -> usize {
    let mut push = |byte| {
        text[at] = byte;
        at += 1;
    };
    push(b'e');
    push(if exponent < 0 { b'-' } else { b'+' });
    let magnitude = exponent.unsigned_abs();
    if magnitude >= 100 {
        push(b'0' + (magnitude / 100) as u8);
    }
    push(b'0' + (magnitude / 10 % 10) as u8);
    push(b'0' + (magnitude % 10) as u8);
    at
}

/// The leading digits of a number, exactly rounded, as an integer.
#[cold]
pub(super) fn exact_digits(value: f64, count: usize) -> u64 {
    let text = format!("{:.*e}", count - 1, value.abs());
    let digits = text.bytes().take_while(|&byte| byte != b'e').filter(u8::is_ascii_digit);
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// The digits of a number below 10^8, one in each byte, with the first in the lowest byte.
#[inline]
pub(super) fn split_eight_digits(number: u64) -> u64 {
    // Groups of four, pairs, digits: each step divides all groups in parallel, by multiplications and shifts.
    let fours = (number / 10_000) | ((number % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let pairs = hundreds | ((fours - 100 * hundreds) << 16);
    let tens = ((pairs * 103) >> 10) & 0x000f_000f_000f_000f;
    tens | ((pairs - 10 * tens) << 8)
}
