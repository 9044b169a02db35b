//! Error pages for heads that are not HTTP/1.1, too large or too slow.
//!
//! hyper refuses such a head without calling the handler, and sends only a status. TensorFlow Serving sends a page with
//! it, so [`super::Stream`] replaces the answer of hyper.

use bytes::Bytes;

use crate::page;
use servable_model::error::Code;

/// The start of hyper's refusals, which have the status 400, 414 or 431.
const STATUS: &[u8] = b"HTTP/1.1 4";
/// The headers of hyper's refusals. Our own answers never have these: those that close the connection are not empty.
const EMPTY: &[u8] = b"connection: close\r\ncontent-length: 0\r\n";

/// The answer in place of a refusal, with a page and its code; `None` for other data. hyper sees a head that timed out
/// as malformed, so its status is corrected here.
pub(super) fn with_page(written: &[u8], is_timed_out: bool) -> Option<(Code, Bytes)> {
    let rest = written.strip_prefix(STATUS)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let date = rest[end + 2..].strip_prefix(EMPTY).and_then(|rest| std::str::from_utf8(rest).ok())?;
    // Data after the head would be another answer.
    if !date.ends_with("\r\n\r\n") || date.matches("\r\n").count() > 2 {
        return None;
    }
    let (code, reason) = std::str::from_utf8(&rest[..end]).ok()?.split_once(' ')?;
    let (status, reason, cause) = match code {
        "00" if is_timed_out => (408, "Request Timeout", Code::DeadlineExceeded),
        "00" => (400, reason, Code::InvalidArgument),
        code => (400 + code.parse::<u16>().ok()?, reason, Code::ResourceExhausted),
    };
    let html = page::html(status, reason);
    let length = html.len();
    let answer = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: {length}\r\n\
         {date}{html}"
    );
    Some((cause, answer.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "date: Sun, 22 Nov 2026 20:00:00 GMT\r\n\r\n";

    #[test]
    fn a_refusal_gets_a_page() {
        let refusal = format!("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n{DATE}");
        let (cause, answer) = with_page(refusal.as_bytes(), false).unwrap();
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
            assert_eq!(with_page(other.as_bytes(), false), None, "{other}");
        }
    }
}
