//! Strict framing of HTTP/1.1: a parser of message boundaries that detects ambiguous framing, to prevent request
//! smuggling.
//!
//! hyper parses heads and bodies, and is lenient: it accepts lines that end in LF, repeated headers and unknown
//! codings. A proxy that interprets the same bytes differently can be made to smuggle requests with each of these. This
//! module finds the end of each message only, and hyper interprets the heads.

use memchr::{memchr, memchr2};

/// The largest length that a body or a chunk may declare.
const MAX_LENGTH: u64 = i64::MAX as u64;

/// The longest line before or after a chunk. hyper limits the size of heads.
const MAX_CHUNK_LINE: usize = 4096;

/// The state of the parser.
#[derive(Debug, Default)]
pub(super) struct Framing {
    at: At,
    head: Head,
    /// The received part of an incomplete line.
    line: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Head,
    /// In a body, with this many bytes left.
    Body(u64),
    ChunkSize,
    /// In a chunk, with this many bytes left.
    Chunk(u64),
    ChunkEnd,
    Trailer,
}

/// The relevant fields of the head so far.
#[derive(Debug, Default)]
struct Head {
    lines: u32,
    is_http_11: bool,
    has_host: bool,
    length: Option<u64>,
    is_chunked: bool,
}

/// An ambiguity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ambiguous {
    /// The start of the line in the parsed bytes; 0 if it started before them.
    pub(super) at: usize,
    /// Whether the line belongs to a head instead of a body.
    pub(super) in_head: bool,
}

impl Framing {
    /// Whether a head is incomplete.
    pub(super) fn is_in_head(&self) -> bool {
        self.at == At::Head && (self.head.lines > 0 || !self.line.is_empty())
    }

    /// Parses the bytes that were just read.
    ///
    /// # Errors
    ///
    /// The first ambiguous line. Later bytes must not be parsed.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<(), Ambiguous> {
        let mut position = 0;
        while position < bytes.len() {
            let rest = &bytes[position..];
            position += match self.at {
                At::Body(left) => {
                    let (taken, left) = take(rest, left);
                    self.at = if left == 0 { At::Head } else { At::Body(left) };
                    taken
                }
                At::Chunk(left) => {
                    let (taken, left) = take(rest, left);
                    self.at = if left == 0 { At::ChunkEnd } else { At::Chunk(left) };
                    taken
                }
                _ => self.take_line(rest).ok_or(Ambiguous { at: position, in_head: self.at == At::Head })?,
            };
        }
        Ok(())
    }

    /// Consumes a line, or its received part. Returns the number of bytes; `None` if the line is ambiguous.
    fn take_line(&mut self, rest: &[u8]) -> Option<usize> {
        if !self.line.is_empty() {
            return self.take_rest_of_line(rest);
        }
        let Some(end) = memchr2(b'\r', b'\n', rest) else { return self.keep(rest) };
        if rest[end..] == *b"\r" {
            return self.keep(rest);
        }
        if !rest[end..].starts_with(b"\r\n") {
            return None;
        }
        self.at = self.head.after(self.at, &rest[..end])?;
        Some(end + 2)
    }

    fn take_rest_of_line(&mut self, rest: &[u8]) -> Option<usize> {
        let Some(end) = memchr(b'\n', rest) else { return self.keep(rest) };
        self.line.extend_from_slice(&rest[..=end]);
        let whole = std::mem::take(&mut self.line);
        let line = whole.strip_suffix(b"\r\n")?;
        if memchr(b'\r', line).is_some() {
            return None;
        }
        self.at = self.head.after(self.at, line)?;
        Some(end + 1)
    }

    /// Stores the received part of a line.
    fn keep(&mut self, rest: &[u8]) -> Option<usize> {
        self.line.extend_from_slice(rest);
        (self.at == At::Head || self.line.len() <= MAX_CHUNK_LINE).then_some(rest.len())
    }
}

/// The number of these bytes that belong to a body or chunk, and the number of its missing bytes.
fn take(bytes: &[u8], left: u64) -> (usize, u64) {
    let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
    (taken, left - taken as u64)
}

impl Head {
    /// The state after a line; `None` if it is ambiguous.
    fn after(&mut self, at: At, line: &[u8]) -> Option<At> {
        match at {
            // Clients may send empty lines before a head.
            At::Head if line.is_empty() && self.lines == 0 => Some(At::Head),
            At::Head if line.is_empty() => Some(std::mem::take(self).end()),
            At::Head => {
                self.lines = self.lines.saturating_add(1);
                if self.lines == 1 {
                    self.is_http_11 = line.ends_with(b" HTTP/1.1");
                    Some(At::Head)
                } else {
                    self.take_field(line).map(|()| At::Head)
                }
            }
            At::ChunkSize => match chunk_size(line)? {
                0 => Some(At::Trailer),
                size => Some(At::Chunk(size)),
            },
            At::ChunkEnd => line.is_empty().then_some(At::ChunkSize),
            At::Trailer if line.is_empty() => Some(At::Head),
            At::Trailer | At::Body(_) | At::Chunk(_) => Some(at),
        }
    }

    /// Reads the fields that frame the body. hyper refuses lines without a name and a colon.
    fn take_field(&mut self, line: &[u8]) -> Option<()> {
        if let Some(value) = value_of(b"host", line) {
            (!self.has_host && is_host(value)).then(|| self.has_host = true)
        } else if let Some(value) = value_of(b"content-length", line) {
            let length = number(value)?;
            (!self.is_chunked && self.length.replace(length).is_none()).then_some(())
        } else if let Some(value) = value_of(b"transfer-encoding", line) {
            let is_chunked = self.is_http_11 && value.eq_ignore_ascii_case(b"chunked");
            (is_chunked && self.length.is_none() && !std::mem::replace(&mut self.is_chunked, true)).then_some(())
        } else {
            Some(())
        }
    }

    fn end(self) -> At {
        match self.length {
            _ if self.is_chunked => At::ChunkSize,
            None | Some(0) => At::Head,
            Some(length) => At::Body(length),
        }
    }
}

/// The value of the field with this lower-case name, without the spaces and tabs around it. A space between name and
/// colon does not match: some servers read it as another field, and hyper refuses it.
fn value_of<'a>(name: &[u8], line: &'a [u8]) -> Option<&'a [u8]> {
    if line.get(name.len()) != Some(&b':') || !line[..name.len()].eq_ignore_ascii_case(name) {
        return None;
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let value = &line[name.len() + 1..];
    let start = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    Some(&value[start..end])
}

/// Whether it is a host with an optional port, of valid characters only. Empty is valid, for a target without a host.
fn is_host(value: &[u8]) -> bool {
    value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:[]%".contains(byte))
}

/// Parses a length of decimal digits only.
fn number(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|length| *length <= MAX_LENGTH)
}

/// Parses the size of a chunk in hexadecimal digits. Extensions may follow.
fn chunk_size(line: &[u8]) -> Option<u64> {
    if line.len() > MAX_CHUNK_LINE {
        return None;
    }
    let digits = &line[..memchr(b';', line).unwrap_or(line.len())];
    let digits = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    u64::from_str_radix(digits, 16).ok().filter(|size| *size <= MAX_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses a stream as a whole, and checks that the result is the same in pieces.
    fn followed(stream: &str) -> Result<Framing, bool> {
        let mut whole = Framing::default();
        let found = whole.follow(stream.as_bytes());
        for size in [1, 2, 7] {
            let mut pieces = Framing::default();
            let in_pieces = stream.as_bytes().chunks(size).try_for_each(|piece| pieces.follow(piece));
            assert_eq!(in_pieces.map_err(|fault| fault.in_head), found.map_err(|fault| fault.in_head), "{stream:?}");
            assert_eq!(pieces.at, whole.at, "{stream:?} in pieces of {size}");
        }
        found.map(|()| whole).map_err(|fault| fault.in_head)
    }

    #[test]
    fn messages_are_followed_to_their_ends() {
        for stream in [
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nhOST: [::1]:8501\r\nX: a\x0bb\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h:1\r\nContent-Length: 3\r\n\r\n\n\r\r",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\t 0005 \r\n\r\n12345POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\n\n\r\n\r\n0a;x=\"y\"\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
        ] {
            let framing = followed(stream).unwrap_or_else(|_| panic!("{stream:?} is refused"));
            assert_eq!((framing.at, framing.is_in_head()), (At::Head, false), "{stream:?}");
            let (at_least, _) = stream.rsplit_once('\r').expect("a line");
            assert_ne!(followed(at_least).map(|framing| (framing.at, framing.is_in_head())), Ok((At::Head, false)));
        }
    }

    impl PartialEq for Framing {
        fn eq(&self, other: &Self) -> bool {
            self.at == other.at && self.is_in_head() == other.is_in_head()
        }
    }

    #[test]
    fn heads_that_can_be_read_in_two_ways_are_found() {
        for fields in [
            "Host: a\r\nHost: a\r\n",
            "Host: a, b\r\n",
            "Host: a b\r\n",
            "Host: a@b\r\n",
            "Host: a\n",
            "Host: a\rX: b\r\n",
            "Host: a\r\nX: b\n\r\n",
            "Host: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
            "Host: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
            "Host: a\r\nContent-Length: 5, 5\r\n",
            "Host: a\r\nContent-Length: +5\r\n",
            "Host: a\r\nContent-Length: -5\r\n",
            "Host: a\r\nContent-Length: 0x5\r\n",
            "Host: a\r\nContent-Length: 5 5\r\n",
            "Host: a\r\nContent-Length: \x0b5\r\n",
            "Host: a\r\nContent-Length:\r\n",
            "Host: a\r\nContent-Length: 9223372036854775808\r\n",
            "Host: a\r\nContent-Length: 99999999999999999999999\r\n",
            "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Host: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",
            "Host: a\r\nTransfer-Encoding: chunked, chunked\r\n",
            "Host: a\r\nTransfer-Encoding: chunked, identity\r\n",
            "Host: a\r\nTransfer-Encoding: identity\r\n",
            "Host: a\r\nTransfer-Encoding: xchunked\r\n",
            "Host: a\r\nTransfer-Encoding: \x0bchunked\r\n",
            "Host: a\r\nTransfer-Encoding: \"chunked\"\r\n",
            "Host: a\r\nTransfer-Encoding:\r\n",
        ] {
            assert_eq!(followed(&format!("POST / HTTP/1.1\r\n{fields}\r\n")), Err(true), "{fields:?}");
        }
        for head in [
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
            "\nGET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.0\n\n",
            "GET /\r HTTP/1.0\r\n\r\n",
        ] {
            assert_eq!(followed(head), Err(true), "{head:?}");
        }
    }

    #[test]
    fn chunks_that_can_be_read_in_two_ways_are_found() {
        for chunks in [
            "8000000000000000\r\n",
            "ffffffffffffffff\r\n",
            "10000000000000000\r\n",
            "00000000000000000000000000000000000000001ffffffffffffffff\r\n",
            "5\n12345\r\n0\r\n\r\n",
            "5\r12345\r\n",
            "5 \r\n12345\r\n",
            " 5\r\n12345\r\n",
            "+5\r\n12345\r\n",
            "-5\r\n12345\r\n",
            "0x5\r\n12345\r\n",
            "5_0\r\n12345\r\n",
            ";x\r\n",
            "\r\n",
            "5;x\ny\r\n12345\r\n",
            "5;x\ry\r\n12345\r\n",
            "5\r\n12345\n0\r\n\r\n",
            "5\r\n123456\r\n0\r\n\r\n",
            "5\r\n123450\r\n\r\n",
            "0\r\nTrailer: x\n\r\n",
        ] {
            let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            assert_eq!(followed(&format!("{head}{chunks}")), Err(false), "{chunks:?}");
        }
    }

    #[test]
    fn lines_of_bodies_are_bounded() {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;";
        let mut framing = Framing::default();
        framing.follow(head).expect("all is well so far");
        framing.follow(&[b'x'; MAX_CHUNK_LINE - 2]).expect("as long as it may be");
        assert_eq!(framing.follow(b"x"), Err(Ambiguous { at: 0, in_head: false }));
    }

    proptest::proptest! {
        #[test]
        fn no_stream_is_a_surprise(stream: Vec<u8>) {
            let _ = Framing::default().follow(&stream);
        }
    }
}
