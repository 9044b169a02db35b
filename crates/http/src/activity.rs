//! The activity of a connection: counters from which idle and stalled connections are recognised.

mod http1;
mod http2;
mod inbound;
mod piece;
mod refusal;
mod stream;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::body_memory::Claim;
pub use piece::Of;
pub use piece::Piece;
pub use stream::{PARTING_TIME, Stream, Transport};

/// The counters of a connection, shared by its stream, its requests and its time-outs.
#[derive(Debug, Default)]
pub struct Activity {
    /// Requests that have started.
    requests: AtomicU64,
    /// Requests without an answer.
    under_way: AtomicU64,
    /// Requests that wait for the next part of their body.
    awaiting_parts: AtomicU64,
    /// Answers that are not completely written, and their bytes.
    unsent: AtomicU64,
    unsent_bytes: AtomicU64,
    /// The number of times that `unsent` has returned to zero.
    emptied: AtomicU64,
    /// Bytes of answers that have been written: not those of pings and settings.
    taken: AtomicU64,
    /// Bytes that have been read.
    received: AtomicU64,
    /// The number of the incomplete head; 0 if there is none.
    open_head: AtomicU64,
    speaks_http2: AtomicBool,
    /// Whether answers over HTTP/1.1 close the connection.
    winds_down: AtomicBool,
    /// Whether the stream ends when nothing is left to read.
    ends_when_quiet: AtomicBool,
    /// Whether the incomplete head is refused.
    ends_head: AtomicBool,
    /// Notified when waits for parts of requests end.
    ends_parts: Notify,
    /// Whether unread data of the client is discarded.
    is_abandoned: AtomicBool,
    /// Notified when answers have been written and requests wait for that.
    has_room: Notify,
    /// Whether the client has closed its side, and the task to wake once all its requests are answered.
    has_closed_side: AtomicBool,
    waits_for_answers: Mutex<Option<Waker>>,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Requests that have started.
    pub requests: u64,
    /// Bytes of answers that have been written.
    pub taken: u64,
    /// Bytes that have been read.
    pub received: u64,
    /// The number of times that all answers were completely written.
    pub emptied: u64,
    /// The number of the incomplete head; 0 if there is none.
    pub open_head: u64,
}

impl Activity {
    /// The current counters.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            requests: self.requests.load(Ordering::Relaxed),
            taken: self.taken.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            emptied: self.emptied.load(Ordering::Relaxed),
            open_head: self.open_head.load(Ordering::Relaxed),
        }
    }

    /// Whether the preface of HTTP/2 has been read.
    pub fn speaks_http2(&self) -> bool {
        self.speaks_http2.load(Ordering::Relaxed)
    }

    /// Whether a request is without an answer.
    pub fn is_under_way(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// Whether a request is being computed: it has no answer, and does not wait for its next part.
    pub fn is_computing(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > self.awaiting_parts.load(Ordering::Relaxed)
    }

    /// Whether the client has to send the next part of a request.
    pub fn is_awaiting_part(&self) -> bool {
        self.awaiting_parts.load(Ordering::Relaxed) > 0
    }

    /// Whether the client has to take an answer.
    pub fn has_unsent(&self) -> bool {
        self.unsent.load(Ordering::Relaxed) > 0
    }

    /// Whether there is neither a request nor an unsent answer.
    pub fn is_between_requests(&self) -> bool {
        !self.is_under_way() && !self.has_unsent() && self.open_head.load(Ordering::Relaxed) == 0
    }

    /// Makes the next answer over HTTP/1.1 the last one.
    pub fn wind_down(&self) {
        self.winds_down.store(true, Ordering::Relaxed);
    }

    /// Whether the next answer over HTTP/1.1 closes the connection.
    pub fn winds_down(&self) -> bool {
        self.winds_down.load(Ordering::Relaxed)
    }

    /// Ends the stream at the next read at which there are neither data nor requests in progress.
    ///
    /// hyper would close a connection of HTTP/1.1 without reading data that has arrived.
    pub fn end_when_quiet(&self) {
        self.ends_when_quiet.store(true, Ordering::Relaxed);
    }

    /// Refuses the incomplete head of HTTP/1.1 at the next read, because it took too long.
    pub fn end_head(&self) {
        self.ends_head.store(true, Ordering::Relaxed);
    }

    /// Ends every wait for the next part of a request.
    pub fn end_parts(&self) {
        self.ends_parts.notify_waiters();
    }

    /// Completes when waits for parts are ended.
    pub fn parts_ended(&self) -> Notified<'_> {
        self.ends_parts.notified()
    }

    /// Discards data that the client has not read when the connection is dropped.
    pub fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
    }

    /// Counts a request from its head until the result is dropped.
    pub fn begin_request(self: &Arc<Self>) -> UnderWay {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay { activity: Arc::clone(self), unsent_bytes: None, claim: None }
    }

    /// Counts a wait for the next part of a request until the result is dropped.
    pub fn await_part(&self) -> AwaitingPart<'_> {
        self.awaiting_parts.fetch_add(1, Ordering::Relaxed);
        AwaitingPart(self)
    }

    /// Whether a request of HTTP/1.1 is being answered.
    fn is_answering(&self) -> bool {
        self.is_under_way() && !self.speaks_http2()
    }

    fn wake_half_closed(&self) {
        if self.has_closed_side.load(Ordering::Relaxed) {
            let waiting = self.waits_for_answers.lock().unwrap_or_else(PoisonError::into_inner).take();
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// A wait for the next part of a request.
pub struct AwaitingPart<'a>(&'a Activity);

impl Drop for AwaitingPart<'_> {
    fn drop(&mut self) {
        self.0.awaiting_parts.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request in progress, and then its answer until it is written.
#[derive(Debug)]
pub struct UnderWay {
    activity: Arc<Activity>,
    /// The size of the answer, once there is one.
    unsent_bytes: Option<u64>,
    /// The memory of the answer.
    claim: Option<Claim>,
}

impl UnderWay {
    /// Back-pressure: waits while the client has not read `most` bytes of earlier answers.
    pub async fn room(&self, most: u64) {
        while self.activity.unsent_bytes.load(Ordering::Relaxed) >= most {
            let notified = self.activity.has_room.notified();
            if self.activity.unsent_bytes.load(Ordering::SeqCst) >= most {
                // A request that waits does not count as in progress.
                self.activity.under_way.fetch_sub(1, Ordering::Relaxed);
                let _returns = Returns(&self.activity.under_way);
                notified.await;
            }
        }
    }

    /// Turns the request into an answer of `bytes` bytes.
    pub fn begin_to_send(&mut self, bytes: u64, claim: Option<Claim>) {
        self.activity.unsent.fetch_add(1, Ordering::Relaxed);
        self.activity.unsent_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.activity.under_way.fetch_sub(1, Ordering::Relaxed);
        (self.unsent_bytes, self.claim) = (Some(bytes), claim);
        self.activity.wake_half_closed();
    }

    /// The connection's counters.
    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

/// Restores the count, even if the wait is cancelled.
struct Returns<'a>(&'a AtomicU64);

impl Drop for Returns<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Some(bytes) = self.unsent_bytes else {
            self.activity.under_way.fetch_sub(1, Ordering::Relaxed);
            self.activity.wake_half_closed();
            return;
        };
        self.activity.unsent_bytes.fetch_sub(bytes, Ordering::SeqCst);
        if self.activity.unsent.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.activity.emptied.fetch_add(1, Ordering::Relaxed);
        }
        if bytes > 0 {
            self.activity.has_room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::{Buf, Bytes};

    use super::*;

    #[test]
    fn a_request_is_under_way_until_its_answer_is_there_and_unsent_until_that_is_written() {
        let activity = Arc::new(Activity::default());
        assert!(activity.is_between_requests());
        let mut request = activity.begin_request();
        assert!(activity.is_computing());
        let part = activity.await_part();
        assert!(!activity.is_computing() && activity.is_awaiting_part() && activity.is_under_way());
        drop(part);
        assert!(activity.is_computing());
        request.begin_to_send(5, None);
        assert!(!activity.is_under_way() && activity.has_unsent());
        let mut piece = Piece::new(Bytes::from_static(b"hello"), Of::End(request));
        piece.advance(3);
        assert!(activity.has_unsent());
        assert_eq!(piece.copy_to_bytes(2), "lo");
        drop(piece);
        assert!(activity.is_between_requests());
        assert_eq!(activity.snapshot(), Snapshot { requests: 1, taken: 5, emptied: 1, ..Snapshot::default() });
    }

    #[tokio::test]
    async fn requests_wait_while_the_client_has_much_to_take() {
        let activity = Arc::new(Activity::default());
        let mut held = activity.begin_request();
        held.begin_to_send(10, None);
        let next = activity.begin_request();
        next.room(11).await;
        let waits = tokio::time::timeout(Duration::from_millis(10), next.room(10)).await;
        assert!(waits.is_err());
        assert!(activity.is_under_way(), "it is counted again");
        let ((), ()) = tokio::join!(next.room(10), async { drop(held) });
    }
}
