//! A streaming reader of the text of a request: objects and lists member by member, other values as documents.

use std::borrow::Cow;

use crate::json::dump::dump;
use crate::json::parse;
use crate::json::reader::Reader;
use crate::json::string::{self, Span};
use crate::json::tape::{Document, Node, Value};
use servable_model::error::{Result, ServingError};

/// The owner of parameters, for error messages.
pub(super) enum Owner<'a> {
    Request,
    Tensor(&'a str),
}

/// Parameters of unsupported extensions that would change the meaning of a tensor.
const UNKNOWN_EXTENSIONS: [&[u8]; 2] = [b"shared_memory_region", b"classification"];

/// The content type of strings in base64.
const BASE64: &str = "base64";

/// A reader of the text.
pub(super) struct Walk<'b> {
    pub(super) reader: Reader<'b>,
    /// The maximum nesting of each value.
    max_nesting: usize,
}

impl<'b> Walk<'b> {
    /// A reader at the start of the body.
    pub(super) fn new(body: &'b [u8], max_nesting: usize) -> Self {
        Self { reader: Reader { body, at: 0 }, max_nesting }
    }

    /// Reads an object. `member` reads the value of each name. A member that is null counts as absent.
    pub(super) fn object(&mut self, what: &str, mut member: impl FnMut(&mut Self, &[u8]) -> Result<()>) -> Result<()> {
        self.open(b'{', what, "an object")?;
        if self.reader.expect(b'}').is_some() {
            return Ok(());
        }
        loop {
            let name = self.string().ok_or_else(|| self.syntax_error())?;
            self.reader.expect(b':').ok_or_else(|| self.syntax_error())?;
            if self.reader.peek() == b'n' {
                // The only value with this first letter. Anything else is a syntax error.
                self.value()?;
            } else {
                member(self, &name)?;
            }
            if !self.reader.another(b'}').ok_or_else(|| self.syntax_error())? {
                return Ok(());
            }
        }
    }

    /// Reads a list. `element` reads each of its values.
    pub(super) fn array(&mut self, what: &str, mut element: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.open(b'[', what, "a list")?;
        if self.reader.expect(b']').is_some() {
            return Ok(());
        }
        loop {
            self.reader.peek();
            element(self)?;
            if !self.reader.another(b']').ok_or_else(|| self.syntax_error())? {
                return Ok(());
            }
        }
    }

    fn open(&mut self, bracket: u8, what: &str, wanted: &str) -> Result<()> {
        if self.reader.expect(bracket).is_some() {
            return Ok(());
        }
        let found = self.value()?;
        Err(misfit(what, found.root(), wanted))
    }

    fn string(&mut self) -> Option<Cow<'b, [u8]>> {
        if self.reader.peek() != b'"' {
            return None;
        }
        let mut block = Vec::new();
        let (span, next) = string::scan(self.reader.body, self.reader.at, &mut block).ok()?;
        self.reader.at = next;
        Some(match span {
            Span::Body { start, end } => Cow::Borrowed(&self.reader.body[start..end]),
            Span::Block(_) => Cow::Owned(block),
        })
    }

    /// Reads any value.
    pub(super) fn value(&mut self) -> Result<Document<'b>> {
        let (document, next) = parse::parse_at(self.reader.body, self.reader.at, self.max_nesting)?;
        self.reader.at = next;
        Ok(document)
    }

    pub(super) fn text(&mut self, what: &str) -> Result<String> {
        match self.string() {
            Some(found) => String::from_utf8(found.into_owned()).map_err(|_| wrong(format!("{what} is not UTF-8"))),
            None => text(self.value()?.root(), what),
        }
    }

    /// The first syntax error of the body, from the parser that has the texts.
    fn syntax_error(&self) -> ServingError {
        match parse::parse(self.reader.body, self.max_nesting) {
            Err(error) => error.into(),
            Ok(_) => wrong(format!("the request is not JSON at byte {}", self.reader.at)),
        }
    }

    /// Reads an object of parameters. `each` is called for those that are not null.
    pub(super) fn parameters(
        &mut self,
        owner: &Owner<'_>,
        mut each: impl FnMut(&[u8], Value<'_>) -> Result<()>,
    ) -> Result<()> {
        let document = self.value()?;
        if !document.root().is_object() {
            return Err(misfit("parameters", document.root(), "an object"));
        }
        for (name, value) in document.root().members() {
            if matches!(value.node(), Node::Null) {
                continue;
            }
            if let Owner::Tensor(what) = owner
                && UNKNOWN_EXTENSIONS.contains(&name)
            {
                let name = String::from_utf8_lossy(name);
                return Err(wrong(format!("{what} has the parameter {name:?}, of an extension that is not available")));
            }
            each(name, value)?;
        }
        Ok(())
    }
}

pub(super) fn wrong(message: impl Into<Vec<u8>>) -> ServingError {
    ServingError::invalid_argument(message)
}

pub(super) fn text(value: Value<'_>, what: &str) -> Result<String> {
    let found = value.string().ok_or_else(|| misfit(what, value, "a string"))?;
    String::from_utf8(found.to_vec()).map_err(|_| wrong(format!("{what} is not UTF-8")))
}

/// Whether a parameter `content_type` says that strings are base64. Other content types concern only the view of a
/// tensor in client programs, and do not change its data.
pub(super) fn is_base64(value: Value<'_>) -> Result<bool> {
    Ok(text(value, "content_type")? == BASE64)
}

pub(super) fn boolean(value: Value<'_>, what: &str) -> Result<bool> {
    match value.node() {
        Node::Bool(value) => Ok(value),
        _ => Err(misfit(what, value, "true or false")),
    }
}

pub(super) fn natural_number(value: Value<'_>, what: &str, wanted: &str) -> Result<u64> {
    match value.node() {
        Node::Unsigned(number) => Ok(number),
        _ => Err(misfit(what, value, wanted)),
    }
}

/// The error for a value of the wrong type: names what was found, its role, and what was expected.
pub(super) fn misfit(what: &str, found: Value<'_>, wanted: &str) -> ServingError {
    wrong([what.as_bytes(), b" has to be ", wanted.as_bytes(), b"; got ", &dump(found)].concat())
}
