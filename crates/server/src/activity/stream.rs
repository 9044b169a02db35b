//! The stream below hyper: counts what goes through it, and passes on nothing that is ambiguous.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::Activity;
use super::inbound::Inbound;

/// A client may close its side once its request is sent, and still gets an answer that comes within this time. A client that
/// has given up closes its side, too, so that beyond it nobody is thought to wait.
const HALF_CLOSED: Duration = Duration::from_secs(2);

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

/// Where a stream comes back to.
pub(crate) type Returned<S> = Arc<Mutex<Option<S>>>;

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

    use super::super::inbound::{NO_HEAD, PREFACE};
    use super::*;

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
