//! The parser: converts a body to a [`Document`], or returns the error of the iterative parser of `RapidJSON`.

use super::number;
use super::string;
use super::syntax::{Fault, SyntaxError, peek, skip_white_space};
use super::tape::{Document, Node};

/// The state after the last token, which determines the tokens that may follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    ObjectStart,
    Name,
    Colon,
    Member,
    MemberComma,
    ArrayStart,
    Element,
    ElementComma,
}

impl State {
    /// The error if neither the next token of this state nor a closing bracket follows.
    fn fault(self) -> Fault {
        match self {
            Self::Start => Fault::DocumentEmpty,
            Self::ObjectStart | Self::MemberComma => Fault::MissingName,
            Self::Name => Fault::MissingColon,
            Self::Member => Fault::MissingCommaOrBrace,
            Self::Colon | Self::ArrayStart | Self::ElementComma => Fault::InvalidValue,
            Self::Element => Fault::MissingCommaOrBracket,
        }
    }
}

/// Parses the first value of a body. The rest is ignored.
///
/// Nesting takes no stack: the node of an open container has the index of the enclosing one in the field for its end.
/// Nesting deeper than `max_nesting` is refused.
pub(super) fn parse(body: &[u8], max_nesting: usize) -> Result<Document<'_>, SyntaxError> {
    parse_at(body, skip_byte_order_mark(body), max_nesting).map(|(document, _)| document)
}

/// Parses the value at a position of a body, after white space. Returns it, and the position after it.
pub(super) fn parse_at(body: &[u8], at: usize, max_nesting: usize) -> Result<(Document<'_>, usize), SyntaxError> {
    let document = Document { body, block: Vec::new(), nodes: Vec::new() };
    Parser { document, at, open: None, state: State::Start, levels_left: max_nesting, max_nesting }.run()
}

/// TensorFlow Serving skips each of the three bytes of the mark individually, even if others are missing.
fn skip_byte_order_mark(body: &[u8]) -> usize {
    [0xef, 0xbb, 0xbf].into_iter().fold(0, |at, byte| at + usize::from(peek(body, at) == byte))
}

struct Parser<'b> {
    document: Document<'b>,
    at: usize,
    /// The node of the innermost open container.
    open: Option<usize>,
    state: State,
    /// The number of further containers that may be opened.
    levels_left: usize,
    max_nesting: usize,
}

/// The index that stands for no enclosing container.
const OUTERMOST: u64 = u64::MAX;

impl<'b> Parser<'b> {
    fn run(mut self) -> Result<(Document<'b>, usize), SyntaxError> {
        loop {
            self.at = skip_white_space(self.document.body, self.at);
            if self.step()? {
                return Ok((self.document, self.at));
            }
        }
    }

    /// Reads one token. Returns whether the document is complete.
    fn step(&mut self) -> Result<bool, SyntaxError> {
        let token = peek(self.document.body, self.at);
        match (self.state, token) {
            (_, 0) => Err(self.state.fault().at(self.at)),
            (State::ObjectStart | State::MemberComma, b'"') => {
                self.string()?;
                Ok(self.advance_to(State::Name, 0))
            }
            (State::Name, b':') => Ok(self.advance_to(State::Colon, 1)),
            (State::Member, b',') => Ok(self.advance_to(State::MemberComma, 1)),
            (State::Element, b',') => Ok(self.advance_to(State::ElementComma, 1)),
            (State::ObjectStart | State::Member, b'}') | (State::ArrayStart | State::Element, b']') => Ok(self.close()),
            (State::Start | State::Colon | State::ArrayStart | State::ElementComma, _) => self.value(token),
            (state, _) => Err(state.fault().at(self.at)),
        }
    }

    fn advance_to(&mut self, state: State, bytes: usize) -> bool {
        self.at += bytes;
        self.state = state;
        false
    }

    fn value(&mut self, token: u8) -> Result<bool, SyntaxError> {
        match token {
            b'{' => self.open(Node::Object, State::ObjectStart),
            b'[' => self.open(Node::Array, State::ArrayStart),
            b'}' | b']' | b',' | b':' => Err(self.state.fault().at(self.at)),
            b'"' => self.string().map(|()| self.completed()),
            b't' => self.literal(b"true", Node::Bool(true)),
            b'f' => self.literal(b"false", Node::Bool(false)),
            b'n' => self.literal(b"null", Node::Null),
            _ => {
                let (number, next) = number::scan(self.document.body, self.at)?;
                self.document.push_number(number);
                self.at = next;
                Ok(self.completed())
            }
        }
    }

    fn string(&mut self) -> Result<(), SyntaxError> {
        let (span, next) = string::scan(self.document.body, self.at, &mut self.document.block)?;
        self.document.push_string(span);
        self.at = next;
        Ok(())
    }

    fn literal(&mut self, text: &[u8], node: Node) -> Result<bool, SyntaxError> {
        for &letter in text {
            if peek(self.document.body, self.at) != letter {
                return Err(Fault::InvalidValue.at(self.at));
            }
            self.at += 1;
        }
        self.document.nodes.push(node);
        Ok(self.completed())
    }

    fn open(&mut self, container: fn(u64, u32) -> Node, state: State) -> Result<bool, SyntaxError> {
        self.levels_left =
            self.levels_left.checked_sub(1).ok_or_else(|| Fault::TooDeep(self.max_nesting).at(self.at))?;
        let around = self.open.map_or(OUTERMOST, |index| index as u64);
        self.open = Some(self.document.nodes.len());
        self.document.nodes.push(container(around, 0));
        Ok(self.advance_to(state, 1))
    }

    fn close(&mut self) -> bool {
        self.at += 1;
        self.levels_left += 1;
        let end = self.document.nodes.len() as u64;
        let node = self.open.map(|index| &mut self.document.nodes[index]);
        let Some(Node::Array(link, _) | Node::Object(link, _)) = node else { return true };
        let around = std::mem::replace(link, end);
        self.open = (around != OUTERMOST).then_some(around as usize);
        self.completed()
    }

    /// Adds a complete value to the count of its container. Returns whether it is the whole document.
    fn completed(&mut self) -> bool {
        match self.open.map(|index| &mut self.document.nodes[index]) {
            Some(Node::Array(_, count)) => {
                *count += 1;
                self.state = State::Element;
                false
            }
            Some(Node::Object(_, count)) => {
                *count += 1;
                self.state = State::Member;
                false
            }
            _ => true,
        }
    }
}
