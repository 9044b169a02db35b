//! Sockets and connections: accept, bound what a stranger may hold, drain.
//!
//! Every address takes HTTP/1.1 and HTTP/2 with prior knowledge, or what TLS has agreed on. What a request means is left to
//! a [`Handler`].

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
    /// Where to listen.
    pub endpoints: Vec<Endpoint>,
    /// The permissions of Unix sockets; `None` leaves them to the umask.
    pub socket_mode: Option<u32>,
    /// What endpoints with TLS begin connections with.
    pub tls: Arc<Tls>,
    /// Threads that serve connections and run quick models.
    pub worker_threads: usize,
    /// Connections open at once; further ones wait in the listen queue.
    pub max_connections: usize,
    /// Bounds on the heads of requests.
    pub head: HeadLimits,
    /// A connection without a request under way, and without a new one begun or a byte written for this long, is closed.
    pub idle_timeout: Duration,
    /// Bounds on reading request bodies.
    pub body: BodyLimits,
    /// How connections of HTTP/2 behave.
    pub http2: Http2Options,
}

/// Bounds on the head of a request.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// The largest head, in bytes as HTTP/2 counts them: of names and values, and 32 for each header.
    pub max_bytes: u32,
    /// The most headers.
    pub max_count: usize,
    /// How long a head, or a TLS handshake, may take.
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

/// No limit in effect. Each kind of blocking work is bounded by its semaphore in `servable_runtime::Workers`, so that no kind
/// waits for the threads of another.
const BLOCKING_THREADS: usize = 1 << 20;

/// How long to wait before accepting again when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The largest read from a connection of HTTP/1.1. A head that does not fit is refused before it is looked at.
const READ_BUFFER_BYTES: usize = 512 * 1024;

/// How many times its limit the head of a request of HTTP/2 may have before it gets no answer of REST or gRPC, but a bare
/// 431 from h2.
const HEAD_MARGIN: u32 = 4;

/// How many headers hyper keeps on the stack; for more, each request costs an allocation.
const HEADERS_ON_STACK: usize = 100;

/// How long handshakes of TCP that have begun may take when the server drains.
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

    /// The answer in place of one that there is no memory for.
    fn fail(&self, answer: &Response<Self::Body>, error: ServingError) -> Response<Self::Body>;

    /// Counts a request that was refused before it could be handed over.
    fn refused(&self, code: Code);

    /// Called once, before the server begins to drain.
    fn begin_to_drain(&self);

    /// Where the memory of bodies and answers comes from.
    fn body_memory(&self) -> &Arc<BodyMemory>;
}

/// A server that listens.
pub struct Listening<H: Handler> {
    /// First, as it gives back the threads in reserve, for which the end of the runtime waits.
    _watchdog: Watchdog,
    runtime: Runtime,
    draining: watch::Sender<bool>,
    connections: TaskTracker,
    shared: Arc<Shared<H>>,
    addresses: Vec<SocketAddr>,
    /// What is bound and does not take connections yet.
    closed: Vec<(Bound, Endpoint)>,
}

/// What every connection shares.
struct Shared<H> {
    handler: H,
    options: ListenOptions,
    http: auto::Builder<TokioExecutor>,
    slots: Arc<Semaphore>,
    /// Separate limits: clients that use up `slots` block neither health checks nor administration.
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
    /// What the address answers.
    pub offer: Offer,
    /// The local address; only known for administration.
    pub own_address: Option<IpAddr>,
}

/// How many connections may be open to addresses that are for health checks only.
const HEALTH_CONNECTIONS: usize = 64;

/// How many connections may be open for administration.
const ADMIN_CONNECTIONS: usize = 1024;

impl<H: Handler> Listening<H> {
    /// Binds every address, and begins to accept where only health checks are answered.
    ///
    /// # Errors
    ///
    /// An address cannot be resolved, is taken, or may not be bound; the message names it. Or there are no credentials
    /// for TLS.
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
            // Of the pool's threads, only those that serve connections rest in this sense.
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

    /// Begins to accept everywhere.
    ///
    /// # Errors
    ///
    /// An address cannot be listened at, though it could be bound; the message names it.
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

    /// Stops accepting, lets requests in flight finish, and stops the threads; says whether all finished in time.
    pub fn drain(self, timeout: Duration) -> bool {
        self.shared.handler.begin_to_drain();
        self.draining.send_replace(true);
        self.connections.close();
        let finished =
            self.runtime.block_on(async { tokio::time::timeout(timeout, self.connections.wait()).await.is_ok() });
        // A run that cannot be interrupted is left to end with the process.
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

/// Accepts connections until the server drains, and then those whose clients take them for open already: closing the
/// listener would reset them, and lose what they have sent.
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
                // In this order, so that a quiet listener keeps no connection from the others: at the limit, one
                // connection of each waits here, and further ones in the listen queue.
                let slot = async { Arc::clone(slots).acquire_owned().await.ok() };
                let slot = tokio::select! {
                    slot = slot => slot,
                    _ = drain.wait_for(|draining| *draining) => None, // connections come to their end soon
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
