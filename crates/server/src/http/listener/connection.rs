//! One connection from its first byte to its last: who answers its requests, and for how long it may be idle, slow or there
//! at all.

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
use tokio::time::{Interval, MissedTickBehavior};

use super::transport::{Socket, Transport};
use super::{Arrival, Handler, ListenOptions, Shared};
use crate::error::ServingError;
use crate::http::activity::{Activity, PARTING_TIME, Snapshot, Stream, UnderWay};
use crate::http::body::{AnswerBody, BodyLimits, RequestBody};
use crate::http::http2::Http2Options;

/// How long a client of HTTP/2 has for what it sent before it saw the GOAWAY of an idle connection.
const GOING_TIME: Duration = Duration::from_secs(2);

/// How long a draining server waits for a client on which something depends: its next request over HTTP/1.1, which has no
/// way to say that none is wanted, the rest of one, or its taking of an answer.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// How often a draining server looks.
const DRAIN_TICK: Duration = Duration::from_millis(250);

/// Answers of this many bytes and more are counted among what all of them may have together.
const LARGE_ANSWER: usize = 64 << 10;

/// A connection whose client has not taken so many bytes of answers gets no further ones: at most this, and at most this
/// part of what all connections may have together.
const MOST_UNSENT: usize = 16 << 20;
const UNSENT_PART: usize = 256;

/// How many bytes of answers one connection may hold.
fn most_unsent(limits: BodyLimits) -> u64 {
    (limits.max_total_bytes / UNSENT_PART).clamp(LARGE_ANSWER, MOST_UNSENT) as u64
}

/// Serves a connection that has to begin with a handshake, in no more time than the head of a request may take.
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
    // A handshake that fails is the client's to explain; it has been told why.
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
            // An error here is the client's: it went away, or did not speak HTTP.
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
            // What came in the moment of the GOAWAY is answered.
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

/// Has a connection end when what is under way is done. Clients of HTTP/2 are told, so that they send nothing that would be
/// lost; those of HTTP/1.1 cannot be, so what they have sent is looked at once more.
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

/// A connection is looked at so many times in the shortest time that it has for something, and at least this often.
const TICKS: u32 = 4;
const LONGEST_TICK: Duration = Duration::from_secs(5);

/// Waits for a connection on which nothing happens.
struct Patience {
    ticks: Interval,
    /// For how long nothing has happened, and for how long the same head has been open.
    idle: Duration,
    in_head: Duration,
    before: Snapshot,
    /// Since when answers have been waiting for the client, and what it had taken then.
    stalled: Option<(Duration, Snapshot)>,
    head_timeout: Duration,
    idle_timeout: Duration,
    min_bytes_per_second: f64,
}

enum Verdict {
    Wait,
    HeadTimedOut,
    Idle,
    Stalled,
}

impl Patience {
    fn new(options: &ListenOptions) -> Self {
        let head_timeout = options.head.timeout;
        let idle_timeout = options.idle_timeout.min(options.http2.max_idle.unwrap_or(Duration::MAX));
        let period = (head_timeout.min(idle_timeout) / TICKS).clamp(Duration::from_millis(1), LONGEST_TICK);
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        Self {
            ticks,
            idle: Duration::ZERO,
            in_head: Duration::ZERO,
            before: Snapshot::default(),
            stalled: None,
            head_timeout,
            idle_timeout,
            min_bytes_per_second: f64::from(options.body.min_bytes_per_second),
        }
    }

    async fn tick(&mut self) {
        self.ticks.tick().await;
    }

    /// What is to be done after a tick. Where memory is scarce, clients that take nothing are not waited for.
    fn look(&mut self, activity: &Activity, is_scarce: bool) -> Verdict {
        let (now, before) = (activity.snapshot(), self.before);
        self.before = now;
        if self.is_stalled(activity, now, is_scarce) {
            return Verdict::Stalled;
        }
        // Over HTTP/1.1 the next head may come while a request is under way, and is not read then. Over HTTP/2 a head that
        // does not end is in the way of every other request.
        let is_head_open = now.open_head != 0 && (activity.speaks_http2() || !activity.is_under_way());
        let is_same_head = is_head_open && now.open_head == before.open_head;
        let is_idle = !activity.is_under_way()
            && !activity.has_unsent()
            && (activity.speaks_http2() || !is_head_open)
            && (now.requests, now.taken, now.emptied) == (before.requests, before.taken, before.emptied);
        let longer = |time, is_longer| if is_longer { time + self.ticks.period() } else { Duration::ZERO };
        (self.in_head, self.idle) = (longer(self.in_head, is_same_head), longer(self.idle, is_idle));
        match () {
            () if self.in_head >= self.head_timeout => Verdict::HeadTimedOut,
            () if self.idle >= self.idle_timeout => Verdict::Idle,
            () => Verdict::Wait,
        }
    }

    /// Whether the client has taken answers more slowly than it may for as long as a connection may be idle.
    fn is_stalled(&mut self, activity: &Activity, now: Snapshot, is_scarce: bool) -> bool {
        let (waited, first) = match self.stalled {
            Some((waited, first)) if activity.has_unsent() && first.emptied == now.emptied => {
                (waited + self.ticks.period(), first)
            }
            _ => {
                self.stalled = activity.has_unsent().then_some((Duration::ZERO, now));
                return false;
            }
        };
        self.stalled = Some((waited, first));
        if waited < self.idle_timeout && !is_scarce {
            return false;
        }
        let taken = (now.taken - first.taken) as f64;
        let is_slow = taken < self.min_bytes_per_second * waited.as_secs_f64();
        self.stalled = Some((Duration::ZERO, now));
        is_slow
    }
}

/// Waits for what clients do with a connection that is about to end with the server.
struct Draining {
    ticks: Option<Interval>,
    quiet: Duration,
    before: Snapshot,
    has_gone_away: bool,
    /// So many bytes between two ticks are progress.
    min_bytes: f64,
}

enum Step {
    Wait,
    GoAway,
    /// Nothing more is waited for: what has begun and not come is refused, over HTTP/1.1.
    Refuse,
    End,
}

impl Draining {
    fn new(limits: BodyLimits) -> Self {
        let min_bytes = f64::from(limits.min_bytes_per_second) * DRAIN_TICK.as_secs_f64();
        Self { ticks: None, quiet: Duration::ZERO, before: Snapshot::default(), has_gone_away: false, min_bytes }
    }

    fn has_begun(&self) -> bool {
        self.ticks.is_some()
    }

    fn begin(&mut self) {
        let mut ticks = tokio::time::interval(DRAIN_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.ticks = Some(ticks);
    }

    async fn tick(&mut self) {
        match &mut self.ticks {
            Some(ticks) => drop(ticks.tick().await),
            None => std::future::pending().await,
        }
    }

    fn look(&mut self, activity: &Activity) -> Step {
        let (now, before) = (activity.snapshot(), std::mem::replace(&mut self.before, activity.snapshot()));
        if activity.speaks_http2() && !std::mem::replace(&mut self.has_gone_away, true) {
            return Step::GoAway; // again, if it was told before: that does nothing
        }
        let is_progress = |now: u64, before: u64| (now - before) as f64 >= self.min_bytes;
        let has_taken = activity.has_unsent() && is_progress(now.taken, before.taken);
        let has_sent = activity.is_awaiting_part() && is_progress(now.received, before.received);
        if activity.is_computing() || now.requests != before.requests || has_taken || has_sent {
            self.quiet = Duration::ZERO;
            return Step::Wait;
        }
        self.quiet += DRAIN_TICK;
        if self.quiet < DRAIN_PATIENCE {
            return Step::Wait;
        }
        if self.quiet < DRAIN_PATIENCE + PARTING_TIME && !activity.speaks_http2() {
            return Step::Refuse; // with a last look at what has come
        }
        Step::End
    }
}

/// Waits so long, or without end.
async fn after(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
