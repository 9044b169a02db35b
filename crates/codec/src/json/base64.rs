//! Base64 as TensorFlow Serving decodes it (leniently) and encodes it (strictly).

/// The value of bytes outside the alphabet.
const NONE: u8 = 0xff;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        values[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// Decodes `text`, and appends the bytes to `out`; `None` if it is not base64.
///
/// White space may be anywhere. Padding may be missing, but not wrong; `.` is padding as well. Surplus bits are
/// ignored.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.reserve(text.len() / 4 * 3 + 3);
    let mut rest = text;
    while let Some((quad, behind)) = rest.split_first_chunk::<4>() {
        let [a, b, c, d] = quad.map(|byte| VALUES[usize::from(byte)]);
        if (a | b | c | d) == NONE {
            break;
        }
        let bits = u32::from(a) << 18 | u32::from(b) << 12 | u32::from(c) << 6 | u32::from(d);
        out.extend_from_slice(&bits.to_be_bytes()[1..]);
        rest = behind;
    }
    decode_odd(rest, out)
}

/// Decodes the part that has white space or padding, or fewer than four digits.
fn decode_odd(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let is_space = |byte: u8| byte.is_ascii_whitespace() || byte == 0x0b;
    let mut bits = 0_u32;
    let mut digits = 0;
    let mut padding = 0;
    for &byte in text {
        let value = VALUES[usize::from(byte)];
        if value != NONE && padding == 0 {
            bits = bits << 6 | u32::from(value);
            digits += 1;
            if digits == 4 {
                out.extend_from_slice(&bits.to_be_bytes()[1..]);
                (bits, digits) = (0, 0);
            }
        } else if matches!(byte, b'=' | b'.') {
            padding += 1;
        } else if !is_space(byte) {
            return None;
        }
    }
    let expected = match digits {
        0 => 0,
        2 => {
            out.push((bits >> 4) as u8);
            2
        }
        3 => {
            out.extend_from_slice(&((bits >> 2) as u16).to_be_bytes());
            1
        }
        _ => return None,
    };
    (padding == 0 || padding == expected).then_some(())
}

/// Appends the standard encoding of `bytes`, with padding.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    let digits = |bits: u32| [18, 12, 6, 0].map(|shift| ALPHABET[(bits >> shift & 63) as usize]);
    let mut triples = bytes.chunks_exact(3);
    for triple in &mut triples {
        let bits = u32::from(triple[0]) << 16 | u32::from(triple[1]) << 8 | u32::from(triple[2]);
        out.extend_from_slice(&digits(bits));
    }
    match *triples.remainder() {
        [a] => {
            let [first, second, ..] = digits(u32::from(a) << 16);
            out.extend([first, second, b'=', b'=']);
        }
        [a, b] => {
            let [first, second, third, _] = digits(u32::from(a) << 16 | u32::from(b) << 8);
            out.extend([first, second, third, b'=']);
        }
        _ => {}
    }
}
