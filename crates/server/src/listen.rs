//! Sockets and connections: accept, tell REST from gRPC, bound what a stranger may hold, drain.
//!
//! Every address takes HTTP/1.1 and HTTP/2 with prior knowledge, or what TLS has agreed on, and serves both protocols.
//! What a request means is left to [`crate::rest`] and [`crate::grpc`].

mod authority;
mod connection;
mod endpoint;
mod transport;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::request::Parts;
use http_body_util::Either;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::access::Scope;
use crate::administration::{self, AdminHosts};
use crate::body::{BodyLimits, RequestBody};
use crate::error::{Code, ServingError};
use crate::http2::Http2Options;
use crate::router::Route;
use crate::service::Service;
use crate::threads::{Lookout, Threads};
use crate::tls::Tls;
use crate::{grpc, placement, rest, rest_wire};
use endpoint::{Bound, Listener};
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
    /// What gRPC needs to know.
    pub grpc: grpc::GrpcOptions,
    /// What REST needs to know.
    pub rest: rest::RestOptions,
    /// The hosts that the administration port accepts.
    pub admin_hosts: AdminHosts,
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
    fn check(&self, head: &Parts) -> Result<(), ServingError> {
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

/// More threads than there ever are: each kind of work that may block has a limit of its own, see [`Threads`], so that none
/// has to wait for threads which another one holds.
const BLOCKING_THREADS: usize = 1 << 20;

/// How long to wait before accepting again when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What gRPC calls get where only REST goes without TLS.
const NEEDS_TLS: &str = "this port takes gRPC over TLS only, and that on another port";

/// What requests that administer get there, whatever their keys.
const ADMINISTRATION_NEEDS_TLS: &str = "administration needs TLS, which this port does not have";

/// What everything else gets where only health checks are answered.
const ONLY_HEALTH: &str = "this port answers health checks only, such as /healthz and /readyz";

/// The largest read from a connection of HTTP/1.1. A head that does not fit is refused before it is looked at.
const READ_BUFFER_BYTES: usize = 512 * 1024;

/// How many times its limit the head of a request of HTTP/2 may have before it gets no answer of REST or gRPC, but a bare
/// 431 from h2.
const HEAD_MARGIN: u32 = 4;

/// How many headers hyper keeps on the stack; for more, each request costs an allocation.
const HEADERS_ON_STACK: usize = 100;

/// How long handshakes of TCP that have begun may take when the server drains.
const LAST_ACCEPTS: Duration = Duration::from_millis(100);

/// A server that listens.
pub struct Listening {
    /// First, as it gives back the threads in reserve, for which the end of the runtime waits.
    _lookout: Lookout,
    runtime: Runtime,
    service: Arc<Service>,
    draining: watch::Sender<bool>,
    connections: TaskTracker,
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    /// What is bound and does not take connections yet.
    closed: Vec<(Bound, Endpoint)>,
}

/// What every connection shares.
struct Shared {
    service: Arc<Service>,
    options: ListenOptions,
    http: auto::Builder<TokioExecutor>,
    slots: Arc<Semaphore>,
    /// Separate limits: clients that use up `slots` block neither health checks nor administration.
    health_slots: Arc<Semaphore>,
    admin_slots: Arc<Semaphore>,
}

impl Shared {
    fn slots(&self, offer: Offer) -> &Arc<Semaphore> {
        match offer {
            Offer::Everything | Offer::RestOnly => &self.slots,
            Offer::HealthOnly => &self.health_slots,
            Offer::Administration => &self.admin_slots,
        }
    }
}

/// How a connection was accepted.
#[derive(Clone, Copy)]
struct Arrival {
    offer: Offer,
    /// The local address; only known for administration.
    own_address: Option<IpAddr>,
}

/// How many connections may be open to addresses that are for health checks only.
const HEALTH_CONNECTIONS: usize = 64;

/// How many connections may be open for administration.
const ADMIN_CONNECTIONS: usize = 1024;

impl Listening {
    /// Binds every address, and begins to accept where only health checks are answered.
    ///
    /// # Errors
    ///
    /// An address cannot be resolved, is taken, or may not be bound; the message names it. Or there are no credentials
    /// for TLS.
    pub fn start(service: Arc<Service>, options: ListenOptions) -> io::Result<Self> {
        let workers = options.worker_threads.max(1);
        let threads = Threads::new(workers);
        let (member, spare) = (Arc::clone(&threads), workers);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers + spare)
            .max_blocking_threads(BLOCKING_THREADS)
            .on_thread_start(move || {
                placement::as_usual();
                member.enter();
            })
            .thread_name("servable-worker")
            // Of the pool's threads, only those that serve connections rest in this sense.
            .on_thread_park(placement::join)
            .enable_all()
            .build()?;
        let lookout = Lookout::start(runtime.handle().clone(), threads, spare)?;
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
        let shared =
            Arc::new(Shared { service: Arc::clone(&service), options, http, slots, health_slots, admin_slots });
        let (draining, _) = watch::channel(false);
        let connections = TaskTracker::new();
        runtime.spawn(Arc::clone(&service.body_memory).give_back_unused());
        let (early, closed) = bound.into_iter().partition(|(_, endpoint)| endpoint.offer.is_early());
        let listening = Self { _lookout: lookout, runtime, service, draining, connections, shared, addresses, closed };
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
async fn accept(
    mut listener: Listener,
    endpoint: Endpoint,
    shared: Arc<Shared>,
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

/// Refuses a request that is too large, or not for this address, or without the key that its route needs.
fn admit(shared: &Shared, offer: Offer, head: &Parts, route: &Route<'_>) -> Result<(), ServingError> {
    let (service, is_grpc) = (&shared.service, matches!(route, Route::Grpc(_)));
    shared.options.head.check(head)?;
    let scope = service.router.scope(route, head);
    match offer {
        Offer::HealthOnly if !route.is_health_check() => {
            let code = if is_grpc { Code::Unimplemented } else { Code::NotFound };
            return Err(ServingError::new(code, ONLY_HEALTH));
        }
        Offer::RestOnly if is_grpc => return Err(ServingError::new(Code::Unauthenticated, NEEDS_TLS)),
        Offer::RestOnly if scope == Some(Scope::Admin) => {
            return Err(ServingError::new(Code::PermissionDenied, ADMINISTRATION_NEEDS_TLS));
        }
        _ => {}
    }
    scope.map_or(Ok(()), |scope| service.access.require(&head.headers, scope))
}

async fn respond(shared: &Shared, arrival: Arrival, request: Request<RequestBody>) -> grpc::Reply {
    let (service, options) = (&shared.service, &shared.options);
    let (head, body) = request.into_parts();
    let Arrival { offer, own_address } = arrival;
    if offer == Offer::Administration {
        return administer(shared, own_address, &head, body).await.map(Either::Left);
    }
    let route = service.router.route(&head);
    let admitted = admit(shared, offer, &head, &route).inspect_err(|error| service.metrics.refuse(error.code));
    let mut reply = match (route, admitted) {
        (Route::Grpc(_), Err(error)) => return grpc::refuse(error),
        (Route::Grpc(method), Ok(())) => {
            let health_service = options.grpc.health_service || offer == Offer::HealthOnly;
            let grpc_options = grpc::GrpcOptions { health_service, ..options.grpc };
            return grpc::serve(service, grpc_options, options.body, &head.headers, method, body).await;
        }
        (_, Err(error)) => rest::refuse(error, options.rest),
        (Route::Rest(route), Ok(())) => rest::serve(service, options.rest, options.body, &head, route, body).await,
        (Route::None(why), Ok(())) => rest::no_route(service, &head, why),
    };
    service.access.allow_headers_of_pages(reply.headers_mut());
    reply.map(Either::Left)
}

/// Answers a request on the administration port. It has no route here, as the control plane knows the API.
async fn administer(shared: &Shared, own_address: Option<IpAddr>, head: &Parts, body: RequestBody) -> rest_wire::Reply {
    let (service, options) = (&shared.service, &shared.options);
    let count = |error: &ServingError| service.metrics.refuse(error.code);
    if let Err(error) = options.head.check(head).inspect_err(count) {
        return rest::refuse(error, options.rest);
    }
    match administration::admit(service, &options.admin_hosts, head, own_address).inspect_err(count) {
        Ok(()) => administration::serve(service, options.body, head, body).await,
        Err(error) => administration::fail(&error),
    }
}
