//! The batch scheduler for Python functions: `BatchThreads`, its queues, and the two ways to wait for an answer.
//!
//! A thread whose call can begin at once runs the batch itself. It holds the interpreter already, and a hand-over to
//! another thread and back costs more than many functions. A waiting thread is parked and woken without the
//! interpreter; an event loop is notified through a socket. So batch threads take the interpreter once a batch, and not
//! for answers.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyException, PyOSError};
use pyo3::prelude::*;
use pyo3::types::PyList;
use servable_batch::{Answer, Queue, RunBatch, Scheduler, Ticket};
use servable_model::call::{Call, Priority};
use servable_model::error::{Code, Result, ServingError};
use servable_model::executor::RunOptions;
use servable_model::tensor::{DType, Tensor};

use crate::buffers::{self, Sent};
use crate::errors;
use crate::options::{BatchingParameters, seconds};

/// The interval at which a waiting thread checks for signals, which only the main thread of Python handles.
const SIGNALS: Duration = Duration::from_millis(50);

/// A thread pool that runs batches, until it is closed.
#[pyclass(name = "BatchThreads", module = "servable._core", frozen)]
pub(crate) struct PyBatchThreads {
    scheduler: Mutex<Option<Arc<Scheduler>>>,
    /// The id of the process that has the threads. A process that is forked from it has none.
    process: u32,
}

#[pymethods]
impl PyBatchThreads {
    #[new]
    fn new(parameters: BatchingParameters) -> PyResult<Self> {
        let scheduler = Scheduler::new(&parameters.pool())
            .map_err(|error| PyOSError::new_err(format!("no threads for batches: {error}")))?;
        Ok(Self { scheduler: Mutex::new(Some(Arc::new(scheduler))), process: std::process::id() })
    }

    #[pyo3(signature = (parameters, run, is_repeatable=false))]
    fn queue(
        &self,
        py: Python<'_>,
        parameters: BatchingParameters,
        run: Py<PyAny>,
        is_repeatable: bool,
    ) -> PyResult<PyBatchQueue> {
        let queue = self.scheduler();
        let run = PythonBatch { run, is_repeatable };
        let queue = queue.and_then(|scheduler| scheduler.queue(parameters.into(), run));
        Ok(PyBatchQueue { queue: queue.map_err(|error| errors::to_python(py, &error))? })
    }

    fn close(&self, py: Python<'_>) {
        let scheduler = lock(&self.scheduler).take();
        self.release(py, scheduler);
    }
}

impl PyBatchThreads {
    /// The scheduler, for queues of any kind.
    pub(crate) fn scheduler(&self) -> Result<Arc<Scheduler>> {
        let closed = || ServingError::new(Code::Unavailable, "the batch threads are closed");
        lock(&self.scheduler).clone().ok_or_else(closed)
    }

    fn release(&self, py: Python<'_>, scheduler: Option<Arc<Scheduler>>) {
        if self.process != std::process::id() {
            // The threads do not exist in this process, and cannot be joined.
            std::mem::forget(scheduler);
            return;
        }
        // Dropping it joins its threads, which need the interpreter for the remaining batches.
        py.detach(|| drop(scheduler));
    }
}

impl Drop for PyBatchThreads {
    fn drop(&mut self) {
        let scheduler = self.scheduler.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if scheduler.is_some() {
            Python::attach(|py| self.release(py, scheduler));
        }
    }
}

thread_local! {
    /// The `KeyboardInterrupt` or `SystemExit` that has ended a run on this thread. It is raised in the caller that
    /// runs the batch. For the other callers the run has failed.
    static INTERRUPT: Cell<Option<PyErr>> = const { Cell::new(None) };
}

/// Runs the batches of a queue in Python.
struct PythonBatch {
    run: Py<PyAny>,
    /// Whether the author says that a call may be repeated.
    is_repeatable: bool,
}

impl RunBatch for PythonBatch {
    fn run(&self, inputs: Vec<Tensor>, options: &RunOptions) -> Result<Vec<Tensor>> {
        let timeout = options.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()).as_secs_f64());
        let run = |py: Python<'_>| -> PyResult<Vec<Tensor>> {
            let returned = self.run.bind(py).call1((lend(py, inputs)?, timeout))?;
            tensors(returned.extract()?)
        };
        let failed = |py: Python<'_>, error: PyErr| {
            let answer = errors::from_python(py, &error);
            if !error.is_instance_of::<PyException>(py) {
                INTERRUPT.set(Some(error));
            }
            answer
        };
        Python::try_attach(|py| run(py).map_err(|error| failed(py, error)))
            .unwrap_or_else(|| Err(ServingError::new(Code::Unavailable, "the interpreter is shutting down")))
    }

    fn is_repeatable(&self) -> bool {
        self.is_repeatable
    }
}

/// Calls that may share batches.
#[pyclass(name = "BatchQueue", module = "servable._core", frozen)]
pub(crate) struct PyBatchQueue {
    queue: Queue,
}

#[pymethods]
impl PyBatchQueue {
    fn run<'py>(
        &self,
        py: Python<'py>,
        inputs: Vec<Sent<'py>>,
        timeout_seconds: Option<f64>,
        priority: &str,
    ) -> PyResult<Bound<'py, PyList>> {
        let timeout = timeout_seconds.map(seconds).transpose()?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let call = Call::until(deadline).with_priority(named(py, priority)?);
        let inputs = tensors(inputs)?;
        // A caller with a deadline must be able to return at that time, so it leaves the batch to a worker thread.
        let (ticket, lead) = if deadline.is_none() {
            self.queue.submit_or_lead(inputs, call)
        } else {
            self.queue.submit(inputs, call).map(|ticket| (ticket, None))
        }
        .map_err(|error| errors::to_python(py, &error))?;
        if let Some(lead) = lead {
            INTERRUPT.take();
            lead.run();
            if let Some(interrupt) = INTERRUPT.take() {
                return Err(interrupt);
            }
        }
        let answer = wait(py, ticket, deadline)?;
        // A deadline gives one error, whether the caller or the thread of the batch finds that it has passed.
        lend_answer(py, answer.map_err(|error| if error == servable_batch::expired() { late() } else { error }))
    }

    fn submit(
        &self,
        py: Python<'_>,
        inputs: Vec<Sent<'_>>,
        completions: &PyCompletions,
        number: u64,
        priority: &str,
    ) -> PyResult<PyBatchTicket> {
        let call = Call::default().with_priority(named(py, priority)?);
        let ticket = self.queue.submit(tensors(inputs)?, call);
        let mut ticket = ticket.map_err(|error| errors::to_python(py, &error))?;
        let waker = Waker::from(Arc::new(Notice { completed: Arc::clone(&completions.completed), number }));
        let state = match Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => Pending::Waiting(ticket),
            Poll::Ready(answer) => {
                waker.wake();
                Pending::Answered(answer)
            }
        };
        Ok(PyBatchTicket { state: Mutex::new(Some(state)) })
    }
}

/// Waits on the calling thread, without the interpreter except to check for signals at intervals.
fn wait(py: Python<'_>, mut ticket: Ticket, deadline: Option<Instant>) -> PyResult<Answer> {
    // A batch that the caller has run itself has answered it already.
    if let Poll::Ready(answer) = Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop())) {
        return Ok(answer);
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        let now = Instant::now();
        let look = now + SIGNALS;
        let until = deadline.map_or(look, |deadline| deadline.min(look));
        let answer = py.detach(|| {
            loop {
                if let Poll::Ready(answer) = Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)) {
                    return Some(answer);
                }
                match until.checked_duration_since(Instant::now()) {
                    Some(rest) if !rest.is_zero() => std::thread::park_timeout(rest),
                    _ => return None,
                }
            }
        });
        if let Some(answer) = answer {
            return Ok(answer);
        }
        if until < look {
            return Ok(Err(late()));
        }
        py.check_signals()?;
    }
}

/// The error for a call whose deadline has passed.
fn late() -> ServingError {
    ServingError::new(Code::DeadlineExceeded, "no answer within the time that was given")
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A call of an event loop. Dropping it cancels the call, if that has not begun to run.
#[pyclass(name = "BatchTicket", module = "servable._core", frozen)]
pub(crate) struct PyBatchTicket {
    state: Mutex<Option<Pending>>,
}

enum Pending {
    Waiting(Ticket),
    Answered(Answer),
}

#[pymethods]
impl PyBatchTicket {
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let answer = match lock(&self.state).take() {
            Some(Pending::Answered(answer)) => Some(answer),
            Some(Pending::Waiting(mut ticket)) => {
                match Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(answer) => Some(answer),
                    Poll::Pending => None,
                }
            }
            None => None,
        };
        lend_answer(py, answer.unwrap_or_else(|| Err(ServingError::internal("there is no answer"))))
    }
}

/// Notifies an event loop of the calls that have an answer.
#[pyclass(name = "Completions", module = "servable._core", frozen)]
pub(crate) struct PyCompletions {
    completed: Arc<Completed>,
    readable: UnixStream,
}

struct Completed {
    numbers: Mutex<Vec<u64>>,
    writable: UnixStream,
}

#[pymethods]
impl PyCompletions {
    #[new]
    fn new() -> PyResult<Self> {
        let (readable, writable) = UnixStream::pair()?;
        readable.set_nonblocking(true)?;
        writable.set_nonblocking(true)?;
        Ok(Self { completed: Arc::new(Completed { numbers: Mutex::default(), writable }), readable })
    }

    fn fileno(&self) -> i32 {
        self.readable.as_raw_fd()
    }

    fn take(&self) -> Vec<u64> {
        let mut signs = [0; 64];
        // Completions after this read are announced again.
        while matches!((&self.readable).read(&mut signs), Ok(read) if read == signs.len()) {}
        std::mem::take(&mut *lock(&self.completed.numbers))
    }
}

struct Notice {
    completed: Arc<Completed>,
    number: u64,
}

impl Wake for Notice {
    fn wake(self: Arc<Self>) {
        let mut numbers = lock(&self.completed.numbers);
        numbers.push(self.number);
        if numbers.len() == 1 {
            // The write fails if the socket is closed or full. In the latter case it is readable anyway.
            drop((&self.completed.writable).write(&[0]));
        }
    }
}

/// The priority with this name.
fn named(py: Python<'_>, priority: &str) -> PyResult<Priority> {
    Priority::from_name(priority, "priority").map_err(|error| errors::to_python(py, &error))
}

fn tensors(sent: Vec<Sent<'_>>) -> PyResult<Vec<Tensor>> {
    sent.into_iter().map(|(dtype, shape, elements)| buffers::copy(&elements, DType(dtype), shape)).collect()
}

fn lend(py: Python<'_>, tensors: Vec<Tensor>) -> PyResult<Bound<'_, PyList>> {
    let lent: Vec<_> = tensors.into_iter().map(|tensor| buffers::lend(py, tensor)).collect::<PyResult<_>>()?;
    PyList::new(py, lent)
}

fn lend_answer(py: Python<'_>, answer: Answer) -> PyResult<Bound<'_, PyList>> {
    lend(py, answer.map_err(|error| errors::to_python(py, &error))?)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
