//! From a request to the protocol that answers it.
//!
//! It implements the [`Handler`] of the listener, which knows no protocols.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::Either;

use crate::access::Scope;
use crate::administration::{self, AdminHosts};
use crate::protocol::grpc_wire::framing::GRPC;
use crate::protocol::rest_wire;
use crate::protocol::tfs_grpc::{self, GrpcOptions, Messages};
use crate::protocol::tfs_rest::{self, RestOptions};
use crate::router::Route;
use crate::service::Service;
use servable_http::body::{BodyLimits, BodyMemory, RequestBody, WholeBody};
use servable_http::listener::{Arrival, Handler, HeadLimits, ListenOptions, Offer};
use servable_model::error::{Code, Result, ServingError};

/// The options of the protocols.
#[derive(Clone, Debug)]
pub struct ProtocolOptions {
    /// The options of gRPC.
    pub grpc: GrpcOptions,
    /// The options of REST.
    pub rest: RestOptions,
    /// The hosts that the administration port accepts.
    pub admin_hosts: AdminHosts,
}

/// Answers requests of every protocol.
pub struct Dispatch {
    service: Arc<Service>,
    options: ProtocolOptions,
    head: HeadLimits,
    body: BodyLimits,
}

/// The error for gRPC calls on an address that accepts only REST without TLS.
const NEEDS_TLS: &str = "this port takes gRPC over TLS only, and that on another port";

/// The error for administrative requests on such an address, with or without a key.
const ADMINISTRATION_NEEDS_TLS: &str = "administration needs TLS, which this port does not have";

/// The error for other requests on an address for health checks.
const ONLY_HEALTH: &str = "this port answers health checks only, such as /healthz and /readyz";

impl Dispatch {
    /// Creates a handler for the state of `service` and the limits of a listener.
    pub fn new(service: Arc<Service>, options: ProtocolOptions, limits: &ListenOptions) -> Self {
        Self { service, options, head: limits.head, body: limits.body }
    }

    /// Refuses a request that is too large, that its address does not offer, or that lacks the key for its route.
    fn admit(&self, offer: Offer, head: &Parts, route: &Route<'_>) -> Result<()> {
        let (service, is_grpc) = (&self.service, matches!(route, Route::Grpc(_)));
        self.head.check(head)?;
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

    /// Answers a request on the administration port, where the control plane does the routing.
    async fn administer(&self, own_address: Option<IpAddr>, head: &Parts, body: RequestBody) -> rest_wire::Reply {
        let Self { service, options, .. } = self;
        if let Err(error) = self.head.check(head) {
            self.refused(error.code);
            return tfs_rest::refuse(error, options.rest);
        }
        match administration::admit(service, &options.admin_hosts, head, own_address) {
            Ok(()) => administration::serve(service, self.body, head, body).await,
            Err(error) => {
                self.refused(error.code);
                administration::fail(&error)
            }
        }
    }
}

impl Handler for Dispatch {
    type Body = Either<WholeBody, Messages>;

    async fn answer(&self, arrival: Arrival, request: Request<RequestBody>) -> tfs_grpc::Reply {
        let Self { service, options, .. } = self;
        let (head, body) = request.into_parts();
        let Arrival { offer, own_address } = arrival;
        if offer == Offer::Administration {
            return self.administer(own_address, &head, body).await.map(Either::Left);
        }
        let route = service.router.route(&head);
        let admitted = self.admit(offer, &head, &route).inspect_err(|error| self.refused(error.code));
        let mut reply = match (route, admitted) {
            (Route::Grpc(_), Err(error)) => return tfs_grpc::refuse(error),
            (Route::Grpc(method), Ok(())) => {
                let health_service = options.grpc.health_service || offer == Offer::HealthOnly;
                let grpc_options = GrpcOptions { health_service, ..options.grpc };
                return tfs_grpc::serve(service, grpc_options, self.body, &head.headers, method, body).await;
            }
            (_, Err(error)) => tfs_rest::refuse(error, options.rest),
            (Route::Rest(route), Ok(())) => tfs_rest::serve(service, options.rest, self.body, &head, route, body).await,
            (Route::None(why), Ok(())) => tfs_rest::no_route(service, &head, why),
        };
        service.access.allow_headers_of_pages(reply.headers_mut());
        reply.map(Either::Left)
    }

    fn fail(&self, answer: &Response<Self::Body>, error: ServingError) -> tfs_grpc::Reply {
        if answer.headers().get(CONTENT_TYPE).is_some_and(|kind| *kind == GRPC) {
            tfs_grpc::refuse(error)
        } else {
            tfs_rest::fail(error, self.options.rest).map(Either::Left)
        }
    }

    fn refused(&self, code: Code) {
        self.service.metrics.refuse(code);
    }

    fn begin_to_drain(&self) {
        self.service.readiness.begin_to_drain();
    }

    fn body_memory(&self) -> &Arc<BodyMemory> {
        &self.service.body_memory
    }
}
