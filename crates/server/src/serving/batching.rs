//! The requests of one version in batches: which of them may share one, and how their tensors get in and out.
//!
//! The version itself is known here only as [`Batched`], and the thread of a run is chosen elsewhere.
//!
//! As in TensorFlow Serving (`docs/spec/batching.md` §4), requests share a queue if they feed the same tensors of the
//! graph and fetch the same ones, whatever their signatures and the aliases in them.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::metrics::ModelMetrics;
use servable_batch::{BatchingOptions, Owner, PoolOptions, Queue, Repeatable, RunBatch, Scheduler, Statistics};
use servable_model::call::Call;
use servable_model::error::{Code, Result, ServingError};
use servable_model::executor::RunOptions;
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::Tensor;

/// At most this many sets of tensors have a queue; requests for others run alone. Clients choose which outputs
/// they want, and must not make the server keep a queue for each choice that there is.
const MAX_ROUTES: usize = 256;

/// At most this many selections of outputs are cached; others are computed for each request.
const MAX_PLANS: usize = 256;

/// What batches need of the version that runs them.
pub(crate) trait Batched {
    /// Runs a signature of the version, and counts the run. It does not keep the version loaded between runs.
    fn runner(
        &self,
    ) -> impl Fn(&Signature, Vec<Tensor>, &[usize], &RunOptions) -> Result<Vec<Tensor>> + Send + Sync + 'static;

    /// Whether its runs may be repeated; see [`Executor::is_repeatable`](servable_model::executor::Executor::is_repeatable).
    fn is_repeatable(&self) -> bool;

    /// Whether the signature is one of the version, and not one that was put together for a request.
    fn has(&self, signature: &Arc<Signature>) -> bool;

    /// What is counted of the requests for its model.
    fn model(&self) -> &ModelMetrics;
}

/// How the requests of a version are joined into batches.
pub(crate) struct Batching {
    scheduler: Arc<Scheduler>,
    /// Whose batches all of them are.
    owner: Arc<Owner>,
    options: BatchingOptions,
    /// What the queues of the warm-up have done; counted in the model's name once that is known.
    warm_up: Arc<Statistics>,
    is_counted: AtomicBool,
    routes: RwLock<Vec<Arc<Route>>>,
    /// What was found out for signatures of the version.
    plans: RwLock<Vec<Arc<Plan>>>,
}

/// The queue for one set of inputs and outputs, both in the order of the names of their tensors.
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
/// A yield puts the request behind the ready tasks of its worker. It costs a lone request a tenth of its time, so after many
/// lone requests only some yield.
#[derive(Default)]
pub(crate) struct CoalescingHint {
    /// How many requests in a row were alone.
    lone: AtomicU32,
}

impl CoalescingHint {
    /// Up to this many lone requests in a row are a coincidence.
    const PATIENCE: u32 = 32;

    /// After those, one in this many looks.
    const PROBE: u32 = 16;

    /// Whether to look what else has arrived.
    pub(crate) fn is_likely(&self) -> bool {
        let lone = self.lone.load(Ordering::Relaxed);
        lone < Self::PATIENCE || lone.is_multiple_of(Self::PROBE)
    }

    /// Records how many requests ran together. Of two records at once one may be lost, which does no harm.
    pub(crate) fn note(&self, count: usize) {
        let lone = if count > 1 { 0 } else { self.lone.load(Ordering::Relaxed).wrapping_add(1) };
        self.lone.store(lone, Ordering::Relaxed);
    }
}

/// How the requests for these outputs of a signature get into a queue, and their answers out.
pub(crate) struct Plan {
    signature: Arc<Signature>,
    outputs: Vec<usize>,
    route: Arc<Route>,
    /// Which input of the signature comes at each place of the queue.
    inputs: Vec<usize>,
    /// At which place of an answer of the queue each of the outputs is.
    answer: Vec<usize>,
}

impl Plan {
    /// What is run for a request.
    pub(crate) fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The queue of the request.
    pub(crate) fn queue(&self) -> &Queue {
        &self.route.queue
    }

    /// Whether requests of the queue arrive together.
    pub(crate) fn hint(&self) -> &CoalescingHint {
        &self.route.hint
    }

    /// The inputs of a request in the order of the queue.
    pub(crate) fn in_queue_order(&self, inputs: Vec<Tensor>) -> Vec<Tensor> {
        permuted(inputs, &self.inputs)
    }

    /// An answer of the queue in the order of the outputs that the request asks for.
    pub(crate) fn in_request_order(&self, answer: Vec<Tensor>) -> Vec<Tensor> {
        permuted(answer, &self.answer)
    }
}

/// The inputs and outputs of a request in the order of the names of their tensors: for each of them, which position of
/// the signature comes there.
struct Order {
    inputs: Vec<usize>,
    outputs: Vec<usize>,
}

impl Batching {
    /// No queues yet.
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

    /// Runs a request of the warm-up, on the threads of batches and with the rows that a batch of it alone has, but
    /// without waiting for others. To be called on a thread that may block.
    ///
    /// # Errors
    ///
    /// What a client would get.
    pub(crate) fn warm_up(&self, inputs: Vec<Tensor>, run: impl RunBatch) -> Result<Vec<Tensor>> {
        let options = BatchingOptions { batch_timeout_micros: 0, ..self.options.clone() };
        let queue = self.scheduler.queue_of(&self.owner, Arc::clone(&self.warm_up), options, run)?;
        queue.submit(inputs, Call::default())?.wait()
    }

    /// Has the batches of the warm-up counted in the name of a model, once.
    pub(crate) fn count_warm_up(&self, model: &ModelMetrics) {
        if self.warm_up.read().batches() > 0 && !self.is_counted.swap(true, Ordering::Relaxed) {
            model.batches().follow(Arc::clone(&self.warm_up));
        }
    }

    /// The rows that batches are run with, as far as they are few: those that are padded to, smallest first.
    pub(crate) fn padded_sizes(&self) -> impl Iterator<Item = usize> {
        let largest = self.options.execution_size();
        let sizes = self.options.allowed_batch_sizes.iter().copied();
        let mut is_reached = false;
        sizes.take_while(move |&size| !std::mem::replace(&mut is_reached, size >= largest))
    }

    /// How requests wait for each other.
    pub(crate) fn options(&self) -> &BatchingOptions {
        &self.options
    }

    /// The threads that run the batches.
    pub(crate) fn pool(&self) -> &PoolOptions {
        self.scheduler.options()
    }

    /// The queues that there are.
    pub(crate) fn routes(&self) -> Vec<Arc<Route>> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The way of a request through a queue; `None` if it is run by itself, because it has no rows to join or there are
    /// too many queues already.
    ///
    /// # Errors
    ///
    /// `FAILED_PRECONDITION` if such requests cannot be joined.
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
            // TensorFlow Serving feeds the rows of both to the one tensor, and finds that the outputs do not fit.
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
        // A signature that was put together for one request is not seen again.
        if version.has(signature) {
            let mut plans = self.plans.write().unwrap_or_else(PoisonError::into_inner);
            if plans.len() < MAX_PLANS && !plans.iter().any(|plan| is_for(&plan)) {
                plans.push(Arc::clone(&plan));
            }
        }
        Ok(Some(plan))
    }

    /// The queue for a request; `None` if there are too many already.
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
        // The options were checked.
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

    /// Runs batches whose inputs come in this order.
    fn runner(
        &self,
        signature: Arc<Signature>,
        run: impl Fn(&Signature, Vec<Tensor>, &[usize], &RunOptions) -> Result<Vec<Tensor>> + Send + Sync + 'static,
    ) -> impl Fn(Vec<Tensor>, &RunOptions) -> Result<Vec<Tensor>> + Send + Sync + 'static {
        let (places, outputs) = (inverse(&self.inputs), self.outputs.clone());
        move |inputs, options| run(&signature, permuted(inputs, &places), &outputs, options)
    }
}

/// The order that undoes this one.
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

/// The tensors with that of position `order[i]` at place `i`.
fn permuted(tensors: Vec<Tensor>, order: &[usize]) -> Vec<Tensor> {
    if order.is_sorted() {
        return tensors;
    }
    let mut tensors: Vec<Option<Tensor>> = tensors.into_iter().map(Some).collect();
    order.iter().filter_map(|&position| tensors.get_mut(position)?.take()).collect()
}

#[cfg(test)]
mod tests;
