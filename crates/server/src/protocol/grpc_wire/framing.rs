//! gRPC on HTTP/2: length-prefixed messages in and out, the status in the trailers.
//!
//! It is not taken from a library for three reasons. A message that arrives in one piece must reach the tensor codec
//! without a copy. Limits and time-outs are those of REST. Error texts are bytes.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use prost::Message;
use prost_types::Any;

use super::encoding;
use servable_codec::json::base64;
use servable_codec::tensor_proto::find_content;
use servable_http::body::{self, BodyError, BodyLimits, BodyMemory, Encoding, Layout, RequestBody, WholeBody};
use servable_model::error::{Code, Result, ServingError, expect_memory};

/// The five bytes in front of every message: a flag for compression and the length.
const PREFIX: usize = 5;

/// The maximum length of an error text. Truncation is marked.
const MAX_MESSAGE_BYTES: usize = 1024;

/// The content type of every answer.
pub(crate) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Reads the one message of a unary call.
///
/// # Errors
///
/// `RESOURCE_EXHAUSTED` if it is larger than the limit, `UNIMPLEMENTED` for an unknown compression, `INTERNAL` if the
/// body is not exactly one message.
pub(crate) async fn read_message(
    headers: &HeaderMap,
    body: RequestBody,
    limits: BodyLimits,
    memory: &Arc<BodyMemory>,
) -> Result<Bytes> {
    let max_bytes = limits.max_bytes.saturating_add(PREFIX);
    let encoding = encoding::encoding_of(headers);
    let framed = body::read_as(body, BodyLimits { max_bytes, ..limits }, memory, layout)
        .await
        .map_err(|error| unreadable(&error, limits))?;
    let Some(prefix) = framed.first_chunk::<PREFIX>() else {
        return Err(ServingError::internal("the request has no message"));
    };
    let (declared, message) = (declared_length(*prefix), framed.slice(PREFIX..));
    if message.len() != declared {
        return Err(ServingError::internal(format!(
            "the request declares a message of {declared} bytes and holds {}",
            message.len()
        )));
    }
    plain(prefix[0], message, encoding?, limits, memory)
}

/// The layout of a framed message, from its first part.
fn layout(part: &[u8]) -> Layout {
    let Some((prefix, message)) = part.split_first_chunk::<PREFIX>() else { return Layout::default() };
    Layout { length: PREFIX + declared_length(*prefix), aligned: PREFIX + find_content(message).unwrap_or(0) }
}

fn unreadable(error: &BodyError, limits: BodyLimits) -> ServingError {
    match error {
        BodyError::TooLarge => ServingError::new(
            Code::ResourceExhausted,
            format!("the request message is larger than the limit of {} bytes", limits.max_bytes),
        ),
        BodyError::TooSlow => ServingError::new(Code::DeadlineExceeded, "the request message did not arrive in time"),
        BodyError::Broken => ServingError::internal("the request message broke off"),
        BodyError::Shortage(shortage) => (*shortage).into(),
    }
}

/// Decompresses a message if the flag before it says so.
fn plain(
    flag: u8,
    message: Bytes,
    encoding: Option<Encoding>,
    limits: BodyLimits,
    memory: &Arc<BodyMemory>,
) -> Result<Bytes> {
    match (flag, encoding) {
        (0, _) => Ok(message),
        (1, Some(encoding)) => body::work_on(message.len(), || encoding::unpack(encoding, &message, limits, memory)),
        (1, None) => Err(ServingError::internal("the message is marked as compressed and grpc-encoding is missing")),
        _ => Err(ServingError::internal(format!("the request has the compression flag {flag}; it may be 0 or 1"))),
    }
}

/// Reads the messages of a streaming request one by one.
pub(crate) struct MessageReader {
    body: RequestBody,
    encoding: Option<Encoding>,
    limits: BodyLimits,
    memory: Arc<BodyMemory>,
    arrived: BytesMut,
    /// The arrival of the first part of an incomplete message.
    since: Option<Instant>,
}

impl MessageReader {
    /// Reads messages of at most `max_bytes` each, before and after decompression.
    ///
    /// # Errors
    ///
    /// `UNIMPLEMENTED` for an unknown compression.
    pub(crate) fn new(
        headers: &HeaderMap,
        body: RequestBody,
        limits: BodyLimits,
        max_bytes: usize,
        memory: &Arc<BodyMemory>,
    ) -> Result<Self> {
        let limits = BodyLimits { max_bytes: limits.max_bytes.min(max_bytes), ..limits };
        let (encoding, memory) = (encoding::encoding_of(headers)?, Arc::clone(memory));
        Ok(Self { body, encoding, limits, memory, arrived: BytesMut::new(), since: None })
    }

    /// The next message; `None` after the last.
    ///
    /// # Errors
    ///
    /// As for [`read_message`].
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(prefix) = self.arrived.first_chunk::<PREFIX>() {
                let (flag, length) = (prefix[0], declared_length(*prefix));
                if length > self.limits.max_bytes {
                    return Err(unreadable(&BodyError::TooLarge, self.limits));
                }
                if self.arrived.len() >= PREFIX + length {
                    self.arrived.advance(PREFIX);
                    let message = self.arrived.split_to(length).freeze();
                    self.since = None;
                    return plain(flag, message, self.encoding, self.limits, &self.memory).map(Some);
                }
            }
            let patience = match self.arrived.len() {
                0 => self.limits.part_timeout,
                arrived => self.limits.patience(arrived, *self.since.get_or_insert_with(Instant::now)),
            };
            let part = body::next_part(&mut self.body, patience).await;
            match part.map_err(|error| unreadable(&error, self.limits))? {
                Some(part) => self.arrived.extend_from_slice(&part),
                None if self.arrived.is_empty() => return Ok(None),
                None => return Err(unreadable(&BodyError::Broken, self.limits)),
            }
        }
    }
}

fn declared_length(prefix: [u8; PREFIX]) -> usize {
    u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize
}

/// A reply message under construction, with room for its prefix.
pub(crate) fn new_message(length: usize) -> BytesMut {
    let mut message = BytesMut::with_capacity(PREFIX + length);
    message.put_bytes(0, PREFIX);
    message
}

/// A reply message: its beginning, with room for the prefix, and pieces that follow it, none of them empty.
pub(crate) struct ReplyMessage {
    pub(crate) first: BytesMut,
    pub(crate) others: Vec<Bytes>,
}

impl From<BytesMut> for ReplyMessage {
    fn from(first: BytesMut) -> Self {
        Self { first, others: Vec::new() }
    }
}

impl ReplyMessage {
    /// The length of the message, without its prefix.
    pub(crate) fn len(&self) -> usize {
        self.first.len() - PREFIX + self.others.iter().map(Bytes::len).sum::<usize>()
    }

    /// The compressed message, if compression makes it smaller.
    fn packed(&self, encoding: Encoding) -> Option<BytesMut> {
        // Without memory for compression, it is sent uncompressed.
        expect_memory(self.len().saturating_mul(2)).ok()?;
        body::work_on(self.len(), || match &self.others[..] {
            [] => encoding.pack(&self.first, PREFIX),
            others => encoding.pack(&[&self.first[..], &others.concat()].concat(), PREFIX),
        })
    }

    /// Fills in the prefix.
    fn framed(mut self, is_packed: bool) -> Result<Self> {
        put_prefix(&mut self.first, self.others.iter().map(Bytes::len).sum(), is_packed)?;
        Ok(self)
    }
}

/// A reply message of a generated type.
pub(crate) fn encode(message: &impl Message) -> BytesMut {
    let mut reply = new_message(message.encoded_len());
    message.encode(&mut reply).expect("a buffer that grows");
    reply
}

/// The answer to a call, compressed with `encoding` if there is one.
pub(crate) fn reply(result: Result<ReplyMessage>, encoding: Option<Encoding>) -> Response<WholeBody> {
    let packed = result.as_ref().ok().zip(encoding).and_then(|(message, encoding)| message.packed(encoding));
    let is_packed = packed.is_some();
    let message = packed.map_or(result, |packed| Ok(packed.into()));
    let mut response = match message.and_then(|message| message.framed(is_packed)) {
        Ok(ReplyMessage { first, others }) => {
            Response::new(WholeBody::with_trailers(first, trailers(&Ok(()))).followed_by(others.into_iter()))
        }
        // Without a message, the status is in the headers.
        Err(error) => {
            let mut response = Response::new(WholeBody::default());
            *response.headers_mut() = trailers(&Err(error));
            response
        }
    };
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    if let Some(encoding) = encoding.filter(|_| is_packed) {
        response.headers_mut().insert(encoding::ENCODING, HeaderValue::from_static(encoding.name()));
    }
    response
}

/// The trailers with the status of a call.
pub(crate) fn trailers(status: &Result<()>) -> HeaderMap {
    match status {
        Ok(()) => HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))]),
        Err(error) => {
            let known = [(STATUS, HeaderValue::from(error.code as i32)), (MESSAGE, status_message(&error.message))];
            let details = error.retry_after_seconds.map(|seconds| (DETAILS, retry_details(error, seconds)));
            known.into_iter().chain(details).collect()
        }
    }
}

/// `google.rpc.Status`: code and text of an error, with details.
#[derive(Clone, PartialEq, Message)]
struct RichStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// The header from which clients with support for rich errors read the delay of a retry.
fn retry_details(error: &ServingError, seconds: NonZeroU32) -> HeaderValue {
    let retry_delay = Some(prost_types::Duration { seconds: seconds.get().into(), nanos: 0 });
    let details = vec![Any {
        type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
        value: RetryInfo { retry_delay }.encode_to_vec(),
    }];
    let status = RichStatus { code: error.code as i32, message: error.text().into_owned(), details };
    let mut encoded = Vec::new();
    base64::encode(&status.encode_to_vec(), &mut encoded);
    HeaderValue::try_from(encoded).expect("base64 is visible ASCII")
}

/// Fills in the prefix of a message.
pub(crate) fn framed(mut message: BytesMut, is_packed: bool) -> Result<BytesMut> {
    put_prefix(&mut message, 0, is_packed)?;
    Ok(message)
}

/// Fills in the prefix of a message. `elsewhere` of its bytes are in other buffers.
fn put_prefix(message: &mut BytesMut, elsewhere: usize, is_packed: bool) -> Result<()> {
    let length = u32::try_from(message.len() - PREFIX + elsewhere)
        .map_err(|_| ServingError::new(Code::ResourceExhausted, "the reply is larger than 4 GiB"))?;
    message[0] = u8::from(is_packed);
    message[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The ASCII characters that the protocol requires to be escaped in a status message.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

fn status_message(text: &[u8]) -> HeaderValue {
    let escaped = match text.get(..MAX_MESSAGE_BYTES) {
        Some(head) if text.len() > MAX_MESSAGE_BYTES => percent_encode(head, ESCAPED).to_string() + "...TRUNCATED",
        _ => percent_encode(text, ESCAPED).to_string(),
    };
    HeaderValue::try_from(escaped).expect("escaped text is visible ASCII")
}

/// The timeout of the client; `None` if it is missing or malformed.
pub(crate) fn timeout(headers: &HeaderMap) -> Option<Duration> {
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
    fn an_error_says_when_to_ask_again_as_rich_errors_do() {
        let full = ServingError::new(Code::Unavailable, "full");
        assert!(!trailers(&Err(full.clone())).contains_key(DETAILS));
        // Status { code: 14, message: "full", details: [RetryInfo { retry_delay: 2 s }] }
        let expected = "CA4SBGZ1bGwaMAoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIECgIIAg==";
        assert_eq!(trailers(&Err(full.retry_after(Duration::from_millis(1001))))[DETAILS], expected);
    }

    #[test]
    fn error_texts_are_escaped_byte_by_byte_and_cut_when_they_are_long() {
        assert_eq!(status_message(b"a b%\n\xff"), "a b%25%0A%FF");
        assert_eq!(status_message(&[b'x'; 1024]), "x".repeat(1024).as_str());
        assert_eq!(status_message(&[b'x'; 1025]), ("x".repeat(1024) + "...TRUNCATED").as_str());
    }
}
