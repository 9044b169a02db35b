//! JSON in the layout of protobuf's C++ library: one space for each level, and one line for each item.

use std::fmt::Write;

/// A JSON text under construction.
#[derive(Default)]
pub(super) struct Printer {
    out: String,
    level: usize,
}

impl Printer {
    /// Prints `{…}`. `fields` prints the members with [`Members::field`].
    pub(super) fn object(&mut self, fields: impl FnOnce(&mut Members<'_>)) {
        self.enclose('{', '}', fields);
    }

    /// Prints `[…]`, each item with `print`.
    pub(super) fn list<T>(&mut self, items: impl IntoIterator<Item = T>, mut print: impl FnMut(&mut Self, T)) {
        self.enclose('[', ']', |members| {
            for item in items {
                members.next();
                print(members.printer, item);
            }
        });
    }

    fn enclose(&mut self, open: char, close: char, print: impl FnOnce(&mut Members<'_>)) {
        self.out.push(open);
        self.level += 1;
        let mut members = Members { printer: self, is_empty: true };
        print(&mut members);
        let is_empty = members.is_empty;
        self.level -= 1;
        if !is_empty {
            self.new_line();
        }
        self.out.push(close);
    }

    fn new_line(&mut self) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', self.level));
    }

    /// Prints `true`, `false` or a number of at most 32 bits.
    pub(super) fn plain(&mut self, value: impl std::fmt::Display) {
        write!(self.out, "{value}").expect("a string takes everything");
    }

    /// Prints a number of 64 bits, as a string.
    pub(super) fn quoted(&mut self, value: impl std::fmt::Display) {
        write!(self.out, "\"{value}\"").expect("a string takes everything");
    }

    /// Prints a string.
    pub(super) fn text(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            self.character(character);
        }
        self.out.push('"');
    }

    fn character(&mut self, character: char) {
        match character {
            '"' => self.out.push_str("\\\""),
            '\\' => self.out.push_str("\\\\"),
            '\n' => self.out.push_str("\\n"),
            '\r' => self.out.push_str("\\r"),
            '\t' => self.out.push_str("\\t"),
            '\u{8}' => self.out.push_str("\\b"),
            '\u{c}' => self.out.push_str("\\f"),
            _ if is_escaped(character) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(self.out, "\\u{unit:04x}").expect("a string takes everything");
                }
            }
            _ => self.out.push(character),
        }
    }

    /// Prints bytes, as base64.
    pub(super) fn base64(&mut self, bytes: &[u8]) {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        self.out.push('"');
        for chunk in bytes.chunks(3) {
            let bits = chunk.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
            for index in 0..4 {
                let digit = ALPHABET[(bits >> (18 - 6 * index)) as usize & 63];
                self.out.push(if index <= chunk.len() { char::from(digit) } else { '=' });
            }
        }
        self.out.push('"');
    }

    /// Prints a `float` with 6 digits, or with 9 if 6 do not read back to the same number.
    pub(super) fn float(&mut self, value: f32) {
        let short = with_digits(f64::from(value), 6);
        let exact = short.parse() == Ok(value);
        self.real(f64::from(value), &if exact { short } else { with_digits(f64::from(value), 9) });
    }

    /// Prints a `double` with 15 digits, or with 17 if 15 do not read back to the same number.
    pub(super) fn double(&mut self, value: f64) {
        let short = with_digits(value, 15);
        let exact = short.parse() == Ok(value);
        self.real(value, &if exact { short } else { with_digits(value, 17) });
    }

    fn real(&mut self, value: f64, digits: &str) {
        if value.is_finite() {
            self.out.push_str(digits);
        } else if value.is_nan() {
            self.out.push_str("\"NaN\"");
        } else {
            self.out.push_str(if value > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
        }
    }

    /// The finished text.
    pub(super) fn finish(self) -> String {
        self.out
    }
}

/// The object or list that is being printed.
pub(super) struct Members<'a> {
    printer: &'a mut Printer,
    is_empty: bool,
}

impl Members<'_> {
    /// Prints a member.
    pub(super) fn field(&mut self, name: &str, print: impl FnOnce(&mut Printer)) {
        self.next();
        self.printer.text(name);
        self.printer.out.push_str(": ");
        print(self.printer);
    }

    /// Prints a member that is an object with one member for each entry of a map.
    pub(super) fn map<'m, T: 'm>(
        &mut self,
        name: &str,
        entries: impl IntoIterator<Item = (&'m String, &'m T)>,
        mut print: impl FnMut(&mut Printer, &T),
    ) {
        self.field(name, |printer| {
            printer.object(|members| {
                for (key, value) in entries {
                    members.field(key, |printer| print(printer, value));
                }
            });
        });
    }

    fn next(&mut self) {
        if !self.is_empty {
            self.printer.out.push(',');
        }
        self.is_empty = false;
        self.printer.new_line();
    }
}

/// Characters that protobuf escapes beyond those of JSON: markup, controls, and invisible characters that change the
/// layout of text.
fn is_escaped(character: char) -> bool {
    matches!(u32::from(character),
        0..=0x1f | 0x3c | 0x3e | 0x7f..=0x9f | 0xad | 0x600..=0x603 | 0x6dd | 0x70f | 0x17b4..=0x17b5
        | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x2064 | 0x206a..=0x206f | 0xfeff | 0xfff9..=0xfffb
        | 0x1_d173..=0x1_d17a | 0xe_0001 | 0xe_0020..=0xe_007f)
}

/// A finite number as C's `%.<digits>g` writes it.
fn with_digits(value: f64, digits: usize) -> String {
    let scientific = format!("{value:.*e}", digits - 1);
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().expect("a decimal exponent");
    let trimmed = |number: &str| {
        if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.').into() } else { number.to_owned() }
    };
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs())
    } else {
        let decimals = (digits as i32 - 1 - exponent) as usize;
        trimmed(&format!("{value:.decimals$}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(print: impl FnOnce(&mut Printer)) -> String {
        let mut printer = Printer::default();
        print(&mut printer);
        printer.finish()
    }

    #[test]
    fn nesting_is_indented_by_one_space() {
        let text = printed(|printer| {
            printer.object(|members| {
                members.field("a", |printer| printer.list([1, 2], Printer::plain));
                members.field("b", |printer| printer.list([] as [i32; 0], Printer::plain));
                members.field("c", |printer| printer.object(|_| {}));
            });
        });
        assert_eq!(text, "{\n \"a\": [\n  1,\n  2\n ],\n \"b\": [],\n \"c\": {}\n}");
    }

    #[test]
    fn strings_are_escaped_as_protobuf_does() {
        let cases = [
            ("q\"\\\n\r\t\u{8}\u{c}", r#""q\"\\\n\r\t\b\f""#),
            ("<a>&'/", r#""\u003ca\u003e&'/""#),
            ("\u{0}\u{1f}\u{7f}\u{9f}\u{a0}", "\"\\u0000\\u001f\\u007f\\u009f\u{a0}\""),
            ("é😀\u{200b}\u{2028}\u{feff}", r#""é😀\u200b\u2028\ufeff""#),
            ("\u{1d173}\u{e0001}", r#""\ud834\udd73\udb40\udc01""#),
        ];
        for (text, expected) in cases {
            assert_eq!(printed(|printer| printer.text(text)), expected);
        }
    }

    #[test]
    fn numbers_are_as_short_as_can_be_read_back() {
        let floats = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (0.1, "0.1"),
            (100_000.0, "100000"),
            (1e6, "1e+06"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (16_777_216.0, "16777216"),
            (1.0 / 3.0, "0.333333343"),
            (f32::MAX, "3.40282347e+38"),
            (f32::NAN, "\"NaN\""),
            (f32::INFINITY, "\"Infinity\""),
            (f32::NEG_INFINITY, "\"-Infinity\""),
        ];
        for (value, expected) in floats {
            assert_eq!(printed(|printer| printer.float(value)), expected);
        }
        let doubles = [(0.1, "0.1"), (1.0 / 3.0, "0.33333333333333331"), (1e15, "1e+15"), (1e14, "100000000000000")];
        for (value, expected) in doubles {
            assert_eq!(printed(|printer| printer.double(value)), expected);
        }
    }

    #[test]
    fn bytes_are_base64() {
        for (bytes, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(printed(|printer| printer.base64(bytes.as_bytes())), format!("\"{expected}\""));
        }
    }
}
