//! The schemas of the bodies of `:predict`, from the signatures of a model.

use serde_json::{Map, Value, json};

use super::document::Document;
use super::tensors::{self, Direction};
use crate::serving::examples::Kind;
use crate::serving::servable::Servable;
use crate::serving::{ApiOptions, check_predict_method};
use servable_codec::json::is_carried;
use servable_model::signature::{DEFAULT_SIGNATURE, Signature, TensorSpec};

/// The bodies of `:predict`.
#[derive(Default)]
pub(super) struct Bodies {
    /// References to the schemas of requests.
    pub(super) requests: Vec<Value>,
    /// References to the schemas of answers.
    pub(super) answers: Vec<Value>,
    /// Example requests by name.
    pub(super) examples: Map<String, Value>,
}

impl Bodies {
    /// Adds the bodies of the signatures of a version, in row and column format. Signatures with dtypes that JSON
    /// cannot express are left out, and so are those for examples, which have separate verbs.
    pub(super) fn add(&mut self, document: &mut Document, model: &str, version: &Servable, options: ApiOptions) {
        for (name, signature) in version.signatures() {
            let mut specs = signature.inputs.iter().chain(&signature.outputs);
            let is_callable = !name.is_empty() // which would mean the default
                && Kind::from_method_name(&signature.method_name).is_err()
                && !signature.inputs.is_empty()
                && !signature.outputs.is_empty()
                && specs.all(|spec| is_carried(spec.dtype))
                && check_predict_method(signature, options).is_ok();
            if is_callable {
                let title = format!("{model}.{name}");
                if signature.inputs.iter().chain(&signature.outputs).all(has_rows) {
                    self.add_rows(document, &title, name, signature);
                }
                self.add_columns(document, &title, name, signature);
            }
        }
    }

    fn add_rows(&mut self, document: &mut Document, title: &str, name: &str, signature: &Signature) {
        let row = |specs: &[TensorSpec], direction| {
            let value = |spec: &TensorSpec| tensors::schema(spec, row_shape(spec), direction);
            values(specs, direction, false, value)
        };
        let count = |specs: &[TensorSpec]| specs.iter().filter_map(batch_size).find(|&size| size >= 0).unwrap_or(-1);
        let mut instances = tensors::list(&row(&signature.inputs, Direction::Input), count(&signature.inputs));
        if instances.get("minItems").is_none() {
            instances["minItems"] = 1.into();
        }
        let predictions = tensors::list(&row(&signature.outputs, Direction::Output), count(&signature.outputs));
        let instance = inputs_example(signature, |spec| row_shape(spec).unwrap_or(&[]));
        let rows = usize::try_from(count(&signature.inputs)).unwrap_or(1);
        let example = instance.filter(|_| rows <= 16).map(|row| vec![row; rows].into());
        self.requests.push(document.schema(&format!("{title}.Rows"), request(name, "instances", &instances)));
        self.answers.push(document.schema(&format!("{title}.Predictions"), answer("predictions", &predictions)));
        self.add_example(name, "instances", example);
    }

    fn add_columns(&mut self, document: &mut Document, title: &str, name: &str, signature: &Signature) {
        let whole = |specs: &[TensorSpec], direction, takes_more| {
            let value = |spec: &TensorSpec| tensors::schema(spec, spec.shape.as_deref(), direction);
            values(specs, direction, takes_more, value)
        };
        let inputs = whole(&signature.inputs, Direction::Input, true);
        let outputs = whole(&signature.outputs, Direction::Output, false);
        let example = inputs_example(signature, |spec| spec.shape.as_deref().unwrap_or(&[-1]));
        self.requests.push(document.schema(&format!("{title}.Columns"), request(name, "inputs", &inputs)));
        self.answers.push(document.schema(&format!("{title}.Outputs"), answer("outputs", &outputs)));
        self.add_example(name, "inputs", example);
    }

    fn add_example(&mut self, signature_name: &str, key: &str, value: Option<Value>) {
        if let Some(value) = value {
            let body = json!({"signature_name": signature_name, key: value});
            self.examples.insert(format!("{signature_name}, {key}"), json!({"value": body}));
        }
    }
}

/// Whether a tensor may have at least one row: its first dimension exists, or may exist.
fn has_rows(spec: &TensorSpec) -> bool {
    spec.shape.as_ref().is_none_or(|shape| shape.first().is_some_and(|&size| size != 0))
}

fn batch_size(spec: &TensorSpec) -> Option<i64> {
    spec.shape.as_ref()?.first().copied()
}

fn row_shape(spec: &TensorSpec) -> Option<&[i64]> {
    spec.shape.as_deref().map(|shape| shape.get(1..).unwrap_or(&[]))
}

/// The schema of one value for each tensor: an object by name. A single value needs no object; as an input it may have
/// one.
fn values(specs: &[TensorSpec], direction: Direction, takes_more: bool, value: impl Fn(&TensorSpec) -> Value) -> Value {
    let named = || {
        let names: Vec<&str> = specs.iter().map(|spec| spec.alias.as_str()).collect();
        let members: Map<String, Value> = specs.iter().map(|spec| (spec.alias.clone(), value(spec))).collect();
        let mut object = json!({"type": "object", "required": names, "properties": members});
        if !takes_more {
            object["additionalProperties"] = false.into();
        }
        object
    };
    match (specs, direction) {
        ([only], Direction::Output) => value(only),
        ([only], Direction::Input) => json!({"anyOf": [value(only), named()]}),
        _ => named(),
    }
}

fn request(signature_name: &str, key: &str, content: &Value) -> Value {
    let required = if signature_name == DEFAULT_SIGNATURE { vec![key] } else { vec!["signature_name", key] };
    json!({
        "type": "object",
        "required": required,
        "properties": {"signature_name": {"type": "string", "enum": [signature_name]}, key: content},
    })
}

fn answer(key: &str, content: &Value) -> Value {
    json!({"type": "object", "required": [key], "properties": {key: content}})
}

/// A value for each input, named if there are several.
fn inputs_example<'a>(signature: &'a Signature, shape: impl Fn(&'a TensorSpec) -> &'a [i64]) -> Option<Value> {
    let value = |spec: &'a TensorSpec| tensors::example(spec.dtype, shape(spec));
    if let [only] = &signature.inputs[..] {
        return value(only);
    }
    let values = signature.inputs.iter().map(|spec| Some((spec.alias.clone(), value(spec)?)));
    values.collect::<Option<Map<_, _>>>().map(Value::Object)
}
