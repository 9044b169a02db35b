//! The floor: a server with the same libraries and settings that neither decodes nor computes.
//!
//! It reads each request to its end, and sends a constant response: JSON, or a gRPC message with trailers. Its CPU per
//! request is the cost of sockets, HTTP and the async runtime, a lower bound for servers on these. The settings of HTTP
//! are those of `servable_http::listener`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use clap::Parser;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};

/// Sends the same response to every request.
#[derive(Parser)]
struct Arguments {
    /// The address to listen on. The bound address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    address: SocketAddr,
    /// The number of worker threads.
    #[arg(long, default_value_t = 2)]
    worker_threads: usize,
    /// A file with the body of REST responses.
    #[arg(long)]
    rest_answer: PathBuf,
    /// A file with the message of gRPC responses.
    #[arg(long)]
    grpc_answer: PathBuf,
}

/// The responses, shared by all connections.
struct Answers {
    rest: Bytes,
    /// With the prefix of its length.
    grpc: Bytes,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let answers = Arc::new(Answers {
        rest: std::fs::read(&arguments.rest_answer)?.into(),
        grpc: framed(&std::fs::read(&arguments.grpc_answer)?),
    });
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.worker_threads)
        .enable_all()
        .build()?
        .block_on(accept(arguments.address, answers))
}

fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

async fn accept(address: SocketAddr, answers: Arc<Answers>) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    println!("{}", listener.local_addr()?);
    let http = Arc::new(http_builder());
    // Connections are accepted on a worker, as in the server. The main thread only waits.
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await?;
            let (http, answers) = (Arc::clone(&http), Arc::clone(&answers));
            tokio::spawn(async move { serve_connection(stream, &http, &answers).await });
        }
    })
    .await
    .expect("accepting does not panic")
}

fn http_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().half_close(true).max_buf_size(512 * 1024);
    builder
        .http2()
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_header_list_size(64 * 1024);
    builder
}

async fn serve_connection(stream: TcpStream, http: &auto::Builder<TokioExecutor>, answers: &Arc<Answers>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let answers = Arc::clone(answers);
        async move { Ok::<_, Infallible>(respond(request, &answers).await) }
    });
    // Broken connections are ignored. The load generator counts them.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(request: Request<Incoming>, answers: &Answers) -> Response<Answer> {
    let is_grpc =
        request.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    let (answer, content_type) = if is_grpc {
        let trailers =
            HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
        (Answer { data: Some(answers.grpc.clone()), trailers: Some(trailers) }, "application/grpc")
    } else {
        (Answer { data: Some(answers.rest.clone()), trailers: None }, "application/json")
    };
    let mut response = Response::new(answer);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// One frame of data, then trailers for gRPC.
struct Answer {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = self.data.take().map(Frame::data).or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, Bytes::len) as u64)
    }
}
