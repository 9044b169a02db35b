//! A queued request, and the channel for its answer.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::concatenate::join_answers;
use servable_model::call::{self, Call, Priority};
use servable_model::error::{Code, Result, ServingError};
use servable_model::tensor::Tensor;

/// The outputs of a batch for one request, or the error.
pub type Answer = Result<Vec<Tensor>>;

/// Why a request was not run with its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// The deadline had passed.
    Expired,
    /// The caller had cancelled the request.
    Cancelled,
}

/// The latest deadline that counts for the order of batches, after the arrival. It keeps requests with late deadlines
/// from starvation by others.
const IMPLIED_DEADLINE: Duration = Duration::from_secs(30);

/// A request, or a piece of one, that waits for its batch.
pub(super) struct Task {
    /// One tensor for each input of the queue. Dimension 0 of each is `rows`.
    pub(super) inputs: Vec<Tensor>,
    pub(super) rows: usize,
    pub(super) arrived: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) priority: Priority,
    reply: Reply,
    /// Set when the batch begins. Only a caller with a deadline reads it.
    has_begun: Option<Arc<AtomicBool>>,
}

impl Task {
    /// A task, and the ticket of its caller.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the inputs cannot be joined with others along dimension 0.
    pub(super) fn new(inputs: Vec<Tensor>, call: Call, now: Instant) -> Result<(Self, Ticket)> {
        let rows = common_rows(&inputs)?;
        let (sender, answer) = oneshot::channel();
        let has_begun = call.deadline.map(|_| Arc::default());
        let ticket = Ticket { answer, has_begun: has_begun.clone() };
        let Call { deadline, priority } = call;
        let task = Self { inputs, rows, arrived: now, deadline, priority, reply: Reply::Whole(sender), has_begun };
        Ok((task, ticket))
    }

    /// The deadline that orders batches: the explicit or the implied one, whichever is earlier.
    pub(super) fn due(&self) -> Instant {
        let implied = self.arrived + IMPLIED_DEADLINE;
        self.deadline.map_or(implied, |deadline| deadline.min(implied))
    }

    /// The rows that count towards the size of a batch. An empty request counts as one.
    pub(super) fn weight(&self) -> usize {
        self.rows.max(1)
    }

    /// Whether it is a piece of a split request.
    pub(super) fn is_piece(&self) -> bool {
        matches!(self.reply, Reply::Piece(..))
    }

    /// Whether the caller has gone away or the deadline has passed. A cancelled task is not run.
    pub(super) fn is_cancelled(&self, now: Instant) -> bool {
        self.reply.is_cancelled() || self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Splits the task into pieces, the first of at most `first` rows and the others of at most `size`. Their answers
    /// are joined into one.
    pub(super) fn split(mut self, first: usize, size: usize) -> Vec<Self> {
        let mut ends: Vec<usize> = (first..self.rows).step_by(size).filter(|&end| end > 0).collect();
        ends.push(self.rows);
        let Reply::Whole(reply) = self.reply else { unreachable!("a piece fits into a batch") };
        let gather = Arc::new(Gather(Mutex::new(Pieces {
            waiting: ends.len(),
            answers: ends.iter().map(|_| Vec::new()).collect(),
            reply: Some(reply),
        })));
        let mut start = 0;
        ends.into_iter()
            .enumerate()
            .map(|(index, end)| {
                let rows = std::mem::replace(&mut start, end)..end;
                Self {
                    inputs: self.inputs.iter_mut().map(|input| input.rows(rows.clone())).collect(),
                    rows: rows.len(),
                    arrived: self.arrived,
                    deadline: self.deadline,
                    priority: self.priority,
                    reply: Reply::Piece(Arc::clone(&gather), index),
                    has_begun: self.has_begun.clone(),
                }
            })
            .collect()
    }

    /// Marks the task as begun, unless it is cancelled. Answers a task whose deadline has passed.
    ///
    /// # Errors
    ///
    /// Why the task is not run.
    pub(super) fn begin(self, now: Instant) -> Result<Self, Dropped> {
        // First the deadline: a caller that goes away at its deadline counts as expired, not as cancelled.
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.answer(Err(expired()));
            return Err(Dropped::Expired);
        }
        if self.reply.is_cancelled() {
            return Err(Dropped::Cancelled);
        }
        if let Some(has_begun) = &self.has_begun {
            has_begun.store(true, Ordering::Release);
        }
        Ok(self)
    }

    /// Sends the answer, unless the caller has gone away.
    pub(super) fn answer(self, answer: Answer) {
        match self.reply {
            // The caller may have gone away in the meantime.
            Reply::Whole(sender) => drop(sender.send(answer)),
            Reply::Piece(gather, index) => gather.answer(index, answer),
        }
    }
}

/// The number of rows, the same in all inputs.
fn common_rows(inputs: &[Tensor]) -> Result<usize> {
    let Some(first) = inputs.first() else {
        return Err(ServingError::invalid_argument("Batching Run() must have at least one input tensor"));
    };
    if inputs.iter().any(|input| input.shape().is_empty()) {
        let text = "Batching Run() input tensors must have at least one dimension";
        return Err(ServingError::invalid_argument(text));
    }
    let rows = first.shape()[0];
    if inputs.iter().any(|input| input.shape()[0] != rows) {
        let text = "Batching Run() input tensors must have equal 0th-dimension size";
        return Err(ServingError::invalid_argument(text));
    }
    Ok(rows as usize)
}

/// The error for a request whose deadline passed while it waited in the queue.
pub fn expired() -> ServingError {
    ServingError::new(Code::ResourceExhausted, "Run() timeout exceeded while waiting in batching queue")
}

enum Reply {
    Whole(oneshot::Sender<Answer>),
    Piece(Arc<Gather>, usize),
}

impl Reply {
    fn is_cancelled(&self) -> bool {
        match self {
            Self::Whole(sender) => sender.is_closed(),
            Self::Piece(gather, _) => gather.pieces().reply.as_ref().is_none_or(oneshot::Sender::is_closed),
        }
    }
}

/// Collects the answers of the pieces of one request.
struct Gather(Mutex<Pieces>);

struct Pieces {
    waiting: usize,
    answers: Vec<Vec<Tensor>>,
    /// Taken with the first error, or with the last piece.
    reply: Option<oneshot::Sender<Answer>>,
}

impl Gather {
    fn pieces(&self) -> std::sync::MutexGuard<'_, Pieces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, index: usize, answer: Answer) {
        let mut pieces = self.pieces();
        if pieces.reply.is_none() {
            return; // a piece has failed, and that was the answer
        }
        pieces.waiting -= 1;
        let failed = answer.as_ref().err().cloned();
        pieces.answers[index] = answer.unwrap_or_default();
        if pieces.waiting > 0 && failed.is_none() {
            return;
        }
        let answers = std::mem::take(&mut pieces.answers);
        let reply = pieces.reply.take();
        drop(pieces);
        if let Some(reply) = reply {
            drop(reply.send(failed.map_or_else(|| join_answers(&answers), Err)));
        }
    }
}

/// A future of the answer. Dropping it cancels the request, if its batch has not begun.
///
/// It needs no async runtime, and wakes its task only when the answer is there. The answer to an expired request is
/// sent when a thread takes its batch; [`Ticket::until_deadline`] returns at the deadline itself.
#[must_use = "a request whose ticket is dropped is not run"]
pub struct Ticket {
    answer: oneshot::Receiver<Answer>,
    has_begun: Option<Arc<AtomicBool>>,
}

impl Ticket {
    /// Blocks this thread, which must not be one that drives futures.
    ///
    /// # Errors
    ///
    /// As the future.
    pub fn wait(self) -> Answer {
        self.answer.blocking_recv().unwrap_or_else(|_| Err(lost()))
    }

    /// Waits at most until the deadline of the call. Requires a tokio runtime with timers.
    ///
    /// # Errors
    ///
    /// As the future. At the deadline, `RESOURCE_EXHAUSTED` if the request was still queued, and `DEADLINE_EXCEEDED` if
    /// its batch was running.
    pub async fn until_deadline(mut self, call: Call) -> Answer {
        let Some(deadline) = call.deadline else { return self.await };
        match tokio::time::timeout_at(deadline.into(), &mut self).await {
            Ok(answer) => answer,
            Err(_) if self.has_begun.is_none_or(|begun| begun.load(Ordering::Acquire)) => Err(call::timed_out()),
            Err(_) => Err(expired()),
        }
    }
}

impl Future for Ticket {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or_else(|_| Err(lost())))
    }
}

/// The error for a request that was dropped without an answer. No path through a queue does that.
fn lost() -> ServingError {
    ServingError::internal("the batch ended without an answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_piece_that_fails_is_the_answer_and_those_after_it_change_nothing() {
        let (sender, receiver) = oneshot::channel();
        let pieces = Pieces { waiting: 4, answers: vec![Vec::new(); 4], reply: Some(sender) };
        let gather = Gather(Mutex::new(pieces));
        gather.answer(1, Ok(Vec::new()));
        gather.answer(0, Err(ServingError::internal("first")));
        gather.answer(3, Ok(Vec::new()));
        gather.answer(2, Err(ServingError::internal("second")));
        let answer = receiver.blocking_recv().expect("an answer");
        assert_eq!(answer.expect_err("a piece failed").text(), "first");
    }
}
