//! One loaded `SavedModel`: runs its signatures, and closes its session when dropped.

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::ptr::{self, NonNull};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use servable_model::error::{Code, Result, ServingError};
use servable_model::executor::{Executor, RunOptions, TENSORFLOW};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{Buffer, DType, Tensor};

use crate::api::{Api, RawBuffer, RawGraph, RawOutput, RawSession};
use crate::denormals;
use crate::pools::{Pool, Pools, runs_at_once};
use crate::status::Status;
use crate::tensor::{OutputSlots, RuntimeTensor};
use crate::termination::Termination;

/// A TensorFlow session, with its graph.
///
/// Any number of threads may run it concurrently, without locks. Dropping the session frees its variables, tables and
/// constants.
///
/// A run in the caller's thread executes all operations there. Only operations that are parallel themselves use threads
/// of the runtime. It costs a fraction of the hand-over to the thread pool of the runtime. Subnormal numbers are
/// flushed to zero, as in the pool. The runtime uses the pool all the same for graphs that span several devices.
///
/// A run in the caller's thread cannot be cancelled. The runtime checks the deadline only after all operations have
/// ended, and its C API can only cancel all runs of a session, by closing it. So graphs that may loop or wait run in
/// the pool, where `timeout_in_ms` cancels a single run.
pub struct Session {
    api: &'static Api,
    raw: NonNull<RawSession>,
    graph: Graph,
    run_in_caller_thread: bool,
    /// The pools for runs that may have to be cancelled; `None` for the first pool of the session.
    pools: Option<Arc<Pools>>,
    longest_run: Option<Duration>,
    termination: Termination,
    /// Whether the graph only computes.
    is_repeatable: bool,
    /// A cache of outputs of the graph, by tensor name. The map stays small: it has only names that exist and that
    /// signatures of the model use.
    endpoints: RwLock<HashMap<Box<str>, Endpoint>>,
}

/// An output of an operation in a graph that lives as long as the session.
#[derive(Clone, Copy)]
struct Endpoint(RawOutput);

// SAFETY: the pointer is to an operation of the graph of the session, which does not change after loading.
unsafe impl Send for Endpoint {}
// SAFETY: as above.
unsafe impl Sync for Endpoint {}

// SAFETY: `TF_SessionRun` and look-ups in the graph may be called from several threads concurrently. Neither session
// nor graph is tied to the thread that made it.
unsafe impl Send for Session {}
// SAFETY: as above. Closing takes the session by value.
unsafe impl Sync for Session {}

impl Session {
    /// Takes over a session that was loaded into `graph`.
    ///
    /// # Safety
    ///
    /// `raw` must be a session on `graph` without another owner.
    pub(crate) unsafe fn from_raw(
        api: &'static Api,
        raw: NonNull<RawSession>,
        graph: Graph,
        run_in_caller_thread: bool,
        longest_run: Option<Duration>,
        termination: Termination,
    ) -> Self {
        let run_in_caller_thread = run_in_caller_thread && !termination.is_unbounded;
        Self {
            api,
            raw,
            graph,
            run_in_caller_thread,
            longest_run,
            termination,
            pools: None,
            is_repeatable: false,
            endpoints: RwLock::default(),
        }
    }

    /// Uses these pools, which are in the configuration of the session, for runs that may have to be cancelled.
    pub(crate) fn with_pools(mut self, pools: &Arc<Pools>) -> Self {
        self.pools = (!self.run_in_caller_thread).then(|| Arc::clone(pools));
        self
    }

    /// Declares that runs have no side effects. The caller knows that from the graph.
    pub fn declare_repeatable(&mut self) {
        self.is_repeatable = true;
    }

    /// Makes the runtime compile the plan of a signature, so that the first run does not wait for it. Returns whether
    /// it did.
    ///
    /// A plan is the part of the graph that a set of feeds and fetches needs, optimised and ready to run. The runtime
    /// compiles it before it checks the dtypes of the feeds. So a run with dtypes that no graph accepts compiles the
    /// plan, and executes nothing. Signatures without inputs are skipped, because they would be executed.
    pub fn prepare(&self, signature: &Signature) -> bool {
        let misfit = || Tensor::from_numbers(DType::QUINT16, Vec::new(), Buffer::Shared(Bytes::from_static(&[0; 2])));
        let feeds = &signature.inputs;
        if feeds.is_empty() || feeds.iter().any(|spec| spec.dtype == DType::QUINT16) {
            return false;
        }
        let outputs: Vec<usize> = (0..signature.outputs.len()).collect();
        let inputs = feeds.iter().map(|_| misfit()).collect();
        let result = self.run(signature, inputs, &outputs, &RunOptions::default());
        result.is_err_and(|error| error.text().starts_with("Expects arg[0] to be "))
    }

    /// Looks up the outputs of the graph for tensor specs.
    fn resolve<'a>(&self, specs: impl Iterator<Item = &'a TensorSpec>) -> Result<Vec<RawOutput>> {
        let known = self.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        let mut unknown = Vec::new();
        let mut resolved = Vec::with_capacity(specs.size_hint().0);
        for spec in specs {
            let name = spec.tensor_name.as_str();
            let endpoint = if let Some(endpoint) = known.get(name) {
                *endpoint
            } else {
                let endpoint = Endpoint(self.graph.output(name)?);
                unknown.push((name.into(), endpoint));
                endpoint
            };
            resolved.push(endpoint.0);
        }
        drop(known);
        if !unknown.is_empty() {
            self.endpoints.write().unwrap_or_else(PoisonError::into_inner).extend(unknown);
        }
        Ok(resolved)
    }
}

impl Executor for Session {
    fn runtime(&self) -> &'static str {
        TENSORFLOW
    }

    fn platform(&self) -> &'static str {
        "tensorflow_savedmodel"
    }

    fn longest_run(&self) -> Option<Duration> {
        self.longest_run
    }

    /// A run that may not terminate may occupy a thread of the runtime, or the thread that called it. Dedicated threads
    /// keep it from delaying other models.
    fn own_threads(&self) -> Option<usize> {
        (self.termination != Termination::default()).then(runs_at_once)
    }

    fn is_repeatable(&self) -> bool {
        self.is_repeatable
    }

    /// Runs the graph.
    ///
    /// The runtime checks dtypes, and shapes where operations require them. Its codes and texts are returned unchanged.
    ///
    /// A run in a pool is cancelled at its deadline, at the next operation that can be cancelled. A run in the caller's
    /// thread continues to its end, which is near: its graph neither loops nor waits. In both cases, a deadline that
    /// has passed before the run is reported.
    fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>> {
        let pools = if self.run_in_caller_thread { None } else { self.pools.as_ref() };
        let pool = pools.map(|pools| pools.take(options.deadline).ok_or_else(timed_out)).transpose()?;
        let index = if self.run_in_caller_thread { Some(CALLER_THREAD) } else { pool.as_ref().map(Pool::index) };
        let message = RunOptionsMessage::new(index, options.deadline)?;
        // The runtime compiles and keeps a plan for each sequence of feeds and fetches. Clients choose the order of
        // outputs. Sorting them reduces n! plans to one.
        let mut fetched = outputs.to_vec();
        fetched.sort_unstable();
        let feed_outputs = self.resolve(signature.inputs.iter())?;
        let fetch_outputs = self.resolve(fetched.iter().map(|&position| &signature.outputs[position]))?;
        if inputs.len() != feed_outputs.len() {
            let text = format!("{} inputs for a signature of {}", inputs.len(), feed_outputs.len());
            return Err(ServingError::internal(text));
        }

        let feeds = inputs.into_iter().map(|input| RuntimeTensor::new(self.api, input)).collect::<Result<Vec<_>>>()?;
        let feed_values: Vec<_> = feeds.iter().map(RuntimeTensor::as_ptr).collect();
        let mut slots = OutputSlots::new(self.api, fetch_outputs.len());
        let mut status = Status::new(self.api);
        let run_options = message.buffer();
        let mut run = || {
            // SAFETY: session and tensors are alive, the outputs are of the graph of the session, the lengths of all
            // arrays are right, and the runtime copies the message. It keeps no pointer to any of them.
            unsafe {
                (self.api.session_run)(
                    self.raw.as_ptr(),
                    &raw const run_options,
                    feed_outputs.as_ptr(),
                    feed_values.as_ptr(),
                    feed_values.len() as c_int,
                    fetch_outputs.as_ptr(),
                    slots.as_mut_ptr(),
                    fetch_outputs.len() as c_int,
                    ptr::null(),
                    0,
                    ptr::null_mut(),
                    status.as_mut_ptr(),
                );
            }
        };
        if self.run_in_caller_thread {
            denormals::flushed(run);
        } else {
            run();
        }
        status.check()?;
        let missing = || ServingError::internal("the runtime returned no tensor for an output");
        let take = |position| {
            let slot = fetched.binary_search(position).map_err(|_| missing())?;
            slots.take(slot).ok_or_else(missing)?.into_tensor()
        };
        outputs.iter().map(take).collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut status = Status::new(self.api);
        // SAFETY: ours, and not used after. Runs borrow the session, so none is in progress. Errors do not matter:
        // local resources are freed in any case.
        unsafe {
            (self.api.close_session)(self.raw.as_ptr(), status.as_mut_ptr());
            (self.api.delete_session)(self.raw.as_ptr(), status.as_mut_ptr());
        }
    }
}

/// An owned `TF_Graph`. The session on it holds another reference.
pub(crate) struct Graph {
    api: &'static Api,
    raw: *mut RawGraph,
}

impl Graph {
    pub(crate) fn new(api: &'static Api) -> Self {
        // SAFETY: takes nothing; the result is ours.
        Self { api, raw: unsafe { (api.new_graph)() } }
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut RawGraph {
        self.raw
    }

    /// The output with a tensor name: `operation:index`, or `operation` for index 0. The runtime checks the index in a
    /// run.
    fn output(&self, tensor_name: &str) -> Result<RawOutput> {
        let numbered = tensor_name.rsplit_once(':').and_then(|(name, index)| Some((name, index.parse::<u16>().ok()?)));
        let (name, index) = numbered.unwrap_or((tensor_name, 0));
        let operation = CString::new(name).map_or(ptr::null_mut(), |name| {
            // SAFETY: the graph is alive and the name ends in a NUL.
            unsafe { (self.api.graph_operation_by_name)(self.raw, name.as_ptr()) }
        });
        if operation.is_null() {
            // The text with which the runtime reports an unknown name in a run.
            let text = format!(
                "Tensor {name}:{index}, specified in either feed_devices or fetch_devices was not found in the Graph"
            );
            return Err(ServingError::invalid_argument(text));
        }
        Ok(RawOutput { operation, index: c_int::from(index) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after.
        unsafe { (self.api.delete_graph)(self.raw) }
    }
}

/// The error for a deadline that has passed before the run, with the text of the runtime.
fn timed_out() -> ServingError {
    ServingError::new(Code::DeadlineExceeded, "Timed out waiting for notification")
}

/// A serialized `tensorflow.RunOptions`, stored inline.
pub(crate) struct RunOptionsMessage {
    bytes: [u8; 22],
    length: usize,
}

/// The thread pool that stands for the caller's thread.
pub(crate) const CALLER_THREAD: i32 = -1;

impl RunOptionsMessage {
    /// `inter_op_thread_pool` (field 3) as -1, which means the caller's thread: the ten bytes of a negative varint.
    const CALLER_THREAD: [u8; 11] = [0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    /// The tag of `inter_op_thread_pool`.
    const THREAD_POOL: u8 = 0x18;
    /// The tag of `timeout_in_ms` (field 2).
    const TIMEOUT_IN_MS: u8 = 0x10;

    /// The options of a run in one of the pools of the session. A negative index means the caller's thread.
    pub(crate) fn for_pool(index: i32) -> Self {
        let mut message = Self { bytes: [0; 22], length: 0 };
        if index == CALLER_THREAD {
            message.push(&Self::CALLER_THREAD);
        } else {
            message.push(&[Self::THREAD_POOL]);
            message.push_varint(i64::from(index) as u64);
        }
        message
    }

    fn new(pool: Option<i32>, deadline: Option<Instant>) -> Result<Self> {
        let mut message = pool.map_or(Self { bytes: [0; 22], length: 0 }, Self::for_pool);
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(timed_out());
            }
            // Rounded up, because 0 means no timeout. TensorFlow Serving uses the maximum for "never".
            message.push(&[Self::TIMEOUT_IN_MS]);
            message.push_varint((left.as_millis() + 1).min(i32::MAX as u128) as u64);
        }
        Ok(message)
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn push_varint(&mut self, mut rest: u64) {
        while rest >= 0x80 {
            self.push(&[rest as u8 | 0x80]);
            rest >>= 7;
        }
        self.push(&[rest as u8]);
    }

    pub(crate) fn buffer(&self) -> RawBuffer {
        RawBuffer { data: self.bytes.as_ptr().cast(), length: self.length, deallocator: None }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn run_options_are_the_bytes_that_protobuf_writes() {
        let bytes = |message: &RunOptionsMessage| message.bytes[..message.length].to_vec();
        assert!(bytes(&RunOptionsMessage::new(None, None).unwrap()).is_empty());
        let caller = RunOptionsMessage::new(Some(-1), None).unwrap();
        assert_eq!(bytes(&caller), b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");

        assert_eq!(bytes(&RunOptionsMessage::for_pool(1)), b"\x18\x01");
        assert_eq!(bytes(&RunOptionsMessage::for_pool(-1)), RunOptionsMessage::CALLER_THREAD);

        let far = Some(Instant::now() + Duration::from_secs(1 << 30));
        assert_eq!(bytes(&RunOptionsMessage::new(None, far).unwrap()), b"\x10\xff\xff\xff\xff\x07");
        assert_eq!(bytes(&RunOptionsMessage::new(Some(-1), far).unwrap()).len(), 17);
        assert_eq!(bytes(&RunOptionsMessage::new(Some(1), far).unwrap()), b"\x18\x01\x10\xff\xff\xff\xff\x07");
        let past = Some(Instant::now());
        assert_eq!(RunOptionsMessage::new(None, past).err().unwrap().code, Code::DeadlineExceeded);
    }
}
