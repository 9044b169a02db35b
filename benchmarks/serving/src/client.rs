//! Client connections, with requests and responses as bytes.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use clap::ValueEnum;
use http::header::{CONTENT_TYPE, HOST, TE};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// Any error of a connection.
pub type AnyError = Box<dyn Error>;

/// The protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive.
    Rest,
    /// HTTP/2.
    Grpc,
}

/// The length of the prefix of a gRPC message.
const PREFIX: usize = 5;

/// The gRPC status of an overloaded server.
const UNAVAILABLE: &str = "14";

/// One request. Clones share the bytes.
///
/// # Errors
///
/// If path or header are invalid, or the message is too large for gRPC.
pub fn request(
    protocol: Protocol,
    address: SocketAddr,
    path: &str,
    body: &[u8],
    header: Option<&(HeaderName, HeaderValue)>,
) -> Result<Request<Full<Bytes>>, AnyError> {
    let builder = Request::builder().method(Method::POST);
    let mut request = match protocol {
        Protocol::Rest => builder
            .uri(path)
            .header(HOST, address.to_string())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_vec()))?,
        Protocol::Grpc => {
            let mut framed = BytesMut::with_capacity(PREFIX + body.len());
            framed.put_u8(0);
            framed.put_u32(u32::try_from(body.len())?);
            framed.put_slice(body);
            builder
                .uri(format!("http://{address}{path}"))
                .header(TE, "trailers")
                .header(CONTENT_TYPE, "application/grpc")
                .body(Full::from(framed.freeze()))?
        }
    };
    if let Some((name, value)) = header {
        request.headers_mut().insert(name, value.clone());
    }
    Ok(request)
}

/// Reads a header as `NAME: VALUE`.
///
/// # Errors
///
/// If the header is invalid.
pub fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(": ").ok_or("a header is NAME: VALUE")?;
    let name = name.parse().map_err(|_| format!("{name} is no name of a header"))?;
    Ok((name, value.parse().map_err(|_| format!("{value} is no value of a header"))?))
}

/// A response with an error.
#[derive(Debug)]
pub struct Failure {
    /// Whether the server refused the request because of overload.
    pub is_refusal: bool,
    text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Error for Failure {}

/// Reads a response to its end, and checks its status. Returns the body, or the message of gRPC.
///
/// # Errors
///
/// A [`Failure`] if the server returns an error, or the error of the connection.
pub async fn read_answer(protocol: Protocol, response: Response<Incoming>) -> Result<Bytes, AnyError> {
    let (head, body) = response.into_parts();
    let whole = body.collect().await?;
    let trailers = whole.trailers().cloned().unwrap_or_default();
    let grpc_status = trailers.get("grpc-status").or(head.headers.get("grpc-status"));
    let bytes = whole.to_bytes();
    let is_success = match protocol {
        Protocol::Rest => head.status.is_success(),
        Protocol::Grpc => grpc_status.is_some_and(|status| status == "0") && bytes.len() >= PREFIX,
    };
    if !is_success {
        let is_refusal = match protocol {
            Protocol::Rest => head.status == http::StatusCode::SERVICE_UNAVAILABLE,
            Protocol::Grpc => grpc_status.is_some_and(|status| status == UNAVAILABLE),
        };
        let text = format!("{} {:?} {trailers:?} {}", head.status, head.headers, excerpt(&bytes));
        return Err(Failure { is_refusal, text }.into());
    }
    Ok(if protocol == Protocol::Grpc { bytes.slice(PREFIX..) } else { bytes })
}

/// The part of a response that an error message quotes.
pub fn excerpt(answer: &[u8]) -> String {
    String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned()
}

/// One connection of either protocol.
pub enum Connection {
    /// One request at a time.
    Rest(http1::SendRequest<Full<Bytes>>),
    /// Concurrent requests, up to the limit of the server.
    Grpc(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Connects. Must be called in a `LocalSet`, whose thread drives the connection.
    ///
    /// # Errors
    ///
    /// If the connection is refused.
    pub async fn open(protocol: Protocol, address: SocketAddr) -> Result<Self, AnyError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        // The tasks of connections end with them. `send` returns their errors too.
        Ok(match protocol {
            Protocol::Rest => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::task::spawn_local(connection);
                Self::Rest(sender)
            }
            Protocol::Grpc => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::task::spawn_local(connection);
                Self::Grpc(sender)
            }
        })
    }

    /// Sends a request, and waits for the head of the response.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Rest(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Grpc(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}
