//! Batching of one version: which requests may share a batch, and how their tensors get in and out.
//!
//! The module uses the version only through [`Batched`], and does not choose the thread of a run.
//!
//! As in TensorFlow Serving (`docs/spec/batching.md` §4), requests share a queue if they feed and fetch the same
//! tensors of the graph. Signatures and aliases do not matter.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::metrics::ModelMetrics;
use servable_batch::{BatchingOptions, Owner, PoolOptions, Queue, Repeatable, RunBatch, Scheduler, Statistics};
use servable_model::call::Call;
use servable_model::error::{Code, Result, ServingError};
use servable_model::executor::RunOptions;
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::Tensor;

/// The maximum number of queues. Requests for further sets of tensors run alone. Clients select outputs, so that the
/// number of sets must be bounded.
const MAX_ROUTES: usize = 256;

/// The maximum number of cached plans. Plans for further selections of outputs are made for each request.
const MAX_PLANS: usize = 256;

/// The version that runs the batches.
pub(crate) trait Batched {
    /// Returns a function that runs a signature of the version and counts the run. The function does not keep the
    /// version loaded between runs.
    fn runner(
        &self,
    ) -> impl Fn(&Signature, Vec<Tensor>, &[usize], &RunOptions) -> Result<Vec<Tensor>> + Send + Sync + 'static;

    /// Whether its runs may be repeated; see [`Executor::is_repeatable`](servable_model::executor::Executor::is_repeatable).
    fn is_repeatable(&self) -> bool;

    /// Whether the signature belongs to the version, and was not made for a single request.
    fn has(&self, signature: &Arc<Signature>) -> bool;

    /// The metrics of the requests for its model.
    fn model(&self) -> &ModelMetrics;
}

/// The batching of a version.
pub(crate) struct Batching {
    scheduler: Arc<Scheduler>,
    /// The owner of all queues of the version.
    owner: Arc<Owner>,
    options: BatchingOptions,
    /// The statistics of the warm-up. They are added to those of the model when the version is published.
    warm_up: Arc<Statistics>,
    is_counted: AtomicBool,
    routes: RwLock<Vec<Arc<Route>>>,
    /// The cached plans for signatures of the version.
    plans: RwLock<Vec<Arc<Plan>>>,
}

/// The queue for one set of inputs and outputs. Both are sorted by the names of their tensors.
pub(crate) struct Route {
    inputs: Vec<String>,
    outputs: Vec<String>,
    queue: Queue,
    hint: CoalescingHint,
}

impl Route {
    /// The tensors that are fed.
    pub(crate) fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// The tensors that are fetched.
    pub(crate) fn outputs(&self) -> &[String] {
        &self.outputs
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }
}

/// Hint: recent requests on this route arrived together, so yielding before a run is worth it.
///
/// A yield puts the request behind the ready tasks of its worker. It adds a tenth to the time of a lone request, so
/// after many lone requests only some yield.
#[derive(Default)]
pub(crate) struct CoalescingHint {
    /// The number of consecutive lone requests.
    lone: AtomicU32,
}

impl CoalescingHint {
    /// After more consecutive lone requests than this, most requests do not yield.
    const PATIENCE: u32 = 32;

    /// One request in this many then still yields.
    const PROBE: u32 = 16;

    /// Whether to yield before a run.
    pub(crate) fn is_likely(&self) -> bool {
        let lone = self.lone.load(Ordering::Relaxed);
        lone < Self::PATIENCE || lone.is_multiple_of(Self::PROBE)
    }

    /// Records the number of requests in a run. Of two concurrent records one may be lost, which is harmless.
    pub(crate) fn note(&self, count: usize) {
        let lone = if count > 1 { 0 } else { self.lone.load(Ordering::Relaxed).wrapping_add(1) };
        self.lone.store(lone, Ordering::Relaxed);
    }
}

/// The mapping between requests for certain outputs of a signature and a queue.
pub(crate) struct Plan {
    signature: Arc<Signature>,
    outputs: Vec<usize>,
    route: Arc<Route>,
    /// The position in the signature of each input of the queue.
    inputs: Vec<usize>,
    /// The position in the answer of the queue of each requested output.
    answer: Vec<usize>,
}

impl Plan {
    /// The signature that is run.
    pub(crate) fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The queue of the request.
    pub(crate) fn queue(&self) -> &Queue {
        &self.route.queue
    }

    /// The hint on requests that arrive together.
    pub(crate) fn hint(&self) -> &CoalescingHint {
        &self.route.hint
    }

    /// Reorders the inputs of a request for the queue.
    pub(crate) fn in_queue_order(&self, inputs: Vec<Tensor>) -> Vec<Tensor> {
        permuted(inputs, &self.inputs)
    }

    /// Reorders an answer of the queue for the request.
    pub(crate) fn in_request_order(&self, answer: Vec<Tensor>) -> Vec<Tensor> {
        permuted(answer, &self.answer)
    }
}

/// The inputs and outputs of a request, sorted by the names of their tensors, as positions in the signature.
struct Order {
    inputs: Vec<usize>,
    outputs: Vec<usize>,
}

impl Batching {
    /// Creates a batching without queues.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the options contradict each other.
    pub(crate) fn new(scheduler: Arc<Scheduler>, options: BatchingOptions) -> Result<Self> {
        options.check()?;
        Ok(Self {
            scheduler,
            owner: Arc::default(),
            options,
            warm_up: Arc::default(),
            is_counted: AtomicBool::new(false),
            routes: RwLock::default(),
            plans: RwLock::default(),
        })
    }

    /// Runs a request of the warm-up as a batch without other requests, padded like any batch, on the batch threads. It
    /// does not wait for more requests. Blocks.
    ///
    /// # Errors
    ///
    /// The error that a client would get.
    pub(crate) fn warm_up(&self, inputs: Vec<Tensor>, run: impl RunBatch) -> Result<Vec<Tensor>> {
        let options = BatchingOptions { batch_timeout_micros: 0, ..self.options.clone() };
        let queue = self.scheduler.queue_of(&self.owner, Arc::clone(&self.warm_up), options, run)?;
        queue.submit(inputs, Call::default())?.wait()
    }

    /// Adds the statistics of the warm-up to those of a model, once.
    pub(crate) fn count_warm_up(&self, model: &ModelMetrics) {
        if self.warm_up.read().batches() > 0 && !self.is_counted.swap(true, Ordering::Relaxed) {
            model.batches().follow(Arc::clone(&self.warm_up));
        }
    }

    /// The numbers of rows to which batches are padded, smallest first.
    pub(crate) fn padded_sizes(&self) -> impl Iterator<Item = usize> {
        let largest = self.options.execution_size();
        let sizes = self.options.allowed_batch_sizes.iter().copied();
        let mut is_reached = false;
        sizes.take_while(move |&size| !std::mem::replace(&mut is_reached, size >= largest))
    }

    /// The options of the queues.
    pub(crate) fn options(&self) -> &BatchingOptions {
        &self.options
    }

    /// The options of the threads that run the batches.
    pub(crate) fn pool(&self) -> &PoolOptions {
        self.scheduler.options()
    }

    /// The existing queues.
    pub(crate) fn routes(&self) -> Vec<Arc<Route>> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The plan for a request. `None` if the request runs alone, because it has no rows or the number of queues is at
    /// its limit.
    ///
    /// # Errors
    ///
    /// `FAILED_PRECONDITION` if such requests cannot be batched.
    pub(crate) fn plan(
        &self,
        version: &impl Batched,
        signature: &Arc<Signature>,
        outputs: &[usize],
    ) -> Result<Option<Arc<Plan>>> {
        if signature.has_components {
            return Ok(None);
        }
        let is_for = |plan: &&Arc<Plan>| Arc::ptr_eq(&plan.signature, signature) && plan.outputs == outputs;
        if let Some(plan) = self.plans.read().unwrap_or_else(PoisonError::into_inner).iter().find(is_for) {
            return Ok(Some(Arc::clone(plan)));
        }
        let order = Order::new(signature, outputs);
        if order.inputs.windows(2).any(|pair| name(signature, pair[0]) == name(signature, pair[1])) {
            // TensorFlow Serving feeds the rows of both to the same tensor, and then rejects the outputs.
            return Err(ServingError::new(
                Code::FailedPrecondition,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input \
                 tensors",
            ));
        }
        let Some(route) = self.route(version, signature, &order) else { return Ok(None) };
        let mut answer: Vec<usize> = (0..outputs.len()).collect();
        answer.sort_by_key(|&output| &signature.outputs[outputs[output]].tensor_name);
        let plan = Arc::new(Plan {
            signature: Arc::clone(signature),
            outputs: outputs.to_vec(),
            route,
            inputs: order.inputs,
            answer: inverse(&answer),
        });
        // A signature that was made for one request will not be used again.
        if version.has(signature) {
            let mut plans = self.plans.write().unwrap_or_else(PoisonError::into_inner);
            if plans.len() < MAX_PLANS && !plans.iter().any(|plan| is_for(&plan)) {
                plans.push(Arc::clone(&plan));
            }
        }
        Ok(Some(plan))
    }

    /// The queue for a request; `None` if the number of queues is at its limit.
    fn route(&self, version: &impl Batched, signature: &Arc<Signature>, order: &Order) -> Option<Arc<Route>> {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = routes.iter().find(|route| order.fits(signature, route)) {
            return Some(Arc::clone(route));
        }
        if routes.len() == MAX_ROUTES {
            return None;
        }
        let run = order.runner(Arc::clone(signature), version.runner());
        let run = Repeatable { run, is_repeatable: version.is_repeatable() };
        let names = |specs: &[TensorSpec], order: &[usize]| {
            order.iter().map(|&position| specs[position].tensor_name.clone()).collect()
        };
        // `new` has checked the options.
        let queue = self.scheduler.queue_of(&self.owner, Arc::default(), self.options.clone(), run).ok()?;
        version.model().batches().follow(Arc::clone(queue.statistics()));
        let (inputs, outputs) = (names(&signature.inputs, &order.inputs), names(&signature.outputs, &order.outputs));
        let route = Arc::new(Route { inputs, outputs, queue, hint: CoalescingHint::default() });
        routes.push(Arc::clone(&route));
        Some(route)
    }
}

impl Order {
    fn new(signature: &Signature, outputs: &[usize]) -> Self {
        let mut order = Self { inputs: (0..signature.inputs.len()).collect(), outputs: outputs.to_vec() };
        order.inputs.sort_by_key(|&position| name(signature, position));
        order.outputs.sort_by_key(|&position| &signature.outputs[position].tensor_name);
        order
    }

    fn fits(&self, signature: &Signature, route: &Route) -> bool {
        let same = |specs: &[TensorSpec], order: &[usize], names: &[String]| {
            let own = order.iter().map(|&position| &specs[position].tensor_name);
            order.len() == names.len() && own.zip(names).all(|(a, b)| a == b)
        };
        same(&signature.inputs, &self.inputs, &route.inputs) && same(&signature.outputs, &self.outputs, &route.outputs)
    }

    /// Returns a function that runs batches with inputs in this order.
    fn runner(
        &self,
        signature: Arc<Signature>,
        run: impl Fn(&Signature, Vec<Tensor>, &[usize], &RunOptions) -> Result<Vec<Tensor>> + Send + Sync + 'static,
    ) -> impl Fn(Vec<Tensor>, &RunOptions) -> Result<Vec<Tensor>> + Send + Sync + 'static {
        let (places, outputs) = (inverse(&self.inputs), self.outputs.clone());
        move |inputs, options| run(&signature, permuted(inputs, &places), &outputs, options)
    }
}

/// The inverse permutation.
fn inverse(order: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; order.len()];
    for (place, &position) in order.iter().enumerate() {
        inverse[position] = place;
    }
    inverse
}

fn name(signature: &Signature, position: usize) -> &str {
    &signature.inputs[position].tensor_name
}

/// The permuted tensors: the one at `order[i]` moves to `i`.
fn permuted(tensors: Vec<Tensor>, order: &[usize]) -> Vec<Tensor> {
    if order.is_sorted() {
        return tensors;
    }
    let mut tensors: Vec<Option<Tensor>> = tensors.into_iter().map(Some).collect();
    order.iter().filter_map(|&position| tensors.get_mut(position)?.take()).collect()
}

#[cfg(test)]
mod tests;
