//! The loop of a worker: requests of one slot, one after another, until the server closes it.

use std::time::Instant;

use rustix::fd::OwnedFd;
use servable_model::error::{Code, Result, ServingError};
use servable_model::executor::RunOptions;
use servable_model::signature::Signature;
use servable_model::tensor::Tensor;

use crate::channel::Channel;
use crate::frame::{Damaged, Take};
use crate::message::{self, Ended, OUTPUT_REGIONS, Operation, RequestHead, TakeError};
use crate::region::{Access, Region};

/// The version that a worker has loaded. Methods are called from the threads of all slots concurrently, and do not panic.
pub trait Model {
    /// See `Executor::run`.
    ///
    /// # Errors
    ///
    /// What the client gets.
    fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>>;

    /// See `Executor::check_inputs`.
    ///
    /// # Errors
    ///
    /// What the client gets.
    fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()>;
}

/// Answers the requests of one slot on the calling thread, until the server closes the connection.
///
/// A request that cannot be understood ends it as well. The server then replaces the process.
pub fn serve(model: &impl Model, socket: OwnedFd) {
    let mut slot = Slot {
        channel: Channel::new(socket),
        input: None,
        outputs: Default::default(),
        signature: (Vec::new(), Signature::default()),
    };
    let (mut frame, mut descriptors) = (Vec::new(), Vec::new());
    while slot.answer(model, &mut frame, &mut descriptors).is_some() {}
}

struct Slot {
    channel: Channel,
    input: Option<Region>,
    outputs: [Option<Region>; OUTPUT_REGIONS],
    /// The last signature, encoded and decoded: most requests have the same.
    signature: (Vec<u8>, Signature),
}

/// A decoded request.
struct Request {
    head: RequestHead,
    inputs: Vec<Tensor>,
    outputs: Vec<usize>,
    deadline: Option<Instant>,
}

impl Slot {
    /// Answers one request; `None` if the connection has ended.
    fn answer(&mut self, model: &impl Model, frame: &mut Vec<u8>, descriptors: &mut Vec<OwnedFd>) -> Option<()> {
        let request = self.receive(descriptors)?;
        let kept_bytes = request.as_ref().map_or(u64::MAX, |request| request.head.kept_bytes);
        let output = request.as_ref().map_or(0, |request| usize::from(request.head.output));
        Channel::begin(frame);
        let start = frame.len();
        let result = request.and_then(|request| self.run(model, request, frame));
        // The result has been dropped, so what still lends from the region is kept by the model.
        let is_large = |region: &Region| region.mapped() as u64 > kept_bytes;
        let ended = Ended {
            input: self.input.as_ref().is_some_and(|region| region.is_lent() || is_large(region)),
            output: self.outputs[output].as_ref().is_some_and(is_large),
        };
        match result {
            Ok(()) => message::set_ended(frame, start, ended),
            Err(error) => {
                frame.truncate(start);
                message::put_reply(frame, ended, Some(&error));
            }
        }
        self.channel.send(frame, &[], None).ok()?;
        if ended.input {
            self.input = None;
        }
        if ended.output {
            self.outputs[output] = None;
        }
        Some(())
    }

    /// Waits for a request; an error if its tensors cannot be had.
    fn receive(&mut self, descriptors: &mut Vec<OwnedFd>) -> Option<Result<Request>> {
        let frame = self.channel.receive_with(descriptors).ok()?;
        let mut rest = Take(frame);
        let head = RequestHead::take(&mut rest).ok()?;
        let deadline = head.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut new = descriptors.drain(..);
        if head.has_new_input {
            self.input = Some(Region::from_file(new.next()?, Access::Read));
        }
        if head.has_new_output {
            self.outputs[usize::from(head.output)] = Some(Region::from_file(new.next()?, Access::Write));
        }
        let encoded = rest.bytes().ok()?;
        if self.signature.0 != encoded {
            self.signature = (encoded.to_vec(), message::take_signature(encoded).ok()?);
        }
        let outputs = message::take_outputs(&mut rest, self.signature.1.outputs.len()).ok()?;
        let inputs = match message::take_tensors(&mut rest, self.input.as_mut()) {
            Ok(inputs) => inputs,
            Err(TakeError::Damaged(Damaged(_))) => return None,
            Err(TakeError::Io(error)) => return Some(Err(no_memory(&error))),
        };
        Some(Ok(Request { head, inputs, outputs, deadline }))
    }

    /// Does what a request asks for, and appends the reply if that succeeds.
    fn run(&mut self, model: &impl Model, request: Request, frame: &mut Vec<u8>) -> Result<()> {
        let Request { head, inputs, outputs, deadline } = request;
        let signature = &self.signature.1;
        let tensors = match head.operation {
            Operation::Check => model.check_inputs(signature, &inputs).map(|()| Vec::new())?,
            Operation::Run => model.run(signature, inputs, &outputs, &RunOptions { deadline })?,
        };
        message::put_reply(frame, Ended::default(), None);
        let region = self.outputs[usize::from(head.output)].as_mut();
        let region = region.ok_or_else(|| ServingError::internal("the server has given no memory for outputs"))?;
        message::put_tensors(frame, &tensors, region)
            .and_then(|()| region.freeze())
            .map_err(|error| no_memory(&error))?;
        if Channel::fits(frame) { Ok(()) } else { Err(ServingError::internal("the outputs have too many parts")) }
    }
}

fn no_memory(error: &std::io::Error) -> ServingError {
    ServingError::new(Code::ResourceExhausted, format!("the worker has no memory for the tensors: {error}"))
}
