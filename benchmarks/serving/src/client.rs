//! The client's end of a connection: requests that are there as bytes, and answers as bytes.

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

/// Whatever can go wrong with a connection.
pub type AnyError = Box<dyn Error>;

/// How to speak to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive.
    Rest,
    /// HTTP/2.
    Grpc,
}

/// The length of the prefix of a gRPC message.
const PREFIX: usize = 5;

/// The gRPC status of a server that takes no more.
const UNAVAILABLE: &str = "14";

/// One request, ready to be cloned: the bytes are shared.
///
/// # Errors
///
/// If path or header are none, or the message is too large for gRPC.
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
/// If it is none.
pub fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(": ").ok_or("a header is NAME: VALUE")?;
    let name = name.parse().map_err(|_| format!("{name} is no name of a header"))?;
    Ok((name, value.parse().map_err(|_| format!("{value} is no value of a header"))?))
}

/// An answer that says that the request failed.
#[derive(Debug)]
pub struct Failure {
    /// Whether the server said that it takes no more for now.
    pub is_refusal: bool,
    text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Error for Failure {}

/// Reads an answer to its end and takes the protocol's word for whether it is one; of gRPC, gives the message.
///
/// # Errors
///
/// A [`Failure`] if the server says so, or what the connection reports.
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

/// As much of an answer as an error message should hold.
pub fn excerpt(answer: &[u8]) -> String {
    String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned()
}

/// One connection of either protocol.
pub enum Connection {
    /// Takes one request at a time.
    Rest(http1::SendRequest<Full<Bytes>>),
    /// Takes as many as the server allows.
    Grpc(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Connects; to be called in a `LocalSet`, on whose thread the connection lives.
    ///
    /// # Errors
    ///
    /// If nobody listens there.
    pub async fn open(protocol: Protocol, address: SocketAddr) -> Result<Self, AnyError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        // The tasks that move the bytes end with their connections; their errors come back from `send` too.
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

    /// Sends a request and waits for the head of its answer.
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
