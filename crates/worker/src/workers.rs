//! The worker processes of a version: which slots are free, and when a process must be replaced.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::net::{Shutdown, shutdown};
use servable_model::error::{Code, Result, ServingError};
use servable_model::signature::Signature;
use servable_model::tensor::Tensor;

use crate::message::Operation;
use crate::slot::{RunFailure, Slot};

/// A worker that is still busy this long after the deadline of its request is killed. It first gets time to cancel the run.
const HANG_GRACE: Duration = Duration::from_secs(2);

/// Requests wait this long for a worker while there is none, and are refused afterwards.
const RESTART_WAIT: Duration = Duration::from_secs(2);

/// A request whose worker has ended waits this long for the description of how.
const EXIT_WAIT: Duration = Duration::from_secs(2);

/// The deadline of a check of inputs; a run reports the same later.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// The worker processes of one version, as requests see them.
pub struct Workers {
    name: String,
    state: Mutex<State>,
    /// A slot or a process was added, or requests are refused.
    available: Condvar,
    /// A process was removed.
    exited: Condvar,
}

#[derive(Default)]
struct State {
    /// Free slots: of the first free slot of all processes first.
    idle: BTreeMap<(usize, u64), Slot>,
    /// The processes that get requests, by number.
    processes: HashMap<u64, Arc<Process>>,
    /// Those that get no more, and have not been removed.
    retired: HashMap<u64, Arc<Process>>,
    next_number: u64,
    /// Since when there is no process, and how the last one ended.
    last_exit: Option<(Instant, String)>,
    /// Why there will be no process for some time.
    refusal: Option<String>,
    is_closed: bool,
}

/// What is known of a process that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitReport {
    /// Whether it was running a request.
    pub was_busy: bool,
    /// Whether it has answered any request.
    pub has_answered: bool,
}

/// One process.
struct Process {
    number: u64,
    /// How many slots run requests.
    slots: usize,
    /// Whether it has answered a request.
    has_answered: AtomicBool,
    control: OwnedFd,
    /// Checks inputs while the other slots run; `None` after it has failed to.
    checker: Mutex<Option<Slot>>,
    /// Why it must be replaced, if that is not because it ended.
    replacement_reason: OnceLock<String>,
    /// How it ended, once that is known.
    exit: OnceLock<String>,
}

impl Process {
    /// Ends the process: the thread that watches its control socket is notified.
    fn disconnect(&self) {
        let _ = shutdown(&self.control, Shutdown::Both);
    }

    fn replace_because(&self, reason: String) {
        let _ = self.replacement_reason.set(reason);
        self.disconnect();
    }
}

impl Workers {
    /// Workers without a process yet.
    ///
    /// `name` is the servable id, for messages.
    pub fn new(name: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), state: Mutex::default(), available: Condvar::new(), exited: Condvar::new() })
    }

    /// Adds a process that has loaded the version.
    ///
    /// Each of `slots` is a connected stream socket with a call of [`serve`](crate::serve()) at its other end; the last one
    /// checks inputs, so there are at least two. `control` is shut down when the process must be replaced.
    ///
    /// Returns the number of the process.
    pub fn add(&self, control: OwnedFd, slots: Vec<OwnedFd>) -> u64 {
        let mut slots: Vec<Slot> = slots.into_iter().enumerate().map(|(index, fd)| Slot::new(fd, index)).collect();
        let checker = Mutex::new(slots.pop());
        let mut state = self.state();
        let number = state.next_number;
        state.next_number += 1;
        let process = Process {
            number,
            slots: slots.len(),
            has_answered: AtomicBool::new(false),
            control,
            checker,
            replacement_reason: OnceLock::new(),
            exit: OnceLock::new(),
        };
        state.processes.insert(number, Arc::new(process));
        state.idle.extend(slots.into_iter().enumerate().map(|(index, slot)| ((index, number), slot)));
        (state.last_exit, state.refusal) = (None, None);
        self.available.notify_all();
        number
    }

    /// Why a process is to be replaced though it may still run; `None` if it has ended without a request.
    pub fn replacement_reason(&self, number: u64) -> Option<String> {
        let state = self.state();
        state.processes.get(&number).or_else(|| state.retired.get(&number))?.replacement_reason.get().cloned()
    }

    /// Removes a process that has ended. Errors of its requests say `how`, such as `was killed by SIGSEGV`.
    pub fn remove(&self, number: u64, how: &str) -> ExitReport {
        let closed = self.retire(number, how);
        let mut state = self.state();
        let process = state.retired.remove(&number);
        if let Some(process) = &process {
            let _ = process.exit.set(how.to_owned());
        }
        if let Some((_, last)) = &mut state.last_exit {
            how.clone_into(last);
        }
        self.exited.notify_all();
        ExitReport {
            was_busy: process.as_ref().is_some_and(|process| closed.len() < process.slots),
            has_answered: process.is_some_and(|process| process.has_answered.load(Ordering::Relaxed)),
        }
    }

    /// Gives a process no more requests. Returns its free slots, whose memory is freed without the lock.
    fn retire(&self, number: u64, how: &str) -> Vec<Slot> {
        let mut state = self.state();
        let Some(process) = state.processes.remove(&number) else { return Vec::new() };
        state.retired.insert(number, process);
        if state.processes.is_empty() {
            state.last_exit = Some((Instant::now(), how.to_owned()));
            self.available.notify_all();
        }
        let keys: Vec<_> = state.idle.keys().copied().filter(|&(_, process)| process == number).collect();
        keys.iter().filter_map(|key| state.idle.remove(key)).collect()
    }

    /// Refuses requests while there is no process, with this explanation, until one is added.
    pub fn refuse(&self, explanation: &str) {
        self.state().refusal = Some(explanation.to_owned());
        self.available.notify_all();
    }

    /// Refuses all further requests and closes all connections, so that the processes end.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        let idle = std::mem::take(&mut state.idle);
        let processes: Vec<_> = state.processes.values().chain(state.retired.values()).map(Arc::clone).collect();
        self.available.notify_all();
        drop(state);
        drop(idle);
        for process in processes {
            // A worker closes its model once all its slots are closed.
            drop(process.checker.lock().unwrap_or_else(PoisonError::into_inner).take());
            process.disconnect();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a free slot.
    fn acquire(&self, deadline: Option<Instant>) -> Result<(usize, Arc<Process>, Slot)> {
        let unavailable = |text: String| Err(ServingError::new(Code::Unavailable, text));
        let mut state = self.state();
        loop {
            if state.is_closed {
                return unavailable(format!("{} is being unloaded", self.name));
            }
            if let Some(((index, number), slot)) = state.idle.pop_first() {
                let process = &state.processes[&number];
                return Ok((index, Arc::clone(process), slot));
            }
            let mut until = deadline;
            if state.processes.is_empty() {
                if let Some(explanation) = &state.refusal {
                    return unavailable(format!("{} has no worker: {explanation}", self.name));
                }
                if let Some((since, how)) = &state.last_exit {
                    let end = *since + RESTART_WAIT;
                    if Instant::now() >= end {
                        let name = &self.name;
                        return unavailable(format!("{name} has no worker: the last one {how}, and is being replaced"));
                    }
                    until = Some(until.map_or(end, |until| until.min(end)));
                }
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                let text = format!("no worker of {} was free in time", self.name);
                return Err(ServingError::new(Code::DeadlineExceeded, text));
            }
            state = match until {
                None => self.available.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    self.available.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn release(&self, index: usize, process: &Process, slot: Slot) {
        process.has_answered.store(true, Ordering::Relaxed);
        let mut state = self.state();
        if !state.is_closed && state.processes.contains_key(&process.number) {
            state.idle.insert((index, process.number), slot);
            self.available.notify_one();
        }
    }

    /// Runs a signature on a worker, and waits for the result.
    ///
    /// # Errors
    ///
    /// What the model reports. `UNAVAILABLE` if there is no worker, or it ended during the run; `DEADLINE_EXCEEDED` if no
    /// slot was free in time, or the run hung.
    pub(crate) fn run(
        &self,
        signature: &Signature,
        inputs: &[Tensor],
        outputs: &[usize],
        deadline: Option<Instant>,
    ) -> Result<Vec<Tensor>> {
        let (index, process, mut slot) = self.acquire(deadline)?;
        let failure = match slot.call(Operation::Run, signature, inputs, outputs, deadline, HANG_GRACE) {
            Ok(tensors) => {
                self.release(index, &process, slot);
                return Ok(tensors);
            }
            Err(RunFailure::Reported(error)) => {
                self.release(index, &process, slot);
                return Err(error);
            }
            Err(failure) => failure,
        };
        Err(self.failed_with(&process, failure))
    }

    /// The error of a request whose process cannot be used any more. Has the process replaced.
    fn failed_with(&self, process: &Process, failure: RunFailure) -> ServingError {
        match failure {
            RunFailure::Reported(error) => return error,
            RunFailure::TimedOut => {
                let how = "hung, and was killed";
                process.replace_because(how.to_owned());
                drop(self.retire(process.number, how));
                let text = format!("the worker of {} did not answer in time, and was restarted", self.name);
                return ServingError::new(Code::DeadlineExceeded, text);
            }
            RunFailure::Damaged(damaged) => {
                process.replace_because(format!("sent a damaged message ({damaged}), and was killed"));
            }
            RunFailure::Gone => process.disconnect(),
        }
        drop(self.retire(process.number, process.replacement_reason.get().map_or("ended", String::as_str)));
        let unknown = |_: &mut State| process.exit.get().is_none() && process.replacement_reason.get().is_none();
        let waited = self.exited.wait_timeout_while(self.state(), EXIT_WAIT, unknown);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        let how = process.replacement_reason.get().or_else(|| process.exit.get()).map_or("ended", String::as_str);
        ServingError::new(Code::Unavailable, format!("the worker of {} {how} during the request", self.name))
    }

    /// Asks a worker whether a run would refuse inputs. Whatever prevents the answer, the run will report it.
    pub(crate) fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        let Some(process) = self.state().processes.values().next().map(Arc::clone) else { return Ok(()) };
        let deadline = Some(Instant::now() + CHECK_TIMEOUT);
        let mut checker = process.checker.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = &mut *checker else { return Ok(()) };
        match slot.call(Operation::Check, signature, inputs, &[], deadline, Duration::ZERO) {
            Err(RunFailure::Reported(error)) => Err(error),
            Ok(_) => Ok(()),
            Err(failure) => {
                // Its next frame could be the late answer. Only one caller may lose time by waiting for it.
                *checker = None;
                if let RunFailure::Damaged(_) = failure {
                    self.failed_with(&process, failure);
                }
                Ok(())
            }
        }
    }
}
