//! Sockets and connections: accept, tell REST from gRPC, bound what a stranger may hold, drain.
//!
//! Every address takes HTTP/1.1 and HTTP/2 with prior knowledge, and serves both protocols. What a request means is left
//! to [`crate::rest`] and [`crate::grpc`].

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Version};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::activity::{Activity, Counted};
use crate::body::BodyLimits;
use crate::http2::Http2Options;
use crate::refusal::WithPages;
use crate::service::Service;
use crate::{grpc, rest};

/// Addresses and limits.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// `host:port`; port 0 takes a free one, and `[::]` takes IPv4 too.
    pub addresses: Vec<String>,
    /// Threads that serve connections and run quick models.
    pub worker_threads: usize,
    /// Connections open at once; further ones wait in the listen queue.
    pub max_connections: usize,
    /// A connection without a request under way, and without a new one begun or a byte written for this long, is closed.
    pub idle_timeout: Duration,
    /// Bounds on reading request bodies.
    pub body: BodyLimits,
    /// How connections of HTTP/2 behave.
    pub http2: Http2Options,
    /// What gRPC needs to know.
    pub grpc: grpc::GrpcOptions,
    /// What REST needs to know.
    pub rest: rest::RestOptions,
}

/// How many threads may be busy with long runs at once, for each worker thread; further runs wait for one.
const BLOCKING_THREADS_PER_WORKER: usize = 8;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long to wait before accepting again when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The largest read from a connection of HTTP/1.1, which also bounds the head of a request.
const READ_BUFFER_BYTES: usize = 512 * 1024;

/// A server that listens.
pub struct Listening {
    runtime: Runtime,
    service: Arc<Service>,
    draining: watch::Sender<bool>,
    connections: TaskTracker,
    addresses: Vec<SocketAddr>,
}

/// What every connection shares.
struct Shared {
    service: Arc<Service>,
    options: ListenOptions,
    http: auto::Builder<TokioExecutor>,
    slots: Arc<Semaphore>,
}

impl Listening {
    /// Binds every address and begins to accept.
    ///
    /// # Errors
    ///
    /// An address cannot be resolved, is taken, or may not be bound; the message names it.
    pub fn start(service: Arc<Service>, options: ListenOptions) -> io::Result<Self> {
        let workers = options.worker_threads.max(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .max_blocking_threads(workers * BLOCKING_THREADS_PER_WORKER)
            .thread_name("servable-worker")
            .enable_all()
            .build()?;
        let _inside = runtime.enter();
        let listeners: Vec<TcpListener> = options
            .addresses
            .iter()
            .map(|address| {
                bind(address)
                    .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
            })
            .collect::<io::Result<_>>()?;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let slots = Arc::new(Semaphore::new(options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        let shared =
            Arc::new(Shared { http: http_builder(&options.http2), service: Arc::clone(&service), options, slots });
        let (draining, drain) = watch::channel(false);
        let connections = TaskTracker::new();
        for listener in listeners {
            connections.spawn(accept(listener, Arc::clone(&shared), connections.clone(), drain.clone()));
        }
        Ok(Self { runtime, service, draining, connections, addresses })
    }

    /// The addresses really bound, in the order of [`ListenOptions::addresses`].
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops accepting, lets requests in flight finish, and stops the threads; says whether all finished in time.
    pub fn drain(self, timeout: Duration) -> bool {
        self.service.readiness.begin_to_drain();
        self.draining.send_replace(true);
        self.connections.close();
        let finished =
            self.runtime.block_on(async { tokio::time::timeout(timeout, self.connections.wait()).await.is_ok() });
        // A run that cannot be interrupted is left to end with the process.
        self.runtime.shutdown_background();
        finished
    }
}

fn bind(address: &str) -> io::Result<TcpListener> {
    let address = address
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the host has no address"))?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn http_builder(http2: &Http2Options) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // A client may close its side once the request is sent, and still gets its answer.
    builder.http1().half_close(true).max_buf_size(READ_BUFFER_BYTES);
    http2.apply(&mut builder);
    builder
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker, mut drain: watch::Receiver<bool>) {
    loop {
        let slot = Arc::clone(&shared.slots).acquire_owned();
        let accepted = async {
            let slot = slot.await.expect("the semaphore is never closed");
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepted => accepted,
            _ = drain.wait_for(|draining| *draining) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (shared, drain) = (Arc::clone(&shared), drain.clone());
                tasks.spawn(async move {
                    serve_connection(stream, &shared, drain).await;
                    drop(slot);
                });
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

async fn serve_connection(stream: TcpStream, shared: &Arc<Shared>, mut drain: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let activity = Arc::new(Activity::default());
    let io = TokioIo::new(WithPages::new(Counted::new(stream, Arc::clone(&activity))));
    let service = service_fn(|request: Request<Incoming>| {
        let under_way = activity.begin_request();
        let shared = Arc::clone(shared);
        async move {
            let mut response = respond(&shared, request).await;
            if let Either::Right(messages) = response.body_mut() {
                messages.hold(under_way);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(shared.http.serve_connection(io, service));
    let Http2Options { max_idle, max_age, max_age_grace, .. } = shared.options.http2;
    let idle_timeout = shared.options.idle_timeout.min(max_idle.unwrap_or(Duration::MAX));
    let mut idle_check = tokio::time::interval(idle_timeout.max(Duration::from_millis(1)));
    idle_check.reset();
    let mut age = pin!(after(max_age));
    let mut grace = pin!(after(None));
    let mut is_closing = false;
    loop {
        tokio::select! {
            biased;
            // An error here is the client's: it went away, or did not speak HTTP.
            _ = connection.as_mut() => return,
            _ = idle_check.tick() => {
                if activity.was_idle_since_last_check() {
                    return;
                }
            }
            () = age.as_mut(), if !is_closing => {
                is_closing = true;
                grace.set(after(max_age_grace));
                connection.as_mut().graceful_shutdown();
            }
            () = grace.as_mut() => return,
            _ = drain.wait_for(|draining| *draining), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Waits so long, or for ever.
async fn after(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

async fn respond(shared: &Shared, request: Request<Incoming>) -> grpc::Reply {
    let (service, options) = (&shared.service, &shared.options);
    if request.version() == Version::HTTP_2 && grpc::is_grpc(request.headers()) {
        grpc::serve(service, options.grpc, options.body, request).await
    } else {
        rest::serve(service, options.rest, options.body, request).await.map(Either::Left)
    }
}
