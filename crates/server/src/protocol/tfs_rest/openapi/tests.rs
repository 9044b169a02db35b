use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::document::Document;
use super::predict::Bodies;
use crate::serving::ApiOptions;
use crate::serving::servable::Servable;
use servable_model::error::Result;
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{DType, Tensor};

struct Nothing;

impl Executor for Nothing {
    fn run(&self, _: &Signature, _: Vec<Tensor>, _: &[usize], _: &RunOptions) -> Result<Vec<Tensor>> {
        Ok(Vec::new())
    }
}

fn spec(alias: &str, dtype: DType, shape: Option<&[i64]>) -> TensorSpec {
    TensorSpec { alias: alias.into(), tensor_name: format!("{alias}:0"), dtype, shape: shape.map(Into::into) }
}

/// The generated schemas of `serving_default`, and the examples.
fn told(inputs: &[TensorSpec], outputs: &[TensorSpec]) -> (Value, Value) {
    let signature = Signature { inputs: inputs.into(), outputs: outputs.into(), ..Signature::default() };
    let signatures = BTreeMap::from([("serving_default".to_owned(), signature)]);
    let servable = Servable::new(signatures, bytes::Bytes::new(), Box::new(Nothing));
    let (mut document, mut bodies) = (Document::new(false), Bodies::default());
    bodies.add(&mut document, "m", &servable, ApiOptions::default());
    let document: Value = serde_json::from_slice(&document.into_bytes()).expect("JSON");
    let schemas = document["components"]["schemas"].as_object().expect("an object").iter();
    let own = schemas.filter_map(|(name, schema)| {
        let part = name.strip_prefix("m.serving_default.")?;
        Some((part.to_owned(), schema["properties"].clone()))
    });
    (own.collect(), bodies.examples.into())
}

#[test]
fn several_tensors_are_named_and_have_the_sizes_that_are_known() {
    let inputs = [spec("a", DType::UINT8, Some(&[-1, 2])), spec("b", DType::STRING, None)];
    let outputs = [spec("c_bytes", DType::STRING, Some(&[-1])), spec("d", DType::STRING, Some(&[-1]))];
    let (schemas, examples) = told(&inputs, &outputs);
    let byte = json!({"type": "integer", "minimum": 0, "maximum": 255});
    let pair = json!({"type": "array", "items": byte, "minItems": 2, "maxItems": 2});
    let text = json!({"anyOf": [{"type": "string"}, {"$ref": "#/components/schemas/Base64"}]});
    let any = json!({"anyOf": [text, {"type": "array"}]});
    let row = json!({
        "type": "object",
        "required": ["a", "b"],
        "properties": {"a": pair, "b": any},
        "additionalProperties": false,
    });
    assert_eq!(schemas["Rows"]["instances"], json!({"type": "array", "items": row, "minItems": 1}));
    let columns = json!({
        "type": "object",
        "required": ["a", "b"],
        "properties": {"a": {"type": "array", "items": pair}, "b": any},
    });
    assert_eq!(schemas["Columns"]["inputs"], columns);
    let answer = &schemas["Predictions"]["predictions"]["items"]["properties"];
    assert_eq!(*answer, json!({"c_bytes": {"$ref": "#/components/schemas/Base64"}, "d": {"type": "string"}}));
    assert_eq!(
        examples["serving_default, instances"]["value"],
        json!({"signature_name": "serving_default", "instances": [{"a": [1, 1], "b": "text"}]})
    );
    assert_eq!(examples["serving_default, inputs"]["value"]["inputs"], json!({"a": [[1, 1]], "b": ["text"]}));
}

#[test]
fn a_batch_of_a_known_size_has_as_many_rows() {
    let (schemas, examples) = told(&[spec("x", DType::BOOL, Some(&[3, 0, 7]))], &[spec("y", DType::INT64, Some(&[3]))]);
    assert_eq!(schemas["Rows"]["instances"]["minItems"], 3);
    assert_eq!(schemas["Predictions"]["predictions"]["maxItems"], 3);
    assert_eq!(examples["serving_default, instances"]["value"]["instances"], json!([[], [], []]));
}

#[test]
fn scalars_have_no_rows_and_long_examples_are_left_out() {
    let (schemas, examples) =
        told(&[spec("x", DType::FLOAT, Some(&[-1, 2000]))], &[spec("y", DType::FLOAT, Some(&[]))]);
    let parts: Vec<_> = schemas.as_object().expect("an object").keys().collect();
    assert_eq!(parts, ["Columns", "Outputs"]);
    assert_eq!(schemas["Outputs"]["outputs"], json!({"type": "number", "format": "float"}));
    assert_eq!(examples, json!({}));
}

#[test]
fn dtypes_without_a_json_form_are_left_out() {
    let float = [spec("x", DType::FLOAT, None)];
    let half = [spec("y", DType::HALF, None)];
    for (inputs, outputs) in [(&float, &half), (&half, &float)] {
        assert_eq!(told(inputs, outputs), (json!({}), json!({})));
    }
    assert_eq!(told(&[], &float), (json!({}), json!({})));
}
