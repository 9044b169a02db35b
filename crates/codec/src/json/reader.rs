//! A position in a body that [`super::fast`] decodes.

use super::string::{self, Span};
use super::syntax::{peek, skip_white_space};

/// A position in the body.
pub(super) struct Reader<'b> {
    pub(super) body: &'b [u8],
    pub(super) at: usize,
}

impl<'b> Reader<'b> {
    /// The next byte that is not white space.
    pub(super) fn peek(&mut self) -> u8 {
        self.at = skip_white_space(self.body, self.at);
        peek(self.body, self.at)
    }

    pub(super) fn expect(&mut self, byte: u8) -> Option<()> {
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found.then_some(())
    }

    /// After a value: true at a comma, false at the closing bracket.
    pub(super) fn another(&mut self, closing: u8) -> Option<bool> {
        let byte = self.peek();
        self.at += 1;
        match byte {
            b',' => Some(true),
            _ if byte == closing => Some(false),
            _ => None,
        }
    }

    /// A string without escapes.
    pub(super) fn plain_string(&mut self) -> Option<&'b [u8]> {
        if self.peek() != b'"' {
            return None;
        }
        let mut block = Vec::new();
        let (Span::Body { start, end }, next) = string::scan(self.body, self.at, &mut block).ok()? else {
            return None;
        };
        self.at = next;
        Some(&self.body[start..end])
    }
}
