//! What goes with the refusal of a head that is not HTTP/1.
//!
//! hyper refuses it before any code of ours is asked, with a status and nothing else. TensorFlow Serving sends a page with
//! the status, as it does for all that is no API request, so a stream puts it behind such an answer on its way out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::Code;
use crate::rest_wire;

/// How hyper's refusals begin: statuses of 400 and more, of which it sends 400, 414 and 431.
const STATUS: &[u8] = b"HTTP/1.1 4";
/// What follows the line of the status. No answer of ours has this: none that closes the connection is empty.
const EMPTY: &[u8] = b"connection: close\r\ncontent-length: 0\r\n";

/// A stream whose refusals have pages, and are told to whoever counts them.
pub(crate) struct WithPages<S, F> {
    stream: S,
    refused: F,
    /// What of a refusal has been taken and not yet written.
    left: Bytes,
}

impl<S, F: FnMut(Code)> WithPages<S, F> {
    /// Puts pages behind refusals on their way to `stream`, and calls `refused` with the reason of each.
    pub(crate) fn new(stream: S, refused: F) -> Self {
        Self { stream, refused, left: Bytes::new() }
    }
}

/// Why it was refused, and the whole answer in place of a refusal without a page; `None` for all else that is written.
fn with_page(written: &[u8]) -> Option<(Code, Bytes)> {
    let rest = written.strip_prefix(STATUS)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let date = rest[end + 2..].strip_prefix(EMPTY).and_then(|rest| std::str::from_utf8(rest).ok())?;
    // Nothing may follow the head: it could only be another answer.
    if !date.ends_with("\r\n\r\n") || date.matches("\r\n").count() > 2 {
        return None;
    }
    let (code, reason) = std::str::from_utf8(&rest[..end]).ok()?.split_once(' ')?;
    let page = rest_wire::html_page(400 + code.parse::<u16>().ok()?, reason);
    let length = page.len();
    let answer = format!(
        "HTTP/1.1 4{code} {reason}\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: {length}\r\n\
         {date}{page}"
    );
    let cause = if code == "00" { Code::InvalidArgument } else { Code::ResourceExhausted };
    Some((cause, answer.into()))
}

impl<S: AsyncWrite + Unpin, F> WithPages<S, F> {
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.left.has_remaining() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.left))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.left.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin, F: Unpin> AsyncRead for WithPages<S, F> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin, F: FnMut(Code) + Unpin> AsyncWrite for WithPages<S, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_left(cx))?;
        if let Some((cause, answer)) = with_page(buf) {
            (self.refused)(cause);
            self.left = answer; // whoever writes flushes as well
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = bufs {
            return self.poll_write(cx, only);
        }
        ready!(self.poll_left(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_left(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_left(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const DATE: &str = "date: Sun, 22 Nov 2026 20:00:00 GMT\r\n\r\n";

    #[test]
    fn a_refusal_gets_a_page() {
        let refusal = format!("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n{DATE}");
        let (cause, answer) = with_page(refusal.as_bytes()).unwrap();
        assert_eq!(cause, Code::InvalidArgument);
        assert_eq!(
            String::from_utf8(answer.to_vec()).unwrap(),
            format!(
                "HTTP/1.1 400 Bad Request\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: 94\r\n{DATE}\
                 <HTML><HEAD>\n<TITLE>400 Bad Request</TITLE>\n</HEAD><BODY>\n<H1>Bad Request</H1>\n</BODY></HTML>\n"
            )
        );
    }

    #[test]
    fn other_answers_stay_as_they_are() {
        for other in [
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n{DATE}"),
            format!("HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 2\r\n{DATE}{{}}"),
            format!("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n{DATE}HTTP/1.1 200 OK\r\n"),
            "HTTP/1.1 4".into(),
            String::new(),
        ] {
            assert_eq!(with_page(other.as_bytes()), None, "{other}");
        }
    }

    #[tokio::test]
    async fn a_page_is_written_through_a_stream_that_takes_little_at_a_time() {
        let (ours, mut theirs) = tokio::io::duplex(7);
        let mut causes = Vec::new();
        let mut stream = WithPages::new(ours, |cause| causes.push(cause));
        let refusal =
            format!("HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n{DATE}");
        let write = async {
            stream.write_all(refusal.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            drop(stream);
        };
        let mut read = String::new();
        let ((), count) = tokio::join!(write, theirs.read_to_string(&mut read));
        assert_eq!(count.unwrap(), read.len());
        assert_eq!(causes, [Code::ResourceExhausted]);
        assert!(read.ends_with("<H1>Request Header Fields Too Large</H1>\n</BODY></HTML>\n"), "{read}");
    }
}
