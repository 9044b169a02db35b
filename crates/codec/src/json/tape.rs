//! A parsed document as a tape: a flat list of nodes, in the order of the text.
//!
//! A container has the index of its end, so walks need no recursion and skipping is one step. A node takes 16 bytes,
//! and represents at least one byte of text, so memory is in proportion to the body.

use super::number::Number;
use super::string::Span;

/// One value, or the name of a member, which precedes the value of the member.
#[derive(Clone, Copy, Debug)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Double(f64),
    /// A string without escapes: its offset in the body, and its length.
    BodyString(u64, u32),
    /// A string with escapes, decoded: its offset in the block of the document, and its length.
    BlockString(u64, u32),
    /// The index of the node after the last element, and the number of elements.
    Array(u64, u32),
    /// The index of the node after the last member, and the number of members.
    Object(u64, u32),
}

/// A parsed document.
#[derive(Debug)]
pub(super) struct Document<'b> {
    pub(super) body: &'b [u8],
    /// The decoded strings with escapes, concatenated.
    pub(super) block: Vec<u8>,
    pub(super) nodes: Vec<Node>,
}

impl Document<'_> {
    pub(super) fn root(&self) -> Value<'_> {
        Value { document: self, index: 0 }
    }

    pub(super) fn push_number(&mut self, number: Number) {
        self.nodes.push(match number {
            Number::Unsigned(value) => Node::Unsigned(value),
            Number::Negative(value) => Node::Negative(value),
            Number::Double(value) => Node::Double(value),
        });
    }

    pub(super) fn push_string(&mut self, span: Span) {
        self.nodes.push(match span {
            Span::Body { start, end } => Node::BodyString(start as u64, (end - start) as u32),
            Span::Block(start) => Node::BlockString(start as u64, (self.block.len() - start) as u32),
        });
    }
}

/// A value in a document.
#[derive(Clone, Copy)]
pub(super) struct Value<'d> {
    pub(super) document: &'d Document<'d>,
    pub(super) index: usize,
}

impl<'d> Value<'d> {
    pub(super) fn node(self) -> Node {
        self.document.nodes[self.index]
    }

    /// The index of the first node after this value and its contents.
    pub(super) fn end(self) -> usize {
        match self.node() {
            Node::Array(end, _) | Node::Object(end, _) => end as usize,
            _ => self.index + 1,
        }
    }

    pub(super) fn is_array(self) -> bool {
        matches!(self.node(), Node::Array(..))
    }

    pub(super) fn is_object(self) -> bool {
        matches!(self.node(), Node::Object(..))
    }

    /// The contents of a string.
    pub(super) fn string(self) -> Option<&'d [u8]> {
        match self.node() {
            Node::BodyString(start, length) => Some(&self.document.body[start as usize..][..length as usize]),
            Node::BlockString(start, length) => Some(&self.document.block[start as usize..][..length as usize]),
            _ => None,
        }
    }

    /// The number of elements of an array or members of an object; 0 for any other value.
    pub(super) fn len(self) -> usize {
        match self.node() {
            Node::Array(_, count) | Node::Object(_, count) => count as usize,
            _ => 0,
        }
    }

    /// The elements of an array; empty for any other value.
    pub(super) fn elements(self) -> impl Iterator<Item = Value<'d>> {
        let end = if self.is_array() { self.end() } else { self.index };
        let mut index = self.index + 1;
        std::iter::from_fn(move || {
            let element = Value { document: self.document, index };
            (index < end).then(|| {
                index = element.end();
                element
            })
        })
    }

    /// The members of an object, including repeated names; empty for any other value.
    pub(super) fn members(self) -> impl Iterator<Item = (&'d [u8], Value<'d>)> {
        let end = if self.is_object() { self.end() } else { self.index };
        let mut index = self.index + 1;
        std::iter::from_fn(move || {
            (index < end).then(|| {
                let name = Value { document: self.document, index };
                let value = Value { document: self.document, index: index + 1 };
                index = value.end();
                (name.string().unwrap_or_default(), value)
            })
        })
    }

    /// The first member with this name.
    pub(super) fn member(self, name: &[u8]) -> Option<Value<'d>> {
        self.members().find_map(|(found, value)| (found == name).then_some(value))
    }

    /// The text of a base64 object: an object whose only member is a string with the name `b64`.
    pub(super) fn base64(self) -> Option<&'d [u8]> {
        match self.node() {
            Node::Object(_, 1) => self.member(b"b64")?.string(),
            _ => None,
        }
    }

    /// The name of the type in error messages.
    pub(super) fn type_name(self) -> &'static str {
        match self.node() {
            Node::Null => "Null",
            Node::Bool(false) => "False",
            Node::Bool(true) => "True",
            Node::Unsigned(_) | Node::Negative(_) | Node::Double(_) => "Number",
            Node::BodyString(..) | Node::BlockString(..) => "String",
            Node::Array(..) => "Array",
            Node::Object(..) => "Object",
        }
    }
}
