//! The server's side of a slot: sends a request to the worker, and receives the reply.

use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use servable_model::error::{Code, Result, ServingError};
use servable_model::signature::Signature;
use servable_model::tensor::Tensor;

use crate::channel::{Channel, Failure, is_shortage};
use crate::frame::{Damaged, Take};
use crate::message::{self, OUTPUT_REGIONS, Operation, RequestHead, TakeError};
use crate::region::{Access, Region};

/// Memory that a slot keeps between runs, for each of its regions. The first slots of a process are used most.
const KEPT_BYTES: u64 = 32 << 20;
const KEPT_BYTES_OF_OTHERS: u64 = 1 << 20;
const FIRST_SLOTS: usize = 2;

/// A connection, and the memory for the tensors of its runs.
pub(crate) struct Slot {
    channel: Channel,
    frame: Vec<u8>,
    input: Option<Region>,
    outputs: [Option<Region>; OUTPUT_REGIONS],
    kept_bytes: u64,
}

/// Why a run on a slot has no result.
pub(crate) enum RunFailure {
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
    pub(crate) fn new(socket: OwnedFd, index: usize) -> Self {
        let kept_bytes = if index < FIRST_SLOTS { KEPT_BYTES } else { KEPT_BYTES_OF_OTHERS };
        Self { channel: Channel::new(socket), frame: Vec::new(), input: None, outputs: Default::default(), kept_bytes }
    }

    /// Sends a request, and waits for the reply.
    pub(crate) fn call(
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
