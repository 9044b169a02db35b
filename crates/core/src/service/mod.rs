//! What the server does with a request once it is decoded, the same for every protocol.
//!
//! REST and gRPC differ in decoding, encoding and a few words; everything between stands here once.

pub(crate) mod batching;
pub mod examples;
pub(crate) mod meter;
mod scrape;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::access::Access;
use crate::body::BodyMemory;
use crate::call::{Call, timed_out};
use crate::error::{Code, Result, ServingError};
use crate::executor::RunOptions;
use crate::metrics::{Api, Metrics, Scrape};
use crate::proto::tensorflow::serving::{GetModelStatusResponse, ModelVersionStatus, StatusProto};
use crate::readiness::Readiness;
use crate::servable::{Published, Servable};
use crate::serving_map::{Handle, ServingMap, Version};
use crate::signature::{DEFAULT_SIGNATURE, Signature, TensorSpec};
use crate::tensor::Tensor;

/// Switches that change answers, all off by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceOptions {
    /// Answer gRPC with `tensor_content` instead of typed fields.
    pub tensor_content_responses: bool,
    /// Require the method name of a signature to fit the call.
    pub check_method_names: bool,
}

/// Carries out configuration reloads; the control plane behind the one upward call of the request path.
pub trait ReloadConfig: Send + Sync + 'static {
    /// Replaces the configuration by a serialized `tensorflow.serving.ModelServerConfig`; returns when every newly
    /// named model is available or has failed. Blocks, and is called on a thread where that is allowed.
    ///
    /// # Errors
    ///
    /// What the client of `HandleReloadConfigRequest` gets.
    fn reload(&self, config: Bytes) -> Result<()>;
}

/// Adds models to what is served and takes them away; what the control plane does for the model repository of the Open
/// Inference Protocol. Both calls block, and are made on threads where that is allowed.
pub trait ModelRepository: Send + Sync + 'static {
    /// Serves a model: as `config` says, a JSON object, or else as it was served before. Returns when it is available.
    ///
    /// # Errors
    ///
    /// What the client gets.
    fn load(&self, model: &str, config: Option<&str>) -> Result<()>;

    /// Stops serving a model; returns when no further request reaches it.
    ///
    /// # Errors
    ///
    /// What the client gets.
    fn unload(&self, model: &str) -> Result<()>;
}

/// The state of the server that requests share.
pub struct Service {
    /// What may be called.
    pub serving_map: ServingMap,
    /// How to answer.
    pub options: ServiceOptions,
    /// Who may ask for what.
    pub access: Access,
    /// Who reloads the configuration.
    pub reload: Box<dyn ReloadConfig>,
    /// Whether requests are wanted.
    pub readiness: Readiness,
    /// One permit for each call that may stay open without being worked on, such as a watch on the health.
    pub(crate) streams: Arc<Semaphore>,
    /// Where the memory of large requests comes from.
    pub(crate) body_memory: Arc<BodyMemory>,
    /// What is counted.
    pub metrics: Metrics,
    /// Where the metrics page is, if there is one.
    pub metrics_path: Option<String>,
    /// Who counts what is not counted here.
    pub scrape: Box<dyn Scrape>,
    /// Who loads and unloads models; `None` where administration is not enabled.
    pub repository: Option<Box<dyn ModelRepository>>,
}

impl Service {
    /// How many calls may stay open at once without being worked on.
    pub(crate) const MAX_STREAMS: usize = 1024;

    /// The state of a server that has nothing to serve yet.
    pub fn new(options: ServiceOptions, reload: Box<dyn ReloadConfig>) -> Self {
        Self {
            serving_map: ServingMap::default(),
            options,
            access: Access::default(),
            reload,
            readiness: Readiness::default(),
            streams: Arc::new(Semaphore::new(Self::MAX_STREAMS)),
            body_memory: Arc::default(),
            metrics: Metrics::default(),
            metrics_path: None,
            scrape: Box::new(()),
            repository: None,
        }
    }

    /// The same with a metrics page at this path, if there is one, and `scrape` for what is not counted here.
    #[must_use]
    pub fn with_metrics_page(self, path: Option<String>, scrape: Box<dyn Scrape>) -> Self {
        Self { metrics_path: path, scrape, ..self }
    }

    /// The versions of a model, highest first, or the one asked for (`spec/grpc_api.md` §11).
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` if there is none.
    pub fn model_status(&self, name: &[u8], number: Option<i64>) -> Result<GetModelStatusResponse> {
        let versions = self.serving_map.status(name, number)?;
        Ok(GetModelStatusResponse { model_version_status: versions.iter().map(version_status).collect() })
    }
}

fn version_status(version: &Version) -> ModelVersionStatus {
    ModelVersionStatus {
        version: version.number,
        state: version.state as i32,
        status: Some(StatusProto {
            error_code: version.error_code as i32,
            error_message: version.error_message.clone(),
        }),
    }
}

/// Inputs beyond this many bytes are not run on a thread that serves connections, however quick the model was so far.
const QUICK_INPUT_BYTES: usize = 256 * 1024;

/// The name that an empty `signature_name` stands for.
pub fn resolved_signature_name(name: &str) -> &str {
    if name.is_empty() { DEFAULT_SIGNATURE } else { name }
}

/// The signature that a gRPC Predict asks for.
///
/// # Errors
///
/// `FAILED_PRECONDITION` if the model has none of that name.
pub fn predict_signature(servable: &Servable, name: &str) -> Result<Arc<Signature>> {
    servable.signature(name).map(Arc::clone).ok_or_else(|| {
        ServingError::new(Code::FailedPrecondition, format!("Serving signature key \"{name}\" not found."))
    })
}

/// Checks that a signature was exported for a kind of call that Predict can stand for, where the server is told to.
///
/// # Errors
///
/// `INTERNAL` if it was not.
pub fn check_predict_method(signature: &Signature, options: ServiceOptions) -> Result<()> {
    let methods = ["tensorflow/serving/predict", "tensorflow/serving/classify", "tensorflow/serving/regress"];
    if !options.check_method_names || methods.contains(&signature.method_name.as_str()) {
        return Ok(());
    }
    Err(ServingError::internal(format!(
        "Expected prediction signature method_name to be one of {{{}}}. Was: {}",
        methods.join(", "),
        signature.method_name
    )))
}

/// Puts what a request sent into the order of the signature's inputs, with defaults for what it left out
/// (`spec/grpc_api.md` §5, steps 3 to 5).
///
/// `sent` holds one value for each alias; `decode` makes a tensor of one, told the position of its input.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if inputs are missing or unknown, and whatever `decode` reports.
pub fn arrange_inputs<T>(
    signature: &Signature,
    sent: &[(&str, T)],
    mut decode: impl FnMut(usize, &T) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let (wanted, defaults) = (&signature.inputs, &signature.defaults);
    if sent.len() > wanted.len() || (sent.len() < wanted.len() && defaults.is_empty()) {
        return Err(wrong_number_of_inputs(signature, sent));
    }
    let inputs: Vec<Tensor> = wanted
        .iter()
        .enumerate()
        .map(|(position, spec)| match sent.iter().find(|(alias, _)| *alias == spec.alias) {
            Some((_, value)) => decode(position, value),
            None => defaults.get(&spec.alias).cloned().ok_or_else(|| missing_input(signature, spec, sent)),
        })
        .collect::<Result<_>>()?;
    if sent.iter().any(|(alias, _)| signature.input(alias.as_bytes()).is_none()) {
        let used = sorted(sent.iter().map(|(alias, _)| *alias).filter(|a| signature.input(a.as_bytes()).is_some()));
        return Err(ServingError::invalid_argument(format!(
            "Inputs contains invalid name. Used request inputs: {used}, request input: {}",
            sorted(sent.iter().map(|(alias, _)| *alias)),
        )));
    }
    Ok(inputs)
}

fn wrong_number_of_inputs<T>(signature: &Signature, sent: &[(&str, T)]) -> ServingError {
    let sent: BTreeSet<&str> = sent.iter().map(|(alias, _)| *alias).collect();
    let wanted: BTreeSet<&str> = signature.inputs.iter().map(|spec| spec.alias.as_str()).collect();
    ServingError::invalid_argument(format!(
        "input size does not match signature: {}!={} len({{{}}}) != len({{{}}}). Sent extra: {{{}}}. Missing but \
         required: {{{}}}.",
        sent.len(),
        wanted.len(),
        sorted(sent.iter().copied()),
        sorted(wanted.iter().copied()),
        sorted(sent.difference(&wanted).copied()),
        sorted(wanted.difference(&sent).copied()),
    ))
}

fn missing_input<T>(signature: &Signature, spec: &TensorSpec, sent: &[(&str, T)]) -> ServingError {
    ServingError::invalid_argument(format!(
        "Signature input alias: {}(feed name: {}) not found in request and no default value provided. Inputs expected \
         to be in the request {{{}}}, or default input alias set: {}",
        spec.alias,
        spec.tensor_name,
        sorted(sent.iter().map(|(alias, _)| *alias)),
        sorted(signature.defaults.keys().map(String::as_str)),
    ))
}

/// The outputs that a request asks for, as positions in the signature; all of them if it names none.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if a name is unknown or given twice.
pub fn select_outputs<'a>(signature: &Signature, filter: impl IntoIterator<Item = &'a str>) -> Result<Vec<usize>> {
    let mut selected = Vec::new();
    for alias in filter {
        let Some(position) = signature.output(alias.as_bytes()) else {
            return Err(ServingError::invalid_argument(format!(
                "output tensor alias not found in signature: {alias} Outputs expected to be in the set {{{}}}.",
                sorted(signature.outputs.iter().map(|spec| spec.alias.as_str())),
            )));
        };
        if selected.contains(&position) {
            return Err(ServingError::invalid_argument(format!("duplicate output tensor alias: {alias}")));
        }
        selected.push(position);
    }
    Ok(if selected.is_empty() { (0..signature.outputs.len()).collect() } else { selected })
}

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.join(",")
}

/// Runs a signature once.
///
/// Short runs are done on the calling thread, which is several times cheaper than handing them over; others on a thread
/// that may block, which is the servable's own if it has such. A run is not begun once its caller has gone away or its
/// deadline has passed, however long it has waited for a thread by then; one that is under way goes on, and its result
/// is dropped.
///
/// # Errors
///
/// What the executor reports; `DEADLINE_EXCEEDED` if the time is over first; `INTERNAL` if the executor panics.
pub async fn run(
    handle: &Handle,
    api: Api,
    signature: &Arc<Signature>,
    inputs: Vec<Tensor>,
    outputs: Vec<usize>,
    call: Call,
) -> Result<Vec<Tensor>> {
    call.check()?;
    let inputs = match handle.batching() {
        None => inputs,
        Some(batching) => {
            let asked = Instant::now();
            match batching.run(handle, signature, inputs, &outputs, call).await {
                Ok(answer) => {
                    if answer.is_ok() {
                        handle.runs().waited(api, asked.elapsed());
                    }
                    return answer;
                }
                Err(inputs) => inputs,
            }
        }
    };
    let input_bytes: usize = inputs.iter().map(Tensor::size_in_bytes).sum();
    if handle.own_threads().is_none() && handle.pace().is_quick() && input_bytes <= QUICK_INPUT_BYTES {
        return run_here(handle, api, signature, inputs, &outputs, call, None);
    }
    let (signature, asked) = (Arc::clone(signature), Instant::now());
    let work = move |handle: &Published| run_here(handle, api, &signature, inputs, &outputs, call, Some(asked));
    run_elsewhere(handle, call, work).await
}

/// Does blocking work with a servable on a thread that may block; see [`run`] for when it is not done.
async fn run_elsewhere<T: Send + 'static>(
    handle: &Handle,
    call: Call,
    work: impl FnOnce(&Published) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (_claim, waiting) = call.hand_over();
    let published = Arc::clone(handle);
    let work = move || {
        waiting.check()?;
        work(&published)
    };
    let elsewhere = match handle.own_threads() {
        Some(threads) => threads.spawn(work),
        None => tokio::task::spawn_blocking(work),
    };
    let joined = match call.deadline {
        None => elsewhere.await,
        Some(deadline) => tokio::time::timeout_at(deadline.into(), elsewhere).await.map_err(|_| timed_out())?,
    };
    joined.map_err(|failed| ServingError::internal(failed.to_string()))?
}

/// Runs on the calling thread; `asked` is when the request began to wait for it, if it had to.
fn run_here(
    handle: &Published,
    api: Api,
    signature: &Signature,
    inputs: Vec<Tensor>,
    outputs: &[usize],
    call: Call,
    asked: Option<Instant>,
) -> Result<Vec<Tensor>> {
    let start = Instant::now();
    let result = handle.run(signature, inputs, outputs, &RunOptions { deadline: call.deadline });
    let took = handle.pace().record(start);
    if result.is_ok() {
        handle.runs().ran(took);
        handle.runs().waited(api, asked.map_or(took, |asked| asked.elapsed()));
    }
    result
}

/// Runs a signature once on the calling thread, before the servable is there for requests.
///
/// # Errors
///
/// What the executor reports; `INTERNAL` if it panics.
pub fn run_to_warm_up(
    servable: &Servable,
    api: Api,
    signature: &Signature,
    inputs: Vec<Tensor>,
    outputs: &[usize],
) -> Result<Vec<Tensor>> {
    let start = Instant::now();
    let result = servable.run(signature, inputs, outputs, &RunOptions::default());
    let took = servable.pace().record_warm_up(start);
    if result.is_ok() {
        servable.warm_up_runs().ran(took);
        servable.warm_up_runs().waited(api, took);
    }
    result
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::executor::Executor;
    use crate::tensor::{DType, Elements, Strings};

    fn spec(alias: &str) -> TensorSpec {
        TensorSpec { alias: alias.to_owned(), tensor_name: format!("{alias}:0"), dtype: DType::STRING, shape: None }
    }

    fn signature(inputs: &[&str], outputs: &[&str], defaults: &[&str]) -> Signature {
        Signature {
            inputs: inputs.iter().map(|alias| spec(alias)).collect(),
            outputs: outputs.iter().map(|alias| spec(alias)).collect(),
            defaults: defaults.iter().map(|alias| ((*alias).to_owned(), scalar(&format!("default {alias}")))).collect(),
            ..Signature::default()
        }
    }

    fn scalar(text: &str) -> Tensor {
        Tensor::from_strings(Vec::new(), [text].into_iter().collect())
    }

    fn text(tensor: &Tensor) -> String {
        let Elements::Strings(strings) = tensor.elements() else { panic!("strings were put in") };
        String::from_utf8_lossy(strings.get(0)).into_owned()
    }

    fn arranged(signature: &Signature, sent: &[&str]) -> Result<Vec<String>, String> {
        let sent: Vec<(&str, String)> = sent.iter().map(|alias| (*alias, format!("sent {alias}"))).collect();
        arrange_inputs(signature, &sent, |_, value| Ok(scalar(value)))
            .map(|tensors| tensors.iter().map(text).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn inputs_come_in_the_order_of_the_signature_with_defaults_for_what_is_left_out() {
        let plain = signature(&["a", "b"], &[], &[]);
        let with_default = signature(&["a", "b"], &[], &["b"]);
        let owned = |texts: [&str; 2]| Ok(texts.map(str::to_owned).to_vec());
        assert_eq!(arranged(&plain, &["b", "a"]), owned(["sent a", "sent b"]));
        assert_eq!(arranged(&with_default, &["a"]), owned(["sent a", "default b"]));
        for (signature, sent, expected) in [
            (
                &plain,
                &["a"][..],
                "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. Missing but \
                 required: {b}.",
            ),
            (
                &with_default,
                &["a", "b", "c"],
                "input size does not match signature: 3!=2 len({a,b,c}) != len({a,b}). Sent extra: {c}. Missing but \
                 required: {}.",
            ),
            (
                &with_default,
                &["b"],
                "Signature input alias: a(feed name: a:0) not found in request and no default value provided. Inputs \
                 expected to be in the request {b}, or default input alias set: b",
            ),
            (&with_default, &["a", "c"], "Inputs contains invalid name. Used request inputs: a, request input: a,c"),
        ] {
            assert_eq!(arranged(signature, sent), Err(format!("INVALID_ARGUMENT: {expected}")));
        }
    }

    #[test]
    fn outputs_are_those_named_in_that_order_or_all() {
        let signature = signature(&[], &["x", "y", "z"], &[]);
        let selected = |names: &[&str]| select_outputs(&signature, names.iter().copied()).map_err(|e| e.to_string());
        assert_eq!(selected(&[]), Ok(vec![0, 1, 2]));
        assert_eq!(selected(&["z", "x"]), Ok(vec![2, 0]));
        assert_eq!(selected(&["z", "z"]), Err("INVALID_ARGUMENT: duplicate output tensor alias: z".to_owned()));
        let unknown = "INVALID_ARGUMENT: output tensor alias not found in signature: q Outputs expected to be in the \
                       set {x,y,z}.";
        assert_eq!(selected(&["q"]), Err(unknown.to_owned()));
    }

    /// Does what its one input says.
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
        let servable = crate::servable::Servable::new(BTreeMap::new(), Bytes::new(), Box::new(Obedient));
        let (handle, signature) = (servable.publish(Arc::default()), Arc::new(signature(&["x"], &["x"], &[])));
        let call = Call::until(deadline.map(|after| Instant::now() + after));
        // The first run is done elsewhere, the second here.
        run(&handle, Api::Predict, &signature, vec![scalar("warm up")], vec![0], Call::default())
            .await
            .expect("it echoes");
        let strings = Strings::from_iter([order]);
        run(&handle, Api::Predict, &signature, vec![Tensor::from_strings(Vec::new(), strings)], vec![0], call)
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
        let servable = crate::servable::Servable::new(BTreeMap::new(), Bytes::new(), Box::new(Obedient));
        let (handle, signature) = (servable.publish(Arc::default()), Arc::new(signature(&["x"], &["x"], &[])));
        let soon = Call::until(Some(Instant::now() + Duration::from_millis(20)));
        let result = run(&handle, Api::Predict, &signature, vec![scalar("sleep")], vec![0], soon).await;
        let error = result.expect_err("it sleeps for longer");
        assert_eq!(error.to_string(), "DEADLINE_EXCEEDED: Timed out waiting for notification");
        drop(handle);
        assert!(!servable.wait_until_idle(Some(Duration::ZERO)), "the run still holds the version");
        assert!(servable.wait_until_idle(Some(Duration::from_secs(5))), "until it ends");
    }

    /// Takes all of its time, on the one thread it asked for.
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
    fn runs_on_threads_of_their_own_hold_up_nobody_else() {
        let (go_on, waits) = std::sync::mpsc::channel();
        let own = crate::servable::Servable::new(BTreeMap::new(), Bytes::new(), Box::new(Waits(waits.into())));
        let signature = Arc::new(signature(&[], &["x"], &[]));
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
                        run(&handle, Api::Predict, &signature, Vec::new(), vec![0], Call::default()).await
                    })
                })
                .collect();
            assert_eq!(told("echo", Some(Duration::from_secs(10))).await, Ok("echo".to_owned()));
            let late = Call::until(Some(Instant::now() + Duration::from_millis(20)));
            let error =
                run(&handle, Api::Predict, &signature, Vec::new(), vec![0], late).await.expect_err("it waits in line");
            assert_eq!(error.code, Code::DeadlineExceeded);
            for _ in 0..3 {
                go_on.send(()).expect("the executor waits for it");
            }
            for run in runs {
                let outputs = run.await.expect("it does not panic").expect("it runs");
                assert_eq!(text(&outputs[0]), "servable-run");
            }
        });
    }
}
