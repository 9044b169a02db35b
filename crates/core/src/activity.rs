//! What one connection has been doing, so that idle and stalled ones can be closed.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Counters of one connection; they only ever grow, but for the requests under way.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    under_way: AtomicU64,
    requests: AtomicU64,
    bytes_written: AtomicU64,
    at_last_check: AtomicU64,
    speaks_http2: AtomicBool,
    has_unanswered_bytes: AtomicBool,
    /// Whether the client has closed its side, and who has to hear that all its requests are answered then.
    has_closed_side: AtomicBool,
    waits_for_answers: Mutex<Option<Waker>>,
}

/// A client may close its side once its request is sent, and still gets an answer that comes within this time. Whoever has
/// given up closes its side, too, so that beyond it nobody is thought to wait.
const HALF_CLOSED: Duration = Duration::from_secs(2);

/// What the preface of HTTP/2 begins with; no method of HTTP/1.1 does.
const HTTP2: &[u8] = b"PRI ";

impl Activity {
    /// Whether the head of a request has begun over HTTP/1.1 and is not answered. To be asked where no request is under
    /// way: then it has not ended.
    pub(crate) fn has_begun_head(&self) -> bool {
        self.has_unanswered_bytes.load(Ordering::Relaxed) && !self.speaks_http2.load(Ordering::Relaxed)
    }

    /// Counts a request from its head until the result is dropped.
    pub(crate) fn begin_request(self: &Arc<Self>) -> UnderWay {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// Whether a request of HTTP/1.1 is being answered.
    fn is_answering(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0 && !self.speaks_http2.load(Ordering::Relaxed)
    }

    /// Whether no request is under way, and none was begun and nothing was written since this was last asked.
    ///
    /// Bytes that arrive do not count: a head that trickles in for ever is no progress.
    pub(crate) fn was_idle_since_last_check(&self) -> bool {
        let progress = self.requests.load(Ordering::Relaxed).wrapping_add(self.bytes_written.load(Ordering::Relaxed));
        let before = self.at_last_check.swap(progress, Ordering::Relaxed);
        before == progress && self.under_way.load(Ordering::Relaxed) == 0
    }
}

/// A request that is being answered.
pub(crate) struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        if self.0.has_closed_side.load(Ordering::Relaxed) {
            let waiting = self.0.waits_for_answers.lock().unwrap_or_else(PoisonError::into_inner).take();
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// A stream that counts what goes through it, and that is given back when whoever has it lets go of it.
pub(crate) struct Counted<S> {
    /// There until the end.
    stream: Option<S>,
    activity: Arc<Activity>,
    has_read: bool,
    /// How long the client is waited for that has closed its side.
    patience: Option<Pin<Box<Sleep>>>,
    returned: Returned<S>,
}

/// Where a stream comes back to.
pub(crate) type Returned<S> = Arc<Mutex<Option<S>>>;

impl<S> Counted<S> {
    pub(crate) fn new(stream: S, activity: Arc<Activity>, returned: Returned<S>) -> Self {
        Self { stream: Some(stream), activity, has_read: false, patience: None, returned }
    }

    fn count_written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.activity.bytes_written.fetch_add(*bytes as u64, Ordering::Relaxed);
            self.activity.has_unanswered_bytes.store(false, Ordering::Relaxed);
        }
        written
    }

    fn note_read(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if !self.has_read {
            self.has_read = true;
            self.activity.speaks_http2.store(bytes.starts_with(HTTP2), Ordering::Relaxed);
        }
        self.activity.has_unanswered_bytes.store(true, Ordering::Relaxed);
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
        if self.patience.is_none() {
            let before = buf.filled().len();
            let read = self.stream().poll_read(cx, buf);
            let bytes = &buf.filled()[before..];
            let is_end = matches!(read, Poll::Ready(Ok(()))) && bytes.is_empty() && buf.remaining() > 0;
            self.note_read(bytes);
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
        let written = self.stream().poll_write(cx, buf);
        self.count_written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream().poll_write_vectored(cx, bufs);
        self.count_written(written)
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
    use super::*;

    #[test]
    fn a_connection_is_idle_when_nothing_happened_between_two_checks() {
        let activity = Arc::new(Activity::default());
        assert!(activity.was_idle_since_last_check());
        let request = activity.begin_request();
        assert!(!activity.was_idle_since_last_check(), "a request began");
        assert!(!activity.was_idle_since_last_check(), "it is under way");
        drop(request);
        assert!(activity.was_idle_since_last_check());
    }
}
