//! Sockets and connections: accepts connections, limits the resources of clients, and drains.
//!
//! Every address accepts HTTP/1.1 and HTTP/2: by prior knowledge, or as negotiated by TLS. A [`Handler`] answers the
//! requests.

mod connection;
mod endpoint;
mod timeouts;
mod transport;
mod uds_authority;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response};
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::body::{AnswerBody, BodyLimits, BodyMemory, RequestBody};
use crate::http2::Http2Options;
use crate::tls::Tls;
use endpoint::{Bound, Listener};
use servable_model::error::{Code, ServingError};
use servable_runtime::placement;
use servable_runtime::{Watchdog, Workers};
use transport::Transport;

pub use endpoint::{Endpoint, Offer};

/// Addresses and limits.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// The addresses.
    pub endpoints: Vec<Endpoint>,
    /// The permissions of Unix sockets; `None` leaves them to the umask.
    pub socket_mode: Option<u32>,
    /// The TLS credentials.
    pub tls: Arc<Tls>,
    /// Threads that serve connections and run quick models.
    pub worker_threads: usize,
    /// The maximum number of open connections. Further ones wait in the listen queue.
    pub max_connections: usize,
    /// Limits of request heads.
    pub head: HeadLimits,
    /// The time limit of an idle connection: one without a request in progress, a new request or a written byte.
    pub idle_timeout: Duration,
    /// Limits of request bodies.
    pub body: BodyLimits,
    /// Options of HTTP/2.
    pub http2: Http2Options,
}

/// Limits of the head of a request.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// The largest head, counted as in HTTP/2: the bytes of names and values, and 32 for each header.
    pub max_bytes: u32,
    /// The maximum number of headers.
    pub max_count: usize,
    /// The time limit of a head, and of a TLS handshake.
    pub timeout: Duration,
}

impl HeadLimits {
    /// Refuses a head that is too large.
    pub fn check(&self, head: &Parts) -> Result<(), ServingError> {
        let too_large = |text: String| Err(ServingError::new(Code::ResourceExhausted, text));
        let Parts { headers, uri, .. } = head;
        if headers.len() > self.max_count {
            return too_large(format!("the request has {} headers; the limit is {}", headers.len(), self.max_count));
        }
        let of_headers: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        let bytes = of_headers + uri.path_and_query().map_or(0, |target| target.as_str().len());
        if bytes > self.max_bytes as usize {
            return too_large(format!("the head of the request has {bytes} bytes; the limit is {}", self.max_bytes));
        }
        Ok(())
    }
}

/// Practically no limit. Each kind of blocking work has a semaphore in `servable_runtime::Workers`, so that no kind
/// waits for the threads of another.
const BLOCKING_THREADS: usize = 1 << 20;

/// The pause before the next accept when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The largest read from a connection of HTTP/1.1. A larger head is refused by hyper.
const READ_BUFFER_BYTES: usize = 512 * 1024;

/// The multiple of the limit up to which an HTTP/2 head gets an error of REST or gRPC. Larger heads get a bare 431 from
/// h2.
const HEAD_MARGIN: u32 = 4;

/// The number of headers that hyper keeps on the stack. For more, each request costs an allocation.
const HEADERS_ON_STACK: usize = 100;

/// The time for TCP handshakes in progress when the server drains.
const LAST_ACCEPTS: Duration = Duration::from_millis(100);

/// Answers the requests of all connections.
pub trait Handler: Send + Sync + 'static {
    /// The bodies of answers.
    type Body: AnswerBody;

    /// Answers a request.
    fn answer(
        &self,
        arrival: Arrival,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// The answer in place of one for which there is no memory.
    fn fail(&self, answer: &Response<Self::Body>, error: ServingError) -> Response<Self::Body>;

    /// Counts a request that was refused before it reached the handler.
    fn refused(&self, code: Code);

    /// Called once, before the server begins to drain.
    fn begin_to_drain(&self);

    /// The memory of bodies and answers.
    fn body_memory(&self) -> &Arc<BodyMemory>;
}

/// A server that listens.
pub struct Listening<H: Handler> {
    /// Dropped first: it releases the threads in reserve, for which the shutdown of the runtime waits.
    _watchdog: Watchdog,
    runtime: Runtime,
    draining: watch::Sender<bool>,
    connections: TaskTracker,
    shared: Arc<Shared<H>>,
    addresses: Vec<SocketAddr>,
    /// Bound addresses that do not accept connections yet.
    closed: Vec<(Bound, Endpoint)>,
}

/// The state that all connections share.
struct Shared<H> {
    handler: H,
    options: ListenOptions,
    http: auto::Builder<TokioExecutor>,
    slots: Arc<Semaphore>,
    /// Separate limits, so that clients that use up `slots` do not block health checks or administration.
    health_slots: Arc<Semaphore>,
    admin_slots: Arc<Semaphore>,
}

impl<H> Shared<H> {
    fn slots(&self, offer: Offer) -> &Arc<Semaphore> {
        match offer {
            Offer::Everything | Offer::RestOnly => &self.slots,
            Offer::HealthOnly => &self.health_slots,
            Offer::Administration => &self.admin_slots,
        }
    }
}

/// How a connection was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The requests that the address answers.
    pub offer: Offer,
    /// The local address, for administration only.
    pub own_address: Option<IpAddr>,
}

/// The maximum number of connections to addresses for health checks.
const HEALTH_CONNECTIONS: usize = 64;

/// The maximum number of connections for administration.
const ADMIN_CONNECTIONS: usize = 1024;

impl<H: Handler> Listening<H> {
    /// Binds all addresses, and starts to accept on those for health checks and administration.
    ///
    /// # Errors
    ///
    /// An address cannot be resolved, is in use, or may not be bound; the message names it. Or there are no TLS
    /// credentials.
    pub fn start(handler: H, options: ListenOptions) -> io::Result<Self> {
        let workers = options.worker_threads.max(1);
        let threads = Workers::new(workers);
        let (member, spare) = (Arc::clone(&threads), workers);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers + spare)
            .max_blocking_threads(BLOCKING_THREADS)
            .on_thread_start(move || {
                placement::as_usual();
                member.join();
            })
            .thread_name("servable-worker")
            // Only worker threads park, not those of the blocking pool.
            .on_thread_park(placement::join)
            .enable_all()
            .build()?;
        let watchdog = Watchdog::start(runtime.handle().clone(), threads, spare)?;
        if options.endpoints.iter().any(|endpoint| endpoint.tls) && options.tls.acceptor().is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "TLS needs a certificate"));
        }
        let bound: Vec<(Bound, Endpoint)> = options
            .endpoints
            .iter()
            .map(|endpoint| Ok((Bound::new(&endpoint.address, options.socket_mode)?, endpoint.clone())))
            .collect::<io::Result<_>>()?;
        let addresses =
            bound.iter().filter_map(|(bound, _)| bound.tcp_address().transpose()).collect::<io::Result<_>>()?;
        let slots = Arc::new(Semaphore::new(options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        let health_slots = Arc::new(Semaphore::new(HEALTH_CONNECTIONS));
        let http = http_builder(&options);
        let admin_slots = Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
        let shared = Arc::new(Shared { handler, options, http, slots, health_slots, admin_slots });
        let (draining, _) = watch::channel(false);
        let connections = TaskTracker::new();
        runtime.spawn(Arc::clone(shared.handler.body_memory()).give_back_unused());
        let (early, closed) = bound.into_iter().partition(|(_, endpoint)| endpoint.offer.is_early());
        let listening = Self { _watchdog: watchdog, runtime, draining, connections, shared, addresses, closed };
        listening.accept_at(early)?;
        Ok(listening)
    }

    /// Starts to accept on all addresses.
    ///
    /// # Errors
    ///
    /// Listening fails on a bound address; the message names it.
    pub fn open(&mut self) -> io::Result<()> {
        let closed = std::mem::take(&mut self.closed);
        self.accept_at(closed)
    }

    fn accept_at(&self, bound: Vec<(Bound, Endpoint)>) -> io::Result<()> {
        let _inside = self.runtime.enter();
        for (bound, endpoint) in bound {
            let (shared, tasks) = (Arc::clone(&self.shared), self.connections.clone());
            let accepting = accept(bound.listen()?, endpoint, shared, tasks, self.draining.subscribe());
            self.connections.spawn(accepting);
        }
        Ok(())
    }

    /// The TCP addresses really bound, in the order of [`ListenOptions::endpoints`].
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops accepting, waits for requests in flight, and stops the threads. Returns whether all requests finished in
    /// time.
    pub fn drain(self, timeout: Duration) -> bool {
        self.shared.handler.begin_to_drain();
        self.draining.send_replace(true);
        self.connections.close();
        let finished =
            self.runtime.block_on(async { tokio::time::timeout(timeout, self.connections.wait()).await.is_ok() });
        // A run that cannot be cancelled ends with the process.
        self.runtime.shutdown_background();
        finished
    }
}

fn http_builder(options: &ListenOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(READ_BUFFER_BYTES.max(options.head.max_bytes as usize));
    if options.head.max_count > HEADERS_ON_STACK {
        builder.http1().max_headers(options.head.max_count);
    }
    let max_header_bytes = options.http2.max_header_bytes.or(Some(options.head.max_bytes.saturating_mul(HEAD_MARGIN)));
    Http2Options { max_header_bytes, ..options.http2 }.apply(&mut builder);
    builder
}

/// Accepts connections until the server drains, and then those that the kernel has completed. Closing the listener
/// would reset them and lose their data.
async fn accept<H: Handler>(
    mut listener: Listener,
    endpoint: Endpoint,
    shared: Arc<Shared<H>>,
    tasks: TaskTracker,
    mut drain: watch::Receiver<bool>,
) {
    let offer = endpoint.offer;
    let slots = shared.slots(offer);
    let patience = shared.options.idle_timeout;
    let mut last_moment = None;
    loop {
        let accepted = if let Some(last_moment) = last_moment {
            let Ok(accepted) = tokio::time::timeout_at(last_moment, listener.accept(patience)).await else { return };
            accepted
        } else {
            tokio::select! {
                accepted = listener.accept(patience) => accepted,
                _ = drain.wait_for(|draining| *draining) => {
                    listener.refuse_new();
                    last_moment = Some(Instant::now() + LAST_ACCEPTS);
                    continue;
                }
            }
        };
        match accepted {
            Ok(socket) => {
                // Accepting before acquiring a slot means that an idle listener does not occupy one. At the limit, one
                // connection of each listener waits here, and further ones in the listen queue.
                let slot = async { Arc::clone(slots).acquire_owned().await.ok() };
                let slot = tokio::select! {
                    slot = slot => slot,
                    _ = drain.wait_for(|draining| *draining) => None, // other connections end soon
                };
                let (shared, drain) = (Arc::clone(&shared), drain.clone());
                let tls = endpoint.tls;
                let own_address = (offer == Offer::Administration).then(|| socket.own_address()).flatten();
                let arrival = Arrival { offer, own_address };
                tasks.spawn(async move {
                    if tls {
                        connection::serve_secure(socket, &shared, arrival, drain).await;
                    } else {
                        connection::serve(Transport::Plain(socket), &shared, arrival, drain).await;
                    }
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
