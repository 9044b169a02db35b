//! Warm-up: runs before a version becomes available, so that its first requests do not pay for lazy initialisation.
//!
//! Recorded requests take the same code path as those of clients, on the calling thread. Their results are checked and
//! dropped. The control plane reads the records, and decides what a failure means for the version.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::metrics::Api;
use crate::protocol::tfs_grpc::predict;
use crate::protocol::tfs_rest;
use crate::serving::Batching;
use crate::serving::examples::{self, Head, Kind, Task};
use crate::serving::servable::Servable;
use crate::serving::{ApiOptions, run_to_warm_up};
use servable_codec::example::{self, ExamplesRequest};
use servable_codec::json;
use servable_codec::proto::tensorflow::Example;
use servable_codec::proto::tensorflow::serving::prediction_log::LogType;
use servable_codec::proto::tensorflow::serving::{
    ClassificationRequest, ClassifyLog, ExampleList, Input, ModelSpec, PredictLog, PredictRequest, PredictionLog,
    RegressLog, RegressionRequest, input,
};
use servable_codec::tensor_proto::{MemoryBudget, decode_predict_request, tensor_to_proto};
use servable_codec::wire::Malformed;
use servable_model::error::{Result, ServingError};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Strings, Tensor, element_count};

/// The request in a `tensorflow.serving.PredictionLog`.
#[derive(Clone, Debug)]
pub struct Record {
    log: Option<LogType>,
}

impl Record {
    /// Reads a serialized record.
    ///
    /// # Errors
    ///
    /// If it is not such a message. Unused parts are checked too.
    pub fn parse(record: &[u8]) -> Result<Self, Malformed> {
        let log = PredictionLog::decode(record).map_err(|_| Malformed)?;
        Ok(Self { log: log.log_type })
    }

    /// Runs the request, if the record has one. Its model name and version are ignored.
    ///
    /// # Errors
    ///
    /// The error that a client would get; `UNIMPLEMENTED` for kinds of requests that are not replayed.
    pub fn replay(&self, servable: &Arc<Servable>, options: ApiOptions) -> Result<()> {
        match &self.log {
            None => Ok(()),
            Some(LogType::PredictLog(log)) => predict(servable, &message(log.request.as_ref()), options),
            Some(LogType::ClassifyLog(log)) => infer(servable, &message(log.request.as_ref()), Kind::Classify, options),
            Some(LogType::RegressLog(log)) => infer(servable, &message(log.request.as_ref()), Kind::Regress, options),
            Some(LogType::MultiInferenceLog(log)) => multi_inference(servable, &message(log.request.as_ref()), options),
            Some(LogType::SessionRunLog(_)) => Err(unsupported(5)),
            Some(LogType::PredictStreamedLog(_)) => Err(unsupported(7)),
        }
    }
}

fn unsupported(field: u32) -> ServingError {
    ServingError::unimplemented(format!("Unsupported log_type for warmup: {field}"))
}

/// The request as a client would send it.
fn message<M: Message + Default + Clone>(request: Option<&M>) -> Bytes {
    request.cloned().unwrap_or_default().encode_to_vec().into()
}

fn predict(servable: &Arc<Servable>, message: &Bytes, options: ApiOptions) -> Result<()> {
    let request = decode_predict_request(message).map_err(|_| unreadable())?;
    let run = predict::arrange(servable, &request, message.len(), options)?;
    run_to_warm_up(servable, Api::Predict, &run.signature, run.inputs, &run.outputs).map(drop)
}

fn infer(servable: &Arc<Servable>, message: &Bytes, kind: Kind, options: ApiOptions) -> Result<()> {
    let ExamplesRequest { model_spec, examples } =
        example::decode_examples_request(message).map_err(|_| unreadable())?;
    let name = model_spec.unwrap_or_default().signature_name;
    let head = Head::find(servable, kind, name.as_bytes(), options.check_method_names)?;
    examples::infer_to_warm_up(servable, kind.api(), &[head], examples.into_tensor()?).map(drop)
}

fn multi_inference(servable: &Arc<Servable>, message: &Bytes, options: ApiOptions) -> Result<()> {
    let request = example::decode_multi_inference_request(message).map_err(|_| unreadable())?;
    let tasks = request.tasks().map(|task| Task {
        model: task.model_spec.name,
        signature_name: task.model_spec.signature_name,
        method_name: task.method_name,
    });
    let heads = examples::heads(servable, tasks, options.check_method_names)?;
    let heads: Vec<Head> = heads.into_iter().map(|(_, head)| head).collect();
    examples::infer_to_warm_up(servable, Api::MultiInference, &heads, request.examples.into_tensor()?).map(drop)
}

/// A message that was decoded and encoded again is readable.
fn unreadable() -> ServingError {
    ServingError::internal("a request that was just written cannot be read")
}

/// Creates the record of a REST request: of a `:predict`, or with `is_examples` of a `:classify` or `:regress`. The
/// method name of the signature tells these two apart.
///
/// # Errors
///
/// The error that a client would get for this body.
pub fn record_of_rest(servable: &Servable, body: &[u8], is_examples: bool) -> Result<Vec<u8>> {
    let log = if is_examples { examples_log(servable, body)? } else { predict_log(servable, body)? };
    Ok(PredictionLog { log_metadata: None, log_type: Some(log) }.encode_to_vec())
}

fn predict_log(servable: &Servable, body: &[u8]) -> Result<LogType> {
    let request =
        json::decode_predict(body, json::DEFAULT_MAX_NESTING, |name| tfs_rest::predict_signature(servable, name))?;
    let names = request.signature.inputs.iter().map(|spec| spec.alias.clone());
    let request = PredictRequest {
        model_spec: Some(model_spec(&request.signature_name)),
        inputs: names.zip(request.inputs.iter().map(tensor_to_proto)).collect(),
        ..PredictRequest::default()
    };
    Ok(LogType::PredictLog(PredictLog { request: Some(request), response: None }))
}

fn examples_log(servable: &Servable, body: &[u8]) -> Result<LogType> {
    let request = json::decode_examples(body, json::DEFAULT_MAX_NESTING)?;
    let name = String::from_utf8_lossy(&request.signature_name);
    let kind_of =
        |name: &str| servable.signature(name).and_then(|signature| Kind::from_method_name(&signature.method_name).ok());
    let kind = match &*name {
        "" => [Kind::Classify, Kind::Regress]
            .into_iter()
            .find(|&kind| kind_of(examples::default_signature(servable, kind)) == Some(kind)),
        name => kind_of(name),
    };
    let Elements::Strings(strings) = request.examples.into_tensor()?.into_parts().2 else { return Err(unreadable()) };
    let examples = strings.iter().map(Example::decode).collect::<Result<_, _>>().map_err(|_| unreadable())?;
    let model_spec = Some(model_spec(&request.signature_name));
    let input = Some(Input { kind: Some(input::Kind::ExampleList(ExampleList { examples })) });
    Ok(if kind == Some(Kind::Regress) {
        let request = Some(RegressionRequest { model_spec, input });
        LogType::RegressLog(RegressLog { request, response: None })
    } else {
        let request = Some(ClassificationRequest { model_spec, input });
        LogType::ClassifyLog(ClassifyLog { request, response: None })
    })
}

fn model_spec(signature_name: &[u8]) -> ModelSpec {
    ModelSpec { signature_name: String::from_utf8_lossy(signature_name).into_owned(), ..ModelSpec::default() }
}

/// Runs each signature a number of times on zeros and empty strings of its declared shape. Free sizes are 1. If batches
/// are padded, each padded size is used as the number of rows.
///
/// Returns the name of each signature with the result of its run. Signatures without inputs are skipped, since they
/// serve a side effect or a state. Signatures with an input of unknown rank, or of an unsuitable dtype or size, are
/// skipped as well.
pub fn run_on_zeros(servable: &Arc<Servable>, iterations: usize) -> Vec<(String, Result<()>)> {
    let run = |signature: &Arc<Signature>| {
        let outputs: Vec<usize> = (0..signature.outputs.len()).collect();
        let run_with = |rows: usize| {
            let inputs = zeros(signature, rows)?;
            (0..iterations)
                .try_for_each(|_| run_to_warm_up(servable, Api::Predict, signature, inputs.clone(), &outputs).map(drop))
        };
        match servable.batching() {
            Some(batching) if rows_are_free(signature) => row_numbers(batching).try_for_each(run_with),
            _ => run_with(1),
        }
    };
    servable.signatures().map(|(name, signature)| (name.to_owned(), run(signature))).collect()
}

/// Whether the number of rows is free.
fn rows_are_free(signature: &Signature) -> bool {
    let is_free =
        |spec: &TensorSpec| spec.shape.as_ref().is_some_and(|shape| shape.first().is_some_and(|&size| size < 0));
    signature.defaults.is_empty() && signature.inputs.iter().all(is_free)
}

/// The numbers of rows to run: the padded sizes of batches, or 1 without padding.
fn row_numbers(batching: &Batching) -> impl Iterator<Item = usize> {
    let largest = batching.options().execution_size();
    let mut sizes = batching.padded_sizes().map(move |size| size.min(largest)).peekable();
    let unpadded = sizes.peek().is_none().then_some(1);
    sizes.chain(unpadded)
}

fn zeros(signature: &Signature, rows: usize) -> Result<Vec<Tensor>> {
    if signature.inputs.is_empty() {
        return Err(ServingError::invalid_argument("the signature takes no inputs"));
    }
    let input = |spec: &TensorSpec| match signature.defaults.get(&spec.alias) {
        Some(default) => Ok(default.clone()),
        None => {
            zero(spec, rows).map_err(|fault| ServingError::invalid_argument(format!("input {}: {fault}", spec.alias)))
        }
    };
    signature.inputs.iter().map(input).collect()
}

fn zero(spec: &TensorSpec, rows: usize) -> Result<Tensor, String> {
    let shape: Vec<i64> = spec
        .shape
        .as_ref()
        .ok_or("its rank is not declared")?
        .iter()
        .enumerate()
        .map(|(axis, &size)| match (axis, size) {
            (_, 0..) => size,
            (0, _) => rows as i64,
            _ => 1,
        })
        .collect();
    // An empty string needs memory in a list, too.
    let size = match spec.dtype {
        DType::STRING => size_of::<(usize, usize)>(),
        dtype => dtype.size().ok_or_else(|| format!("there are no zeros of {dtype}"))?,
    };
    let count = element_count(&shape).filter(|&count| count.saturating_mul(size) <= MemoryBudget::FLOOR);
    let count = count.ok_or("its declared shape is too large")?;
    Ok(if spec.dtype == DType::STRING {
        Tensor::from_strings(shape, Strings::new(Bytes::new(), vec![(0, 0); count]))
    } else {
        let bytes = AlignedBytes::from_iter(ALIGNMENT, std::iter::repeat_n(0, count * size));
        Tensor::from_numbers(spec.dtype, shape, Buffer::Owned(bytes))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;
    use crate::metrics::Metrics;
    use servable_batch::{BatchingOptions, PoolOptions, Scheduler};
    use servable_codec::proto::tensorflow::serving::{PredictStreamedLog, SessionRunLog};
    use servable_model::error::Code;
    use servable_model::executor::{Executor, RunOptions};

    /// Echoes, and records the inputs of its runs.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<Vec<String>>>);

    impl Executor for Notes {
        fn run(
            &self,
            signature: &Signature,
            inputs: Vec<Tensor>,
            outputs: &[usize],
            _: &RunOptions,
        ) -> Result<Vec<Tensor>> {
            let shown = signature
                .inputs
                .iter()
                .zip(&inputs)
                .map(|(spec, tensor)| format!("{} {}{:?}", spec.alias, tensor.dtype(), tensor.shape()));
            let shown = shown.collect::<Vec<_>>().join(", ");
            self.0.lock().expect("no panic").push(format!("{shown} -> {outputs:?}"));
            Ok(outputs.iter().map(|_| inputs[0].clone()).collect())
        }
    }

    fn spec(alias: &str, dtype: DType, shape: Option<&[i64]>) -> TensorSpec {
        TensorSpec {
            alias: alias.to_owned(),
            tensor_name: format!("{alias}:0"),
            dtype,
            shape: shape.map(<[i64]>::to_vec),
        }
    }

    fn signature(inputs: Vec<TensorSpec>, outputs: &[&str], method: &str) -> Signature {
        let outputs = outputs.iter().map(|alias| spec(alias, DType::FLOAT, None)).collect();
        let method_name = format!("tensorflow/serving/{method}");
        Signature { inputs, outputs, method_name, ..Signature::default() }
    }

    fn servable() -> (Arc<Servable>, Notes) {
        let notes = Notes::default();
        let examples = || vec![spec("inputs", DType::STRING, Some(&[-1]))];
        let signatures = [
            ("serving_default", signature(vec![spec("x", DType::FLOAT, Some(&[-1, 2]))], &["y", "z"], "predict")),
            ("labels", signature(examples(), &["classes"], "classify")),
            ("value", signature(examples(), &["outputs"], "regress")),
            ("effect", signature(vec![], &["y"], "predict")),
            ("any_rank", signature(vec![spec("x", DType::FLOAT, None)], &["y"], "predict")),
            ("huge", signature(vec![spec("x", DType::INT8, Some(&[1 << 20, 1 << 20]))], &["y"], "predict")),
            ("handle", signature(vec![spec("x", DType::RESOURCE, Some(&[]))], &["y"], "predict")),
        ];
        let by_name = signatures.map(|(name, signature)| (name.to_owned(), signature)).into_iter().collect();
        (Servable::new(by_name, Bytes::new(), Box::new(notes.clone())), notes)
    }

    #[test]
    fn each_size_that_batches_are_padded_to_is_run_on_zeros_and_counted_for_the_model() {
        let (servable, notes) = servable();
        let pool = PoolOptions { num_batch_threads: 1, ..PoolOptions::default() };
        let options = BatchingOptions {
            max_batch_size: 8,
            batch_timeout_micros: 60_000_000,
            allowed_batch_sizes: vec![2, 4, 8],
            ..BatchingOptions::default()
        };
        let scheduler = Arc::new(Scheduler::new(&pool).expect("a thread"));
        servable.batch(scheduler, options).expect("options that fit");
        let results: BTreeMap<_, _> = run_on_zeros(&servable, 1).into_iter().collect();
        assert_eq!(results["serving_default"], Ok(()));
        let runs = notes.0.lock().expect("no panic").clone();
        let sizes: Vec<_> = runs.iter().filter(|run| run.starts_with("x float[") && run.contains("[0, 1]")).collect();
        assert_eq!(sizes, ["x float[2, 2] -> [0, 1]", "x float[4, 2] -> [0, 1]", "x float[8, 2] -> [0, 1]"]);

        let metrics = Metrics::default();
        drop(servable.publish(metrics.served(b"m")));
        drop(servable.publish(metrics.served(b"m")));
        let families = metrics.families();
        let runs = families.iter().find(|family| family.name == "servable_batch_runs_total").expect("it is there");
        let labels: Vec<_> = runs.points.iter().map(|(labels, _)| labels.join(" ")).collect();
        assert_eq!(labels, ["m 2", "m 4", "m 8"]);
    }

    #[test]
    fn a_record_runs_with_the_rows_that_its_batch_has() {
        let (servable, notes) = servable();
        let options = BatchingOptions { max_batch_size: 4, allowed_batch_sizes: vec![4], ..BatchingOptions::default() };
        let scheduler = Arc::new(Scheduler::new(&PoolOptions::default()).expect("threads"));
        servable.batch(scheduler, options).expect("options that fit");
        let replay = |body: &[u8]| {
            let record = record_of_rest(&servable, body, false).expect("it is valid");
            let record = Record::parse(&record).expect("it is a record");
            record.replay(&servable, ApiOptions::default()).map_err(|error| error.to_string())
        };
        assert_eq!(replay(br#"{"instances": [[1, 2], [3, 4]]}"#), Ok(()));
        assert_eq!(notes.0.lock().expect("no panic")[..], ["x float[4, 2] -> [0, 1]"]);
        let too_large = replay(br#"{"instances": [[1, 2], [1, 2], [1, 2], [1, 2], [1, 2]]}"#);
        assert_eq!(
            too_large.as_ref().map_err(String::as_str),
            Err("INVALID_ARGUMENT: Task size 5 is larger than maximum input batch size 4")
        );
    }

    fn replayed(record: &[u8]) -> (Result<(), String>, Vec<String>) {
        let (servable, notes) = servable();
        let record = Record::parse(record).expect("it is a record");
        let result = record.replay(&servable, ApiOptions::default()).map_err(|error| error.to_string());
        let runs = notes.0.lock().expect("no panic").clone();
        (result, runs)
    }

    fn encoded(log: LogType) -> Vec<u8> {
        PredictionLog { log_metadata: None, log_type: Some(log) }.encode_to_vec()
    }

    #[test]
    fn a_rest_body_becomes_a_record_that_runs_the_same() {
        let (servable, _) = servable();
        let record = record_of_rest(&servable, br#"{"instances": [[1, 2], [3, 4]]}"#, false).expect("it is valid");
        assert_eq!(replayed(&record), (Ok(()), vec!["x float[2, 2] -> [0, 1]".to_owned()]));

        let body = br#"{"signature_name": "labels", "examples": [{"a": 1.0}, {"a": 2.0}]}"#;
        let record = record_of_rest(&servable, body, true).expect("it is valid");
        // Echoed strings are not a table of labels. The error shows that results are checked.
        let error = "INVALID_ARGUMENT: Expected Tensor shape: [batch_size num_classes] but got [2]";
        assert_eq!(replayed(&record), (Err(error.to_owned()), vec!["inputs:0 string[2] -> [0]".to_owned()]));

        let body = br#"{"signature_name": "value", "context": {"b": 1}, "examples": [{"a": 1.0}]}"#;
        let record = record_of_rest(&servable, body, true).expect("it is valid");
        let log = PredictionLog::decode(&record[..]).expect("it is a record").log_type;
        let Some(LogType::RegressLog(log)) = log else { panic!("the signature says regress: {log:?}") };
        let input = log.request.and_then(|request| request.input).and_then(|input| input.kind);
        let Some(input::Kind::ExampleList(list)) = input else { panic!("a list: {input:?}") };
        let features = list.examples[0].features.as_ref().expect("it has some");
        assert_eq!(features.feature.keys().collect::<Vec<_>>(), ["a", "b"]);

        let error = record_of_rest(&servable, br#"{"instances": ["a"]}"#, false).expect_err("x is a float");
        assert_eq!(error.code, Code::InvalidArgument);
    }

    #[test]
    fn output_filters_and_signature_names_count_and_the_rest_of_the_model_spec_does_not() {
        let (servable, _) = servable();
        let record = record_of_rest(&servable, br#"{"inputs": [[1, 2]]}"#, false).expect("it is valid");
        let log = PredictionLog::decode(&record[..]).expect("it is a record").log_type;
        let Some(LogType::PredictLog(PredictLog { request: Some(mut request), .. })) = log else { panic!("{log:?}") };
        request.output_filter = vec!["z".to_owned()];
        request.model_spec.get_or_insert_default().name = "another".to_owned();
        let with = |request| encoded(LogType::PredictLog(PredictLog { request: Some(request), response: None }));
        assert_eq!(replayed(&with(request.clone())), (Ok(()), vec!["x float[1, 2] -> [1]".to_owned()]));
        request.model_spec.get_or_insert_default().signature_name = "none".to_owned();
        let error = "FAILED_PRECONDITION: Serving signature key \"none\" not found.";
        assert_eq!(replayed(&with(request)), (Err(error.to_owned()), vec![]));
    }

    #[test]
    fn records_without_a_request_run_nothing_and_some_kinds_are_not_replayed() {
        assert_eq!(replayed(b""), (Ok(()), vec![]));
        let unsupported = |field| (Err(format!("UNIMPLEMENTED: Unsupported log_type for warmup: {field}")), vec![]);
        assert_eq!(replayed(&encoded(LogType::SessionRunLog(SessionRunLog::default()))), unsupported(5));
        assert_eq!(replayed(&encoded(LogType::PredictStreamedLog(PredictStreamedLog::default()))), unsupported(7));
        assert!(Record::parse(b"\xff\xff").is_err());
        // The response is unused, but must be readable.
        assert!(Record::parse(&[0x32, 4, 0x12, 2, 0x0a, 5]).is_err());
    }

    #[test]
    fn zeros_have_the_declared_shapes_and_unsuitable_inputs_are_skipped() {
        let (servable, notes) = servable();
        let results: Vec<_> = run_on_zeros(&servable, 2)
            .into_iter()
            .map(|(name, result)| (name, result.err().map(|error| error.text().to_string())))
            .collect();
        let expected = [
            ("any_rank", Some("input x: its rank is not declared")),
            ("effect", Some("the signature takes no inputs")),
            ("handle", Some("input x: there are no zeros of resource")),
            ("huge", Some("input x: its declared shape is too large")),
            ("labels", None),
            ("serving_default", None),
            ("value", None),
        ];
        let shown: Vec<_> = results.iter().map(|(name, fault)| (name.as_str(), fault.as_deref())).collect();
        assert_eq!(shown, expected);
        let runs = notes.0.lock().expect("no panic");
        let expected = ["inputs string[1] -> [0]", "x float[1, 2] -> [0, 1]", "inputs string[1] -> [0]"];
        assert_eq!(*runs, expected.into_iter().flat_map(|run| [run; 2]).collect::<Vec<_>>());
        assert!(servable.run_time().is_quick(), "the pace is known");
    }
}
