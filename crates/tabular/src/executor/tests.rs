use std::sync::{Arc, Mutex};

use servable_codec::wire::{put_length_field, put_length_tag};
use servable_model::inference;
use servable_model::signature::DEFAULT_SIGNATURE;
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer};

use super::*;
use crate::outputs::Classification;

fn spec(alias: &str, dtype: DType, shape: &[i64]) -> TensorSpec {
    TensorSpec { alias: alias.to_owned(), tensor_name: alias.to_owned(), dtype, shape: Some(shape.to_vec()) }
}

fn tensor(dtype: DType, shape: &[i64], bytes: &[u8]) -> Tensor {
    Tensor::from_numbers(dtype, shape.to_vec(), Buffer::Owned(AlignedBytes::from_slice(ALIGNMENT, bytes)))
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let Elements::Numbers(buffer) = tensor.elements() else { panic!("a tensor of numbers") };
    buffer.as_ref().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn texts(tensor: &Tensor) -> Vec<String> {
    let Elements::Strings(strings) = tensor.elements() else { panic!("a tensor of strings") };
    strings.iter().map(|string| String::from_utf8_lossy(string).into_owned()).collect()
}

/// For each row `x` of its input: `p` is `x`, `both` are `-x` and `x` in `double`, `class` is 7, `word` is `w` and `wide`
/// is a matrix of no columns. Notes which outputs it computes.
#[derive(Clone, Default)]
struct Model(Arc<Mutex<Vec<String>>>);

impl Executor for Model {
    fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        _: &RunOptions,
    ) -> Result<Vec<Tensor>> {
        let rows = inputs[0].shape()[0];
        let values = numbers(&inputs[0]);
        let doubles = values.iter().flat_map(|&value| [-f64::from(value), f64::from(value)]);
        let names: Vec<&str> = outputs.iter().map(|&output| signature.outputs[output].alias.as_str()).collect();
        self.0.lock().expect("no panic").push(names.join(" "));
        let output = |name: &&str| match *name {
            "p" => inputs[0].clone(),
            "both" => {
                tensor(DType::DOUBLE, &[rows, 2], &doubles.clone().flat_map(f64::to_le_bytes).collect::<Vec<_>>())
            }
            "class" => tensor(DType::INT64, &[rows], &7_i64.to_le_bytes().repeat(values.len())),
            "word" => Tensor::from_strings(vec![rows], std::iter::repeat_n("w", values.len()).collect()),
            _ => tensor(DType::FLOAT, &[rows, 0], &[]),
        };
        Ok(names.iter().map(output).collect())
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    fn runtime(&self) -> &'static str {
        "model"
    }
}

fn predict() -> Signature {
    Signature {
        inputs: vec![spec("x", DType::FLOAT, &[-1])],
        outputs: vec![
            spec("both", DType::DOUBLE, &[-1, 2]),
            spec("class", DType::INT64, &[-1]),
            spec("p", DType::FLOAT, &[-1]),
            spec("wide", DType::FLOAT, &[-1, -1]),
            spec("word", DType::STRING, &[-1]),
        ],
        method_name: "tensorflow/serving/predict".to_owned(),
        ..Signature::default()
    }
}

struct Wrapped {
    executor: Box<dyn Executor>,
    signatures: BTreeMap<String, Signature>,
    model: Model,
}

fn wrap(classification: Option<Classification>, regression: Option<&str>) -> Result<Wrapped> {
    let (predict, model) = (predict(), Model::default());
    let mut signatures = BTreeMap::from([(DEFAULT_SIGNATURE.to_owned(), predict.clone())]);
    let inputs = features_of(&predict, &Missing::NotANumber)?;
    let heads = Heads { predict, inputs, classification, regression: regression.map(str::to_owned) };
    let executor = add_heads(Box::new(model.clone()), &mut signatures, heads)?;
    Ok(Wrapped { executor, signatures, model })
}

fn classification(scores: Option<Scores>, labels: Labels) -> Classification {
    Classification { scores, labels }
}

fn columns(labels: &[&str]) -> Labels {
    Labels::Columns(labels.iter().map(|&label| label.to_owned()).collect())
}

/// Examples with a feature `x`.
fn examples(values: &[f32]) -> Tensor {
    let example = |value: &f32| {
        let mut list = Vec::new();
        put_length_field(&mut list, 1, &value.to_le_bytes());
        let (mut feature, mut entry, mut features, mut example) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        put_length_field(&mut feature, 2, &list);
        put_length_field(&mut entry, 1, b"x");
        put_length_field(&mut entry, 2, &feature);
        put_length_field(&mut features, 1, &entry);
        put_length_tag(&mut example, 1, features.len());
        [example, features].concat()
    };
    Tensor::from_strings(vec![values.len() as i64], values.iter().map(example).collect())
}

impl Wrapped {
    fn run(&self, signature: &Signature, input: Tensor) -> Result<Vec<Tensor>> {
        let all: Vec<usize> = (0..signature.outputs.len()).collect();
        self.executor.run(signature, vec![input], &all, &RunOptions::default())
    }

    /// The label and the score of each class of each example.
    fn classify(&self, values: &[f32]) -> Result<Vec<String>, String> {
        let signature = &self.signatures[CLASSIFICATION];
        let outputs = self.run(signature, examples(values)).map_err(|error| error.to_string())?;
        let output = |alias: &str| signature.output(alias.as_bytes()).map(|position| outputs[position].clone());
        let found = inference::Classification::new(output("classes"), output("scores"), values.len());
        let found = found.map_err(|error| error.to_string())?;
        let classes = found.iter().map(|classes| {
            classes.map(|(label, score)| format!("{}={score}", label.escape_ascii())).collect::<Vec<_>>().join(" ")
        });
        Ok(classes.collect())
    }
}

#[test]
fn scores_and_labels_are_what_their_description_says() {
    let per_class = || Some(Scores::PerClass("both".to_owned()));
    let second = || Some(Scores::OfSecondClass("p".to_owned()));
    let output = |name: &str| Labels::Output(name.to_owned());
    for (scores, labels, expected, classes) in [
        (per_class(), columns(&["no", "yes"]), ["no=-0.25 yes=0.25", "no=-0.5 yes=0.5"], 2),
        (per_class(), Labels::Positions, ["0=-0.25 1=0.25", "0=-0.5 1=0.5"], 2),
        (second(), columns(&["no", "yes"]), ["no=0.75 yes=0.25", "no=0.5 yes=0.5"], 2),
        (None, output("class"), ["7=0", "7=0"], 1),
        (None, output("word"), ["w=0", "w=0"], 1),
    ] {
        let wrapped = wrap(Some(classification(scores, labels)), None).expect("it fits");
        assert_eq!(wrapped.classify(&[0.25, 0.5]), Ok(expected.map(str::to_owned).to_vec()));
        let signature = &wrapped.signatures[CLASSIFICATION];
        assert_eq!(signature.method_name, "tensorflow/serving/classify");
        assert_eq!(signature.inputs[0].shape, Some(vec![-1]));
        assert!(signature.outputs.iter().all(|spec| spec.shape == Some(vec![-1, classes])), "{signature:?}");
        assert!(!wrapped.signatures.contains_key(REGRESSION));
    }
}

#[test]
fn a_regression_is_a_column_of_floats() {
    for (output, expected) in [("p", [0.5, -1.0]), ("class", [7.0, 7.0])] {
        let wrapped = wrap(None, Some(output)).expect("it fits");
        let signature = &wrapped.signatures[REGRESSION];
        let outputs = wrapped.run(signature, examples(&[0.5, -1.0])).expect("numbers");
        assert_eq!((outputs[0].dtype(), outputs[0].shape()), (DType::FLOAT, &[2, 1][..]));
        assert_eq!(numbers(&outputs[0]), expected);
        assert_eq!(
            signature.outputs,
            [TensorSpec { tensor_name: "example/outputs".to_owned(), ..spec("outputs", DType::FLOAT, &[-1, 1]) }]
        );
        assert_eq!(signature.method_name, "tensorflow/serving/regress");
    }
}

#[test]
fn both_heads_are_computed_in_one_run_of_the_outputs_that_they_need() {
    let classification = classification(Some(Scores::OfSecondClass("p".to_owned())), columns(&["no", "yes"]));
    let wrapped = wrap(Some(classification), Some("class")).expect("it fits");
    // As `MultiInference` joins them: tensors go by their names in the runtime.
    let renamed = |spec: &TensorSpec| TensorSpec { alias: spec.tensor_name.clone(), ..spec.clone() };
    let heads = [&wrapped.signatures[CLASSIFICATION], &wrapped.signatures[REGRESSION]];
    let joined = Signature {
        inputs: vec![renamed(&heads[0].inputs[0])],
        outputs: heads.iter().flat_map(|head| head.outputs.iter().map(renamed)).collect(),
        ..Signature::default()
    };
    assert_eq!(heads[0].inputs, heads[1].inputs);
    let outputs = wrapped.run(&joined, examples(&[0.25])).expect("both heads");
    assert_eq!(texts(&outputs[0]), ["no", "yes"]);
    assert_eq!(numbers(&outputs[1]), [0.75, 0.25]);
    assert_eq!(numbers(&outputs[2]), [7.0]);
    assert_eq!(*wrapped.model.0.lock().expect("no panic"), ["class p"]);
}

#[test]
fn other_signatures_and_what_is_said_of_the_runtime_are_those_of_the_model() {
    let wrapped = wrap(None, Some("p")).expect("it fits");
    let outputs = wrapped.run(&wrapped.signatures[DEFAULT_SIGNATURE], tensor(DType::FLOAT, &[1], &[0; 4]));
    assert_eq!(outputs.expect("it runs").len(), 5);
    assert!(wrapped.executor.is_repeatable());
    assert_eq!(wrapped.executor.runtime(), "model");
}

#[test]
fn what_is_no_list_of_examples_is_refused() {
    let wrapped = wrap(None, Some("p")).expect("it fits");
    let signature = &wrapped.signatures[REGRESSION];
    let numbers = tensor(DType::FLOAT, &[1], &[0; 4]);
    let matrix = Tensor::from_strings(vec![1, 1], ["a"].into_iter().collect());
    for (input, found) in [(numbers, "float of shape [1]"), (matrix, "string of shape [1,1]")] {
        let error = wrapped
            .executor
            .check_inputs(signature, std::slice::from_ref(&input))
            .expect_err("no examples")
            .to_string();
        assert_eq!(
            error,
            format!("INVALID_ARGUMENT: input \"inputs\": got {found}, want a string for each example: [n]")
        );
        assert_eq!(wrapped.run(signature, input).expect_err("no examples").to_string(), error);
    }
    let error = wrapped.run(signature, Tensor::from_strings(vec![1], ["?"].into_iter().collect()));
    let expected = "INVALID_ARGUMENT: Could not parse example input, value: '?'";
    assert_eq!(error.expect_err("no example").to_string(), expected);
}

#[test]
fn descriptions_that_do_not_fit_are_refused() {
    let second = |output: &str| Some(Scores::OfSecondClass(output.to_owned()));
    for (classification, regression, expected) in [
        (Some(classification(None, Labels::Positions)), None, "labels of columns need scores"),
        (Some(classification(second("q"), Labels::Positions)), None, "the signature has no output q"),
        (Some(classification(second("p"), columns(&["one"]))), None, "1 labels for 2 scores in the output p"),
        (
            Some(classification(second("word"), Labels::Positions)),
            None,
            "the output word has string, which are no numbers",
        ),
        (None, Some("word"), "the output word has string, which are no numbers"),
    ] {
        let error = wrap(classification, regression).err().expect("it does not fit");
        assert_eq!(error.to_string(), format!("INVALID_ARGUMENT: {expected}"));
    }
    let wrapped = wrap(Some(classification(Some(Scores::PerClass("wide".to_owned())), columns(&["one"]))), None);
    let expected = "INTERNAL: the output wide has 0 scores for an example, and the model has 1 labels";
    assert_eq!(wrapped.expect("the number of scores is not declared").classify(&[1.0]), Err(expected.to_owned()));
    let wrapped = wrap(Some(classification(Some(Scores::PerClass("p".to_owned())), columns(&["one"]))), None);
    let expected = "INTERNAL: the output p has the shape [1], want [n,k] for n examples";
    assert_eq!(wrapped.expect("shapes are found out by a run").classify(&[1.0]), Err(expected.to_owned()));
}

#[test]
fn inputs_have_to_be_described() {
    let mut signature = predict();
    let heads = |inputs| Heads { predict: predict(), inputs, classification: None, regression: Some("p".to_owned()) };
    let added = |inputs| {
        let mut signatures = BTreeMap::from([(DEFAULT_SIGNATURE.to_owned(), predict())]);
        let error = add_heads(Box::new(Model::default()), &mut signatures, heads(inputs)).err();
        error.map_or_else(String::new, |error| error.to_string())
    };
    let feature = |shape: &[i64]| Feature { name: "x".to_owned(), shape: shape.to_vec(), missing: Missing::Refused };
    let pair = FeatureTensor::of(DType::FLOAT, feature(&[2]));
    assert_eq!(added(Vec::new()), "INVALID_ARGUMENT: features are described for 0 inputs of 1");
    assert_eq!(added(vec![pair]), "INVALID_ARGUMENT: features of float[-1,2] do not fit the input x of float");
    for (shape, expected) in [(None, "of unknown rank"), (Some(vec![-1, -1]), "[-1,-1]"), (Some(Vec::new()), "[]")] {
        signature.inputs[0].shape = shape;
        let error = features_of(&signature, &Missing::Refused).expect_err("no feature").to_string();
        assert_eq!(error, format!("INVALID_ARGUMENT: examples cannot fill the input x, whose shape is {expected}"));
    }
}

#[test]
fn names_of_the_model_are_not_taken() {
    let mut predict = predict();
    predict.outputs[2].tensor_name = "example/inputs".to_owned();
    let inputs = features_of(&predict, &Missing::Refused).expect("a feature");
    let heads = Heads { predict: predict.clone(), inputs, classification: None, regression: Some("p".to_owned()) };
    let mut signatures = BTreeMap::from([(DEFAULT_SIGNATURE.to_owned(), predict.clone())]);
    add_heads(Box::new(Model::default()), &mut signatures, heads.clone()).expect("it fits");
    assert_eq!(signatures[REGRESSION].inputs[0].tensor_name, "example_/inputs");
    let error = add_heads(Box::new(Model::default()), &mut signatures, heads).err().expect("the name is taken");
    assert_eq!(error.to_string(), "INVALID_ARGUMENT: the model has a signature named regression already");
}
