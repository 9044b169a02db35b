//! Syntax errors, with the texts of `RapidJSON`.

use std::borrow::Cow;

use servable_model::error::ServingError;

/// A kind of syntax error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    DocumentEmpty,
    InvalidValue,
    MissingName,
    MissingColon,
    MissingCommaOrBrace,
    MissingCommaOrBracket,
    InvalidHexDigit,
    InvalidSurrogate,
    InvalidEscape,
    MissingQuotationMark,
    NumberTooBig,
    MissingFraction,
    MissingExponent,
    /// Nesting beyond this limit. TensorFlow Serving has no limit.
    TooDeep(usize),
}

impl Fault {
    fn text(self) -> Cow<'static, str> {
        let text = match self {
            Self::DocumentEmpty => "The document is empty.",
            Self::InvalidValue => "Invalid value.",
            Self::MissingName => "Missing a name for object member.",
            Self::MissingColon => "Missing a colon after a name of object member.",
            Self::MissingCommaOrBrace => "Missing a comma or '}' after an object member.",
            Self::MissingCommaOrBracket => "Missing a comma or ']' after an array element.",
            Self::InvalidHexDigit => "Incorrect hex digit after \\u escape in string.",
            Self::InvalidSurrogate => "The surrogate pair in string is invalid.",
            Self::InvalidEscape => "Invalid escape character in string.",
            Self::MissingQuotationMark => "Missing a closing quotation mark in string.",
            Self::NumberTooBig => "Number too big to be stored in double.",
            Self::MissingFraction => "Miss fraction part in number.",
            Self::MissingExponent => "Miss exponent in number.",
            Self::TooDeep(limit) => return format!("Nested more than {limit} levels deep.").into(),
        };
        text.into()
    }

    /// The error at this byte of the document.
    pub(super) fn at(self, offset: usize) -> SyntaxError {
        SyntaxError { fault: self, offset }
    }
}

/// A syntax error, and its byte offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) fault: Fault,
    pub(super) offset: usize,
}

impl From<SyntaxError> for ServingError {
    fn from(error: SyntaxError) -> Self {
        Self::invalid_argument(format!("JSON Parse error: {} at offset: {}", error.fault.text(), error.offset))
    }
}

/// The byte at this position. After the end it is NUL, and a NUL in the body ends it too.
#[inline]
pub(super) fn peek(body: &[u8], at: usize) -> u8 {
    body.get(at).copied().unwrap_or(0)
}

/// The first position that is not white space.
#[inline]
pub(super) fn skip_white_space(body: &[u8], mut at: usize) -> usize {
    while matches!(peek(body, at), b' ' | b'\n' | b'\r' | b'\t') {
        at += 1;
    }
    at
}
