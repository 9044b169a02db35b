//! Reads JSON strings with escapes, and writes them.

use memchr::memchr2;

use super::syntax::{Fault, SyntaxError, peek};

/// The location of a string that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// A range of the body: the string has no escapes.
    Body {
        /// The first byte.
        start: usize,
        /// The byte after the last.
        end: usize,
    },
    /// The end of the caller's block, from this byte on: the string was appended.
    Block(usize),
}

/// Reads the string whose opening quotation mark is at `quote`. Returns its location, and the position after it.
///
/// `block` grows only if the string has escapes. UTF-8 is not checked, and unpaired low surrogates are accepted, as in
/// TensorFlow Serving.
pub(super) fn scan(body: &[u8], quote: usize, block: &mut Vec<u8>) -> Result<(Span, usize), SyntaxError> {
    let start = quote + 1;
    let mut at = plain_end(body, start)?;
    if body[at] == b'"' {
        return Ok((Span::Body { start, end: at }, at + 1));
    }
    let block_start = block.len();
    let mut plain = start;
    loop {
        block.extend_from_slice(&body[plain..at]);
        if body[at] == b'"' {
            return Ok((Span::Block(block_start), at + 1));
        }
        plain = unescape(body, at, block)?;
        at = plain_end(body, plain)?;
    }
}

/// The position of the first quotation mark or backslash.
fn plain_end(body: &[u8], start: usize) -> Result<usize, SyntaxError> {
    let end = memchr2(b'"', b'\\', &body[start..]).map_or(body.len(), |length| start + length);
    let plain = &body[start..end];
    // Without an early exit, the compiler vectorizes the search. Control bytes are rare.
    if plain.iter().fold(u8::MAX, |least, &byte| least.min(byte)) < 0x20 {
        let offset = start + plain.iter().take_while(|&&byte| byte >= 0x20).count();
        let fault = if body[offset] == 0 { Fault::MissingQuotationMark } else { Fault::InvalidEscape };
        return Err(fault.at(offset));
    }
    if end == body.len() { Err(Fault::MissingQuotationMark.at(end)) } else { Ok(end) }
}

/// Decodes and appends the escape at `backslash`. Returns the position after it.
fn unescape(body: &[u8], backslash: usize, block: &mut Vec<u8>) -> Result<usize, SyntaxError> {
    let plain = match peek(body, backslash + 1) {
        letter @ (b'"' | b'\\' | b'/') => letter,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => return unescape_unicode(body, backslash, block),
        _ => return Err(Fault::InvalidEscape.at(backslash)),
    };
    block.push(plain);
    Ok(backslash + 2)
}

fn unescape_unicode(body: &[u8], backslash: usize, block: &mut Vec<u8>) -> Result<usize, SyntaxError> {
    let mut next = backslash + 6;
    let mut code = hex4(body, backslash + 2).ok_or(Fault::InvalidHexDigit.at(backslash))?;
    if (0xd800..0xdc00).contains(&code) {
        if peek(body, next) != b'\\' || peek(body, next + 1) != b'u' {
            return Err(Fault::InvalidSurrogate.at(backslash));
        }
        let low = hex4(body, next + 2).ok_or(Fault::InvalidHexDigit.at(backslash))?;
        if !(0xdc00..0xe000).contains(&low) {
            return Err(Fault::InvalidSurrogate.at(backslash));
        }
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        next += 6;
    }
    // Not `char::encode_utf8`: an unpaired surrogate is not a `char`, but is accepted.
    let continuation = |shift: u32| 0x80 | (code >> shift & 0x3f) as u8;
    match code {
        0..0x80 => block.push(code as u8),
        0x80..0x800 => block.extend([0xc0 | (code >> 6) as u8, continuation(0)]),
        0x800..0x10000 => block.extend([0xe0 | (code >> 12) as u8, continuation(6), continuation(0)]),
        _ => block.extend([0xf0 | (code >> 18) as u8, continuation(12), continuation(6), continuation(0)]),
    }
    Ok(next)
}

fn hex4(body: &[u8], at: usize) -> Option<u32> {
    (at..at + 4).try_fold(0, |code, at| Some(code << 4 | char::from(peek(body, at)).to_digit(16)?))
}

/// Appends a JSON string, with quotation marks.
///
/// Only mandatory escapes are used: `/`, 0x7F and bytes that are not UTF-8 are written unchanged.
pub fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut plain = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[plain..at]);
        plain = at + 1;
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            0x08 => out.extend(b"\\b"),
            0x0c => out.extend(b"\\f"),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.extend(b"\\u00");
                out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }
    out.extend_from_slice(&text[plain..]);
    out.push(b'"');
}
