//! Execution of one request. Its lane is chosen before the run: in a batch, on the calling thread, or on a blocking
//! thread.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{timeout, timeout_at};

use crate::metrics::Api;
use crate::serving::batching::{Batching, Plan};
use crate::serving::map::Handle;
use crate::serving::servable::{Published, Servable};
use servable_model::call::{Call, timed_out};
use servable_model::error::{Code, Result, ServingError};
use servable_model::executor::RunOptions;
use servable_model::signature::Signature;
use servable_model::tensor::Tensor;

/// Larger inputs, in bytes, never run on a thread that serves connections.
const QUICK_INPUT_BYTES: usize = 256 * 1024;

/// Larger inputs, in bytes, are not batched with others on such a thread.
const QUICK_BATCHED_BYTES: usize = 64 * 1024;

/// The interval at which a waiting request checks whether the runs before it are stuck.
const LOOK: Duration = Duration::from_secs(1);

/// The lane of a run.
enum Lane<'a> {
    /// In a batch of the queue of the plan.
    Batch(&'a Batching, Arc<Plan>),
    /// On the calling thread, which serves connections.
    Inline,
    /// On a blocking thread.
    Pool,
}

impl<'a> Lane<'a> {
    /// Chooses the lane of a run.
    ///
    /// A short run stays on the calling thread, which is several times cheaper than a hand-over.
    ///
    /// # Errors
    ///
    /// `FAILED_PRECONDITION` if the version is batched and such requests cannot be.
    fn of(
        published: &'a Published,
        signature: &Arc<Signature>,
        inputs: &[Tensor],
        outputs: &[usize],
    ) -> Result<Lane<'a>> {
        if let Some(batching) = published.batching()
            && let Some(plan) = batching.plan(published, signature, outputs)?
        {
            return Ok(Self::Batch(batching, plan));
        }
        Ok(if is_quick(published, inputs, QUICK_INPUT_BYTES) { Self::Inline } else { Self::Pool })
    }
}

/// Whether these inputs may run on the calling thread.
fn is_quick(published: &Published, inputs: &[Tensor], most_bytes: usize) -> bool {
    published.may_run_here() && inputs.iter().map(Tensor::size_in_bytes).sum::<usize>() <= most_bytes
}

/// Runs a signature once.
///
/// A run does not start after its caller has disconnected or its deadline has passed. A run in progress is cancelled at
/// that point. If the executor cannot cancel it, it continues, and its result is dropped.
///
/// # Errors
///
/// Those of the executor or of the batch queue. `DEADLINE_EXCEEDED` after the deadline. `UNAVAILABLE` if it would wait
/// for stuck runs. `INTERNAL` if the executor panics.
pub async fn run(
    handle: &Handle,
    api: Api,
    signature: &Arc<Signature>,
    inputs: Vec<Tensor>,
    outputs: &[usize],
    call: Call,
) -> Result<Vec<Tensor>> {
    call.check()?;
    let asked = Instant::now();
    let lane = Lane::of(handle, signature, &inputs, outputs)?;
    if let Lane::Batch(batching, plan) = lane {
        let answer = run_in_batch(handle, batching, &plan, inputs, call).await?;
        handle.runs().waited(api, asked.elapsed());
        return Ok(answer);
    }
    if matches!(lane, Lane::Inline)
        && let Some(_holding) = handle.hold_thread(asked)
    {
        return run_here(handle, api, signature, inputs, outputs, call, None);
    }
    let (signature, outputs) = (Arc::clone(signature), outputs.to_vec());
    let work = move |handle: &Published| run_here(handle, api, &signature, inputs, &outputs, call, Some(asked));
    run_elsewhere(handle, call, work).await
}

/// Runs a request as part of a batch.
///
/// If a batch can start at once and its run is short, it runs on the calling thread. It contains the requests that the
/// thread has read by then. The thread yields to read more only if [`CoalescingHint`](super::batching::CoalescingHint)
/// says so.
///
/// # Errors
///
/// Those of the queue or of the run of the batch.
async fn run_in_batch(
    published: &Published,
    batching: &Batching,
    plan: &Plan,
    inputs: Vec<Tensor>,
    call: Call,
) -> Result<Vec<Tensor>> {
    published.check_inputs(plan.signature(), &inputs)?;
    if let Some(&rows) = inputs.first().and_then(|input| input.shape().first()) {
        published.model().batches().asked(rows as usize, inputs.len());
    }
    if let Some(refusal) = published.under_way().refusal(batching.pool().num_batch_threads) {
        return Err(refusal);
    }
    let is_quick = is_quick(published, &inputs, QUICK_BATCHED_BYTES);
    let (inputs, queue) = (plan.in_queue_order(inputs), plan.queue());
    let (ticket, lead) =
        if is_quick { queue.submit_or_lead(inputs, call)? } else { (queue.submit(inputs, call)?, None) };
    let mut waits = call;
    if let Some(lead) = lead {
        let hint = plan.hint();
        if hint.is_likely() {
            servable_runtime::yield_to_ready_tasks().await;
        }
        // If this thread must not be blocked, the batch threads run the batch.
        if let Some(_holding) = published.hold_thread(Instant::now()) {
            hint.note(lead.run());
        }
    } else if call.deadline.is_none() {
        // A bound on runs also bounds the wait of the caller.
        waits.deadline = published.deadline_of_run(None);
    }
    ticket.until_deadline(waits).await.map(|answer| plan.in_request_order(answer))
}

/// Does blocking work with a servable on a blocking thread, once it has a permit. See [`run`] for cancellation.
async fn run_elsewhere<T: Send + 'static>(
    handle: &Handle,
    call: Call,
    work: impl FnOnce(&Published) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (_claim, waiting) = call.hand_over();
    let turn = match call.deadline {
        None => turn(handle).await,
        Some(deadline) => timeout_at(deadline.into(), turn(handle)).await.map_err(|_| timed_out())?,
    }?;
    let published = Arc::clone(handle);
    let work = move || {
        let _turn = turn;
        waiting.check()?;
        work(&published)
    };
    let elsewhere = match handle.own_threads() {
        Some(threads) => threads.spawn(work),
        None => tokio::task::spawn_blocking(work),
    };
    let joined = match handle.deadline_of_run(call.deadline) {
        None => elsewhere.await,
        Some(deadline) => timeout_at(deadline.into(), elsewhere).await.map_err(|_| timed_out())?,
    };
    joined.map_err(|failed| ServingError::internal(failed.to_string()))?
}

/// Waits for a run permit.
///
/// # Errors
///
/// `UNAVAILABLE` if stuck runs have all permits.
async fn turn(handle: &Published) -> Result<OwnedSemaphorePermit> {
    let (mut next, mut patience) = (pin!(handle.permits().acquire()), Duration::ZERO);
    loop {
        match timeout(patience, &mut next).await {
            Ok(turn) => return Ok(turn),
            Err(_) => handle.under_way().refusal(1).map_or(Ok(()), Err)?,
        }
        patience = LOOK;
    }
}

/// Runs on the calling thread. `asked` is the time at which the request began to wait, if it did.
fn run_here(
    handle: &Published,
    api: Api,
    signature: &Signature,
    inputs: Vec<Tensor>,
    outputs: &[usize],
    call: Call,
    asked: Option<Instant>,
) -> Result<Vec<Tensor>> {
    let (start, options) = (Instant::now(), RunOptions { deadline: call.deadline });
    let result = match asked {
        None => handle.run_briefly(signature, inputs, outputs, &options),
        Some(_) => handle.run(signature, inputs, outputs, &options),
    };
    let took = handle.run_time().record(start);
    if result.is_ok() {
        handle.runs().ran(took);
        handle.runs().waited(api, asked.map_or(took, |asked| asked.elapsed()));
    }
    result
}

/// Runs a signature once before the servable is published: as a separate batch if the servable is batched, else on the
/// calling thread. Blocks.
///
/// # Errors
///
/// Those of the executor; `INTERNAL` if it panics.
pub fn run_to_warm_up(
    servable: &Arc<Servable>,
    api: Api,
    signature: &Signature,
    inputs: Vec<Tensor>,
    outputs: &[usize],
) -> Result<Vec<Tensor>> {
    let asked = Instant::now();
    let result = match servable.batching() {
        None => warm_up(servable, signature, inputs, outputs, &RunOptions::default()),
        Some(batching) => {
            let (servable, signature, outputs) = (Arc::downgrade(servable), signature.clone(), outputs.to_vec());
            batching.warm_up(inputs, move |inputs: Vec<Tensor>, options: &RunOptions| {
                let unloaded = || ServingError::new(Code::Unavailable, "the version has been unloaded");
                warm_up(&*servable.upgrade().ok_or_else(unloaded)?, &signature, inputs, &outputs, options)
            })
        }
    };
    if result.is_ok() {
        servable.warm_up_runs().waited(api, asked.elapsed());
    }
    result
}

/// Runs a signature on the calling thread, and counts the run for the warm-up.
fn warm_up(
    servable: &Servable,
    signature: &Signature,
    inputs: Vec<Tensor>,
    outputs: &[usize],
    options: &RunOptions,
) -> Result<Vec<Tensor>> {
    let start = Instant::now();
    let result = servable.run(signature, inputs, outputs, options);
    let took = servable.run_time().record_warm_up(start);
    if result.is_ok() {
        servable.warm_up_runs().ran(took);
    }
    result
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use servable_model::error::Code;
    use servable_model::executor::Executor;
    use servable_model::tensor::{Elements, Strings};

    fn scalar(text: &str) -> Tensor {
        Tensor::from_strings(Vec::new(), [text].into_iter().collect())
    }

    fn text(tensor: &Tensor) -> String {
        let Elements::Strings(strings) = tensor.elements() else { panic!("strings were put in") };
        String::from_utf8_lossy(strings.get(0)).into_owned()
    }

    /// Behaves as its only input tells it.
    struct Obedient;

    impl Executor for Obedient {
        fn run(&self, _: &Signature, inputs: Vec<Tensor>, _: &[usize], _: &RunOptions) -> Result<Vec<Tensor>> {
            match text(&inputs[0]).as_str() {
                "sleep" => std::thread::sleep(Duration::from_millis(200)),
                "panic" => panic!("told to"),
                _ => {}
            }
            Ok(inputs)
        }
    }

    async fn told(order: &str, deadline: Option<Duration>) -> Result<String, String> {
        let servable = crate::serving::servable::Servable::new(BTreeMap::new(), Bytes::new(), Box::new(Obedient));
        let (handle, signature) = (servable.publish(Arc::default()), Arc::default());
        let call = Call::until(deadline.map(|after| Instant::now() + after));
        // The first run is on another thread, the second on this one.
        run(&handle, Api::Predict, &signature, vec![scalar("warm up")], &[0], Call::default())
            .await
            .expect("it echoes");
        let strings = Strings::from_iter([order]);
        run(&handle, Api::Predict, &signature, vec![Tensor::from_strings(Vec::new(), strings)], &[0], call)
            .await
            .map(|outputs| text(&outputs[0]))
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_of_one_run() {
        assert_eq!(told("echo", None).await, Ok("echo".to_owned()));
        assert_eq!(told("panic", None).await, Err("INTERNAL: the servable panicked: told to".to_owned()));
    }

    #[tokio::test]
    async fn a_long_run_is_given_up_at_its_deadline() {
        let servable = crate::serving::servable::Servable::new(BTreeMap::new(), Bytes::new(), Box::new(Obedient));
        let (handle, signature) = (servable.publish(Arc::default()), Arc::default());
        let soon = Call::until(Some(Instant::now() + Duration::from_millis(20)));
        let result = run(&handle, Api::Predict, &signature, vec![scalar("sleep")], &[0], soon).await;
        let error = result.expect_err("it sleeps for longer");
        assert_eq!(error.to_string(), "DEADLINE_EXCEEDED: Timed out waiting for notification");
        drop(handle);
        assert!(!servable.wait_until_idle(Some(Duration::ZERO)), "the run still holds the version");
        assert!(servable.wait_until_idle(Some(Duration::from_secs(5))), "until it ends");
    }

    /// Blocks until it gets a message, on its only thread.
    struct Waits(std::sync::Mutex<std::sync::mpsc::Receiver<()>>);

    impl Executor for Waits {
        fn run(&self, _: &Signature, _: Vec<Tensor>, _: &[usize], _: &RunOptions) -> Result<Vec<Tensor>> {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            self.0.try_lock().expect("one run at a time").recv().expect("the test lets it go on");
            Ok(vec![scalar(&name)])
        }

        fn own_threads(&self) -> Option<usize> {
            Some(1)
        }
    }

    #[test]
    fn runs_on_dedicated_threads_delay_no_other_servable() {
        let (go_on, waits) = std::sync::mpsc::channel();
        let own = crate::serving::servable::Servable::new(BTreeMap::new(), Bytes::new(), Box::new(Waits(waits.into())));
        let signature = Arc::default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let handle = own.publish(Arc::default());
            let runs: Vec<_> = (0..3)
                .map(|_| {
                    let (handle, signature) = (Arc::clone(&handle), Arc::clone(&signature));
                    tokio::spawn(async move {
                        run(&handle, Api::Predict, &signature, Vec::new(), &[0], Call::default()).await
                    })
                })
                .collect();
            assert_eq!(told("echo", Some(Duration::from_secs(10))).await, Ok("echo".to_owned()));
            let late = Call::until(Some(Instant::now() + Duration::from_millis(20)));
            let error =
                run(&handle, Api::Predict, &signature, Vec::new(), &[0], late).await.expect_err("it waits in line");
            assert_eq!(error.code, Code::DeadlineExceeded);
            // The late one may start first. It then runs to its end without a caller.
            for _ in 0..4 {
                go_on.send(()).expect("the executor waits for it");
            }
            for run in runs {
                let outputs = run.await.expect("it does not panic").expect("it runs");
                assert_eq!(text(&outputs[0]), "servable-run");
            }
        });
    }
}
