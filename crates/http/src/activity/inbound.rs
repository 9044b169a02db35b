//! The inbound bytes of a connection: detects HTTP/1.1 or HTTP/2, and parses the boundaries of heads.

use super::http1::Framing;
use super::http2::Frames;

/// The preface of HTTP/2.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The replacement for an ambiguous line of a head. hyper answers it with 400, after earlier requests.
pub(super) const NO_HEAD: &[u8] = b"\0\r\n\r\n";

/// The protocol of a connection, with the state of its parser.
pub(super) enum Inbound {
    /// Undecided, after this many bytes of the preface.
    Unknown(usize),
    Http1(Framing),
    Http2(Frames),
    /// HTTP/1.1 with an ambiguous head. These bytes are still to be read in its place, followed by the end.
    Refused(&'static [u8]),
    /// HTTP/1.1 with an ambiguous body.
    Broken,
}

impl Inbound {
    /// Parses the bytes that were just read. Returns how many may be passed on.
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
                // The preface is not ambiguous before its end.
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
