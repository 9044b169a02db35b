//! What one connection has been doing, so that idle and stalled ones can be closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Counters of one connection; they only ever grow, but for the requests under way.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    under_way: AtomicU64,
    requests: AtomicU64,
    bytes_written: AtomicU64,
    at_last_check: AtomicU64,
}

impl Activity {
    /// Counts a request from its head until the result is dropped.
    pub(crate) fn begin_request(self: &Arc<Self>) -> UnderWay {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
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
    }
}

/// A stream that counts what is written to it.
pub(crate) struct Counted<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Counted<S> {
    pub(crate) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.activity.bytes_written.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
