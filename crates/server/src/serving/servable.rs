//! One loaded version, and the claims that keep it alive.
//!
//! The control plane owns a [`Servable`]. Publishing it makes a [`Published`], which the serving map and every request
//! that uses the version share; when the last of them lets go, the version is idle and may be unloaded. Counting by
//! ownership costs a request nothing but the reference it has to take anyway.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::metrics::{ModelMetrics, RunMetrics, VersionMetrics};
use crate::runs::RunsUnderWay;
use crate::serving::batching::{Batched, Batching};
use servable_batch::{BatchingOptions, Scheduler};
use servable_model::error::{Code, Result, ServingError};
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::Signature;
use servable_model::tensor::Tensor;
use servable_runtime::RunTimeEstimate;
use servable_runtime::{self as threads, BlockingPool, Holding, Mark, RunPermits};

/// A loaded version of a model, ready to run.
pub struct Servable {
    signatures: BTreeMap<String, Arc<Signature>>,
    signature_defs: Bytes,
    executor: Box<dyn Executor>,
    own_threads: Option<BlockingPool>,
    permits: RunPermits,
    longest_run: Option<Duration>,
    under_way: Arc<RunsUnderWay>,
    run_time: RunTimeEstimate,
    metrics: VersionMetrics,
    /// Runs of the warm-up, until a model is known to count them for.
    warm_up_runs: RunMetrics,
    publications: Arc<Publications>,
    /// How its requests are joined into batches, where they are. A change of the model publishes the version anew, and
    /// its queues keep what they have learned.
    batching: OnceLock<Batching>,
    /// What says so, or that they are not, in words.
    batching_origin: OnceLock<String>,
}

impl Servable {
    /// A servable that is not published yet.
    ///
    /// `signature_defs` is the serialized `SignatureDefMap` that `GetModelMetadata` answers with.
    pub fn new(
        signatures: BTreeMap<String, Signature>,
        signature_defs: Bytes,
        executor: Box<dyn Executor>,
    ) -> Arc<Self> {
        let signatures = signatures.into_iter().map(|(name, signature)| (name, Arc::new(signature))).collect();
        let own_threads = executor.own_threads();
        Arc::new(Self {
            signatures,
            signature_defs,
            own_threads: own_threads.map(|count| BlockingPool::new("servable-run", count)),
            permits: own_threads.map_or_else(RunPermits::default, RunPermits::fixed),
            warm_up_runs: RunMetrics::new(executor.runtime()),
            longest_run: executor.longest_run(),
            under_way: Arc::default(),
            executor,
            run_time: RunTimeEstimate::default(),
            metrics: VersionMetrics::default(),
            publications: Arc::default(),
            batching: OnceLock::new(),
            batching_origin: OnceLock::new(),
        })
    }

    /// The signature of this name.
    pub fn signature(&self, name: &str) -> Option<&Arc<Signature>> {
        self.signatures.get(name)
    }

    /// All signatures by their names.
    pub fn signatures(&self) -> impl Iterator<Item = (&str, &Arc<Signature>)> {
        self.signatures.iter().map(|(name, signature)| (name.as_str(), signature))
    }

    /// The serialized `tensorflow.serving.SignatureDefMap`, as the model stores it.
    pub fn signature_defs(&self) -> &Bytes {
        &self.signature_defs
    }

    /// What runs it; see [`Executor::platform`].
    pub fn platform(&self) -> &'static str {
        self.executor.platform()
    }

    /// The runtime that runs it; see [`Executor::runtime`].
    pub(crate) fn runtime(&self) -> &'static str {
        self.executor.runtime()
    }

    /// Runs a signature once, on the calling thread; see [`Executor::run`] for what both sides promise.
    ///
    /// # Errors
    ///
    /// What the executor reports, `DEADLINE_EXCEEDED` among it for a run that takes longer than any may; `INTERNAL` if it
    /// panics.
    pub fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>> {
        let deadline = self.deadline_of_run(options.deadline);
        let _under_way = self.under_way.begin(deadline);
        self.run_briefly(signature, inputs, outputs, &RunOptions { deadline })
    }

    /// The same for a run that can be expected to be short, which is not noted and has no other deadline than its caller's.
    ///
    /// # Errors
    ///
    /// What the executor reports; `INTERNAL` if it panics.
    pub(crate) fn run_briefly(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>> {
        let run = AssertUnwindSafe(|| self.executor.run(signature, inputs, outputs, options));
        catch_unwind(run).unwrap_or_else(|panic| Err(panicked(&*panic)))
    }

    /// The deadline of a run that begins now and whose caller waits until then.
    pub(crate) fn deadline_of_run(&self, of_caller: Option<Instant>) -> Option<Instant> {
        let limit = self.longest_run.and_then(|longest| Instant::now().checked_add(longest));
        of_caller.into_iter().chain(limit).min()
    }

    /// Its runs that may take long.
    pub(crate) fn under_way(&self) -> &Arc<RunsUnderWay> {
        &self.under_way
    }

    /// Refuses inputs that a run would refuse; see [`Executor::check_inputs`].
    pub(crate) fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        self.executor.check_inputs(signature, inputs)
    }

    /// The threads for its runs, where it is to have some of its own.
    pub(crate) fn own_threads(&self) -> Option<&BlockingPool> {
        self.own_threads.as_ref()
    }

    /// The permits of its runs that are done on threads that may block.
    pub(crate) fn permits(&self) -> &RunPermits {
        &self.permits
    }

    /// Whether a run may be done on the calling thread, which serves connections.
    pub(crate) fn may_run_here(&self) -> bool {
        self.own_threads.is_none() && self.run_time.is_quick() && threads::may_hold(Mark::of(self))
    }

    /// Notes that a run holds the calling thread, which serves connections; `None` if it must not.
    pub(crate) fn hold_thread(&self, now: Instant) -> Option<Holding> {
        threads::hold(Mark::of(self), now)
    }

    /// How long its runs take.
    pub fn run_time(&self) -> &RunTimeEstimate {
        &self.run_time
    }

    /// What is counted of its requests.
    pub(crate) fn metrics(&self) -> &VersionMetrics {
        &self.metrics
    }

    /// What is counted of its runs before it is published.
    pub(crate) fn warm_up_runs(&self) -> &RunMetrics {
        &self.warm_up_runs
    }

    /// Makes it available to requests, for as long as the result or a clone of it lives; they are counted in `model`.
    pub fn publish(self: &Arc<Self>, model: Arc<ModelMetrics>) -> Arc<Published> {
        let runs = model.runs(self.executor.runtime());
        runs.absorb(&self.warm_up_runs);
        model.follow_runs(&self.under_way);
        if let Some(batching) = self.batching() {
            batching.count_warm_up(&model);
        }
        Arc::new(Published { hold: self.hold(), model, runs })
    }

    /// Keeps it from being idle, without making it available.
    pub fn hold(self: &Arc<Self>) -> Hold {
        Hold { servable: Arc::clone(self), _live: Live::new(&self.publications) }
    }

    /// Joins its requests into batches from now on; to be called before it is published, and once.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the options contradict each other, `FAILED_PRECONDITION` for a second call.
    pub fn batch(&self, scheduler: Arc<Scheduler>, options: BatchingOptions) -> Result<()> {
        let batching = Batching::new(scheduler, options)?;
        let twice = |_| ServingError::new(Code::FailedPrecondition, "the servable is batched already");
        self.batching.set(batching).map_err(twice)
    }

    /// Says where the options of its batches come from, or why it has none, for people; the first time counts.
    pub fn explain_batching(&self, origin: &str) {
        self.batching_origin.get_or_init(|| origin.to_owned());
    }

    /// Where the options of its batches come from, or why it has none; `None` if unknown.
    pub(crate) fn batching_origin(&self) -> Option<&str> {
        self.batching_origin.get().map(String::as_str)
    }

    /// How its requests are joined into batches, where they are.
    pub(crate) fn batching(&self) -> Option<&Batching> {
        self.batching.get()
    }

    /// Waits until nothing published holds it; says whether that came true within `timeout` (`None`: no limit).
    pub fn wait_until_idle(&self, timeout: Option<Duration>) -> bool {
        let busy = |live: &mut usize| *live > 0;
        let idle = &self.publications.idle;
        let live = self.publications.live();
        match timeout {
            None => *idle.wait_while(live, busy).unwrap_or_else(PoisonError::into_inner) == 0,
            Some(timeout) => {
                let (live, _) = idle.wait_timeout_while(live, timeout, busy).unwrap_or_else(PoisonError::into_inner);
                *live == 0
            }
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> ServingError {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    ServingError::internal(format!("the servable panicked: {}", text.unwrap_or("no message")))
}

/// How many [`Published`] of one servable are alive.
#[derive(Default)]
struct Publications {
    count: Mutex<usize>,
    idle: Condvar,
}

impl Publications {
    fn live(&self) -> std::sync::MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it lives, the version is not idle.
pub struct Hold {
    // Dropped before the version may be idle: what frees a model must not be a thread that serves connections.
    servable: Arc<Servable>,
    _live: Live,
}

impl Deref for Hold {
    type Target = Servable;

    fn deref(&self) -> &Servable {
        &self.servable
    }
}

/// One of those that are counted.
struct Live(Arc<Publications>);

impl Live {
    fn new(publications: &Arc<Publications>) -> Self {
        *publications.live() += 1;
        Self(Arc::clone(publications))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut live = self.0.live();
        *live -= 1;
        if *live == 0 {
            self.0.idle.notify_all();
        }
    }
}

/// A servable that requests may be routed to; holding one keeps the version loaded.
pub struct Published {
    hold: Hold,
    model: Arc<ModelMetrics>,
    runs: Arc<RunMetrics>,
}

impl Published {
    /// What is counted of the requests for its model.
    pub(crate) fn model(&self) -> &ModelMetrics {
        &self.model
    }

    /// What is counted of the runs of its model.
    pub(crate) fn runs(&self) -> &Arc<RunMetrics> {
        &self.runs
    }
}

impl Batched for Published {
    fn runner(
        &self,
    ) -> impl Fn(&Signature, Vec<Tensor>, &[usize], &RunOptions) -> Result<Vec<Tensor>> + Send + Sync + 'static {
        let (servable, runs) = (Arc::downgrade(&self.hold.servable), Arc::clone(&self.runs));
        move |signature, inputs, outputs, options| {
            let unloaded = || ServingError::new(Code::Unavailable, "the version has been unloaded");
            // A caller that waits for an answer keeps the version loaded; one that has gone away does not.
            let servable = servable.upgrade().ok_or_else(unloaded)?.hold();
            let start = Instant::now();
            let result = servable.run(signature, inputs, outputs, options);
            let took = servable.run_time().record(start);
            if result.is_ok() {
                runs.ran(took);
            }
            result
        }
    }

    fn is_repeatable(&self) -> bool {
        self.executor.is_repeatable()
    }

    fn has(&self, signature: &Arc<Signature>) -> bool {
        self.signatures.values().any(|own| Arc::ptr_eq(own, signature))
    }

    fn model(&self) -> &ModelMetrics {
        &self.model
    }
}

impl Deref for Published {
    type Target = Servable;

    fn deref(&self) -> &Servable {
        &self.hold
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use servable_model::error::Result;
    use servable_model::executor::RunOptions;
    use servable_model::tensor::Tensor;

    struct Nothing;

    impl Executor for Nothing {
        fn run(&self, _: &Signature, _: Vec<Tensor>, _: &[usize], _: &RunOptions) -> Result<Vec<Tensor>> {
            Ok(Vec::new())
        }
    }

    fn servable() -> Arc<Servable> {
        Servable::new(BTreeMap::new(), Bytes::new(), Box::new(Nothing))
    }

    #[test]
    fn a_servable_is_idle_until_published_and_again_after_the_last_claim() {
        let servable = servable();
        assert!(servable.wait_until_idle(Some(Duration::ZERO)));
        let in_map = servable.publish(Arc::default());
        let in_request = Arc::clone(&in_map);
        drop(in_map);
        assert!(!servable.wait_until_idle(Some(Duration::ZERO)));
        let waiter = std::thread::spawn({
            let servable = Arc::clone(&servable);
            move || servable.wait_until_idle(None)
        });
        drop(in_request);
        assert!(waiter.join().expect("the waiter ends"));
    }

    #[test]
    fn publishing_twice_needs_both_to_be_dropped() {
        let servable = servable();
        let (first, second) = (servable.publish(Arc::default()), servable.publish(Arc::default()));
        drop(first);
        assert!(!servable.wait_until_idle(Some(Duration::ZERO)));
        drop(second);
        assert!(servable.wait_until_idle(Some(Duration::ZERO)));
    }
}
