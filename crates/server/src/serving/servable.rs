//! A loaded version, and the reference counts that keep it loaded.
//!
//! The control plane owns a [`Servable`]. Publishing it creates a [`Published`], which the serving map and the requests
//! in flight share. When the last reference is dropped, the version is idle and may be unloaded. A request needs a
//! reference anyway, so that this costs it nothing more.

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
    /// The metrics of warm-up runs. They are added to those of the model when the version is published.
    warm_up_runs: RunMetrics,
    publications: Arc<Publications>,
    /// The batching, if it is batched. The version keeps it when it is published again, so that adaptive queues keep
    /// their state.
    batching: OnceLock<Batching>,
    /// The source of the batching options, or the reason why there are none, for operators.
    batching_origin: OnceLock<String>,
}

impl Servable {
    /// Creates a servable that is not published.
    ///
    /// `signature_defs` is the serialized `SignatureDefMap` for answers to `GetModelMetadata`.
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
            permits: own_threads
                .or_else(|| executor.concurrent_runs())
                .map_or_else(RunPermits::default, RunPermits::fixed),
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

    /// The executor.
    pub fn executor(&self) -> &dyn Executor {
        &*self.executor
    }

    /// The platform; see [`Executor::platform`].
    pub fn platform(&self) -> &str {
        self.executor.platform()
    }

    /// The runtime; see [`Executor::runtime`].
    pub(crate) fn runtime(&self) -> &str {
        self.executor.runtime()
    }

    /// Runs a signature once, on the calling thread. [`Executor::run`] is the contract.
    ///
    /// # Errors
    ///
    /// Those of the executor; `DEADLINE_EXCEEDED` after the maximum time of a run; `INTERNAL` if it panics.
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

    /// Like [`Self::run`], for a run that is expected to be short. It is not registered, and only the caller's deadline
    /// applies.
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

    /// The deadline of a run that starts now: the earlier of the caller's and that of the maximum time of a run.
    pub(crate) fn deadline_of_run(&self, of_caller: Option<Instant>) -> Option<Instant> {
        let limit = self.longest_run.and_then(|longest| Instant::now().checked_add(longest));
        of_caller.into_iter().chain(limit).min()
    }

    /// Its registered runs.
    pub(crate) fn under_way(&self) -> &Arc<RunsUnderWay> {
        &self.under_way
    }

    /// Checks inputs before a run; see [`Executor::check_inputs`].
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if a run would refuse the inputs.
    pub fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        self.executor.check_inputs(signature, inputs)
    }

    /// Its dedicated threads, if it has some.
    pub(crate) fn own_threads(&self) -> Option<&BlockingPool> {
        self.own_threads.as_ref()
    }

    /// The permits for its runs on blocking threads.
    pub(crate) fn permits(&self) -> &RunPermits {
        &self.permits
    }

    /// Whether a run may use the calling thread, which serves connections.
    pub(crate) fn may_run_here(&self) -> bool {
        self.own_threads.is_none() && self.run_time.is_quick() && threads::may_hold(Mark::of(self))
    }

    /// Registers the calling thread, which serves connections, as blocked by a run; `None` if it must not be blocked.
    pub(crate) fn hold_thread(&self, now: Instant) -> Option<Holding> {
        threads::hold(Mark::of(self), now)
    }

    /// The estimate of its run time.
    pub fn run_time(&self) -> &RunTimeEstimate {
        &self.run_time
    }

    /// The metrics of its requests.
    pub(crate) fn metrics(&self) -> &VersionMetrics {
        &self.metrics
    }

    /// The metrics of its runs before it was published.
    pub(crate) fn warm_up_runs(&self) -> &RunMetrics {
        &self.warm_up_runs
    }

    /// Makes it available to requests until the last clone of the result is dropped. `model` counts the requests.
    pub fn publish(self: &Arc<Self>, model: Arc<ModelMetrics>) -> Arc<Published> {
        let runs = model.runs(self.executor.runtime());
        runs.absorb(&self.warm_up_runs);
        model.follow_runs(&self.under_way);
        if let Some(batching) = self.batching() {
            batching.count_warm_up(&model);
        }
        Arc::new(Published { hold: self.hold(), model, runs })
    }

    /// Keeps it from being idle without publishing it.
    pub fn hold(self: &Arc<Self>) -> Hold {
        Hold { servable: Arc::clone(self), _live: Live::new(&self.publications) }
    }

    /// Enables batching. Must be called once, before it is published.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the options contradict each other, `FAILED_PRECONDITION` for a second call.
    pub fn batch(&self, scheduler: Arc<Scheduler>, options: BatchingOptions) -> Result<()> {
        let batching = Batching::new(scheduler, options)?;
        let twice = |_| ServingError::new(Code::FailedPrecondition, "the servable is batched already");
        self.batching.set(batching).map_err(twice)
    }

    /// Sets the source of the batching options, or the reason why there are none, for operators. Later calls have no
    /// effect.
    pub fn explain_batching(&self, origin: &str) {
        self.batching_origin.get_or_init(|| origin.to_owned());
    }

    /// The source of the batching options, or the reason why there are none; `None` if unknown.
    pub(crate) fn batching_origin(&self) -> Option<&str> {
        self.batching_origin.get().map(String::as_str)
    }

    /// The batching, if it is batched.
    pub(crate) fn batching(&self) -> Option<&Batching> {
        self.batching.get()
    }

    /// Waits until it is idle. Returns whether it was within `timeout` (`None`: no limit).
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

/// The number of references that keep a servable from being idle.
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

/// A guard that keeps the version from being idle.
pub struct Hold {
    // Dropped before the version becomes idle: a thread that serves connections must not free a model.
    servable: Arc<Servable>,
    _live: Live,
}

impl Deref for Hold {
    type Target = Servable;

    fn deref(&self) -> &Servable {
        &self.servable
    }
}

/// One counted reference.
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

/// A published servable, to which requests may be routed. A reference keeps the version loaded.
pub struct Published {
    hold: Hold,
    model: Arc<ModelMetrics>,
    runs: Arc<RunMetrics>,
}

impl Published {
    /// The metrics of the requests for its model.
    pub(crate) fn model(&self) -> &ModelMetrics {
        &self.model
    }

    /// The metrics of the runs of its model.
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
            // A waiting caller keeps the version loaded. Without a caller, the version may have been unloaded.
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
