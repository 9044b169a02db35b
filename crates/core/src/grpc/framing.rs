//! Unary gRPC on HTTP/2: one length-prefixed message in, one out, status in the trailers.
//!
//! Written here rather than taken from a library because a message that arrives in one piece must reach the tensor codec
//! without a copy, because the limits and time-outs are those of REST, and because error texts are bytes.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::body::{self, BodyError, BodyLimits, WholeBody};
use crate::error::{Code, Result, ServingError};

/// The five bytes in front of every message: a flag for compression and the length.
const PREFIX: usize = 5;

/// The longest error text that is sent; what is cut off is marked.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Whether a request is a gRPC call.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Reads the one message of a unary call.
///
/// # Errors
///
/// `RESOURCE_EXHAUSTED` if it is larger than the limit, `UNIMPLEMENTED` for an unknown compression, `INTERNAL` if the
/// body is not exactly one message.
pub(super) async fn read_message(headers: &HeaderMap, body: Incoming, limits: BodyLimits) -> Result<Bytes> {
    let max_bytes = limits.max_bytes.saturating_add(PREFIX);
    let framed = body::read(body, BodyLimits { max_bytes, ..limits }).await.map_err(|error| match error {
        BodyError::TooLarge => ServingError::new(
            Code::ResourceExhausted,
            format!("the request message is larger than the limit of {} bytes", limits.max_bytes),
        ),
        BodyError::TooSlow => ServingError::new(Code::DeadlineExceeded, "the request message did not arrive in time"),
        BodyError::Broken => ServingError::internal("the request message broke off"),
    })?;
    let Some((prefix, _)) = framed.split_first_chunk::<PREFIX>() else {
        return Err(ServingError::internal("the request has no message"));
    };
    let declared = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    let message = framed.slice(PREFIX..);
    if message.len() != declared {
        return Err(ServingError::internal(format!(
            "the request declares a message of {declared} bytes and holds {}",
            message.len()
        )));
    }
    match prefix[0] {
        0 => Ok(message),
        1 => unpacked(headers, &message, limits.max_bytes),
        flag => Err(ServingError::internal(format!("the request has the compression flag {flag}; it may be 0 or 1"))),
    }
}

fn unpacked(headers: &HeaderMap, message: &[u8], max_bytes: usize) -> Result<Bytes> {
    match headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        Some(b"gzip") => {
            body::work_on(message.len(), || body::gunzip(message, max_bytes)).map_err(ServingError::internal)
        }
        Some(other) => Err(ServingError::unimplemented(format!(
            "Content is compressed with `{}` which isn't supported",
            String::from_utf8_lossy(other)
        ))),
        None => Err(ServingError::internal("the message is marked as compressed and grpc-encoding is missing")),
    }
}

/// A reply message under construction, with room for its prefix.
pub(super) fn new_message(length: usize) -> BytesMut {
    let mut message = BytesMut::with_capacity(PREFIX + length);
    message.put_bytes(0, PREFIX);
    message
}

/// The answer to a call.
pub(super) fn reply(result: Result<BytesMut>) -> Response<WholeBody> {
    let mut response = match result.and_then(framed) {
        Ok(message) => {
            let trailers = HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))]);
            Response::new(WholeBody::with_trailers(message, trailers))
        }
        // Without a message, the status stands in the headers.
        Err(error) => {
            let mut response = Response::new(WholeBody::default());
            response.headers_mut().insert(STATUS, HeaderValue::from(error.code as i32));
            response.headers_mut().insert(MESSAGE, status_message(&error.message));
            response
        }
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn framed(mut message: BytesMut) -> Result<BytesMut> {
    let length = u32::try_from(message.len() - PREFIX)
        .map_err(|_| ServingError::new(Code::ResourceExhausted, "the reply is larger than 4 GiB"))?;
    message[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    Ok(message)
}

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What the protocol wants escaped in a status message, beside all that is not ASCII.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

fn status_message(text: &[u8]) -> HeaderValue {
    let escaped = match text.get(..MAX_MESSAGE_BYTES) {
        Some(head) if text.len() > MAX_MESSAGE_BYTES => percent_encode(head, ESCAPED).to_string() + "...TRUNCATED",
        _ => percent_encode(text, ESCAPED).to_string(),
    };
    HeaderValue::try_from(escaped).expect("escaped text is visible ASCII")
}

/// How long the client is willing to wait; `None` if it does not say, or says it badly.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get("grpc-timeout")?.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("100m", Some(Duration::from_millis(100))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("7n", Some(Duration::from_nanos(7))),
            ("123456789S", None),
            ("S", None),
            ("-1S", None),
            ("5x", None),
        ] {
            let headers =
                HeaderMap::from_iter([(http::HeaderName::from_static("grpc-timeout"), HeaderValue::from_static(text))]);
            assert_eq!(timeout(&headers), expected, "{text}");
        }
    }

    #[test]
    fn error_texts_are_escaped_byte_by_byte_and_cut_when_they_are_long() {
        assert_eq!(status_message(b"a b%\n\xff"), "a b%25%0A%FF");
        assert_eq!(status_message(&[b'x'; 1024]), "x".repeat(1024).as_str());
        assert_eq!(status_message(&[b'x'; 1025]), ("x".repeat(1024) + "...TRUNCATED").as_str());
    }
}
