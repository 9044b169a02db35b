//! The stream below hyper. It counts bytes, blocks ambiguous requests, adds pages to refusals, and closes a connection
//! so that its client receives the last bytes.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::inbound::{Inbound, NO_HEAD};
use super::{Activity, refusal};
use servable_model::error::Code;

/// The time for an answer after the client has half-closed the connection. Clients may do so after their request.
/// Clients that have given up do so too, so that a longer wait would be useless.
const HALF_CLOSED: Duration = Duration::from_secs(2);

/// The time for a client to close its side after the server has closed the connection.
pub const PARTING_TIME: Duration = Duration::from_secs(1);

/// A connection below TLS and HTTP.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Discards unsent data when the connection is dropped. Otherwise the system would continue to send it.
    fn abandon(&self);
}

/// The stream of a connection.
pub struct Stream<S: Transport, F> {
    transport: S,
    activity: Arc<Activity>,
    refused: F,
    inbound: Inbound,
    /// The number of heads that have started.
    heads: u64,
    /// Whether the incomplete head took too long.
    is_timed_out: bool,
    /// The bytes of a refusal that the transport has not written yet.
    refusal: Bytes,
    /// The timer of an answer to a client that has half-closed the connection.
    half_closed: Option<Pin<Box<Sleep>>>,
    /// The timer for the client to close its side after the server has.
    parting: Option<Pin<Box<Sleep>>>,
}

impl<S: Transport, F> Stream<S, F> {
    /// Creates a stream. `refused` is called with the code of each refusal of hyper.
    pub fn new(transport: S, activity: Arc<Activity>, refused: F) -> Self {
        Self {
            transport,
            activity,
            refused,
            inbound: Inbound::Unknown(0),
            heads: 0,
            is_timed_out: false,
            refusal: Bytes::new(),
            half_closed: None,
            parting: None,
        }
    }

    /// Parses bytes that were just read. Returns how many may be passed on.
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

    /// Ends a stream that has nothing to read, if requested. Within a head, it adds bytes that are not a valid head.
    fn end_if_asked(&mut self) -> Poll<()> {
        if self.activity.ends_when_quiet.load(Ordering::Relaxed) && self.activity.is_between_requests() {
            return Poll::Ready(());
        }
        if self.activity.ends_head.load(Ordering::Relaxed) && self.inbound.is_in_head() {
            (self.inbound, self.is_timed_out) = (Inbound::Refused(NO_HEAD), true);
            self.activity.open_head.store(0, Ordering::Relaxed);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.refusal.has_remaining() {
            let written = ready!(Pin::new(&mut self.transport).poll_write(cx, &self.refusal))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.refusal.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Transport, F> Drop for Stream<S, F> {
    fn drop(&mut self) {
        if self.activity.is_abandoned.load(Ordering::Relaxed) {
            self.transport.abandon();
        }
    }
}

impl<S: Transport, F: Unpin> AsyncRead for Stream<S, F> {
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
        if self.half_closed.is_none() {
            let before = buf.filled().len();
            let read = Pin::new(&mut self.transport).poll_read(cx, buf);
            if read.is_pending() {
                ready!(self.end_if_asked());
                return if self.is_timed_out { self.poll_read(cx, buf) } else { Poll::Ready(Ok(())) };
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
            self.half_closed = Some(Box::pin(tokio::time::sleep(HALF_CLOSED)));
        }
        if !self.activity.is_answering() {
            return Poll::Ready(Ok(()));
        }
        *self.activity.waits_for_answers.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        self.activity.has_closed_side.store(true, Ordering::Relaxed);
        self.half_closed.as_mut().map_or(Poll::Ready(()), |patience| patience.as_mut().poll(cx)).map(Ok)
    }
}

impl<S: Transport, F: FnMut(Code) + Unpin> AsyncWrite for Stream<S, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_refusal(cx))?;
        if let Some((cause, answer)) = refusal::with_page(buf, self.is_timed_out) {
            (self.refused)(cause);
            self.refusal = answer; // hyper flushes after it has written
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = bufs {
            return self.poll_write(cx, only);
        }
        ready!(self.poll_refusal(cx))?;
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(cx))?;
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    /// Closes this side, and reads the rest of the client's data. TCP resets a connection with unread data, and the
    /// client could lose an answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(cx))?;
        let Self { transport, parting, .. } = &mut *self;
        if parting.is_none() {
            ready!(Pin::new(&mut *transport).poll_shutdown(cx))?;
        }
        let parting = parting.get_or_insert_with(|| Box::pin(tokio::time::sleep(PARTING_TIME)));
        let mut unwanted = [0; 4096];
        loop {
            if parting.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut unwanted = ReadBuf::new(&mut unwanted);
            ready!(Pin::new(&mut *transport).poll_read(cx, &mut unwanted))?;
            if unwanted.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use tokio::io::DuplexStream;

    use super::super::inbound::PREFACE;
    use super::*;

    impl Transport for DuplexStream {
        fn abandon(&self) {}
    }

    async fn passed_on(pieces: &[&[u8]]) -> (io::Result<usize>, Vec<u8>, Arc<Activity>) {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let activity = Arc::new(Activity::default());
        let mut counted = Stream::new(server, Arc::clone(&activity), |_: Code| {});
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
    async fn an_ambiguous_head_is_replaced_by_an_invalid_one() {
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
    async fn ambiguity_in_a_body_breaks_the_stream() {
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

    const REFUSAL: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\
        date: Sun, 22 Nov 2026 20:00:00 GMT\r\n\r\n";

    #[tokio::test]
    async fn a_page_is_written_through_a_transport_that_takes_little_at_a_time() {
        let (ours, mut theirs) = tokio::io::duplex(7);
        let mut causes = Vec::new();
        let mut stream = Stream::new(ours, Arc::default(), |cause| causes.push(cause));
        let write = async {
            stream.write_all(REFUSAL).await.unwrap();
            stream.flush().await.unwrap();
            drop(stream);
        };
        let mut read = String::new();
        let ((), count) = tokio::join!(write, theirs.read_to_string(&mut read));
        assert_eq!(count.unwrap(), read.len());
        assert_eq!(causes, [Code::InvalidArgument]);
        assert!(read.ends_with("<H1>Bad Request</H1>\n</BODY></HTML>\n"), "{read}");
    }

    #[tokio::test]
    async fn a_head_that_takes_too_long_ends_as_none() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let activity = Arc::new(Activity::default());
        let mut causes = Vec::new();
        let mut stream = Stream::new(server, Arc::clone(&activity), |cause| causes.push(cause));
        client.write_all(b"GET / HT").await.unwrap();
        let mut read = [0; 8];
        stream.read_exact(&mut read).await.unwrap();
        activity.end_head();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, NO_HEAD);
        stream.write_all(REFUSAL).await.unwrap();
        stream.flush().await.unwrap();
        drop(stream);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
        assert_eq!(causes, [Code::DeadlineExceeded]);
    }

    #[tokio::test]
    async fn a_stream_that_is_shut_down_reads_on_until_the_client_has_closed_its_side() {
        let (mut client, server) = tokio::io::duplex(16);
        let mut stream = Stream::new(server, Arc::default(), |_: Code| {});
        let sends = async {
            client.write_all(&[0; 1000]).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let (closed, ()) = tokio::join!(stream.shutdown(), sends);
        closed.unwrap();
    }
}
