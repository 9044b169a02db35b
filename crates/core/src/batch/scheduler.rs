//! The threads that run batches, and the turns of the queues that share them.
//!
//! All queues of a scheduler are under one lock, which is held for a fraction of a microsecond: to find a request its
//! place, or a thread its batch. Tensors are joined, run, split and freed outside.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use slab::Slab;

use super::assemble;
use super::options::{BatchingOptions, PoolOptions};
use super::queue::{Batch, Waiting};
use super::task::{Task, Ticket};
use crate::call::Call;
use crate::error::{Code, Result, ServingError};
use crate::executor::RunOptions;
use crate::tensor::Tensor;

/// What is done with the batches of a queue.
///
/// Called from several threads at once, with one tensor for each input of the requests. The deadline is that of the most
/// patient caller. Every output has as many rows as the inputs; a panic costs the batch an `INTERNAL`.
pub trait RunBatch: Send + Sync + 'static {
    /// Runs one batch.
    ///
    /// # Errors
    ///
    /// What every caller of the batch gets.
    fn run(&self, inputs: Vec<Tensor>, options: &RunOptions) -> Result<Vec<Tensor>>;
}

impl<F: Fn(Vec<Tensor>, &RunOptions) -> Result<Vec<Tensor>> + Send + Sync + 'static> RunBatch for F {
    fn run(&self, inputs: Vec<Tensor>, options: &RunOptions) -> Result<Vec<Tensor>> {
        self(inputs, options)
    }
}

/// A pool of threads that run batches.
///
/// Dropping it runs what waits in its queues, and returns when the threads have ended.
pub struct Scheduler {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Scheduler {
    /// A scheduler without queues.
    ///
    /// # Errors
    ///
    /// If the system gives it no threads.
    pub fn new(options: &PoolOptions) -> io::Result<Self> {
        let mut scheduler = Self { shared: Arc::default(), threads: Vec::new() };
        for number in 0..options.num_batch_threads.max(1) {
            let shared = Arc::clone(&scheduler.shared);
            let name = format!("{}_{number}", options.thread_pool_name);
            scheduler.threads.push(std::thread::Builder::new().name(name).spawn(move || shared.serve())?);
        }
        Ok(scheduler)
    }

    /// A queue whose batches are run by `run`.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the options contradict each other.
    pub fn queue(&self, options: BatchingOptions, run: impl RunBatch) -> Result<Queue> {
        options.check()?;
        let options = Arc::new(options);
        let line = Line { waiting: Waiting::new(Arc::clone(&options)), run: Arc::new(run), options };
        let number = self.shared.state().lines.insert(line);
        Ok(Queue { shared: Arc::clone(&self.shared), number })
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_closing = true;
        state.lines.iter_mut().for_each(|(_, line)| line.waiting.close());
        drop(state);
        self.shared.work.notify_all();
        self.shared.clock.notify_all();
        let own = std::thread::current().id();
        // A thread of the pool that lets go of the pool cannot wait for itself.
        if self.threads.iter().all(|thread| thread.thread().id() != own) {
            for thread in self.threads.drain(..) {
                // Threads do not panic: what they run is caught.
                drop(thread.join());
            }
        }
    }
}

/// Requests that may share batches. Dropping it makes what waits in it ready at once.
pub struct Queue {
    shared: Arc<Shared>,
    number: usize,
}

impl Queue {
    /// Puts a request into the queue; never waits.
    ///
    /// `inputs` holds one tensor for each input of the batch function, always in the same order; dimension 0 of each is
    /// the batch.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the inputs have no common dimension 0 or are more rows than a batch takes; `UNAVAILABLE`
    /// if the queue is full or closed. The ticket says what came of the request later.
    pub fn submit(&self, inputs: Vec<Tensor>, call: Call) -> Result<Ticket> {
        let now = Instant::now();
        let (task, ticket) = Task::new(inputs, call, now)?;
        let mut state = self.shared.state();
        let wake = match state.submit(self.number, task, now) {
            Ok(wake) => wake,
            Err((error, task)) => {
                drop(state);
                drop(task);
                return Err(error);
            }
        };
        drop(state);
        self.shared.wake(wake);
        Ok(ticket)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.lines[self.number].waiting.close();
        let removed = state.remove_if_done(self.number);
        let wake = state.wake_for_rest(Instant::now());
        drop(state);
        drop(removed);
        self.shared.wake(wake);
    }
}

/// A queue as the threads see it.
struct Line {
    waiting: Waiting,
    options: Arc<BatchingOptions>,
    run: Arc<dyn RunBatch>,
}

/// A batch that a thread has taken.
struct Work {
    batch: Batch,
    options: Arc<BatchingOptions>,
    run: Arc<dyn RunBatch>,
}

/// Which thread has to look at the queues because of a change.
#[derive(Clone, Copy)]
enum Wake {
    Nobody,
    /// One that waits for work.
    Worker,
    /// The one that waits for a batch to have waited long enough.
    Timekeeper,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    clock: Condvar,
}

#[derive(Default)]
struct State {
    lines: Slab<Line>,
    /// The queues in which something waits, in the order of their turns.
    turns: VecDeque<usize>,
    /// Threads that wait for work, and how many of them have been woken since and have not come yet.
    idle: usize,
    woken: usize,
    /// Until when the one thread waits that keeps the time, if one does, and the number that it has drawn for that.
    timekeeper: Option<(Instant, u64)>,
    drawn: u64,
    is_closing: bool,
}

impl State {
    /// Finds a task its place, or gives it back.
    fn submit(&mut self, number: usize, task: Task, now: Instant) -> Result<Wake, (ServingError, Task)> {
        let line = &mut self.lines[number];
        if self.is_closing {
            return Err((ServingError::new(Code::Unavailable, "The batch scheduling queue is closed"), task));
        }
        let place = match line.waiting.admit(&task) {
            Ok(place) => place,
            Err(error) => return Err((error, task)),
        };
        if line.waiting.is_empty() {
            self.turns.push_back(number);
        }
        let began = line.waiting.insert(task, &place, now);
        Ok(if line.waiting.is_ready(now) {
            self.wake_worker()
        } else if began {
            let timeout = line.waiting.next_timeout();
            self.wake_to_watch(timeout)
        } else {
            Wake::Nobody
        })
    }

    /// Wakes a thread for a batch that is ready; those that are busy will look before they rest.
    fn wake_worker(&mut self) -> Wake {
        if self.idle > self.woken {
            self.woken += 1;
            Wake::Worker
        } else if self.timekeeper.take().is_some() {
            Wake::Timekeeper
        } else {
            Wake::Nobody
        }
    }

    /// Makes sure that some thread, unless all are busy, comes when a batch has waited until then.
    fn wake_to_watch(&mut self, timeout: Option<Instant>) -> Wake {
        match (self.timekeeper, timeout) {
            (Some((until, _)), Some(timeout)) if timeout < until => {
                self.timekeeper = None;
                Wake::Timekeeper
            }
            (None, Some(_)) => self.wake_worker(),
            _ => Wake::Nobody,
        }
    }

    /// The next batch in turn.
    fn take(&mut self, now: Instant) -> Option<(Work, Option<Line>)> {
        for turn in 0..self.turns.len() {
            let number = self.turns[turn];
            let line = &mut self.lines[number];
            let Some((batch, _)) = line.waiting.take(now) else { continue };
            let work = Work { batch, options: Arc::clone(&line.options), run: Arc::clone(&line.run) };
            self.turns.remove(turn);
            if !line.waiting.is_empty() {
                self.turns.push_back(number);
            }
            return Some((work, self.remove_if_done(number)));
        }
        None
    }

    /// Takes out a queue that is closed and empty, to be dropped outside the lock.
    fn remove_if_done(&mut self, number: usize) -> Option<Line> {
        let waiting = &self.lines[number].waiting;
        (waiting.is_closing() && waiting.is_empty() && !self.is_closing).then(|| self.lines.remove(number))
    }

    /// Who has to come for what is left when a thread goes off with a batch.
    fn wake_for_rest(&mut self, now: Instant) -> Wake {
        if self.turns.is_empty() {
            return Wake::Nobody;
        }
        if self.turns.iter().any(|&number| self.lines[number].waiting.is_ready(now)) {
            return self.wake_worker();
        }
        let timeout = self.next_timeout();
        self.wake_to_watch(timeout)
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.turns.iter().filter_map(|&number| self.lines[number].waiting.next_timeout()).min()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, wake: Wake) {
        match wake {
            Wake::Nobody => {}
            Wake::Worker => self.work.notify_one(),
            // By now another thread may have begun to keep the time; both are to look.
            Wake::Timekeeper => self.clock.notify_all(),
        }
    }

    /// Runs batches until the scheduler is dropped and nothing waits any more.
    fn serve(&self) {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            if let Some((work, removed)) = state.take(now) {
                let wake = state.wake_for_rest(now);
                drop(state);
                self.wake(wake);
                drop(removed);
                work.carry_out(now);
                state = self.state();
            } else if state.is_closing {
                return;
            } else {
                state = self.rest(state, now);
            }
        }
    }

    /// Waits until there may be work; the first thread to do so where batches wait for their time also keeps the time.
    fn rest<'a>(&'a self, mut state: MutexGuard<'a, State>, now: Instant) -> MutexGuard<'a, State> {
        let timeout = if state.timekeeper.is_none() { state.next_timeout() } else { None };
        if let Some(until) = timeout {
            state.drawn += 1;
            let own = Some((until, state.drawn));
            state.timekeeper = own;
            let waited = self.clock.wait_timeout(state, until.saturating_duration_since(now));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.timekeeper == own {
                state.timekeeper = None;
            }
        } else {
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            state.woken = state.woken.saturating_sub(1);
        }
        state
    }
}

impl Work {
    /// Runs the batch and answers each of its requests.
    fn carry_out(self, now: Instant) {
        let mut tasks: Vec<Task> = self.batch.tasks.into_iter().filter_map(|task| task.if_wanted(now)).collect();
        if tasks.is_empty() {
            return;
        }
        let rows: Vec<usize> = tasks.iter().map(|task| task.rows).collect();
        let padded = self.options.padded_size(rows.iter().sum());
        let deadlines = tasks.iter().map(|task| task.deadline);
        let deadline = deadlines.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten();
        let outputs = catch_unwind(AssertUnwindSafe(|| {
            let inputs = assemble::join_inputs(&mut tasks, padded);
            let outputs = self.run.run(inputs, &RunOptions { deadline })?;
            assemble::split_outputs(outputs, &rows, padded)
        }));
        match outputs.unwrap_or_else(|panic| Err(panicked(&*panic))) {
            Ok(answers) => tasks.into_iter().zip(answers).for_each(|(task, answer)| task.answer(Ok(answer))),
            Err(error) => tasks.into_iter().for_each(|task| task.answer(Err(error.clone()))),
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> ServingError {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    ServingError::internal(format!("the batch function panicked: {}", text.unwrap_or("no message")))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::batch::Answer;
    use crate::batch::testing::{numbers, text};

    fn scheduler(threads: usize) -> Scheduler {
        let options = PoolOptions { num_batch_threads: threads, ..PoolOptions::default() };
        Scheduler::new(&options).expect("threads")
    }

    fn row(value: i64) -> Vec<Tensor> {
        vec![numbers(&[1], &[value])]
    }

    fn texts(answer: Answer) -> Result<Vec<String>, String> {
        answer.map(|outputs| outputs.iter().map(text).collect()).map_err(|error| error.to_string())
    }

    /// A batch function that tells which rows it was given, and waits to be told to go on.
    struct Stepped {
        begun: mpsc::Receiver<String>,
        go_on: mpsc::Sender<()>,
    }

    fn stepped() -> (Stepped, impl RunBatch) {
        let (tell, begun) = mpsc::channel();
        let (go_on, wait) = mpsc::channel();
        let wait = Mutex::new(wait);
        let run = move |inputs: Vec<Tensor>, _: &RunOptions| {
            tell.send(text(&inputs[0])).expect("the test listens");
            wait.lock().expect("no test panics here").recv().expect("the test says when");
            Ok(inputs)
        };
        (Stepped { begun, go_on }, run)
    }

    impl Stepped {
        fn next(&self) -> String {
            self.begun.recv_timeout(Duration::from_secs(10)).expect("a batch is run")
        }

        fn go_on(&self) {
            self.go_on.send(()).expect("the batch waits");
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is a batch function")]
    fn echo(inputs: Vec<Tensor>, _: &RunOptions) -> Result<Vec<Tensor>> {
        Ok(inputs)
    }

    #[test]
    fn batches_form_while_the_threads_are_busy_and_answers_go_to_their_callers() {
        let (steps, run) = stepped();
        let scheduler = scheduler(1);
        let queue = scheduler.queue(BatchingOptions::default(), run).expect("a queue");
        let first = queue.submit(row(1), Call::default()).expect("there is room");
        assert_eq!(steps.next(), "[1] 1");
        let others: Vec<Ticket> =
            (2..5).map(|value| queue.submit(row(value), Call::default()).expect("there is room")).collect();
        steps.go_on();
        assert_eq!(texts(first.wait()), Ok(vec!["[1] 1".to_owned()]));
        assert_eq!(steps.next(), "[3] 2 3 4");
        steps.go_on();
        let answers: Vec<_> = others.into_iter().map(|ticket| texts(ticket.wait())).collect();
        assert_eq!(answers, [2, 3, 4].map(|value| Ok(vec![format!("[1] {value}")])));
    }

    #[test]
    fn an_idle_thread_comes_when_a_batch_has_waited_long_enough() {
        let scheduler = scheduler(2);
        let slow = BatchingOptions { batch_timeout_micros: 60_000_000, ..BatchingOptions::default() };
        let quick = BatchingOptions { batch_timeout_micros: 20_000, ..BatchingOptions::default() };
        let slow = scheduler.queue(slow, echo).expect("a queue");
        let quick = scheduler.queue(quick, echo).expect("a queue");
        let patient = slow.submit(row(1), Call::default()).expect("there is room");
        let start = Instant::now();
        let ticket = quick.submit(row(2), Call::default()).expect("there is room");
        assert_eq!(texts(ticket.wait()), Ok(vec!["[1] 2".to_owned()]));
        assert!((Duration::from_millis(20)..Duration::from_secs(30)).contains(&start.elapsed()));
        drop(slow);
        assert_eq!(texts(patient.wait()), Ok(vec!["[1] 1".to_owned()]), "closing a queue answers what waits in it");
    }

    #[test]
    fn queues_take_turns() {
        let (steps, run) = stepped();
        let scheduler = scheduler(1);
        let run: Arc<dyn RunBatch> = Arc::new(run);
        let queue = || {
            let run = Arc::clone(&run);
            let options = BatchingOptions { max_batch_size: 1, ..BatchingOptions::default() };
            scheduler.queue(options, move |inputs: Vec<Tensor>, options: &RunOptions| run.run(inputs, options))
        };
        let (busy, calm) = (queue().expect("a queue"), queue().expect("a queue"));
        let mut tickets = Vec::new();
        for value in 0..4 {
            tickets.push(busy.submit(row(value), Call::default()).expect("there is room"));
        }
        assert_eq!(steps.next(), "[1] 0");
        tickets.push(calm.submit(row(100), Call::default()).expect("there is room"));
        let mut order = Vec::new();
        for _ in 0..4 {
            steps.go_on();
            order.push(steps.next());
        }
        steps.go_on();
        assert_eq!(order, ["[1] 1", "[1] 100", "[1] 2", "[1] 3"]);
    }

    #[test]
    fn requests_that_nobody_waits_for_are_not_run() {
        let (steps, run) = stepped();
        let scheduler = scheduler(1);
        let queue = scheduler.queue(BatchingOptions::default(), run).expect("a queue");
        let first = queue.submit(row(1), Call::default()).expect("there is room");
        assert_eq!(steps.next(), "[1] 1");
        let soon = Call::until(Some(Instant::now() + Duration::from_millis(5)));
        let late = queue.submit(row(2), soon).expect("there is room");
        drop(queue.submit(row(3), Call::default()).expect("there is room"));
        let last = queue.submit(row(4), Call::default()).expect("there is room");
        while soon.check().is_ok() {
            std::thread::yield_now();
        }
        steps.go_on();
        assert_eq!(steps.next(), "[1] 4");
        steps.go_on();
        assert!(first.wait().is_ok());
        assert!(last.wait().is_ok());
        assert_eq!(
            texts(late.wait()),
            Err("RESOURCE_EXHAUSTED: Run() timeout exceeded while waiting in batching queue".to_owned())
        );
    }

    #[tokio::test]
    async fn a_caller_hears_at_its_deadline_where_its_request_was() {
        let (steps, run) = stepped();
        let scheduler = scheduler(1);
        let queue = scheduler.queue(BatchingOptions::default(), run).expect("a queue");
        let soon = || Call::until(Some(Instant::now() + Duration::from_millis(50)));
        let (running, waiting) = (soon(), soon());
        let first = queue.submit(row(1), running).expect("there is room");
        steps.next();
        let second = queue.submit(row(2), waiting).expect("there is room");
        let (first, second) = (first.until_deadline(running).await, second.until_deadline(waiting).await);
        assert_eq!(first.expect_err("it takes too long").code, Code::DeadlineExceeded);
        assert_eq!(second.expect_err("it waits too long").code, Code::ResourceExhausted);
        steps.go_on();
    }

    #[test]
    fn an_error_and_a_panic_cost_their_batch_and_nothing_else() {
        let scheduler = scheduler(2);
        let run = |inputs: Vec<Tensor>, _: &RunOptions| match text(&inputs[0]).as_str() {
            "[1] 13" => Err(ServingError::invalid_argument("unlucky")),
            "[1] 17" => panic!("told to"),
            _ => Ok(inputs),
        };
        let options = BatchingOptions { max_batch_size: 1, ..BatchingOptions::default() };
        let queue = scheduler.queue(options, run).expect("a queue");
        let tickets = [13, 1, 17, 2].map(|value| queue.submit(row(value), Call::default()).expect("there is room"));
        assert_eq!(
            tickets.map(|ticket| texts(ticket.wait())),
            [
                Err("INVALID_ARGUMENT: unlucky".to_owned()),
                Ok(vec!["[1] 1".to_owned()]),
                Err("INTERNAL: the batch function panicked: told to".to_owned()),
                Ok(vec!["[1] 2".to_owned()]),
            ]
        );
    }

    #[test]
    fn the_pieces_of_a_request_come_back_as_one_answer_or_one_error() {
        let scheduler = scheduler(2);
        let run = |inputs: Vec<Tensor>, _: &RunOptions| {
            if text(&inputs[0]).contains("13") { Err(ServingError::invalid_argument("unlucky")) } else { Ok(inputs) }
        };
        let options = BatchingOptions {
            max_batch_size: 100,
            enable_large_batch_splitting: true,
            max_execution_batch_size: Some(3),
            ..BatchingOptions::default()
        };
        let queue = scheduler.queue(options, run).expect("a queue");
        let ask = |values: &[i64]| {
            let inputs = vec![numbers(&[values.len() as i64], values)];
            texts(queue.submit(inputs, Call::default()).expect("there is room").wait())
        };
        assert_eq!(ask(&[1, 2, 3, 4, 5, 6, 7, 8]), Ok(vec!["[8] 1 2 3 4 5 6 7 8".to_owned()]));
        assert_eq!(ask(&[1, 2, 3, 4, 5, 6, 7, 13]), Err("INVALID_ARGUMENT: unlucky".to_owned()));
    }

    #[test]
    fn inputs_without_a_common_batch_dimension_are_refused() {
        let scheduler = scheduler(1);
        let queue = scheduler.queue(BatchingOptions::default(), echo).expect("a queue");
        for (inputs, expected) in [
            (vec![], "Batching Run() must have at least one input tensor"),
            (vec![numbers(&[], &[1])], "Batching Run() input tensors must have at least one dimension"),
            (
                vec![numbers(&[1], &[1]), numbers(&[2], &[1, 2])],
                "Batching Run() input tensors must have equal 0th-dimension size",
            ),
        ] {
            let refused = queue.submit(inputs, Call::default()).err().map(|error| error.to_string());
            assert_eq!(refused, Some(format!("INVALID_ARGUMENT: {expected}")));
        }
    }

    #[test]
    fn a_scheduler_that_is_dropped_answers_everybody() {
        let scheduler = scheduler(2);
        let options = BatchingOptions { batch_timeout_micros: 60_000_000, ..BatchingOptions::default() };
        let queue = scheduler.queue(options, echo).expect("a queue");
        let waiting = queue.submit(row(1), Call::default()).expect("there is room");
        drop(scheduler);
        assert_eq!(texts(waiting.wait()), Ok(vec!["[1] 1".to_owned()]));
        let refused = queue.submit(row(2), Call::default()).err().map(|error| error.code);
        assert_eq!(refused, Some(Code::Unavailable));
    }
}
