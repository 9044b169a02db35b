//! What one connection has been doing, so that idle and stalled ones can be closed.

mod http1;
mod http2;

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Sleep;

use crate::body_memory::Claim;
use http1::Framing;
use http2::Frames;

/// Counters of one connection, which its stream, its requests and its watch share.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Requests that have begun.
    requests: AtomicU64,
    /// Requests that have no answer yet.
    under_way: AtomicU64,
    /// Of those, the ones whose next part the client has to send.
    awaiting_parts: AtomicU64,
    /// Answers that are not wholly written, and their bytes.
    unsent: AtomicU64,
    unsent_bytes: AtomicU64,
    /// How often `unsent` has gone back to zero.
    emptied: AtomicU64,
    /// Bytes of answers that have been written: not those of pings and settings.
    taken: AtomicU64,
    /// Bytes that have been read.
    received: AtomicU64,
    /// The number of the head that has begun and not ended; 0 if there is none.
    open_head: AtomicU64,
    speaks_http2: AtomicBool,
    /// Whether answers over HTTP/1.1 close the connection.
    winds_down: AtomicBool,
    /// Whether the stream ends as soon as there is nothing to read.
    ends_when_quiet: AtomicBool,
    /// Notified when answers have been written while requests wait for that.
    has_room: Notify,
    /// Whether the client has closed its side, and what has to be woken when all its requests are answered then.
    has_closed_side: AtomicBool,
    waits_for_answers: Mutex<Option<Waker>>,
}

/// A client may close its side once its request is sent, and still gets an answer that comes within this time. A client that
/// has given up closes its side, too, so that beyond it nobody is thought to wait.
const HALF_CLOSED: Duration = Duration::from_secs(2);

/// What a connection of HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What takes the place of a line of a head that is ambiguous: hyper refuses it with 400, after the requests before it.
const NO_HEAD: &[u8] = b"\0\r\n\r\n";

/// What was counted at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) requests: u64,
    pub(crate) taken: u64,
    pub(crate) received: u64,
    pub(crate) emptied: u64,
    pub(crate) open_head: u64,
}

impl Activity {
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            requests: self.requests.load(Ordering::Relaxed),
            taken: self.taken.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            emptied: self.emptied.load(Ordering::Relaxed),
            open_head: self.open_head.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn speaks_http2(&self) -> bool {
        self.speaks_http2.load(Ordering::Relaxed)
    }

    /// Whether a request has no answer yet.
    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// Whether a request has no answer yet, and that is not for want of its next part.
    pub(crate) fn is_computing(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > self.awaiting_parts.load(Ordering::Relaxed)
    }

    /// Whether the client has to send the next part of a request.
    pub(crate) fn is_awaiting_part(&self) -> bool {
        self.awaiting_parts.load(Ordering::Relaxed) > 0
    }

    /// Whether the client has to take an answer.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent.load(Ordering::Relaxed) > 0
    }

    /// Whether nothing is under way in either direction.
    pub(crate) fn is_between_requests(&self) -> bool {
        !self.is_under_way() && !self.has_unsent() && self.open_head.load(Ordering::Relaxed) == 0
    }

    /// Has the next answer over HTTP/1.1 be the last.
    pub(crate) fn wind_down(&self) {
        self.winds_down.store(true, Ordering::Relaxed);
    }

    pub(crate) fn winds_down(&self) -> bool {
        self.winds_down.load(Ordering::Relaxed)
    }

    /// Ends the stream when it is next read, and neither is there anything to read nor a request under way.
    ///
    /// hyper would close a connection of HTTP/1.1 without a last look at what has come.
    pub(crate) fn end_when_quiet(&self) {
        self.ends_when_quiet.store(true, Ordering::Relaxed);
    }

    /// Counts a request from its head until the result is dropped.
    pub(crate) fn begin_request(self: &Arc<Self>) -> UnderWay {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay { activity: Arc::clone(self), unsent_bytes: None, claim: None }
    }

    /// Counts a wait for the next part of a request until the result is dropped.
    pub(crate) fn await_part(&self) -> AwaitingPart<'_> {
        self.awaiting_parts.fetch_add(1, Ordering::Relaxed);
        AwaitingPart(self)
    }

    /// Whether a request of HTTP/1.1 is being answered.
    fn is_answering(&self) -> bool {
        self.is_under_way() && !self.speaks_http2()
    }

    fn wake_half_closed(&self) {
        if self.has_closed_side.load(Ordering::Relaxed) {
            let waiting = self.waits_for_answers.lock().unwrap_or_else(PoisonError::into_inner).take();
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// A wait for the next part of a request.
pub(crate) struct AwaitingPart<'a>(&'a Activity);

impl Drop for AwaitingPart<'_> {
    fn drop(&mut self) {
        self.0.awaiting_parts.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that is being answered, and then its answer while that is being written.
#[derive(Debug)]
pub(crate) struct UnderWay {
    activity: Arc<Activity>,
    /// How large the answer is, once there is one.
    unsent_bytes: Option<u64>,
    /// The memory of the answer.
    claim: Option<Claim>,
}

impl UnderWay {
    /// Waits while the client has so many bytes of earlier answers to take.
    pub(crate) async fn room(&self, most: u64) {
        while self.activity.unsent_bytes.load(Ordering::Relaxed) >= most {
            let notified = self.activity.has_room.notified();
            if self.activity.unsent_bytes.load(Ordering::SeqCst) >= most {
                // Until then it is no request that somebody works on.
                self.activity.under_way.fetch_sub(1, Ordering::Relaxed);
                let _returns = Returns(&self.activity.under_way);
                notified.await;
            }
        }
    }

    /// From now on this is an answer of so many bytes.
    pub(crate) fn begin_to_send(&mut self, bytes: u64, claim: Option<Claim>) {
        self.activity.unsent.fetch_add(1, Ordering::Relaxed);
        self.activity.unsent_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.activity.under_way.fetch_sub(1, Ordering::Relaxed);
        (self.unsent_bytes, self.claim) = (Some(bytes), claim);
        self.activity.wake_half_closed();
    }

    /// The connection's counters.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

/// Counts again what was taken out for a while, even where that is cut short.
struct Returns<'a>(&'a AtomicU64);

impl Drop for Returns<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Some(bytes) = self.unsent_bytes else {
            self.activity.under_way.fetch_sub(1, Ordering::Relaxed);
            self.activity.wake_half_closed();
            return;
        };
        self.activity.unsent_bytes.fetch_sub(bytes, Ordering::SeqCst);
        if self.activity.unsent.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.activity.emptied.fetch_add(1, Ordering::Relaxed);
        }
        if bytes > 0 {
            self.activity.has_room.notify_waiters();
        }
    }
}

/// A piece of an answer, which counts how much of it has been written.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Bytes,
    of: Of,
}

/// What a piece belongs to.
#[derive(Debug)]
pub(crate) enum Of {
    /// An answer that is not counted.
    Nothing,
    /// The beginning of an answer.
    Answer(Arc<Activity>),
    /// The last piece of an answer.
    End(UnderWay),
}

impl Piece {
    pub(crate) fn new(bytes: Bytes, of: Of) -> Self {
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

/// A stream that counts what goes through it, and that is given back when it is dropped.
pub(crate) struct Counted<S> {
    /// There until the end.
    stream: Option<S>,
    activity: Arc<Activity>,
    inbound: Inbound,
    /// How many heads have begun.
    heads: u64,
    /// How long the client is waited for that has closed its side.
    patience: Option<Pin<Box<Sleep>>>,
    returned: Returned<S>,
}

/// What a client speaks, and where in it the connection stands.
enum Inbound {
    /// Either, after so many bytes of the preface.
    Unknown(usize),
    Http1(Framing),
    Http2(Frames),
    /// HTTP/1.1 up to something ambiguous, in the place of which these bytes are still to be read, and then the end.
    Refused(&'static [u8]),
    /// A body of HTTP/1.1 up to something ambiguous.
    Broken,
}

/// Where a stream comes back to.
pub(crate) type Returned<S> = Arc<Mutex<Option<S>>>;

impl Inbound {
    /// Follows what has just been read, and says how much of it may be passed on.
    fn follow(&mut self, bytes: &[u8]) -> usize {
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

    fn is_in_head(&self) -> bool {
        match self {
            Self::Unknown(matched) => *matched > 0,
            Self::Http1(framing) => framing.is_in_head(),
            Self::Http2(frames) => frames.is_in_head(),
            Self::Refused(_) | Self::Broken => false,
        }
    }
}

impl<S> Counted<S> {
    pub(crate) fn new(stream: S, activity: Arc<Activity>, returned: Returned<S>) -> Self {
        let inbound = Inbound::Unknown(0);
        Self { stream: Some(stream), activity, inbound, heads: 0, patience: None, returned }
    }

    /// Follows bytes that have just been read, and says how much of them may be passed on.
    fn note_read(&mut self, bytes: &[u8]) -> usize {
        let was_in_head = self.inbound.is_in_head();
        self.activity.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let passed = self.inbound.follow(bytes);
        if matches!(self.inbound, Inbound::Http2(_)) {
            self.activity.speaks_http2.store(true, Ordering::Relaxed);
        }
        match (was_in_head, self.inbound.is_in_head()) {
            (false, true) => {
                self.heads += 1;
                self.activity.open_head.store(self.heads, Ordering::Relaxed);
            }
            (true, false) => self.activity.open_head.store(0, Ordering::Relaxed),
            _ => {}
        }
        passed
    }

    fn ends_now(&self) -> bool {
        self.activity.ends_when_quiet.load(Ordering::Relaxed) && self.activity.is_between_requests()
    }
}

impl<S: Unpin> Counted<S> {
    fn stream(&mut self) -> Pin<&mut S> {
        Pin::new(self.stream.as_mut().expect("it is there until the end"))
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        *self.returned.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.inbound {
            Inbound::Refused(left) => {
                let taken = left.len().min(buf.remaining());
                buf.put_slice(&left[..taken]);
                *left = &left[taken..];
                return Poll::Ready(Ok(()));
            }
            Inbound::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            Inbound::Unknown(_) | Inbound::Http1(_) | Inbound::Http2(_) => {}
        }
        if self.patience.is_none() {
            let before = buf.filled().len();
            let read = self.stream().poll_read(cx, buf);
            if read.is_pending() {
                return if self.ends_now() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            let bytes = &buf.filled()[before..];
            let is_end = matches!(read, Poll::Ready(Ok(()))) && bytes.is_empty() && buf.remaining() > 0;
            if !bytes.is_empty() {
                let (passed, all) = (self.note_read(bytes), bytes.len());
                buf.set_filled(before + passed);
                if passed == 0 && all > 0 {
                    return self.poll_read(cx, buf); // what takes its place
                }
            }
            if !is_end {
                return read;
            }
            self.patience = Some(Box::pin(tokio::time::sleep(HALF_CLOSED)));
        }
        if !self.activity.is_answering() {
            return Poll::Ready(Ok(()));
        }
        *self.activity.waits_for_answers.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        self.activity.has_closed_side.store(true, Ordering::Relaxed);
        self.patience.as_mut().map_or(Poll::Ready(()), |patience| patience.as_mut().poll(cx)).map(Ok)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn a_request_is_under_way_until_its_answer_is_there_and_unsent_until_that_is_written() {
        let activity = Arc::new(Activity::default());
        assert!(activity.is_between_requests());
        let mut request = activity.begin_request();
        assert!(activity.is_computing());
        let part = activity.await_part();
        assert!(!activity.is_computing() && activity.is_awaiting_part() && activity.is_under_way());
        drop(part);
        assert!(activity.is_computing());
        request.begin_to_send(5, None);
        assert!(!activity.is_under_way() && activity.has_unsent());
        let mut piece = Piece::new(Bytes::from_static(b"hello"), Of::End(request));
        piece.advance(3);
        assert!(activity.has_unsent());
        assert_eq!(piece.copy_to_bytes(2), "lo");
        drop(piece);
        assert!(activity.is_between_requests());
        assert_eq!(activity.snapshot(), Snapshot { requests: 1, taken: 5, emptied: 1, ..Snapshot::default() });
    }

    #[tokio::test]
    async fn requests_wait_while_the_client_has_much_to_take() {
        let activity = Arc::new(Activity::default());
        let mut held = activity.begin_request();
        held.begin_to_send(10, None);
        let next = activity.begin_request();
        next.room(11).await;
        let waits = tokio::time::timeout(Duration::from_millis(10), next.room(10)).await;
        assert!(waits.is_err());
        assert!(activity.is_under_way(), "it is counted again");
        let ((), ()) = tokio::join!(next.room(10), async { drop(held) });
    }

    async fn passed_on(pieces: &[&[u8]]) -> (io::Result<usize>, Vec<u8>, Arc<Activity>) {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let activity = Arc::new(Activity::default());
        let mut counted = Counted::new(server, Arc::clone(&activity), Returned::default());
        let mut read = Vec::new();
        let sends = async {
            for piece in pieces {
                client.write_all(piece).await.expect("room");
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let (result, ()) = tokio::join!(counted.read_to_end(&mut read), sends);
        (result, read, activity)
    }

    #[tokio::test]
    async fn what_is_ambiguous_in_a_head_is_passed_on_as_what_is_no_head() {
        let good: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let (_, read, _) = passed_on(&[good, b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\nX: y\r\n\r\n"]).await;
        assert!(read.starts_with(good) && read.ends_with(NO_HEAD), "{read:?}");
        assert!(!read.contains(&b'5'), "{read:?}");
        for pieces in [&[&b"P"[..], b"RI * HTTP/1.0\n"][..], &[b"PRI * HTTP/2.0\r\n\r\nSM\n"]] {
            let (_, read, activity) = passed_on(pieces).await;
            assert!(read.ends_with(NO_HEAD), "{read:?}");
            assert!(!activity.speaks_http2());
        }
    }

    #[tokio::test]
    async fn what_is_ambiguous_in_a_body_breaks_the_stream() {
        let head: &[u8] = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (result, read, _) = passed_on(&[head, b"1\r\nx\r\n2\nxy\r\n"]).await;
        assert_eq!(result.expect_err("it is broken").kind(), io::ErrorKind::InvalidData);
        assert_eq!(read, [head, b"1\r\nx\r\n"].concat());
    }

    #[tokio::test]
    async fn the_preface_is_recognized_in_pieces() {
        let pieces: Vec<&[u8]> = PREFACE.chunks(5).chain([&b"\0\0\0\x04\0\0\0\0\0"[..]]).collect();
        let (_, read, activity) = passed_on(&pieces).await;
        assert_eq!(read, pieces.concat());
        assert!(activity.speaks_http2());
    }
}
