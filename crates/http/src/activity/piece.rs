//! Pieces of answers, which count their written bytes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};

use super::{Activity, UnderWay};

/// A piece of an answer, which counts its written bytes.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    of: Of,
}

/// The owner of a piece.
#[derive(Debug)]
pub enum Of {
    /// An answer that is not counted.
    Nothing,
    /// The beginning of an answer.
    Answer(Arc<Activity>),
    /// The last piece of an answer.
    End(UnderWay),
}

impl Piece {
    /// Creates a piece of `of`.
    pub fn new(bytes: Bytes, of: Of) -> Self {
        Self { bytes, of }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        let activity = match &self.of {
            Of::Nothing => return,
            Of::Answer(activity) => activity,
            Of::End(under_way) => &under_way.activity,
        };
        activity.taken.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        let copy = self.bytes.slice(..length);
        self.advance(length);
        copy
    }
}
