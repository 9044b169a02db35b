//! The executor that takes examples in place of tensors.

use std::collections::BTreeMap;
use std::time::Duration;

use servable_codec::example::features::{Feature, FeatureParser, FeatureTensor, Missing};
use servable_model::error::{Result, ServingError};
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{DType, Elements, Tensor, shape_text};

use crate::outputs::{FixedLabels, Heads, Labels, Scores, can_be, label_matrix, value_column};

/// The name of the signature for Classify.
pub const CLASSIFICATION: &str = "classification";
/// The name of the signature for Regress.
pub const REGRESSION: &str = "regression";

/// The beginning of the names of tensors that the runtime does not know.
const PREFIX: &str = "example";

/// Each input of a signature as one feature of its name.
///
/// The first dimension of an input is the batch, and the others are the shape of the feature. If an example has no such
/// feature, `missing` says what happens; for inputs that cannot be NaN, NaN means that the feature is required.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if an input has an unknown rank, or a size other than the first that is unknown.
pub fn features_of(signature: &Signature, missing: &Missing) -> Result<Vec<FeatureTensor>> {
    let tensor = |spec: &TensorSpec| {
        let missing = missing_of(spec.dtype, missing);
        match spec.shape.as_deref() {
            Some([_, shape @ ..]) if shape.iter().all(|&size| size >= 0) => {
                Ok(FeatureTensor::of(spec.dtype, Feature { name: spec.alias.clone(), shape: shape.to_vec(), missing }))
            }
            shape => {
                let shape = shape.map_or_else(|| "of unknown rank".to_owned(), shape_text);
                let text = format!("examples cannot fill the input {}, whose shape is {shape}", spec.alias);
                Err(ServingError::invalid_argument(text))
            }
        }
    };
    signature.inputs.iter().map(tensor).collect()
}

/// What happens if an input of this dtype has no feature.
pub(crate) fn missing_of(dtype: DType, missing: &Missing) -> Missing {
    let is_float = matches!(dtype, DType::FLOAT | DType::DOUBLE | DType::HALF | DType::BFLOAT16);
    match missing {
        Missing::NotANumber if !is_float => Missing::Refused,
        missing => missing.clone(),
    }
}

/// Adds the signatures `classification` and `regression`, as far as the model has these heads, and wraps its executor in
/// one that runs them.
///
/// Features of floats may be integers in examples, since JSON has only one kind of number. `signatures` are those that
/// the executor has already; they are run as before.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if the description does not fit the signature that it names, or if a signature has one of the two
/// names.
pub fn add_heads(
    executor: Box<dyn Executor>,
    signatures: &mut BTreeMap<String, Signature>,
    heads: Heads,
) -> Result<Box<dyn Executor>> {
    let mut prefix = PREFIX.to_owned();
    let names = || signatures.values().flat_map(|signature| signature.inputs.iter().chain(&signature.outputs));
    while names().any(|spec| spec.tensor_name.starts_with(&prefix)) {
        prefix.push('_');
    }
    let examples = ExampleExecutor::new(executor, heads, &prefix)?;
    for (name, signature) in examples.signatures() {
        if signatures.insert(name.to_owned(), signature).is_some() {
            return Err(ServingError::invalid_argument(format!("the model has a signature named {name} already")));
        }
    }
    Ok(Box::new(examples))
}

/// An executor with signatures that take examples.
struct ExampleExecutor {
    inner: Box<dyn Executor>,
    predict: Signature,
    parser: FeatureParser,
    input: TensorSpec,
    /// The outputs of both heads.
    outputs: Vec<Output>,
}

/// An output of a head.
struct Output {
    spec: TensorSpec,
    /// The name of the signature that has it.
    head: &'static str,
    source: Source,
}

/// How an output is made of one of the runtime, which goes by its position.
enum Source {
    Scores(Scores, usize),
    /// The same labels for each row of the scores; `None` for the positions of the columns.
    ColumnLabels(Option<FixedLabels>, Scores, usize),
    Labels(usize),
    Value(usize),
}

impl Source {
    fn position(&self) -> usize {
        let (Self::Scores(_, position)
        | Self::ColumnLabels(_, _, position)
        | Self::Labels(position)
        | Self::Value(position)) = self;
        *position
    }
}

impl ExampleExecutor {
    fn new(inner: Box<dyn Executor>, heads: Heads, prefix: &str) -> Result<Self> {
        let Heads { predict, inputs, classification, regression } = heads;
        check_inputs(&predict, &inputs)?;
        let spec = |alias: &str, dtype, shape| TensorSpec {
            alias: alias.to_owned(),
            tensor_name: format!("{prefix}/{alias}"),
            dtype,
            shape: Some(shape),
        };
        let find = |output: &str, labels| find(&predict, output, labels);
        let mut outputs = Vec::new();
        let mut add = |spec, head, source| outputs.push(Output { spec, head, source });
        if let Some(classification) = classification {
            let mut classes = -1;
            if let Some(scores) = &classification.scores {
                let position = find(scores.output(), false)?;
                classes = scores.declared_classes(predict.outputs[position].shape.as_ref());
                let spec = spec("scores", DType::FLOAT, vec![-1, classes]);
                add(spec, CLASSIFICATION, Source::Scores(scores.clone(), position));
            }
            let source = match (classification.labels, classification.scores) {
                (Labels::Output(output), scores) => {
                    classes = if scores.is_some() { classes } else { 1 };
                    Source::Labels(find(&output, true)?)
                }
                (Labels::Columns(labels), Some(scores)) => {
                    let (count, position) = (labels.len() as i64, find(scores.output(), false)?);
                    if classes >= 0 && classes != count {
                        let text = format!("{count} labels for {classes} scores in the output {}", scores.output());
                        return Err(ServingError::invalid_argument(text));
                    }
                    classes = count;
                    Source::ColumnLabels(Some(FixedLabels::new(labels)), scores, position)
                }
                (Labels::Positions, Some(scores)) => {
                    let position = find(scores.output(), false)?;
                    Source::ColumnLabels(None, scores, position)
                }
                (Labels::Columns(_) | Labels::Positions, None) => {
                    return Err(ServingError::invalid_argument("labels of columns need scores"));
                }
            };
            add(spec("classes", DType::STRING, vec![-1, classes]), CLASSIFICATION, source);
        }
        if let Some(output) = regression {
            add(spec("outputs", DType::FLOAT, vec![-1, 1]), REGRESSION, Source::Value(find(&output, false)?));
        }
        outputs.sort_by(|one, other| one.spec.alias.cmp(&other.spec.alias));
        let (parser, input) = (FeatureParser::new(inputs)?.taking_integers(), spec("inputs", DType::STRING, vec![-1]));
        Ok(Self { inner, predict, parser, input, outputs })
    }

    /// The signatures of the heads.
    fn signatures(&self) -> Vec<(&'static str, Signature)> {
        let heads = [(CLASSIFICATION, "tensorflow/serving/classify"), (REGRESSION, "tensorflow/serving/regress")];
        let signature = |(name, method_name): (&'static str, &str)| {
            let of_head = self.outputs.iter().filter(|output| output.head == name);
            let outputs: Vec<TensorSpec> = of_head.map(|output| output.spec.clone()).collect();
            let inputs = vec![self.input.clone()];
            let signature = Signature { inputs, outputs, method_name: method_name.to_owned(), ..Signature::default() };
            (!signature.outputs.is_empty()).then_some((name, signature))
        };
        heads.into_iter().filter_map(signature).collect()
    }

    /// Whether a signature is one of the heads, or composed of them.
    fn takes_examples(&self, signature: &Signature) -> bool {
        signature.inputs.iter().any(|spec| spec.tensor_name == self.input.tensor_name)
    }

    /// The output of this name in the runtime's terms.
    fn output(&self, spec: &TensorSpec) -> Result<&Output> {
        self.outputs.iter().find(|output| output.spec.tensor_name == spec.tensor_name).ok_or_else(|| {
            let text = format!("the output {} cannot be computed from examples", spec.tensor_name);
            ServingError::unimplemented(text)
        })
    }

    fn infer(&self, examples: &Tensor, wanted: &[&Output], options: &RunOptions) -> Result<Vec<Tensor>> {
        let Elements::Strings(strings) = examples.elements() else { return Err(not_examples(examples)) };
        let inputs = self.parser.parse(strings)?;
        let mut positions: Vec<usize> = wanted.iter().map(|output| output.source.position()).collect();
        positions.sort_unstable();
        positions.dedup();
        let computed = self.inner.run(&self.predict, inputs, &positions, options)?;
        let mut computed: BTreeMap<usize, Tensor> = positions.into_iter().zip(computed).collect();
        computed.values_mut().for_each(Tensor::share);
        let tensor = |output: &&Output| {
            let position = output.source.position();
            let name = &self.predict.outputs[position].alias;
            let missing = || ServingError::internal(format!("the run returned no output {name}"));
            output.tensor(name, computed.get(&position).cloned().ok_or_else(missing)?)
        };
        wanted.iter().map(tensor).collect()
    }
}

impl Output {
    /// The output, from that of the runtime.
    fn tensor(&self, name: &str, computed: Tensor) -> Result<Tensor> {
        match &self.source {
            Source::Scores(scores, _) => scores.matrix(computed),
            Source::Labels(_) => label_matrix(name, computed),
            Source::Value(_) => value_column(name, &computed),
            Source::ColumnLabels(labels, scores, _) => {
                let (rows, classes) = scores.dimensions(&computed)?;
                match labels {
                    Some(labels) => labels.rows(rows, classes, name),
                    None => FixedLabels::new((0..classes).map(|class| class.to_string())).rows(rows, classes, name),
                }
            }
        }
    }
}

/// Checks that each input of the signature is described.
fn check_inputs(predict: &Signature, inputs: &[FeatureTensor]) -> Result<()> {
    let (wanted, found) = (predict.inputs.len(), inputs.len());
    if wanted != found {
        let text = format!("features are described for {found} inputs of {wanted}");
        return Err(ServingError::invalid_argument(text));
    }
    for (spec, input) in predict.inputs.iter().zip(inputs) {
        let shape = [&[-1], &input.shape[..]].concat();
        let fits = |declared: &Vec<i64>| {
            declared.len() == shape.len()
                && declared.iter().zip(&shape).skip(1).all(|(&declared, &size)| declared < 0 || declared == size)
        };
        if spec.dtype != input.dtype || !spec.shape.as_ref().is_none_or(fits) {
            let (alias, found) = (&spec.alias, shape_text(&shape));
            let text = format!("features of {}{found} do not fit the input {alias} of {}", input.dtype, spec.dtype);
            return Err(ServingError::invalid_argument(text));
        }
    }
    Ok(())
}

/// The position of an output, which has to have labels or numbers.
fn find(predict: &Signature, output: &str, labels: bool) -> Result<usize> {
    let position = predict.output(output.as_bytes());
    let fault = match position.map(|position| predict.outputs[position].dtype) {
        None => format!("the signature has no output {output}"),
        Some(dtype) if !can_be(dtype, labels) => format!("the output {output} has {dtype}, which are no numbers"),
        Some(_) => return Ok(position.unwrap_or_default()),
    };
    Err(ServingError::invalid_argument(fault))
}

/// The error for what is sent in place of a list of examples.
fn not_examples(tensor: &Tensor) -> ServingError {
    let (dtype, shape) = (tensor.dtype(), shape_text(tensor.shape()));
    let text = format!("input \"inputs\": got {dtype} of shape {shape}, want a string for each example: [n]");
    ServingError::invalid_argument(text)
}

impl Executor for ExampleExecutor {
    fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>> {
        if !self.takes_examples(signature) {
            return self.inner.run(signature, inputs, outputs, options);
        }
        self.check_inputs(signature, &inputs)?;
        let wanted = outputs.iter().map(|&output| self.output(&signature.outputs[output])).collect::<Result<Vec<_>>>();
        self.infer(&inputs[0], &wanted?, options)
    }

    fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        if !self.takes_examples(signature) {
            return self.inner.check_inputs(signature, inputs);
        }
        match inputs {
            [examples] if examples.dtype() == DType::STRING && examples.shape().len() == 1 => Ok(()),
            [examples] => Err(not_examples(examples)),
            _ => {
                let text = "examples and other inputs cannot be taken together";
                Err(ServingError::unimplemented(text))
            }
        }
    }

    fn is_repeatable(&self) -> bool {
        self.inner.is_repeatable()
    }

    fn platform(&self) -> &str {
        self.inner.platform()
    }

    fn own_threads(&self) -> Option<usize> {
        self.inner.own_threads()
    }

    fn longest_run(&self) -> Option<Duration> {
        self.inner.longest_run()
    }

    fn runtime(&self) -> &str {
        self.inner.runtime()
    }
}

#[cfg(test)]
mod tests;
