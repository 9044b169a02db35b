//! What a client sends: tells HTTP/2 from HTTP/1.1, and follows either from head to head.

use super::http1::Framing;
use super::http2::Frames;

/// What a connection of HTTP/2 begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What takes the place of a line of a head that is ambiguous: hyper refuses it with 400, after the requests before it.
pub(super) const NO_HEAD: &[u8] = b"\0\r\n\r\n";

/// What a client speaks, and where in it the connection stands.
pub(super) enum Inbound {
    /// Either, after this many bytes of the preface.
    Unknown(usize),
    Http1(Framing),
    Http2(Frames),
    /// HTTP/1.1 up to something ambiguous, in the place of which these bytes are still to be read, and then the end.
    Refused(&'static [u8]),
    /// A body of HTTP/1.1 up to something ambiguous.
    Broken,
}

impl Inbound {
    /// Follows what has just been read, and says how much of it may be passed on.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> usize {
        let skipped = if let Self::Unknown(matched) = self {
            let is_same = |(one, other): &(&u8, &u8)| one == other;
            let same = PREFACE[*matched..].iter().zip(bytes).take_while(is_same).count();
            let matched = *matched + same;
            if matched == PREFACE.len() {
                *self = Self::Http2(Frames::default());
                same
            } else if same == bytes.len() {
                *self = Self::Unknown(matched);
                return same;
            } else {
                let mut framing = Framing::default();
                // Not before something is ambiguous: the preface has no fault up to its end.
                let is_clear = framing.follow(&PREFACE[..matched - same]).is_ok();
                *self = if is_clear { Self::Http1(framing) } else { Self::Refused(NO_HEAD) };
                0
            }
        } else {
            0
        };
        let bytes = &bytes[skipped..];
        let passed = match self {
            Self::Http1(framing) => match framing.follow(bytes) {
                Ok(()) => bytes.len(),
                Err(found) => {
                    *self = if found.in_head { Self::Refused(NO_HEAD) } else { Self::Broken };
                    found.at
                }
            },
            Self::Http2(frames) => {
                frames.follow(bytes);
                bytes.len()
            }
            Self::Unknown(_) | Self::Refused(_) | Self::Broken => 0,
        };
        skipped + passed
    }

    pub(super) fn is_in_head(&self) -> bool {
        match self {
            Self::Unknown(matched) => *matched > 0,
            Self::Http1(framing) => framing.is_in_head(),
            Self::Http2(frames) => frames.is_in_head(),
            Self::Refused(_) | Self::Broken => false,
        }
    }
}
