//! Time-outs of connections that are idle, slow or stalled, and of clients of a draining server.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};

use super::ListenOptions;
use crate::activity::{Activity, PARTING_TIME, Snapshot};
use crate::body::BodyLimits;

/// The time that a draining server waits for a client: for its next request over HTTP/1.1, which cannot announce the
/// end, for the rest of a request, or until it reads an answer.
pub(super) const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// The period of checks by a draining server.
const DRAIN_TICK: Duration = Duration::from_millis(250);

/// The number of checks within the shortest time-out of a connection, and the longest time between two.
const TICKS: u32 = 4;
const LONGEST_TICK: Duration = Duration::from_secs(5);

/// Detects a connection without progress.
pub(super) struct Patience {
    ticks: Interval,
    /// The time without activity, and the time for which the same head has been incomplete.
    idle: Duration,
    in_head: Duration,
    before: Snapshot,
    /// The time for which answers have been unread, and the counters at its start.
    stalled: Option<(Duration, Snapshot)>,
    head_timeout: Duration,
    idle_timeout: Duration,
    min_bytes_per_second: f64,
}

pub(super) enum Verdict {
    Wait,
    HeadTimedOut,
    Idle,
    Stalled,
}

impl Patience {
    pub(super) fn new(options: &ListenOptions) -> Self {
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

    pub(super) async fn tick(&mut self) {
        self.ticks.tick().await;
    }

    /// The action after a tick. If memory is scarce, slow clients are disconnected before the idle time-out.
    pub(super) fn look(&mut self, activity: &Activity, is_scarce: bool) -> Verdict {
        let (now, before) = (activity.snapshot(), self.before);
        self.before = now;
        if self.is_stalled(activity, now, is_scarce) {
            return Verdict::Stalled;
        }
        // Over HTTP/1.1 the next head may arrive during a request, and is not read then. Over HTTP/2 an incomplete head
        // blocks all other requests.
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

    /// Whether the client has read answers too slowly for the whole idle time-out.
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

/// Decides how a connection ends while the server drains.
pub(super) struct Draining {
    ticks: Option<Interval>,
    quiet: Duration,
    before: Snapshot,
    has_gone_away: bool,
    /// This many bytes between two ticks are progress.
    min_bytes: f64,
}

pub(super) enum Step {
    Wait,
    GoAway,
    /// Stop waiting. Over HTTP/1.1, incomplete requests are refused.
    Refuse,
    End,
}

impl Draining {
    pub(super) fn new(limits: BodyLimits) -> Self {
        let min_bytes = f64::from(limits.min_bytes_per_second) * DRAIN_TICK.as_secs_f64();
        Self { ticks: None, quiet: Duration::ZERO, before: Snapshot::default(), has_gone_away: false, min_bytes }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.ticks.is_some()
    }

    pub(super) fn begin(&mut self) {
        let mut ticks = tokio::time::interval(DRAIN_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.ticks = Some(ticks);
    }

    pub(super) async fn tick(&mut self) {
        match &mut self.ticks {
            Some(ticks) => drop(ticks.tick().await),
            None => std::future::pending().await,
        }
    }

    pub(super) fn look(&mut self, activity: &Activity) -> Step {
        let (now, before) = (activity.snapshot(), std::mem::replace(&mut self.before, activity.snapshot()));
        if activity.speaks_http2() && !std::mem::replace(&mut self.has_gone_away, true) {
            return Step::GoAway; // repeating it has no effect
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
            return Step::Refuse; // reads data that has arrived once more
        }
        Step::End
    }
}
