//! The server's side: which slots are free, runs on them, and what becomes of a process.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::net::{Shutdown, shutdown};
use servable_model::error::{Code, Result, ServingError};
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::Signature;
use servable_model::tensor::Tensor;

use crate::channel::{Channel, Failure, is_shortage};
use crate::description::Description;
use crate::frame::{Damaged, Take};
use crate::message::{self, OUTPUT_REGIONS, Operation, RequestHead, TakeError};
use crate::region::{Access, Region};

/// A worker that is still busy this long after the deadline of its request is killed. It first gets time to cancel the run.
const HANG: Duration = Duration::from_secs(2);

/// Requests wait this long for a worker while there is none, and are refused afterwards.
const PATIENCE: Duration = Duration::from_secs(2);

/// A request whose worker has ended waits this long for the description of how.
const WAIT_FOR_FATE: Duration = Duration::from_secs(2);

/// How long a check of inputs may take; a run reports the same later.
const CHECK: Duration = Duration::from_secs(1);

/// Memory that a slot keeps between runs, for each of its regions. The first slots of a process are used most.
const KEPT_BYTES: u64 = 32 << 20;
const KEPT_BYTES_OF_OTHERS: u64 = 1 << 20;
const FIRST_SLOTS: usize = 2;

/// The worker processes of one version, as requests see them.
pub struct Workers {
    name: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Free slots: of the first free slot of all processes first.
    idle: BTreeMap<(usize, u64), Slot>,
    /// The processes that get requests, by number.
    processes: HashMap<u64, Arc<Process>>,
    /// Those that get no more, and have not been reported as lost.
    retired: HashMap<u64, Arc<Process>>,
    next_number: u64,
    /// Since when there is no process, and how the last one ended.
    bereft: Option<(Instant, String)>,
    /// Why there will be no process for some time.
    refusal: Option<String>,
    is_closed: bool,
}

/// What is known of a process that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastWords {
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
    condemned: OnceLock<String>,
    /// How it ended, once that is known.
    fate: OnceLock<String>,
}

impl Process {
    /// Ends the process: the thread that watches its control socket learns that it has.
    fn hang_up(&self) {
        let _ = shutdown(&self.control, Shutdown::Both);
    }

    fn condemn(&self, reason: String) {
        let _ = self.condemned.set(reason);
        self.hang_up();
    }
}

/// A connection, and the memory for the tensors of its runs.
struct Slot {
    channel: Channel,
    frame: Vec<u8>,
    input: Option<Region>,
    outputs: [Option<Region>; OUTPUT_REGIONS],
    kept_bytes: u64,
}

/// Why a run on a slot has no result.
enum RunFailure {
    /// The worker has reported it, or the server lacks memory. The slot can be used again.
    Reported(ServingError),
    /// The process cannot be used any more.
    TimedOut,
    Gone,
    Damaged(Damaged),
}

impl From<Failure> for RunFailure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::TimedOut => Self::TimedOut,
            Failure::Gone => Self::Gone,
            Failure::Damaged => Self::Damaged(Damaged("its length is impossible")),
        }
    }
}

impl From<Damaged> for RunFailure {
    fn from(damaged: Damaged) -> Self {
        Self::Damaged(damaged)
    }
}

impl Slot {
    fn new(socket: OwnedFd, index: usize) -> Self {
        let kept_bytes = if index < FIRST_SLOTS { KEPT_BYTES } else { KEPT_BYTES_OF_OTHERS };
        Self { channel: Channel::new(socket), frame: Vec::new(), input: None, outputs: Default::default(), kept_bytes }
    }

    /// Sends a request, and waits for the reply.
    fn call(
        &mut self,
        operation: Operation,
        signature: &Signature,
        inputs: &[Tensor],
        outputs: &[usize],
        deadline: Option<Instant>,
        hang: Duration,
    ) -> Result<Vec<Tensor>, RunFailure> {
        let no_memory = |error: std::io::Error| {
            let code = if is_shortage(&error) { Code::ResourceExhausted } else { Code::Internal };
            RunFailure::Reported(ServingError::new(code, format!("no memory to pass tensors to a worker: {error}")))
        };
        let output = self.outputs.iter().position(|region| region.as_ref().is_none_or(|region| !region.is_lent()));
        // If all are lent, the memory of the first stays with those who read it.
        let output = output.unwrap_or_else(|| {
            self.outputs[0] = None;
            0
        });
        let head = RequestHead {
            operation,
            timeout: deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())),
            has_new_input: self.input.is_none(),
            has_new_output: self.outputs[output].is_none(),
            output: output as u8,
            kept_bytes: self.kept_bytes,
        };
        // Regions are kept once they have been sent, so that both sides agree which there are.
        let mut input = self.input.take().map_or_else(|| Region::new(Access::Write), Ok).map_err(no_memory)?;
        let new_output =
            self.outputs[output].take().map_or_else(|| Region::new(Access::Read), Ok).map_err(no_memory)?;
        Channel::begin(&mut self.frame);
        head.put(&mut self.frame);
        message::put_signature(&mut self.frame, signature);
        message::put_outputs(&mut self.frame, outputs);
        let put = message::put_tensors(&mut self.frame, inputs, &mut input).map_err(no_memory);
        let put = put.and_then(|()| {
            let too_many = || ServingError::new(Code::ResourceExhausted, "the inputs have too many parts");
            if Channel::fits(&self.frame) { Ok(()) } else { Err(RunFailure::Reported(too_many())) }
        });
        if let Err(failure) = put {
            self.input = Some(input).filter(|_| !head.has_new_input);
            self.outputs[output] = Some(new_output).filter(|_| !head.has_new_output);
            return Err(failure);
        }
        let (input, new_output) = (self.input.insert(input), self.outputs[output].insert(new_output));
        let new = [(head.has_new_input, input.file()), (head.has_new_output, new_output.file())];
        let descriptors: Vec<_> = new.into_iter().filter_map(|(is_new, file)| is_new.then_some(file)).collect();
        let limit = deadline.and_then(|deadline| deadline.max(Instant::now()).checked_add(hang));
        self.channel.send(&mut self.frame, &descriptors, limit)?;

        let mut reply = Take(self.channel.receive(limit)?);
        let (ended, result) = message::take_reply(&mut reply)?;
        let wanted = if operation == Operation::Run { outputs.len() } else { 0 };
        let tensors = match result {
            Err(error) => Err(RunFailure::Reported(error)),
            Ok(()) => match message::take_tensors(&mut reply, self.outputs[output].as_mut()) {
                Ok(tensors) if tensors.len() == wanted => reply.end().map_err(RunFailure::from).map(|()| tensors),
                Ok(_) => Err(Damaged("it has another number of outputs").into()),
                Err(TakeError::Damaged(damaged)) => Err(damaged.into()),
                Err(TakeError::Io(error)) => Err(no_memory(error)),
            },
        };
        if ended.input {
            self.input = None;
        }
        if ended.output {
            self.outputs[output] = None;
        }
        tensors
    }
}

impl Workers {
    /// Workers without a process yet.
    ///
    /// `name` is the servable id, for messages.
    pub fn new(name: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), state: Mutex::default(), changed: Condvar::new() })
    }

    /// Adds a process that has loaded the version.
    ///
    /// Each of `slots` is a connected stream socket with a call of [`serve`](crate::serve) at its other end; the last one
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
            condemned: OnceLock::new(),
            fate: OnceLock::new(),
        };
        state.processes.insert(number, Arc::new(process));
        state.idle.extend(slots.into_iter().enumerate().map(|(index, slot)| ((index, number), slot)));
        (state.bereft, state.refusal) = (None, None);
        self.changed.notify_all();
        number
    }

    /// Why a process is to be replaced though it may still run; `None` if it has ended without a request.
    pub fn condemned(&self, number: u64) -> Option<String> {
        let state = self.state();
        state.processes.get(&number).or_else(|| state.retired.get(&number))?.condemned.get().cloned()
    }

    /// Removes a process that has ended; `how`, such as `was killed by SIGSEGV`, is told to its requests.
    pub fn lost(&self, number: u64, how: &str) -> LastWords {
        let closed = self.retire(number, how);
        let mut state = self.state();
        let process = state.retired.remove(&number);
        if let Some(process) = &process {
            let _ = process.fate.set(how.to_owned());
        }
        if let Some((_, last)) = &mut state.bereft {
            how.clone_into(last);
        }
        self.changed.notify_all();
        LastWords {
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
            state.bereft = Some((Instant::now(), how.to_owned()));
            self.changed.notify_all();
        }
        let keys: Vec<_> = state.idle.keys().copied().filter(|&(_, process)| process == number).collect();
        keys.iter().filter_map(|key| state.idle.remove(key)).collect()
    }

    /// Refuses requests while there is no process, with this explanation, until one is added.
    pub fn refuse(&self, explanation: &str) {
        self.state().refusal = Some(explanation.to_owned());
        self.changed.notify_all();
    }

    /// Refuses all further requests and closes all connections, so that the processes end.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        let idle = std::mem::take(&mut state.idle);
        let processes: Vec<_> = state.processes.values().chain(state.retired.values()).map(Arc::clone).collect();
        self.changed.notify_all();
        drop(state);
        drop(idle);
        for process in processes {
            // A worker closes its model once all its slots are closed.
            drop(process.checker.lock().unwrap_or_else(PoisonError::into_inner).take());
            process.hang_up();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a free slot.
    fn take(&self, deadline: Option<Instant>) -> Result<(usize, Arc<Process>, Slot)> {
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
                if let Some((since, how)) = &state.bereft {
                    let end = *since + PATIENCE;
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
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn give_back(&self, index: usize, process: &Process, slot: Slot) {
        process.has_answered.store(true, Ordering::Relaxed);
        let mut state = self.state();
        if !state.is_closed && state.processes.contains_key(&process.number) {
            state.idle.insert((index, process.number), slot);
            self.changed.notify_one();
        }
    }

    /// Runs a signature on a worker, and waits for the result.
    ///
    /// # Errors
    ///
    /// What the model reports. `UNAVAILABLE` if there is no worker, or it ended during the run; `DEADLINE_EXCEEDED` if no
    /// slot was free in time, or the run hung.
    fn run(
        &self,
        signature: &Signature,
        inputs: &[Tensor],
        outputs: &[usize],
        deadline: Option<Instant>,
    ) -> Result<Vec<Tensor>> {
        let (index, process, mut slot) = self.take(deadline)?;
        let failure = match slot.call(Operation::Run, signature, inputs, outputs, deadline, HANG) {
            Ok(tensors) => {
                self.give_back(index, &process, slot);
                return Ok(tensors);
            }
            Err(RunFailure::Reported(error)) => {
                self.give_back(index, &process, slot);
                return Err(error);
            }
            Err(failure) => failure,
        };
        Err(self.explain(&process, failure))
    }

    /// The error of a request whose process cannot be used any more. Has the process replaced.
    fn explain(&self, process: &Process, failure: RunFailure) -> ServingError {
        match failure {
            RunFailure::Reported(error) => return error,
            RunFailure::TimedOut => {
                let how = "hung, and was killed";
                process.condemn(how.to_owned());
                drop(self.retire(process.number, how));
                let text = format!("the worker of {} did not answer in time, and was restarted", self.name);
                return ServingError::new(Code::DeadlineExceeded, text);
            }
            RunFailure::Damaged(damaged) => {
                process.condemn(format!("sent a damaged message ({damaged}), and was killed"));
            }
            RunFailure::Gone => process.hang_up(),
        }
        drop(self.retire(process.number, process.condemned.get().map_or("ended", String::as_str)));
        let unknown = |_: &mut State| process.fate.get().is_none() && process.condemned.get().is_none();
        let waited = self.changed.wait_timeout_while(self.state(), WAIT_FOR_FATE, unknown);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        let how = process.condemned.get().or_else(|| process.fate.get()).map_or("ended", String::as_str);
        ServingError::new(Code::Unavailable, format!("the worker of {} {how} during the request", self.name))
    }

    /// Asks a worker whether a run would refuse inputs. Whatever prevents the answer, the run will report it.
    fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        let Some(process) = self.state().processes.values().next().map(Arc::clone) else { return Ok(()) };
        let deadline = Some(Instant::now() + CHECK);
        let mut checker = process.checker.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = &mut *checker else { return Ok(()) };
        match slot.call(Operation::Check, signature, inputs, &[], deadline, Duration::ZERO) {
            Err(RunFailure::Reported(error)) => Err(error),
            Ok(_) => Ok(()),
            Err(failure) => {
                // Its next frame could be the late answer. Only one caller may lose time by waiting for it.
                *checker = None;
                if let RunFailure::Damaged(_) = failure {
                    self.explain(&process, failure);
                }
                Ok(())
            }
        }
    }
}

/// Runs a version in its worker processes.
pub struct WorkerExecutor {
    /// Its processes.
    pub workers: Arc<Workers>,
    /// What they say of it.
    pub description: Description,
    /// The number of slots of all processes together.
    pub slots: usize,
}

impl Executor for WorkerExecutor {
    fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>> {
        self.workers.run(signature, &inputs, outputs, options.deadline)
    }

    /// Inputs that match the declared specs are not checked further: no executor refuses these.
    fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        let fits = |wanted: &[i64], shape: &[i64]| {
            wanted.len() == shape.len() && wanted.iter().zip(shape).all(|(wanted, size)| *wanted < 0 || wanted == size)
        };
        let is_declared = signature.inputs.iter().zip(inputs).all(|(spec, tensor)| {
            spec.dtype == tensor.dtype() && spec.shape.as_ref().is_none_or(|wanted| fits(wanted, tensor.shape()))
        });
        if is_declared { Ok(()) } else { self.workers.check_inputs(signature, inputs) }
    }

    fn is_repeatable(&self) -> bool {
        self.description.is_repeatable
    }

    fn platform(&self) -> &str {
        &self.description.platform
    }

    /// A run waits for another process.
    fn own_threads(&self) -> Option<usize> {
        Some(self.slots)
    }

    fn longest_run(&self) -> Option<Duration> {
        self.description.longest_run
    }

    fn runtime(&self) -> &str {
        &self.description.runtime
    }
}

impl Drop for WorkerExecutor {
    fn drop(&mut self) {
        self.workers.close();
    }
}
