//! The two compressions of HTTP bodies and gRPC messages.

use std::io::{Read, Write};

use bytes::{BufMut, BytesMut};
use flate2::Compression;
use flate2::bufread::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

/// Shorter data is not compressed, since it is not worth the time.
const MIN_COMPRESSED_BYTES: usize = 1024;

/// A compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, which HTTP calls `deflate`.
    Deflate,
}

impl Encoding {
    /// The compression of this name in headers.
    pub fn of(name: &[u8]) -> Option<Self> {
        [Self::Gzip, Self::Deflate].into_iter().find(|encoding| name.eq_ignore_ascii_case(encoding.name().as_bytes()))
    }

    /// The name in headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    /// Decompresses the stream at the start of `compressed`, and leaves the bytes after it.
    pub(super) fn decoder<'a>(self, compressed: &'a mut &[u8]) -> Box<dyn Read + 'a> {
        match self {
            Self::Gzip => Box::new(GzDecoder::new(compressed)),
            Self::Deflate => Box::new(ZlibDecoder::new(compressed)),
        }
    }

    /// Compresses `plain` after its first `skip` bytes. The result starts with as many zeros. `None` if
    /// compression is not worth it.
    pub fn pack(self, plain: &[u8], skip: usize) -> Option<BytesMut> {
        if plain.len() < skip + MIN_COMPRESSED_BYTES {
            return None;
        }
        let mut packed = BytesMut::with_capacity(plain.len() / 2);
        packed.put_bytes(0, skip);
        let rest = &plain[skip..];
        let into = packed.writer();
        let packed = match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(into, Compression::fast());
                encoder.write_all(rest).and_then(|()| encoder.finish())
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(into, Compression::fast());
                encoder.write_all(rest).and_then(|()| encoder.finish())
            }
        }
        .expect("a buffer that grows")
        .into_inner();
        (packed.len() < plain.len()).then_some(packed)
    }
}
