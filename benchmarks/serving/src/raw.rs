//! A minimal client that writes requests and reads responses as bytes, without an HTTP library.
//!
//! A client on the machine of the server takes CPU from it. This one supports only the necessary subset of HTTP: one
//! constant request, and responses of a well-behaved server. Over gRPC, callers share a connection, with one request
//! each; over REST there is one caller.

use std::error::Error;
use std::net::SocketAddr;

use memchr::memmem;

use crate::client::Protocol;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The protocol state of one connection.
pub enum Wire {
    /// HTTP/1.1.
    Rest(Http1),
    /// gRPC.
    Grpc(Http2),
}

impl Wire {
    /// A connection on which this number of callers repeat the same request.
    ///
    /// # Errors
    ///
    /// If the request exceeds the initial window of flow control, or the protocol does not allow several callers.
    pub fn new(protocol: Protocol, address: SocketAddr, path: &str, body: &[u8], callers: usize) -> Result<Self> {
        Ok(match protocol {
            Protocol::Rest if callers > 1 => return Err("over REST a connection has one caller".into()),
            Protocol::Rest => Self::Rest(Http1::new(address, path, body)),
            Protocol::Grpc => Self::Grpc(Http2::new(address, path, body, callers)?),
        })
    }

    /// The bytes of the next request of a caller.
    pub fn request(&mut self, caller: usize) -> &[u8] {
        match self {
            Self::Rest(wire) => &wire.request,
            Self::Grpc(wire) => wire.request(caller),
        }
    }

    /// Parses received bytes. Returns the body, or the message, of the next complete response, and its caller. Frames
    /// to be sent back are appended to `reply`.
    ///
    /// # Errors
    ///
    /// If the response is malformed, or has an error.
    pub fn take<'a>(&'a mut self, arrived: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<Option<(usize, &'a [u8])>> {
        match self {
            Self::Rest(wire) => Ok(wire.take(arrived)?.map(|body| (0, body))),
            Self::Grpc(wire) => wire.take(arrived, reply),
        }
    }
}

/// HTTP/1.1 with keep-alive and bodies of a known length.
pub struct Http1 {
    request: Vec<u8>,
    body: Vec<u8>,
}

impl Http1 {
    fn new(address: SocketAddr, path: &str, body: &[u8]) -> Self {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Self { request: [head.as_bytes(), body].concat(), body: Vec::new() }
    }

    fn take(&mut self, arrived: &mut Vec<u8>) -> Result<Option<&[u8]>> {
        let Some(end) = memmem::find(arrived, b"\r\n\r\n") else { return Ok(None) };
        let head = &arrived[..end];
        if !head.starts_with(b"HTTP/1.1 200 ") {
            return Err(String::from_utf8_lossy(arrived).into());
        }
        let field = b"\r\ncontent-length: ";
        let length = memmem::find(head, field).map(|start| &head[start + field.len()..]).ok_or("no content-length")?;
        let digits = length.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let whole = end + 4 + std::str::from_utf8(digits)?.parse::<usize>()?;
        if arrived.len() < whole {
            return Ok(None);
        }
        self.body.clear();
        self.body.extend_from_slice(&arrived[end + 4..whole]);
        arrived.drain(..whole);
        Ok(Some(&self.body))
    }
}

/// The header of a frame of HTTP/2: the length in three bytes, type, flags, and the stream in four bytes.
const FRAME_HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// Flags. The first means ACK on settings and pings.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u8 = 4;
const LARGEST_WINDOW: u32 = i32::MAX as u32;
/// The default window.
const FIRST_WINDOW: u32 = 65_535;
const MAX_FRAME: usize = 16_384;

/// The prefix of a gRPC message: a flag, and the length in four bytes.
const PREFIX: usize = 5;

/// HTTP/2 with one stream at a time for each caller.
pub struct Http2 {
    first: Vec<u8>,
    /// A request without the headers that the server has in its table, and the positions of the stream number.
    next: Vec<u8>,
    streams_at: Vec<usize>,
    /// The number of the next stream, the stream of each caller, and the received part of its response.
    stream: u32,
    streams: Vec<(u32, Vec<u8>)>,
    /// The number of bytes received since the last window update.
    received: u32,
}

impl Http2 {
    fn new(address: SocketAddr, path: &str, message: &[u8], callers: usize) -> Result<Self> {
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
        framed.extend_from_slice(message);
        if framed.len() * callers > FIRST_WINDOW as usize {
            return Err("the message is larger than what may be sent without being asked for".into());
        }
        let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let window = [&[0, INITIAL_WINDOW_SIZE][..], &LARGEST_WINDOW.to_be_bytes()].concat();
        put_frame(&mut first, SETTINGS, 0, 0, &window);
        put_frame(&mut first, WINDOW_UPDATE, 0, 0, &(LARGEST_WINDOW - FIRST_WINDOW).to_be_bytes());
        // Headers for the dynamic table of the server. `:method: POST` and `:scheme: http` are in the static table.
        let mut told = vec![0x83, 0x86, 0x44];
        put_text(&mut told, path)?;
        told.push(0x41);
        put_text(&mut told, &address.to_string())?;
        told.push(0x5f);
        put_text(&mut told, "application/grpc")?;
        told.push(0x40);
        put_text(&mut told, "te")?;
        put_text(&mut told, "trailers")?;
        put_request(&mut first, &told, &framed);
        // The four entries of the dynamic table. The oldest has the highest index.
        let mut next = Vec::new();
        let streams_at = put_request(&mut next, &[0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe], &framed);
        let streams = vec![(0, Vec::new()); callers];
        Ok(Self { first, next, streams_at, stream: 1, streams, received: 0 })
    }

    fn request(&mut self, caller: usize) -> &[u8] {
        let stream = self.stream;
        self.stream += 2;
        self.streams[caller].0 = stream;
        self.streams[caller].1.clear();
        if stream == 1 {
            return &self.first;
        }
        for &at in &self.streams_at {
            self.next[at..at + 4].copy_from_slice(&stream.to_be_bytes());
        }
        &self.next
    }

    fn take(&mut self, arrived: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<Option<(usize, &[u8])>> {
        let mut answered = None;
        let mut rest = &arrived[..];
        while answered.is_none()
            && let Some((head, payload)) = rest.split_first_chunk::<FRAME_HEAD>()
        {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some((payload, after)) = payload.split_at_checked(length) else { break };
            rest = after;
            let (kind, flags, stream) = (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
            let caller = self.streams.iter().position(|&(own, _)| own == stream);
            match kind {
                DATA => {
                    let caller = caller.ok_or("an answer to nobody")?;
                    self.streams[caller].1.extend_from_slice(payload);
                    self.received += length as u32;
                }
                SETTINGS if flags & ACK == 0 => put_frame(reply, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => put_frame(reply, PING, ACK, 0, payload),
                RESET | GO_AWAY => return Err(format!("the server has broken off: {payload:?}").into()),
                _ => {}
            }
            answered = caller.filter(|_| matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0);
        }
        let taken = arrived.len() - rest.len();
        arrived.drain(..taken);
        if self.received > LARGEST_WINDOW / 2 {
            put_frame(reply, WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
            self.received = 0;
        }
        let Some(caller) = answered else { return Ok(None) };
        // A failed call has no message. Its status is in trailers, which are not parsed.
        let message = self.streams[caller].1.get(PREFIX..).ok_or("the call has failed")?;
        Ok(Some((caller, message)))
    }
}

fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends the frames of a request on stream 1. Returns the positions of the stream number.
fn put_request(out: &mut Vec<u8>, headers: &[u8], framed: &[u8]) -> Vec<usize> {
    let mut streams_at = vec![out.len() + FRAME_HEAD - 4];
    put_frame(out, HEADERS, END_HEADERS, 1, headers);
    let mut parts = framed.chunks(MAX_FRAME).peekable();
    while let Some(part) = parts.next() {
        streams_at.push(out.len() + FRAME_HEAD - 4);
        put_frame(out, DATA, if parts.peek().is_none() { END_STREAM } else { 0 }, 1, part);
    }
    streams_at
}

/// A string of a header block, without Huffman coding.
fn put_text(out: &mut Vec<u8>, text: &str) -> Result<()> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
    out.push(length.ok_or("the text is too long for a header")?);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}
