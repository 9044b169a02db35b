//! Classify, Regress and `MultiInference`: signatures that take examples, and have outputs with a defined meaning.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ApiOptions;
use super::arrange::resolved_signature_name;
use super::predict::Target;
use crate::metrics::Api;
use crate::serving::map::{Handle, Resolved};
use crate::serving::servable::Servable;
use servable_codec::example::Examples;
use servable_codec::metadata::signature_text;
use servable_model::call::Call;
use servable_model::error::{Result, ServingError};
use servable_model::executor::TENSORFLOW;
use servable_model::inference::{Classification, Inference, Regression};
use servable_model::signature::{DEFAULT_SIGNATURE, Signature, TensorSpec};
use servable_model::tensor::Tensor;

/// The kind of result that is computed from examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Classes with scores.
    Classify,
    /// A value.
    Regress,
}

impl Kind {
    /// The kind with this method name, such as `tensorflow/serving/classify`.
    ///
    /// # Errors
    ///
    /// `UNIMPLEMENTED` for any other name.
    pub fn from_method_name(name: &str) -> Result<Self> {
        [Self::Classify, Self::Regress]
            .into_iter()
            .find(|kind| kind.method_name() == name)
            .ok_or_else(|| ServingError::unimplemented(format!("Unsupported signature method_name: {name}")))
    }

    /// The API under which its runs are counted.
    pub fn api(self) -> Api {
        match self {
            Self::Classify => Api::Classify,
            Self::Regress => Api::Regress,
        }
    }

    pub(crate) fn method_name(self) -> &'static str {
        match self {
            Self::Classify => "tensorflow/serving/classify",
            Self::Regress => "tensorflow/serving/regress",
        }
    }

    /// Its name in error messages, which is also the name of its signatures in other kinds.
    fn noun(self) -> &'static str {
        match self {
            Self::Classify => "classification",
            Self::Regress => "regression",
        }
    }
}

/// The name of the only input, which takes the examples.
const INPUT: &str = "inputs";
const LABELS: &str = "classes";
const SCORES: &str = "scores";
const VALUES: &str = "outputs";

/// The signature of a call that names none.
///
/// In TensorFlow Serving it is `serving_default`. In models of other kinds that signature takes tensors. They use the
/// signature with the name of the kind of call, if they have one.
pub fn default_signature(servable: &Servable, kind: Kind) -> &'static str {
    let is_of_kind =
        |name: &str| servable.signature(name).is_some_and(|signature| signature.method_name == kind.method_name());
    if servable.runtime() != TENSORFLOW && !is_of_kind(DEFAULT_SIGNATURE) && is_of_kind(kind.noun()) {
        return kind.noun();
    }
    DEFAULT_SIGNATURE
}

/// A signature that was checked for a kind of call: it takes examples, and has the required outputs.
#[derive(Clone, Debug)]
pub struct Head {
    signature: Arc<Signature>,
    outputs: Outputs,
}

/// The positions of the required outputs in a signature.
#[derive(Clone, Copy, Debug)]
enum Outputs {
    Classes { labels: Option<usize>, scores: Option<usize> },
    Values(usize),
}

impl Head {
    /// Finds the head for a Classify or a Regress by the name of its signature. An empty name means
    /// [`default_signature`]. The name need not be UTF-8.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the model has no such signature, and the errors of [`Head::new`].
    pub fn find(servable: &Servable, kind: Kind, name: &[u8], check_method_name: bool) -> Result<Self> {
        let name = if name.is_empty() { default_signature(servable, kind).as_bytes() } else { name };
        let signature = std::str::from_utf8(name).ok().and_then(|name| servable.signature(name)).ok_or_else(|| {
            ServingError::invalid_argument([b"No signature was found with the name: ", name].concat())
        })?;
        Self::new(kind, Arc::clone(signature), check_method_name)
    }

    /// Checks a signature for a kind of call (`docs/spec/grpc_api.md` §7 and §8).
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if it does not match the kind. With `check_method_name`, its method name must match as well.
    pub fn new(kind: Kind, signature: Arc<Signature>, check_method_name: bool) -> Result<Self> {
        if check_method_name && signature.method_name != kind.method_name() {
            return Err(ServingError::invalid_argument(format!(
                "Expected {} signature method_name to be {}. Was: {}",
                kind.noun(),
                kind.method_name(),
                signature.method_name
            )));
        }
        let outputs = find_outputs(kind, &signature).map_err(ServingError::invalid_argument)?;
        Ok(Self { signature, outputs })
    }

    fn api(&self) -> Api {
        match self.outputs {
            Outputs::Classes { .. } => Api::Classify,
            Outputs::Values(_) => Api::Regress,
        }
    }

    fn inputs(&self) -> impl Iterator<Item = &TensorSpec> {
        self.signature.inputs.iter()
    }

    fn outputs(&self) -> impl Iterator<Item = &TensorSpec> {
        let positions = match self.outputs {
            Outputs::Classes { labels, scores } => [labels, scores],
            Outputs::Values(values) => [Some(values), None],
        };
        positions.into_iter().flatten().map(|position| &self.signature.outputs[position])
    }

    /// The answer for this many examples, from the computed tensors by name.
    fn answer(&self, computed: &BTreeMap<&str, Tensor>, examples: usize) -> Result<Inference> {
        let tensor = |position: usize| {
            let name = self.signature.outputs[position].tensor_name.as_str();
            let missing = || ServingError::internal(format!("the run returned no tensor {name}"));
            computed.get(name).cloned().ok_or_else(missing)
        };
        match self.outputs {
            Outputs::Classes { labels, scores } => {
                let (labels, scores) = (labels.map(tensor).transpose()?, scores.map(tensor).transpose()?);
                Classification::new(labels, scores, examples).map(Inference::Classification)
            }
            Outputs::Values(values) => Regression::new(tensor(values)?, examples).map(Inference::Regression),
        }
    }
}

/// The required outputs, or the reason why the signature lacks them.
fn find_outputs(kind: Kind, signature: &Signature) -> Result<Outputs, String> {
    let (noun, count) = (kind.noun(), signature.outputs.len());
    let output = |alias: &str| signature.output(alias.as_bytes());
    if signature.inputs.len() != 1 {
        return Err("Expected one input Tensor.".to_owned());
    }
    match kind {
        Kind::Classify if count != 1 && count != 2 => {
            return Err(format!("Expected one or two output Tensors, found {count}"));
        }
        Kind::Regress if count != 1 => return Err("Expected one output Tensor.".to_owned()),
        _ => {}
    }
    if signature.input(INPUT.as_bytes()).is_none() {
        return Err(format!("No {noun} inputs found in SignatureDef: {}", signature_text(signature)));
    }
    match (kind, output(LABELS), output(SCORES), output(VALUES)) {
        (Kind::Classify, None, None, _) => Err(format!(
            "Expected classification signature outputs to contain at least one of \"{LABELS}\" or \"{SCORES}\". \
             Signature was: {}",
            signature_text(signature)
        )),
        (Kind::Classify, labels, scores, _) => Ok(Outputs::Classes { labels, scores }),
        (Kind::Regress, .., Some(values)) => Ok(Outputs::Values(values)),
        (Kind::Regress, .., None) => {
            Err(format!("No {noun} outputs found in SignatureDef: {}", signature_text(signature)))
        }
    }
}

/// The relevant fields of one task of a `MultiInference`.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The name of the model.
    pub model: &'a str,
    /// The name of the signature; empty for none.
    pub signature_name: &'a str,
    /// The method name, which selects the kind. That in the signature may differ.
    pub method_name: &'a str,
}

/// The heads for the tasks of a `MultiInference` (`docs/spec/grpc_api.md` §9), each with the name of its signature.
///
/// # Errors
///
/// Those of the first invalid task. `INVALID_ARGUMENT` if it names no model, or another one than the first task, or if
/// its signature is unknown, repeated or of another kind. `UNIMPLEMENTED` for an unknown kind.
pub fn heads<'a>(
    servable: &Servable,
    tasks: impl IntoIterator<Item = Task<'a>>,
    check_method_names: bool,
) -> Result<Vec<(&'a str, Head)>> {
    let mut heads: Vec<(&str, Head)> = Vec::new();
    let mut common_model = None;
    for Task { model, signature_name, method_name } in tasks {
        if model.is_empty() {
            return Err(ServingError::invalid_argument("Found ModelSpec with an empty model name."));
        }
        if model != *common_model.get_or_insert(model) {
            let text = "All ModelSpecs in a MultiInferenceRequest must access the same model name.";
            return Err(ServingError::invalid_argument(text));
        }
        let kind = Kind::from_method_name(method_name);
        let signature_name = match &kind {
            Ok(kind) if signature_name.is_empty() => default_signature(servable, *kind),
            _ => resolved_signature_name(signature_name),
        };
        if heads.iter().any(|(name, _)| *name == signature_name) {
            let text = format!("Duplicate evaluation of signature: {signature_name}");
            return Err(ServingError::invalid_argument(text));
        }
        let signature = servable.signature(signature_name).ok_or_else(|| {
            let text = format!("Requested signature not found in model graph: {signature_name}");
            ServingError::invalid_argument(text)
        })?;
        heads.push((signature_name, Head::new(kind?, Arc::clone(signature), check_method_names)?));
    }
    Ok(heads)
}

/// Computes the answer of a Classify or a Regress for these examples.
///
/// # Errors
///
/// Those of [`Head::find`], of [`infer_all`] and of the conversion of examples to a tensor.
pub(crate) async fn infer(
    target: &mut Target<'_>,
    kind: Kind,
    signature_name: &[u8],
    examples: Examples,
    options: ApiOptions,
    call: Call,
) -> Result<Inference> {
    let Resolved { handle, shadow, .. } = target.resolve()?;
    *shadow = None; // only outputs of Predict are compared
    let head = Head::find(handle, kind, signature_name, options.check_method_names)?;
    let tensor = servable_runtime::work_on(examples.size_in_bytes(), || examples.into_tensor())?;
    let mut inferences = compute(handle, head.api(), std::slice::from_ref(&head), tensor, call).await?;
    inferences.pop().ok_or_else(|| ServingError::internal("a run without a result"))
}

/// Computes the answers of all heads in one run.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if an output has the wrong dtype or shape for its head, and the errors of [`super::run()`].
pub async fn infer_all(handle: &Handle, heads: &[Head], examples: Tensor, call: Call) -> Result<Vec<Inference>> {
    compute(handle, Api::MultiInference, heads, examples, call).await
}

async fn compute(handle: &Handle, api: Api, heads: &[Head], examples: Tensor, call: Call) -> Result<Vec<Inference>> {
    let count = examples.len();
    let joined = Arc::new(joined(heads));
    let inputs = vec![examples; joined.inputs.len()];
    let all: Vec<usize> = (0..joined.outputs.len()).collect();
    let tensors = super::run(handle, api, &joined, inputs, &all, call).await?;
    if api == Api::MultiInference {
        handle.model().count_examples(count);
    }
    answers(heads, &joined, tensors, count)
}

/// Computes the answers of all heads on the calling thread, before the servable is published.
///
/// # Errors
///
/// As those of [`infer_all`].
pub fn infer_to_warm_up(
    servable: &Arc<Servable>,
    api: Api,
    heads: &[Head],
    examples: Tensor,
) -> Result<Vec<Inference>> {
    let count = examples.len();
    let joined = joined(heads);
    let inputs = vec![examples; joined.inputs.len()];
    let all: Vec<usize> = (0..joined.outputs.len()).collect();
    let tensors = super::run_to_warm_up(servable, api, &joined, inputs, &all)?;
    answers(heads, &joined, tensors, count)
}

/// The answers of the heads, from the outputs of their joined signature.
fn answers(heads: &[Head], joined: &Signature, tensors: Vec<Tensor>, examples: usize) -> Result<Vec<Inference>> {
    let computed = joined.outputs.iter().map(|spec| spec.tensor_name.as_str()).zip(tensors).collect();
    heads.iter().map(|head| head.answer(&computed, examples)).collect()
}

/// A signature with the tensors of all heads, each once. Aliases are unique only within a head, so that the joined
/// signature uses the names of the tensors.
fn joined(heads: &[Head]) -> Signature {
    fn distinct<'a>(specs: impl Iterator<Item = &'a TensorSpec>) -> Vec<TensorSpec> {
        let by_name: BTreeMap<&str, &TensorSpec> = specs.map(|spec| (spec.tensor_name.as_str(), spec)).collect();
        by_name.into_values().map(|spec| TensorSpec { alias: spec.tensor_name.clone(), ..spec.clone() }).collect()
    }
    Signature {
        inputs: distinct(heads.iter().flat_map(Head::inputs)),
        outputs: distinct(heads.iter().flat_map(Head::outputs)),
        ..Signature::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;

    use super::*;
    use servable_model::executor::{Executor, RunOptions};
    use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType};

    fn spec(alias: &str, tensor_name: &str) -> TensorSpec {
        let (alias, tensor_name) = (alias.to_owned(), tensor_name.to_owned());
        TensorSpec { alias, tensor_name, dtype: DType::STRING, shape: None }
    }

    /// A signature with inputs and outputs such as `classes=labels:0 scores=scores:0`.
    fn signature(inputs: &str, outputs: &str, method_name: &str) -> Signature {
        let specs = |text: &str| {
            let named = text.split_whitespace().map(|entry| entry.split_once('=').expect("alias=tensor"));
            named.map(|(alias, tensor)| spec(alias, tensor)).collect()
        };
        let (inputs, outputs, method_name) = (specs(inputs), specs(outputs), method_name.to_owned());
        Signature { inputs, outputs, method_name, ..Signature::default() }
    }

    fn fault(kind: Kind, inputs: &str, outputs: &str, check: bool) -> String {
        let error = Head::new(kind, Arc::new(signature(inputs, outputs, "other")), check).err();
        let text = error.map_or_else(String::new, |error| error.to_string());
        text.split_once("goo.gle").map_or(text.clone(), |(before, _)| before.to_owned())
    }

    #[test]
    fn a_head_takes_one_input_and_has_outputs_of_its_kind() {
        use Kind::{Classify, Regress};
        for (kind, inputs, outputs, check, expected) in [
            (Classify, "inputs=e", "classes=c scores=s", false, ""),
            (Classify, "inputs=e", "other=o scores=s", false, ""),
            (Classify, "inputs=e", "classes=c", false, ""),
            (Regress, "inputs=e", "outputs=v", false, ""),
            (Classify, "", "", false, "Expected one input Tensor."),
            (Regress, "inputs=e more=m", "outputs=v", false, "Expected one input Tensor."),
            (Classify, "x=e", "a=a b=b c=c", false, "Expected one or two output Tensors, found 3"),
            (Regress, "x=e", "a=a b=b", false, "Expected one output Tensor."),
            (Classify, "x=e", "other=o", false, "No classification inputs found in SignatureDef: "),
            (Regress, "x=e", "other=o", false, "No regression inputs found in SignatureDef: "),
            (
                Classify,
                "inputs=e",
                "outputs=v",
                false,
                "Expected classification signature outputs to contain at least one of \"classes\" or \"scores\". \
                 Signature was: ",
            ),
            (Regress, "inputs=e", "scores=s", false, "No regression outputs found in SignatureDef: "),
            (
                Regress,
                "",
                "",
                true,
                "Expected regression signature method_name to be tensorflow/serving/regress. Was: other",
            ),
        ] {
            let expected = if expected.is_empty() { String::new() } else { format!("INVALID_ARGUMENT: {expected}") };
            assert_eq!(fault(kind, inputs, outputs, check), expected, "{kind:?} {inputs} -> {outputs}");
        }
    }

    /// Answers with a row for each example: labels are tensor names, scores and values 0. Records its runs.
    #[derive(Clone, Default)]
    struct Rows(Arc<Mutex<Vec<String>>>);

    impl Executor for Rows {
        fn run(
            &self,
            signature: &Signature,
            inputs: Vec<Tensor>,
            outputs: &[usize],
            _: &RunOptions,
        ) -> Result<Vec<Tensor>> {
            let rows = inputs[0].len();
            let names =
                |specs: &[TensorSpec]| specs.iter().map(|spec| spec.tensor_name.as_str()).collect::<Vec<_>>().join(" ");
            self.0.lock().expect("no panic").push(format!(
                "{} -> {}",
                names(&signature.inputs),
                names(&signature.outputs)
            ));
            let zeros = || Buffer::Owned(AlignedBytes::from_slice(ALIGNMENT, &vec![0; 4 * rows]));
            let tensor = |&position: &usize| match signature.outputs[position].tensor_name.as_str() {
                "labels" => Tensor::from_strings(vec![rows as i64, 1], std::iter::repeat_n("label", rows).collect()),
                _ => Tensor::from_numbers(DType::FLOAT, vec![rows as i64, 1], zeros()),
            };
            Ok(outputs.iter().map(tensor).collect())
        }
    }

    fn servable(executor: Rows) -> Arc<Servable> {
        let signatures = [
            ("both", signature("inputs=examples", "classes=labels scores=scores", "")),
            ("scores", signature("inputs=examples", "scores=scores", "")),
            ("value", signature("inputs=other_examples", "outputs=value", "")),
        ];
        let by_name = signatures.map(|(name, signature)| (name.to_owned(), signature)).into_iter().collect();
        Servable::new(by_name, Bytes::new(), Box::new(executor))
    }

    const CLASSIFY: &str = "tensorflow/serving/classify";
    const REGRESS: &str = "tensorflow/serving/regress";

    fn task<'a>(model: &'a str, signature_name: &'a str, method_name: &'a str) -> Task<'a> {
        Task { model, signature_name, method_name }
    }

    #[tokio::test]
    async fn heads_are_computed_in_one_run_of_distinct_tensors() {
        let runs = Rows::default();
        let servable = servable(runs.clone());
        let tasks = [task("m", "value", REGRESS), task("m", "both", CLASSIFY), task("m", "scores", CLASSIFY)];
        let heads = heads(&servable, tasks, false).expect("they fit");
        let heads: Vec<Head> = heads.into_iter().map(|(_, head)| head).collect();
        let examples = Tensor::from_strings(vec![2], ["a", "b"].into_iter().collect());
        let handle = servable.publish(Arc::default());
        let inferences = infer_all(&handle, &heads, examples, Call::default()).await.expect("rows");
        assert_eq!(*runs.0.lock().expect("no panic"), ["examples other_examples -> labels scores value"]);
        let described: Vec<String> = inferences
            .iter()
            .map(|inference| match inference {
                Inference::Regression(values) => format!("{:?}", values.iter().collect::<Vec<_>>()),
                Inference::Classification(classification) => {
                    let classes = classification.iter().flatten();
                    classes
                        .map(|(label, score)| format!("{}={score}", label.escape_ascii()))
                        .collect::<Vec<_>>()
                        .join(" ")
                }
            })
            .collect();
        assert_eq!(described, ["[0.0, 0.0]", "label=0 label=0", "=0 =0"]);
    }

    /// Computes nothing, in the runtime of this name.
    struct Runtime(&'static str);

    impl Executor for Runtime {
        fn run(&self, _: &Signature, _: Vec<Tensor>, _: &[usize], _: &RunOptions) -> Result<Vec<Tensor>> {
            Ok(Vec::new())
        }

        fn runtime(&self) -> &'static str {
            self.0
        }
    }

    #[test]
    fn no_name_means_the_signature_of_the_kind_unless_a_graph_of_tensorflow_is_asked() {
        let defaults = |runtime, signatures: &[(&str, &str)]| {
            let signature = |(name, method): &(&str, &str)| {
                ((*name).to_owned(), signature("inputs=examples", "classes=c scores=s", method))
            };
            let by_name = signatures.iter().map(signature).collect();
            let servable = Servable::new(by_name, Bytes::new(), Box::new(Runtime(runtime)));
            [Kind::Classify, Kind::Regress].map(|kind| default_signature(&servable, kind))
        };
        let predict = ("serving_default", "tensorflow/serving/predict");
        let both = [predict, ("classification", CLASSIFY), ("regression", REGRESS)];
        assert_eq!(defaults("onnx", &both), ["classification", "regression"]);
        assert_eq!(defaults(TENSORFLOW, &both), ["serving_default"; 2]);
        assert_eq!(defaults("onnx", &[predict, ("classification", CLASSIFY)]), ["classification", "serving_default"]);
        assert_eq!(defaults("onnx", &[predict, ("classification", REGRESS)]), ["serving_default"; 2]);
        assert_eq!(
            defaults("onnx", &[("serving_default", CLASSIFY), ("classification", CLASSIFY)]),
            ["serving_default"; 2]
        );
    }

    #[test]
    fn tasks_without_a_name_are_told_apart_by_their_kinds() {
        let signatures = [
            ("serving_default", signature("x=x", "y=y", "tensorflow/serving/predict")),
            ("classification", signature("inputs=examples", "classes=c", CLASSIFY)),
            ("regression", signature("inputs=examples", "outputs=v", REGRESS)),
        ];
        let by_name = signatures.map(|(name, signature)| (name.to_owned(), signature)).into_iter().collect();
        let servable = Servable::new(by_name, Bytes::new(), Box::new(Runtime("onnx")));
        let names = |tasks: [Task<'static>; 2]| -> Result<Vec<&str>, String> {
            let heads = heads(&servable, tasks, true).map_err(|error| error.to_string())?;
            Ok(heads.into_iter().map(|(name, _)| name).collect())
        };
        assert_eq!(names([task("m", "", REGRESS), task("m", "", CLASSIFY)]), Ok(vec!["regression", "classification"]));
        let twice = "INVALID_ARGUMENT: Duplicate evaluation of signature: classification";
        assert_eq!(names([task("m", "classification", CLASSIFY), task("m", "", CLASSIFY)]), Err(twice.to_owned()));
        let unknown = "UNIMPLEMENTED: Unsupported signature method_name: ?";
        assert_eq!(names([task("m", "", CLASSIFY), task("m", "", "?")]), Err(unknown.to_owned()));
        assert!(Head::find(&servable, Kind::Classify, b"", true).is_ok());
    }

    #[test]
    fn the_first_task_that_is_wrong_is_reported() {
        let servable = servable(Rows::default());
        let right = task("m", "both", CLASSIFY);
        for (second, expected) in [
            (task("", "?", "?"), "INVALID_ARGUMENT: Found ModelSpec with an empty model name."),
            (
                task("n", "?", "?"),
                "INVALID_ARGUMENT: All ModelSpecs in a MultiInferenceRequest must access the same model name.",
            ),
            (task("m", "both", "?"), "INVALID_ARGUMENT: Duplicate evaluation of signature: both"),
            (task("m", "?", "?"), "INVALID_ARGUMENT: Requested signature not found in model graph: ?"),
            (task("m", "value", "?"), "UNIMPLEMENTED: Unsupported signature method_name: ?"),
            (task("m", "value", CLASSIFY), "INVALID_ARGUMENT: Expected classification signature outputs to contain"),
        ] {
            let error = heads(&servable, [right, second], false).expect_err("the second is wrong").to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
