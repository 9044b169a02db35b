//! The requests of one version in batches: which of them may share one, and the run that a batch becomes.
//!
//! As in TensorFlow Serving (`spec/batching.md` §4), requests share a queue if they feed the same tensors of the graph and
//! fetch the same ones, whatever their signatures and the aliases in them.

use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Instant;

use crate::batch::{BatchingOptions, Queue, Scheduler};
use crate::call::Call;
use crate::error::{Code, Result, ServingError};
use crate::executor::RunOptions;
use crate::metrics::RunMetrics;
use crate::servable::{Published, Servable};
use crate::signature::{Signature, TensorSpec};
use crate::tensor::Tensor;

/// So many sets of tensors have a queue; requests for further ones are run each by itself. Clients choose which outputs
/// they want, and must not make the server keep a queue for each choice that there is.
const MAX_ROUTES: usize = 256;

/// How the requests of a version are joined into batches.
pub(crate) struct Batching {
    servable: Weak<Servable>,
    scheduler: Arc<Scheduler>,
    options: BatchingOptions,
    routes: RwLock<Vec<Arc<Route>>>,
}

/// The queue for one set of inputs and outputs, both in the order of the names of their tensors.
struct Route {
    inputs: Vec<String>,
    outputs: Vec<String>,
    queue: Queue,
}

/// A request with its inputs and outputs in the order of the names of their tensors: for each of them, which position of
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
    pub(crate) fn new(servable: Weak<Servable>, scheduler: Arc<Scheduler>, options: BatchingOptions) -> Result<Self> {
        options.check()?;
        Ok(Self { servable, scheduler, options, routes: RwLock::default() })
    }

    /// Runs a request as part of a batch, or gives its inputs back where it has to be run by itself.
    ///
    /// # Errors
    ///
    /// What the queue or the run of the batch reports.
    pub(crate) async fn run(
        &self,
        handle: &Published,
        signature: &Arc<Signature>,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        call: Call,
    ) -> Result<Result<Vec<Tensor>>, Vec<Tensor>> {
        let order = Order::new(signature, outputs);
        let Some(route) = self.route(handle, signature, &order) else { return Err(inputs) };
        if order.inputs.windows(2).any(|pair| name(signature, pair[0]) == name(signature, pair[1])) {
            // The original feeds the rows of both to the one tensor, and finds that the outputs do not fit.
            return Ok(Err(ServingError::new(
                Code::FailedPrecondition,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input \
                 tensors",
            )));
        }
        let ticket = match route.queue.submit(permuted(inputs, &order.inputs), call) {
            Ok(ticket) => ticket,
            Err(error) => return Ok(Err(error)),
        };
        let answer = ticket.until_deadline(call).await;
        Ok(answer.map(|answer| {
            let places = order.outputs.iter().map(|place| outputs.iter().position(|output| output == place));
            let mut answer: Vec<_> = places.zip(answer).collect();
            answer.sort_by_key(|(place, _)| *place);
            answer.into_iter().map(|(_, tensor)| tensor).collect()
        }))
    }

    /// The queue for a request; `None` if there are too many already.
    fn route(&self, handle: &Published, signature: &Arc<Signature>, order: &Order) -> Option<Arc<Route>> {
        let find = |routes: &[Arc<Route>]| routes.iter().find(|route| order.fits(signature, route)).map(Arc::clone);
        if let Some(route) = find(&self.routes.read().unwrap_or_else(PoisonError::into_inner)) {
            return Some(route);
        }
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = find(&routes) {
            return Some(route);
        }
        if routes.len() == MAX_ROUTES {
            return None;
        }
        let run = order.runner(Weak::clone(&self.servable), Arc::clone(handle.runs()), Arc::clone(signature));
        let names = |specs: &[TensorSpec], order: &[usize]| {
            order.iter().map(|&position| specs[position].tensor_name.clone()).collect()
        };
        let route = Arc::new(Route {
            inputs: names(&signature.inputs, &order.inputs),
            outputs: names(&signature.outputs, &order.outputs),
            // The options were checked.
            queue: self.scheduler.queue(self.options.clone(), run).ok()?,
        });
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
        servable: Weak<Servable>,
        runs: Arc<RunMetrics>,
        signature: Arc<Signature>,
    ) -> impl Fn(Vec<Tensor>, &RunOptions) -> Result<Vec<Tensor>> + Send + Sync + 'static {
        let outputs = self.outputs.clone();
        let mut places = vec![0; self.inputs.len()];
        for (place, &position) in self.inputs.iter().enumerate() {
            places[position] = place;
        }
        move |inputs, options| {
            let unloaded = || ServingError::new(Code::Unavailable, "the version has been unloaded");
            // Whoever waits for an answer keeps the version loaded; what is left is to do so for those who go away.
            let servable = servable.upgrade().ok_or_else(unloaded)?.hold();
            let start = Instant::now();
            let result = servable.run(&signature, permuted(inputs, &places), &outputs, options);
            let took = servable.pace().record(start);
            if result.is_ok() {
                runs.ran(took);
            }
            result
        }
    }
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
    order.iter().filter_map(|&position| tensors[position].take()).collect()
}
