//! The life of a connection.

use std::convert::Infallible;
use std::error::Error;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Connection;
use tokio::sync::watch;

use super::timeouts::{DRAIN_PATIENCE, Draining, Patience, Step, Verdict};
use super::transport::{Socket, Transport};
use super::{Arrival, Handler, Shared};
use crate::activity::{Activity, Stream, UnderWay};
use crate::body::{AnswerBody, BodyLimits, RequestBody};
use crate::http2::Http2Options;
use servable_model::error::ServingError;

/// The time for requests that an HTTP/2 client sent before it received the GOAWAY of an idle connection.
const GOING_TIME: Duration = Duration::from_secs(2);

/// Answers of at least this size count towards the memory limit.
const LARGE_ANSWER: usize = 64 << 10;

/// The limit of unread answers of a connection: this many bytes, and at most this fraction of the limit of all
/// connections. Further requests wait.
const MOST_UNSENT: usize = 16 << 20;
const UNSENT_PART: usize = 256;

/// The limit of unread answers of a connection, in bytes.
fn most_unsent(limits: BodyLimits) -> u64 {
    (limits.max_total_bytes / UNSENT_PART).clamp(LARGE_ANSWER, MOST_UNSENT) as u64
}

/// Serves a connection after its TLS handshake, which has the time limit of a request head.
pub(super) async fn serve_secure<H: Handler>(
    socket: Socket,
    shared: &Arc<Shared<H>>,
    arrival: Arrival,
    mut drain: watch::Receiver<bool>,
) {
    let Some(acceptor) = shared.options.tls.acceptor() else { return };
    let handshake = tokio::time::timeout(shared.options.head.timeout, acceptor.accept(socket));
    let last_moment = async {
        let _ = drain.wait_for(|draining| *draining).await;
        tokio::time::sleep(DRAIN_PATIENCE).await;
    };
    let done = tokio::select! {
        done = handshake => done,
        () = last_moment => return,
    };
    // A failed handshake has sent its alert to the client.
    if let Ok(Ok(stream)) = done {
        serve(Transport::Tls(Box::new(stream)), shared, arrival, drain).await;
    }
}

/// Serves a connection that is ready for HTTP.
pub(super) async fn serve<H: Handler>(
    stream: Transport,
    shared: &Arc<Shared<H>>,
    arrival: Arrival,
    mut drain: watch::Receiver<bool>,
) {
    let activity = Arc::new(Activity::default());
    let handler = Arc::clone(shared);
    let stream = Stream::new(stream, Arc::clone(&activity), move |cause| handler.handler.refused(cause));
    let service = service_fn(|request: Request<Incoming>| {
        let under_way = activity.begin_request();
        let shared = Arc::clone(shared);
        async move { Ok::<_, Infallible>(answer(&shared, arrival, request, under_way).await) }
    });
    let mut connection = pin!(shared.http.serve_connection(TokioIo::new(stream), service));
    let mut patience = Patience::new(&shared.options);
    let mut draining = Draining::new(shared.options.body);
    let Http2Options { max_age, max_age_grace, .. } = shared.options.http2;
    let mut age = pin!(after(max_age));
    let mut end = pin!(after(None));
    let mut is_aged = false;
    let mut is_going = None;
    loop {
        tokio::select! {
            biased;
            // Errors are the client's: it disconnected, or did not speak HTTP.
            _ = connection.as_mut() => return,
            () = patience.tick(), if is_going.is_none() => {
                let is_scarce = shared.handler.body_memory().is_scarce(shared.options.body.max_total_bytes);
                let verdict = patience.look(&activity, is_scarce);
                match verdict {
                    Verdict::Wait => continue,
                    Verdict::HeadTimedOut if !activity.speaks_http2() => activity.end_head(),
                    _ => close_gently(connection.as_mut(), &activity),
                }
                is_going = Some(verdict);
                end.set(after(Some(GOING_TIME)));
            }
            () = age.as_mut(), if !is_aged => {
                is_aged = true;
                if is_going.is_none() {
                    end.set(after(max_age_grace));
                    close_gently(connection.as_mut(), &activity);
                }
            }
            // Requests that crossed the GOAWAY are answered.
            () = end.as_mut() => match is_going {
                Some(Verdict::Idle) if activity.is_under_way() => end.set(after(Some(GOING_TIME))),
                _ => break,
            },
            _ = drain.wait_for(|draining| *draining), if !draining.has_begun() => {
                draining.begin();
                activity.wind_down();
                if activity.speaks_http2() {
                    connection.as_mut().graceful_shutdown();
                }
            }
            () = draining.tick() => match draining.look(&activity) {
                Step::Wait => {}
                Step::GoAway => connection.as_mut().graceful_shutdown(),
                Step::Refuse => {
                    activity.end_when_quiet();
                    activity.end_head();
                    activity.end_parts();
                }
                Step::End => break,
            },
        }
    }
    if activity.has_unsent() {
        activity.abandon();
    }
}

/// Closes a connection after its requests in progress. HTTP/2 clients get a GOAWAY, so that they send nothing that
/// would be lost. HTTP/1.1 has no such message, so data that has arrived is read once more.
fn close_gently<I, S, B>(connection: Pin<&mut Connection<'_, I, S, TokioExecutor>>, activity: &Activity)
where
    I: Read + Write + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    B::Data: Send,
{
    if activity.speaks_http2() {
        connection.graceful_shutdown();
    } else {
        activity.wind_down();
        activity.end_when_quiet();
    }
}

async fn answer<H: Handler>(
    shared: &Arc<Shared<H>>,
    arrival: Arrival,
    request: Request<Incoming>,
    under_way: UnderWay,
) -> Response<H::Body> {
    let limits = shared.options.body;
    under_way.room(most_unsent(limits)).await;
    let activity = Arc::clone(under_way.activity());
    let version = request.version();
    let request = request.map(|incoming| RequestBody::new(incoming, Arc::clone(&activity)));
    let handler = &shared.handler;
    let mut response = handler.answer(arrival, request).await;
    let mut claim = None;
    if let Some(length) = response.body().whole_len().filter(|length| *length >= LARGE_ANSWER) {
        match handler.body_memory().claim_rest(length, limits.max_total_bytes) {
            Ok(claimed) => claim = Some(claimed),
            Err(shortage) => {
                let error = ServingError::from(shortage);
                handler.refused(error.code);
                response = handler.fail(&response, error);
            }
        }
    }
    response.body_mut().hold(under_way, claim);
    if version < Version::HTTP_2 && activity.winds_down() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Waits for this time, or forever.
async fn after(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
