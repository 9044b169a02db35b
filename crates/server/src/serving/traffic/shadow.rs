//! The shadow: a version that gets copies of requests. Its answers are compared with the live ones and dropped.
//!
//! A copy shares the tensors of the request, and enters a bounded queue after the live answer. Each shadow runs its
//! copies on one thread of the lowest priority. If a shadow is slow or hangs, further copies are dropped.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use super::{compare, random, unit_interval};
use crate::serving::servable::Published;
use servable_model::call::timed_out;
use servable_model::error::{Result, ServingError};
use servable_model::executor::RunOptions;
use servable_model::signature::Signature;
use servable_model::tensor::Tensor;
use servable_runtime::placement;

/// The maximum number of queued copies. Further ones are dropped.
const MAX_QUEUED: usize = 64;

/// The maximum size of the tensors of queued copies, in bytes.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// The published shadow of one model.
pub struct Shadow {
    version: i64,
    fraction: f64,
    runner: Arc<Runner>,
}

impl Shadow {
    /// Creates a shadow on this version. It gets this fraction of the requests, from 0 to 1.
    pub fn new(version: i64, fraction: f64) -> Self {
        Self { version, fraction, runner: Arc::default() }
    }

    /// Continues the counts and the queue of an earlier publication of the same version.
    pub(crate) fn continue_from(&mut self, before: &Self) {
        if self.version == before.version {
            self.runner = Arc::clone(&before.runner);
        }
    }

    /// The current statistics.
    pub fn statistics(&self) -> Statistics {
        let counts = &self.runner.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Statistics {
            version: self.version,
            matched: read(&counts.matched),
            differed: read(&counts.differed),
            failed: read(&counts.failed),
            dropped: read(&counts.dropped),
            unavailable: read(&counts.unavailable),
            last_problem: counts.last_problem.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Decides whether a request that `live` answers is copied, and takes a handle of the shadow version for it.
    pub(crate) fn claim(&self, live: i64, find: impl FnOnce(i64) -> Option<Arc<Published>>) -> Option<Claim> {
        if live == self.version || unit_interval(random()) >= self.fraction {
            return None;
        }
        let Some(handle) = find(self.version) else {
            count(&self.runner.counts.unavailable);
            return None;
        };
        Some(Claim { handle, runner: Arc::clone(&self.runner) })
    }
}

/// The results of copies of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The shadow version.
    pub version: i64,
    /// Answers that matched the live ones.
    pub matched: u64,
    /// Answers that differed.
    pub differed: u64,
    /// Errors.
    pub failed: u64,
    /// Copies dropped because the queue was full.
    pub dropped: u64,
    /// Copies not run because the shadow version was not available.
    pub unavailable: u64,
    /// The last difference or error.
    pub last_problem: String,
}

/// The right to run one copy of a request.
pub struct Claim {
    handle: Arc<Published>,
    runner: Arc<Runner>,
}

impl Claim {
    /// Adds a reference to the inputs, which are in the order of `signature`. Their memory is not copied.
    pub(crate) fn copy(self, signature_name: &str, signature: &Signature, inputs: &mut [Tensor]) -> Copy {
        let inputs = signature.inputs.iter().zip(inputs).map(|(spec, tensor)| {
            tensor.share();
            (spec.alias.clone(), tensor.clone())
        });
        Copy { inputs: inputs.collect(), signature_name: signature_name.to_owned(), claim: self }
    }
}

/// A copy of a request that waits for the live answer.
pub(crate) struct Copy {
    claim: Claim,
    signature_name: String,
    inputs: Vec<(String, Tensor)>,
}

impl Copy {
    /// Queues the copy for comparison with the live answer. Never waits.
    pub(crate) fn compare_with<'a>(self, live: impl IntoIterator<Item = (&'a str, Tensor)>) {
        let Self { claim: Claim { handle, runner }, signature_name, inputs } = self;
        let live: Vec<(String, Tensor)> = live.into_iter().map(|(alias, tensor)| (alias.to_owned(), tensor)).collect();
        let bytes = inputs.iter().chain(&live).map(|(_, tensor)| tensor.size_in_bytes()).sum();
        runner.take(Job { handle, signature_name, inputs, live, bytes });
    }
}

struct Job {
    handle: Arc<Published>,
    signature_name: String,
    inputs: Vec<(String, Tensor)>,
    live: Vec<(String, Tensor)>,
    bytes: usize,
}

#[derive(Default)]
struct Counts {
    matched: AtomicU64,
    differed: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    unavailable: AtomicU64,
    last_problem: Mutex<String>,
}

/// Runs copies one by one. Its thread starts with the first copy and ends when the last owner is dropped.
#[derive(Default)]
struct Runner {
    counts: Counts,
    queued_bytes: AtomicUsize,
    queue: OnceLock<Option<SyncSender<Job>>>,
}

impl Runner {
    fn take(self: &Arc<Self>, job: Job) {
        let queue = self.queue.get_or_init(|| {
            let (sender, receiver) = sync_channel(MAX_QUEUED);
            let runner = Arc::downgrade(self);
            let thread = std::thread::Builder::new().name("servable-shadow".to_owned());
            thread.spawn(move || work(&receiver, &runner)).ok().map(|_| sender)
        });
        let bytes = job.bytes;
        let waiting = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = waiting == 0 || waiting.saturating_add(bytes) <= MAX_QUEUED_BYTES;
        let is_queued = fits && queue.as_ref().is_some_and(|queue| queue.try_send(job).is_ok());
        if !is_queued {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            count(&self.counts.dropped);
        }
    }

    fn note(&self, counter: &AtomicU64, problem: String) {
        *self.counts.last_problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        count(counter);
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn work(jobs: &Receiver<Job>, runner: &Weak<Runner>) {
    lower_priority();
    placement::as_usual();
    while let Ok(job) = jobs.recv() {
        // Without an owner the counts are never read, so that queued copies are dropped.
        let Some(runner) = runner.upgrade() else { return };
        let (bytes, counts) = (job.bytes, &runner.counts);
        match compared(job) {
            Ok(None) => count(&counts.matched),
            Ok(Some(difference)) => runner.note(&counts.differed, difference),
            Err(error) => runner.note(&counts.failed, error.to_string()),
        }
        runner.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Gives the thread the lowest priority, on systems with priorities for threads.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
}

/// Runs the copy and says how its answer differs.
fn compared(job: Job) -> Result<Option<String>> {
    let Job { handle, signature_name, mut inputs, live, .. } = job;
    let signature = handle
        .signature(&signature_name)
        .ok_or_else(|| ServingError::invalid_argument(format!("there is no signature {signature_name}")))?;
    let mut arranged = Vec::with_capacity(signature.inputs.len());
    for spec in &signature.inputs {
        let sent = inputs.iter().position(|(alias, _)| *alias == spec.alias).map(|at| inputs.swap_remove(at).1);
        let tensor = sent.or_else(|| signature.defaults.get(&spec.alias).cloned());
        let missing =
            || ServingError::invalid_argument(format!("its input {} is not one of the live version", spec.alias));
        arranged.push(tensor.ok_or_else(missing)?);
    }
    let position = |alias: &str| {
        let missing = || ServingError::invalid_argument(format!("it has no output {alias}"));
        signature.output(alias.as_bytes()).ok_or_else(missing)
    };
    let positions: Vec<usize> = live.iter().map(|(alias, _)| position(alias)).collect::<Result<_>>()?;
    let shadow = run(&handle, &Arc::clone(signature), arranged, positions)?;
    Ok(live.iter().zip(&shadow).find_map(|((alias, live), shadow)| {
        compare::difference(live, shadow).map(|difference| format!("output {alias}: {difference}"))
    }))
}

/// Runs on this thread, or on a dedicated thread of the servable if it has some.
fn run(
    handle: &Arc<Published>,
    signature: &Arc<Signature>,
    inputs: Vec<Tensor>,
    outputs: Vec<usize>,
) -> Result<Vec<Tensor>> {
    let work = {
        let (handle, signature) = (Arc::clone(handle), Arc::clone(signature));
        move || handle.run(&signature, inputs, &outputs, &RunOptions::default())
    };
    let Some(threads) = handle.own_threads() else { return work() };
    let (sender, answer) = sync_channel(1);
    drop(threads.spawn(move || sender.send(work())));
    match handle.deadline_of_run(None) {
        None => answer.recv().map_err(|_| ServingError::internal("the run was given up")),
        Some(deadline) => {
            answer.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(|_| timed_out())
        }
    }?
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use bytes::Bytes;

    use super::*;
    use crate::serving::servable::Servable;
    use servable_model::executor::Executor;
    use servable_model::signature::TensorSpec;
    use servable_model::tensor::{AlignedBytes, Buffer, DType, Elements};

    /// Answers its input after a call of `on_run`.
    struct Echo<F>(F);

    impl<F: Fn() -> Result<()> + Send + Sync + 'static> Executor for Echo<F> {
        fn run(&self, _: &Signature, inputs: Vec<Tensor>, _: &[usize], _: &RunOptions) -> Result<Vec<Tensor>> {
            (self.0)()?;
            Ok(inputs)
        }
    }

    fn signature() -> Signature {
        let spec = |alias: &str| TensorSpec {
            alias: alias.to_owned(),
            tensor_name: format!("{alias}:0"),
            dtype: DType::FLOAT,
            shape: None,
        };
        Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Signature::default() }
    }

    fn echo(on_run: impl Fn() -> Result<()> + Send + Sync + 'static) -> Arc<Published> {
        let signatures = BTreeMap::from([("serving_default".to_owned(), signature())]);
        Servable::new(signatures, Bytes::new(), Box::new(Echo(on_run))).publish(Arc::default())
    }

    fn floats(values: &[f32]) -> Tensor {
        let mut bytes = AlignedBytes::new(64);
        bytes.extend_from_slice(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        Tensor::from_numbers(DType::FLOAT, vec![values.len() as i64], Buffer::Owned(bytes))
    }

    /// Sends a copy of a request with `input`, to which the live version answered `live`.
    fn send(shadow: &Shadow, handle: &Arc<Published>, signature_name: &str, input: f32, live: (&str, f32)) {
        let claim = shadow.claim(1, |_| Some(Arc::clone(handle))).expect("every request is copied");
        let mut inputs = [floats(&[input])];
        let copy = claim.copy(signature_name, &signature(), &mut inputs);
        copy.compare_with([(live.0, floats(&[live.1]))]);
    }

    /// Waits until this many copies have ended, and returns the statistics.
    fn settled(shadow: &Shadow, ended: u64) -> Statistics {
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            let now = shadow.statistics();
            if now.matched + now.differed + now.failed + now.dropped == ended {
                return now;
            }
            assert!(Instant::now() < give_up, "{now:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn answers_are_compared_and_counted() {
        let shadow = Shadow::new(2, 1.0);
        let handle = echo(|| Ok(()));
        send(&shadow, &handle, "serving_default", 1.0, ("y", 1.0));
        send(&shadow, &handle, "serving_default", 1.0, ("y", 2.0));
        let counts = settled(&shadow, 2);
        assert_eq!((counts.matched, counts.differed), (1, 1));
        assert_eq!(counts.last_problem, "output y: element 0 is 1, live 2");
        send(&shadow, &handle, "other", 1.0, ("y", 1.0));
        assert_eq!(settled(&shadow, 3).last_problem, "INVALID_ARGUMENT: there is no signature other");
        send(&shadow, &handle, "serving_default", 1.0, ("z", 1.0));
        assert_eq!(settled(&shadow, 4).last_problem, "INVALID_ARGUMENT: it has no output z");
        let panicking = echo(|| panic!("told to"));
        send(&shadow, &panicking, "serving_default", 1.0, ("y", 1.0));
        let counts = settled(&shadow, 5);
        assert_eq!(counts.last_problem, "INTERNAL: the servable panicked: told to");
        assert_eq!(counts.failed, 3);
        send(&shadow, &handle, "serving_default", 1.0, ("y", 1.0));
        assert_eq!(settled(&shadow, 6).matched, 2, "a panic ends one copy and no more");
    }

    #[test]
    fn a_hung_shadow_delays_no_request_and_copies_beyond_the_queue_are_dropped() {
        let (release, hang) = mpsc::channel::<()>();
        let hang = Mutex::new(hang);
        let shadow = Shadow::new(2, 1.0);
        let handle = echo(move || {
            let _ = hang.lock().expect("nobody panics").recv();
            Ok(())
        });
        let began = Instant::now();
        let sent = 3 * MAX_QUEUED as u64;
        for _ in 0..sent {
            send(&shadow, &handle, "serving_default", 1.0, ("y", 1.0));
        }
        assert!(began.elapsed() < Duration::from_secs(5), "nobody waited for the shadow");
        let dropped = shadow.statistics().dropped;
        // One more copy may have left the queue to run.
        assert!((sent - MAX_QUEUED as u64 - 1..=sent - MAX_QUEUED as u64).contains(&dropped), "{dropped}");
        drop(release);
        assert_eq!(settled(&shadow, sent).matched, sent - dropped);
    }

    #[test]
    fn the_memory_of_waiting_copies_is_bounded() {
        let (release, hang) = mpsc::channel::<()>();
        let hang = Mutex::new(hang);
        let shadow = Shadow::new(2, 1.0);
        let handle = echo(move || {
            let _ = hang.lock().expect("nobody panics").recv();
            Ok(())
        });
        let large = vec![0.0; MAX_QUEUED_BYTES / 4 / 4];
        for _ in 0..6 {
            let claim = shadow.claim(1, |_| Some(Arc::clone(&handle))).expect("every request is copied");
            let copy = claim.copy("serving_default", &signature(), &mut [floats(&large)]);
            copy.compare_with([("y", floats(&[1.0]))]);
        }
        assert_eq!(shadow.statistics().dropped, 3, "three quarters fit with their answers, a fourth does not");
        drop(release);
        settled(&shadow, 6);
    }

    #[test]
    fn the_copy_of_a_request_shares_its_memory() {
        let handle = echo(|| Ok(()));
        let claim = Shadow::new(2, 1.0).claim(1, |_| Some(handle)).expect("every request is copied");
        let mut inputs = [floats(&[1.0, 2.0])];
        let copy = claim.copy("serving_default", &signature(), &mut inputs);
        let address = |tensor: &Tensor| match tensor.elements() {
            Elements::Numbers(buffer) => buffer.as_ref().as_ptr(),
            Elements::Strings(_) => panic!("numbers were put in"),
        };
        assert_eq!(address(&inputs[0]), address(&copy.inputs[0].1));
        assert_eq!(address(&inputs[0]) as usize % 64, 0, "and stays aligned");
    }

    #[test]
    fn a_shadow_without_owners_runs_nothing_more_and_lets_go_of_the_version() {
        let (release, hang) = mpsc::channel::<()>();
        let hang = Mutex::new(hang);
        let shadow = Shadow::new(2, 1.0);
        let handle = echo(move || {
            let _ = hang.lock().expect("nobody panics").recv();
            Ok(())
        });
        for _ in 0..10 {
            send(&shadow, &handle, "serving_default", 1.0, ("y", 1.0));
        }
        drop(shadow);
        release.send(()).expect("one run hangs");
        let give_up = Instant::now() + Duration::from_secs(20);
        while Arc::strong_count(&handle) > 1 {
            assert!(Instant::now() < give_up, "waiting copies hold the version");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_fraction_of_the_requests_is_copied() {
        let shadow = Shadow::new(2, 0.25);
        let handle = echo(|| Ok(()));
        let copied = (0..20_000).filter(|_| shadow.claim(1, |_| Some(Arc::clone(&handle))).is_some()).count();
        assert!((4_600..5_400).contains(&copied), "{copied} of 20,000");
    }
}
