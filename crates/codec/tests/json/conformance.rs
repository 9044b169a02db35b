//! The machine-readable cases of the specification, if available.
//!
//! They are in `spec` in the directory that `SERVABLE_CONFORMANCE_DIR` names, or in `shared` beside the repository.
//! Without them these tests do nothing. The tables of the other modules do not depend on them.

use std::path::{Path, PathBuf};

use serde_json::Value;
use servable_codec::json::{Format, encode_predict, error_body};
use servable_model::tensor::{Elements, Tensor};

use crate::support::{decode, dtype, signature, tensor};

/// Cases in which we deliberately differ: integers beyond the range of a narrow dtype are errors.
const DEVIATIONS: [&str; 3] = [r#"{"instances":[300]}"#, r#"{"instances":[-1]}"#, r#"{"instances":[256]}"#];

fn cases(area: &str) -> Vec<Value> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = std::env::var_os("SERVABLE_CONFORMANCE_DIR").map_or_else(beside, PathBuf::from);
    let Ok(text) = std::fs::read_to_string(folder.join("spec/conformance_cases.json")) else { return Vec::new() };
    let document: Value = serde_json::from_str(&text).expect("a JSON document");
    let all = document["cases"].as_array().expect("a list of cases").clone();
    all.into_iter().filter(|case| case["area"] == area).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn dtype_name(value: &Value) -> String {
    text(value).trim_start_matches("DT_").to_lowercase()
}

fn unhex(hex: &Value) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text(hex)[at..at + 2], 16).unwrap();
    (0..text(hex).len()).step_by(2).map(byte).collect()
}

fn tensor_of(value: &Value) -> Tensor {
    let shape: Vec<i64> = value["shape"].as_array().unwrap().iter().map(|size| size.as_i64().unwrap()).collect();
    if let Some(strings) = value["values_hex"].as_array() {
        return Tensor::from_strings(shape, strings.iter().map(unhex).collect());
    }
    let values: Vec<String> =
        value["values"].as_array().unwrap().iter().map(|value| value.to_string().replace('"', "")).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    tensor(&dtype_name(&value["dtype"]), &shape, &values)
}

fn same(a: &Tensor, b: &Tensor) -> bool {
    let elements = match (a.elements(), b.elements()) {
        (Elements::Numbers(a), Elements::Numbers(b)) => a.as_ref() == b.as_ref(),
        (Elements::Strings(a), Elements::Strings(b)) => a.iter().eq(b.iter()),
        _ => false,
    };
    a.dtype() == b.dtype() && a.shape() == b.shape() && elements
}

#[test]
fn predict_requests() {
    for case in cases("json_request_predict") {
        let request = &case["request"];
        let inputs: Vec<String> = request["signature_inputs"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, dtype)| format!("{name}:{}", dtype_name(dtype)))
            .collect();
        let signature = signature(&inputs.join(" "));
        let body = match request["body_parts"].as_array() {
            Some(parts) => parts.iter().map(|part| text(&part[0]).repeat(part[1].as_u64().unwrap() as usize)).collect(),
            None => text(&request["body"]).to_owned(),
        };
        let expected = &case["expect"];
        match decode(&signature, body.as_bytes()) {
            Ok(input) => {
                assert_eq!(expected["status"], "OK", "{}", case["id"]);
                let format = if input.format == Format::Row { "row" } else { "columnar" };
                assert_eq!(expected["format"], format, "{}", case["id"]);
                assert_eq!(text(&expected["signature_name"]).as_bytes(), input.signature_name, "{}", case["id"]);
                for (spec, found) in signature.inputs.iter().zip(&input.inputs) {
                    let wanted = tensor_of(&expected["inputs"][&spec.alias]);
                    assert!(same(found, &wanted), "{}: {found:?} is not {wanted:?}", case["id"]);
                }
            }
            Err(error) if expected["status"] == "OK" && DEVIATIONS.contains(&body.as_str()) => {
                assert!(error.text().contains(" Type: Number is not of expected type: "), "{}: {error}", case["id"]);
            }
            Err(error) => {
                assert_eq!(expected["status"], error.code.name(), "{}: {error}", case["id"]);
                match expected["message"].as_str() {
                    Some(message) => assert_eq!(error.text(), message, "{}", case["id"]),
                    None => assert!(error.text().contains(text(&expected["message_contains"])), "{}", case["id"]),
                }
            }
        }
    }
}

#[test]
fn predict_responses() {
    for case in cases("json_response_predict") {
        let request = &case["request"];
        let format = if request["format"] == "row" { Format::Row } else { Format::Columnar };
        let tensors: Vec<(&str, Tensor)> = request["outputs"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor_of(tensor)))
            .collect();
        let outputs: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let expected = &case["expect"];
        match encode_predict(format, &outputs) {
            Ok(body) => {
                let wanted = expected["body"].as_str().map(|body| body.as_bytes().to_vec());
                let wanted = wanted.unwrap_or_else(|| unhex(&expected["body_hex"]));
                assert_eq!(String::from_utf8_lossy(&body), String::from_utf8_lossy(&wanted), "{}", case["id"]);
                assert_eq!(body, wanted, "{}", case["id"]);
            }
            Err(error) => {
                assert_eq!(expected["status"], error.code.name(), "{}", case["id"]);
                let any = expected["message_any_of"].as_array().cloned();
                let messages = any.unwrap_or_else(|| vec![expected["message"].clone()]);
                assert!(messages.contains(&error.text().into_owned().into()), "{}: {error}", case["id"]);
            }
        }
    }
}

#[test]
fn floats() {
    for case in cases("float_format") {
        let name = dtype_name(&case["request"]["dtype"]);
        assert!(dtype(&name).size().is_some());
        let output = tensor(&name, &[], &[text(&case["request"]["value"])]);
        let body = encode_predict(Format::Columnar, &[("y", &output)]).unwrap();
        let wanted = format!("{{\n    \"outputs\": {}\n}}", text(&case["expect"]["text"]));
        assert_eq!(String::from_utf8(body).unwrap(), wanted, "{}", case["id"]);
    }
}

#[test]
fn error_bodies() {
    for case in cases("json_error") {
        let body = error_body(text(&case["request"]["message"]).as_bytes());
        assert_eq!(body, text(&case["expect"]["body"]).as_bytes(), "{}", case["id"]);
    }
}
