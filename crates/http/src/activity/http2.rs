//! A parser for the boundaries of request heads in HTTP/2.
//!
//! h2 does not report that it waits for the end of a header block. This parser reads the nine-byte frame headers only.

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;

/// The state of the parser.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The header of the frame, and the number of its received bytes.
    head: [u8; 9],
    have: usize,
    /// In a frame, with this many bytes left.
    left: usize,
    /// Whether the header block continues after the frame.
    is_open: bool,
}

impl Frames {
    /// Whether a header block is incomplete.
    pub(super) fn is_in_head(&self) -> bool {
        self.is_open || (self.left > 0 && self.is_of_block())
    }

    /// Parses the bytes that were just read.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                self.left -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            if self.have == self.head.len() {
                self.have = 0;
            }
            let taken = (self.head.len() - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == self.head.len() {
                let [a, b, c, _, flags, ..] = self.head;
                self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                if self.is_of_block() {
                    self.is_open = flags & END_HEADERS == 0;
                }
            }
        }
    }

    fn is_of_block(&self) -> bool {
        matches!(self.head[3], HEADERS | CONTINUATION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        [&[0, 0, length, kind, flags, 0, 0, 0, 1][..], &vec![0; length.into()]].concat()
    }

    #[test]
    fn header_blocks_are_followed_to_their_ends() {
        let ping = frame(6, 0, 8);
        let open = frame(HEADERS, 1, 20);
        let more = frame(CONTINUATION, 0, 1);
        let end = frame(CONTINUATION, END_HEADERS, 0);
        let whole = frame(HEADERS, END_HEADERS, 5);
        let cut = &whole[..10];
        for (stream, is_in_head) in [
            (vec![&ping[..]], false),
            (vec![&ping, &open], true),
            (vec![&open, &more], true),
            (vec![&open, &more, &end], false),
            (vec![&whole, &ping], false),
            (vec![&ping, cut], true),
            (vec![&whole, &frame(0, 0, 255)[..20]], false),
        ] {
            let stream = stream.concat();
            for size in [1, 3, 100] {
                let mut frames = Frames::default();
                stream.chunks(size).for_each(|piece| frames.follow(piece));
                assert_eq!(frames.is_in_head(), is_in_head, "{stream:?} in pieces of {size}");
            }
        }
    }
}
