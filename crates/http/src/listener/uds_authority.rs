//! Support for gRPC's C++ clients, and clients based on them such as Python's, over Unix sockets.
//!
//! They send the path of the socket as the authority, with slashes as `%2F`. This is not a valid authority, and h2
//! refuses it. A filter between socket and HTTP therefore replaces these percent signs by dashes, which keeps the
//! length. All other bytes pass unchanged.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const AUTHORITY: &[u8] = b":authority";
/// The index of the authority in HPACK's static table.
const AUTHORITY_INDEX: usize = 1;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;

/// Parses a connection as far as needed.
#[derive(Debug)]
pub(super) struct AuthorityRewriter {
    at: At,
    field: Field,
}

#[derive(Debug)]
enum At {
    /// In the preface, after this many bytes.
    Preface(usize),
    /// Not HTTP/2, or malformed, which h2 reports.
    Foreign,
    /// In the nine-byte header of a frame.
    FrameHead([u8; 9], usize),
    /// At the length of the padding, with this many bytes of the frame left.
    PadLength { left: usize, skip: usize },
    /// In a header block: bytes to skip, bytes of the block, bytes of padding.
    Block { skip: usize, left: usize, padding: usize },
    /// In irrelevant bytes.
    Skip(usize),
}

/// The state within a header block.
#[derive(Clone, Copy, Debug)]
enum Field {
    Start,
    Integer { value: usize, shift: u32, then: Then },
    Length(Text),
    Text { left: usize, text: Text },
}

/// The meaning of an integer.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// It is the whole field.
    NextField,
    /// It is the index of a name, or 0 before a name.
    NameIndex,
    /// It is the length of a text.
    Text(Text),
}

#[derive(Clone, Copy, Debug)]
enum Text {
    /// A name, this many bytes of which match the authority's.
    Name {
        matched: usize,
    },
    Value {
        is_authority: bool,
    },
}

impl Default for AuthorityRewriter {
    fn default() -> Self {
        Self { at: At::Preface(0), field: Field::Start }
    }
}

impl AuthorityRewriter {
    /// Rewrites bytes that were just read.
    pub(super) fn rewrite(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = self.take(bytes);
            bytes = &mut bytes[taken..];
        }
    }

    /// Consumes at least one byte. Returns the number of bytes.
    fn take(&mut self, bytes: &mut [u8]) -> usize {
        let first = bytes[0];
        match &mut self.at {
            At::Foreign => return bytes.len(),
            At::Preface(matched) if PREFACE[*matched] != first => self.at = At::Foreign,
            At::Preface(matched) if *matched + 1 == PREFACE.len() => self.at = At::FrameHead([0; 9], 0),
            At::Preface(matched) => *matched += 1,
            At::FrameHead(head, have) => {
                head[*have] = first;
                *have += 1;
                if *have == head.len() {
                    let head = *head;
                    self.begin_frame(head);
                }
            }
            At::PadLength { left, skip } => {
                let padding = usize::from(first);
                self.at = match left.checked_sub(1 + padding + *skip) {
                    Some(left) => At::Block { skip: *skip, left, padding },
                    None => At::Foreign,
                };
            }
            At::Block { skip, .. } if *skip > 0 => *skip -= 1,
            At::Block { left, padding, .. } => {
                if *left == 0 {
                    self.at = At::Skip(*padding);
                    return self.take(bytes);
                }
                *left -= 1;
                match self.field.after(&mut bytes[0]) {
                    Some(field) => self.field = field,
                    None => self.at = At::Foreign,
                }
            }
            At::Skip(left) => {
                let taken = (*left).min(bytes.len());
                *left -= taken;
                if *left == 0 {
                    self.at = At::FrameHead([0; 9], 0);
                }
                return if taken == 0 { self.take(bytes) } else { taken };
            }
        }
        1
    }

    fn begin_frame(&mut self, head: [u8; 9]) {
        let [a, b, c, kind, flags, ..] = head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let skip = if kind == HEADERS && flags & PRIORITY != 0 { PRIORITY_BYTES } else { 0 };
        self.at = match kind {
            HEADERS if flags & PADDED != 0 => At::PadLength { left: length, skip },
            HEADERS | CONTINUATION if length >= skip => At::Block { skip, left: length - skip, padding: 0 },
            _ => At::Skip(length),
        };
        if kind == HEADERS {
            self.field = Field::Start;
        }
    }
}

impl Field {
    /// The state after a byte; `None` if the block is malformed.
    fn after(self, byte: &mut u8) -> Option<Self> {
        match self {
            Self::Start => Some(match *byte {
                0x80.. => Self::integer(*byte, 7, Then::NextField),
                0x40..0x80 => Self::integer(*byte, 6, Then::NameIndex),
                0x20..0x40 => Self::integer(*byte, 5, Then::NextField),
                _ => Self::integer(*byte, 4, Then::NameIndex),
            }),
            Self::Length(Text::Value { .. }) if *byte & 0x80 != 0 => {
                // In Huffman's code, which these clients do not use.
                Some(Self::integer(*byte, 7, Then::Text(Text::Value { is_authority: false })))
            }
            Self::Length(text) => Some(Self::integer(*byte, 7, Then::Text(text))),
            Self::Integer { value, shift, then } => {
                let value = value + (usize::from(*byte & 0x7f) << shift);
                if *byte & 0x80 == 0 {
                    Some(then.with(value))
                } else {
                    (shift < 21).then_some(Self::Integer { value, shift: shift + 7, then })
                }
            }
            Self::Text { left, text } => {
                let text = match text {
                    Text::Name { matched } if AUTHORITY.get(matched) == Some(byte) => {
                        Text::Name { matched: matched + 1 }
                    }
                    Text::Name { .. } => Text::Name { matched: AUTHORITY.len() + 1 },
                    Text::Value { is_authority } => {
                        if is_authority && *byte == b'%' {
                            *byte = b'-';
                        }
                        text
                    }
                };
                Some(text.with(left - 1))
            }
        }
    }

    fn integer(byte: u8, prefix: u32, then: Then) -> Self {
        let most = (1usize << prefix) - 1;
        let value = usize::from(byte) & most;
        if value < most { then.with(value) } else { Self::Integer { value, shift: 0, then } }
    }
}

impl Then {
    fn with(self, value: usize) -> Field {
        match self {
            Self::NextField => Field::Start,
            Self::NameIndex if value == 0 => Field::Length(Text::Name { matched: 0 }),
            Self::NameIndex => Field::Length(Text::Value { is_authority: value == AUTHORITY_INDEX }),
            Self::Text(text) => text.with(value),
        }
    }
}

impl Text {
    /// The state with this many bytes of the text left, or after it.
    fn with(self, left: usize) -> Field {
        match self {
            _ if left > 0 => Field::Text { left, text: self },
            Self::Name { matched } => Field::Length(Text::Value { is_authority: matched == AUTHORITY.len() }),
            Self::Value { .. } => Field::Start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn rewritten(stream: &[u8], piece: usize) -> Vec<u8> {
        let mut rewriter = AuthorityRewriter::default();
        let mut stream = stream.to_vec();
        stream.chunks_mut(piece).for_each(|piece| rewriter.rewrite(piece));
        stream
    }

    /// The block that grpcio 1.85 sends for `unix:/tmp/s%`, and other valid encodings of it.
    const BLOCK: &[u8] = b"\x40\x05:path\x06/a%B/C\x40\x0a:authority\x07tmp%2Fs\x83\x86\x40\x02te\x08trail%rs";
    const INDEXED: &[u8] = b"\x3f\x00\x01\x07tmp%2Fs\x41\x07tmp%2Fs\x0f\x2f\x03a%b";

    #[test]
    fn nothing_but_percent_signs_of_the_authority_changes() {
        let mut stream = PREFACE.to_vec();
        stream.extend(frame(4, 0, b"%%%%%%"));
        stream.extend(frame(HEADERS, 4, BLOCK));
        stream.extend(frame(0, 1, BLOCK));
        stream.extend(frame(0, 1, b""));
        stream.extend(frame(HEADERS, 4 | PADDED | PRIORITY, &[b"\x02%%%%%", INDEXED, b"%%"].concat()));
        stream.extend(frame(HEADERS, 0, &BLOCK[..20]));
        stream.extend(frame(CONTINUATION, 4, &BLOCK[20..]));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("tmp%2F", "tmp-2F");
        let expected =
            text(&stream).replacen(&text(&frame(0, 1, BLOCK)), &String::from_utf8_lossy(&frame(0, 1, BLOCK)), 1);
        for piece in [1, 2, 7, 1000] {
            assert_eq!(String::from_utf8_lossy(&rewritten(&stream, piece)), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn other_protocols_pass_unchanged() {
        let request = [b"GET /a%2F HTTP/1.1\r\n\r\n", BLOCK].concat();
        assert_eq!(rewritten(&request, 5), request);
    }

    proptest::proptest! {
        #[test]
        fn no_stream_is_a_surprise(stream: Vec<u8>, kind in 0u8..10, flags: u8, block: Vec<u8>) {
            let all = [PREFACE, &frame(kind, flags, &block), &stream].concat();
            let rewritten = rewritten(&all, 3);
            for (before, after) in all.iter().zip(&rewritten) {
                assert!(before == after || (*before, *after) == (b'%', b'-'));
            }
        }
    }
}
