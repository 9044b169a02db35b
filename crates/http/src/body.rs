//! Request bodies, read into one buffer within limits, and response bodies that are complete.

mod collect;
mod encoding;

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::Either;
use hyper::body::Incoming;

use crate::activity::{Activity, Of};
use collect::Collected;
use servable_model::error::{Code, ServingError};

pub use crate::activity::{Piece, UnderWay};
pub use crate::body_memory::Shortage;
pub use crate::body_memory::{BodyMemory, Claim};
pub use collect::Layout;
pub use encoding::Encoding;
pub use servable_runtime::work_on;

/// Limits of request bodies.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// The largest body, in bytes, before and after decompression.
    pub max_bytes: usize,
    /// The limit of all bodies in progress and all unread answers together, in bytes.
    pub max_total_bytes: usize,
    /// The limit of a body after decompression, in bytes, if it is lower.
    pub max_decompressed_bytes: usize,
    /// The time limit for the next part of a body.
    pub part_timeout: Duration,
    /// The minimum average rate of a body of several parts. The time limit of a part is added.
    pub min_bytes_per_second: u32,
}

impl BodyLimits {
    /// The time limit for the next part of a body of which `received` bytes have arrived since `since`. It is zero if
    /// the body is too slow.
    pub fn patience(&self, received: usize, since: Instant) -> Duration {
        let earned = Duration::from_secs_f64(received as f64 / f64::from(self.min_bytes_per_second.max(1)));
        self.part_timeout.min((self.part_timeout + earned).saturating_sub(since.elapsed()))
    }
}

/// The reason why a body was not read completely.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyError {
    /// It exceeds the limit, or declares a length that does.
    TooLarge,
    /// Its next part did not arrive in time.
    TooSlow,
    /// The client disconnected, or violated the protocol.
    Broken,
    /// There is no memory for it.
    Shortage(Shortage),
}

impl From<Shortage> for BodyError {
    fn from(shortage: Shortage) -> Self {
        Self::Shortage(shortage)
    }
}

/// The body of a request, with the activity of its connection.
pub struct RequestBody {
    incoming: Incoming,
    activity: Arc<Activity>,
}

impl RequestBody {
    /// Creates an unread body.
    pub fn new(incoming: Incoming, activity: Arc<Activity>) -> Self {
        Self { incoming, activity }
    }
}

/// Reads a body to its end. A body that arrives in one piece is not copied.
pub async fn read(body: RequestBody, limits: BodyLimits, memory: &Arc<BodyMemory>) -> Result<Bytes, BodyError> {
    read_as(body, limits, memory, |_| Layout::default()).await
}

/// Reads a body to its end, into memory whose layout `layout` derives from the first part. A body that arrives in one
/// piece is not copied.
pub async fn read_as(
    mut body: RequestBody,
    limits: BodyLimits,
    memory: &Arc<BodyMemory>,
    layout: impl Fn(&[u8]) -> Layout,
) -> Result<Bytes, BodyError> {
    let declared = usize::try_from(body.incoming.size_hint().lower()).unwrap_or(usize::MAX);
    if declared > limits.max_bytes {
        return Err(BodyError::TooLarge);
    }
    memory.expect(declared, limits.max_total_bytes)?;
    let mut whole = Bytes::new();
    let mut parts: Option<Collected> = None;
    let mut patience = limits.part_timeout;
    let mut since = None;
    while let Some(part) = next_part(&mut body, patience).await? {
        let received = whole.len() + parts.as_ref().map_or(0, Collected::len) + part.len();
        if received > limits.max_bytes {
            return Err(BodyError::TooLarge);
        }
        if !body.incoming.is_end_stream() {
            patience = limits.patience(received, *since.get_or_insert_with(Instant::now));
        }
        if received == part.len() {
            whole = part;
            continue;
        }
        if parts.is_none() {
            let guess = layout(&whole);
            let length = declared.max(guess.length).min(limits.max_bytes);
            memory.expect(length, limits.max_total_bytes)?;
            let mut begun = Collected::new(memory, Layout { length, ..guess }, limits.max_total_bytes);
            begun.push(&std::mem::take(&mut whole))?;
            parts = Some(begun);
        }
        if let Some(parts) = &mut parts {
            parts.push(&part)?;
        }
    }
    match parts {
        Some(parts) => Ok(parts.into_bytes()),
        None if whole.len() < SMALL => Ok(whole),
        None => Ok(memory.claim(whole.len(), limits.max_total_bytes)?.hold(whole)),
    }
}

/// The next piece of a body, never empty; `None` after the last.
pub async fn next_part(body: &mut RequestBody, timeout: Duration) -> Result<Option<Bytes>, BodyError> {
    let RequestBody { incoming, activity } = body;
    loop {
        if incoming.is_end_stream() {
            return Ok(None);
        }
        let waits = activity.await_part();
        let frame = tokio::select! {
            biased;
            frame = tokio::time::timeout(timeout, incoming.frame()) => frame.map_err(|_| BodyError::TooSlow)?,
            () = activity.parts_ended() => return Err(BodyError::TooSlow),
        };
        drop(waits);
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(BodyError::Broken),
            Some(Ok(frame)) => {
                // Frames without data are trailers or empty. Neither ends the body.
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// A complete response body: pieces of data, usually one, and optional trailers.
#[derive(Debug, Default)]
pub struct WholeBody {
    data: Option<Bytes>,
    /// The further pieces, last one first.
    others: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    under_way: Option<UnderWay>,
}

impl WholeBody {
    /// A body without trailers.
    pub fn new(data: impl Into<Bytes>) -> Self {
        Self { data: Some(data.into()).filter(|data| !data.is_empty()), ..Self::default() }
    }

    /// Adds pieces, which must not be empty.
    #[must_use]
    pub fn followed_by(mut self, pieces: impl DoubleEndedIterator<Item = Bytes>) -> Self {
        self.others = pieces.rev().collect();
        self
    }

    /// A body that ends with trailers.
    pub fn with_trailers(data: impl Into<Bytes>, trailers: HeaderMap) -> Self {
        Self { trailers: Some(trailers), ..Self::new(data) }
    }

    /// The size of the data.
    pub fn size(&self) -> usize {
        self.data.iter().chain(&self.others).map(Bytes::len).sum()
    }
}

impl Body for WholeBody {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        let data = self.data.take().or_else(|| self.others.pop()).map(|bytes| {
            let of = match &self.under_way {
                Some(under_way) if !self.others.is_empty() => Of::Answer(Arc::clone(under_way.activity())),
                _ => self.under_way.take().map_or(Of::Nothing, Of::End),
            };
            Piece::new(bytes, of)
        });
        let frame = data.map(Frame::data).or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.others.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size() as u64)
    }
}

/// The body of an answer, as its connection uses it.
pub trait AnswerBody: Body<Data = Piece, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static {
    /// The size, if the body is complete.
    fn whole_len(&self) -> Option<usize>;

    /// Counts the answer as unsent, and keeps its memory claimed, until the last piece is written.
    fn hold(&mut self, under_way: UnderWay, claim: Option<Claim>);
}

impl AnswerBody for WholeBody {
    fn whole_len(&self) -> Option<usize> {
        Some(self.size())
    }

    fn hold(&mut self, mut under_way: UnderWay, claim: Option<Claim>) {
        under_way.begin_to_send(self.size() as u64, claim);
        self.under_way = Some(under_way);
    }
}

impl<L: AnswerBody, R: AnswerBody> AnswerBody for Either<L, R> {
    fn whole_len(&self) -> Option<usize> {
        match self {
            Self::Left(body) => body.whole_len(),
            Self::Right(body) => body.whole_len(),
        }
    }

    fn hold(&mut self, under_way: UnderWay, claim: Option<Claim>) {
        match self {
            Self::Left(body) => body.hold(under_way, claim),
            Self::Right(body) => body.hold(under_way, claim),
        }
    }
}

/// The reason why a body could not be decompressed.
#[derive(Debug, PartialEq, Eq)]
pub enum Unpacking {
    /// It is damaged.
    Damaged(String),
    /// It would be larger than this many bytes.
    TooLarge(usize),
    /// There is no memory for it.
    Shortage(Shortage),
}

impl From<Unpacking> for ServingError {
    fn from(fault: Unpacking) -> Self {
        match fault {
            Unpacking::Damaged(text) => Self::invalid_argument(text),
            Unpacking::TooLarge(limit) => {
                Self::new(Code::ResourceExhausted, format!("the body is larger than {limit} bytes when decompressed"))
            }
            Unpacking::Shortage(shortage) => shortage.into(),
        }
    }
}

impl From<Shortage> for Unpacking {
    fn from(shortage: Shortage) -> Self {
        Self::Shortage(shortage)
    }
}

/// Decompresses a body, which must be one complete stream of its encoding.
pub fn unpack(
    encoding: Encoding,
    compressed: &[u8],
    limits: BodyLimits,
    memory: &Arc<BodyMemory>,
) -> Result<Bytes, Unpacking> {
    let (limit, name) = (limits.max_bytes.min(limits.max_decompressed_bytes), encoding.name());
    let mut rest = compressed;
    let plain = unpack_bounded(encoding, &mut rest, limit, limits.max_total_bytes, memory)?
        .map_err(|error| Unpacking::Damaged(format!("the body is not valid {name}: {error}")))?;
    if !rest.is_empty() {
        return Err(Unpacking::Damaged(format!("the body has {} bytes after its end as {name}", rest.len())));
    }
    Ok(plain)
}

/// Decompresses a body if it is compressed. An empty body never is, even if its header says so.
pub fn unpack_if_packed(
    encoding: Option<Encoding>,
    body: Bytes,
    limits: BodyLimits,
    memory: &Arc<BodyMemory>,
) -> Result<Bytes, Unpacking> {
    match encoding {
        Some(encoding) if !body.is_empty() => work_on(body.len(), || unpack(encoding, &body, limits, memory)),
        _ => Ok(body),
    }
}

/// Decompresses the stream at the start of `rest`, and leaves the bytes after it. The inner error is that of damaged
/// bytes.
pub fn unpack_bounded(
    encoding: Encoding,
    rest: &mut &[u8],
    limit: usize,
    total_limit: usize,
    memory: &Arc<BodyMemory>,
) -> Result<io::Result<Bytes>, Unpacking> {
    let most = limit.saturating_add(1);
    let mut decoder = encoding.decoder(rest);
    let mut plain = memory.fresh(0, total_limit)?;
    while plain.len() < most {
        let capacity = plain.capacity().saturating_mul(2).clamp(LEAST_UNPACKED, most.max(LEAST_UNPACKED));
        let mut larger = memory.fresh(capacity, total_limit)?;
        larger.extend(plain.as_ref());
        plain = larger;
        match plain.fill(&mut decoder) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Ok(Err(error)),
        }
    }
    if plain.len() > limit { Err(Unpacking::TooLarge(limit)) } else { Ok(Ok(Bytes::from_owner(plain))) }
}

/// The initial capacity for a decompressed body.
const LEAST_UNPACKED: usize = 16 << 10;

/// Smaller bodies in one piece are not counted. They fit in a read buffer.
const SMALL: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BodyLimits = BodyLimits {
        max_bytes: 1000,
        max_total_bytes: usize::MAX,
        max_decompressed_bytes: 1000,
        part_timeout: Duration::from_secs(10),
        min_bytes_per_second: 100,
    };

    #[test]
    fn a_body_that_trickles_runs_out_of_patience() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).expect("the clock runs longer");
        assert_eq!(LIMITS.patience(1_000_000, ago(60)), LIMITS.part_timeout);
        assert!(LIMITS.patience(100, ago(5)) > Duration::from_secs(5));
        assert!(LIMITS.patience(100, ago(5)) <= Duration::from_secs(6));
        assert_eq!(LIMITS.patience(100, ago(11)), Duration::ZERO);
    }

    #[test]
    fn a_packed_body_is_exactly_one_whole_piece() {
        // Half of it is repetitive, so that compression is worth it, and the other half is not.
        let plain: Vec<u8> = (0..2000_u32).map(|i| if i < 1000 { 0 } else { (i * i % 251) as u8 }).collect();
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let unpacked = |packed: &[u8], max_decompressed_bytes| {
                let limits = BodyLimits { max_bytes: 10_000, max_decompressed_bytes, ..LIMITS };
                unpack(encoding, packed, limits, &Arc::default())
            };
            let packed = encoding.pack(&plain, 0).expect("it is long enough");
            assert_eq!(unpacked(&packed, 9000).as_deref(), Ok(&plain[..]));
            assert_eq!(unpacked(&packed, 2000).as_deref(), Ok(&plain[..]));
            assert_eq!(unpacked(&packed, 1999), Err(Unpacking::TooLarge(1999)));
            let wrong = |bytes: &[u8]| match unpacked(bytes, 9000) {
                Err(Unpacking::Damaged(text)) => text,
                other => panic!("a broken body, and {other:?}"),
            };
            let damage = format!("the body is not valid {}", encoding.name());
            assert!(wrong(&packed[..packed.len() - 1]).starts_with(&damage));
            assert!(wrong(b"hello").starts_with(&damage));
            let end = format!("the body has 2 bytes after its end as {}", encoding.name());
            assert_eq!(wrong(&[&packed[..], b"xy"].concat()), end);
            let mut damaged = packed.to_vec();
            // In the checksum, which is before the length in gzip, and at the end in deflate.
            let checksum = damaged.len() - if encoding == Encoding::Gzip { 6 } else { 2 };
            damaged[checksum] ^= 1;
            assert!(wrong(&damaged).starts_with(&damage));
        }
    }
}
