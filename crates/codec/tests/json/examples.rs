//! Classify and regress: JSON to serialized examples, and results to JSON.

use prost::Message;
use servable_codec::json::{DEFAULT_MAX_NESTING, decode_examples, encode_results};
use servable_codec::proto::tensorflow::Example;
use servable_codec::proto::tensorflow::feature::Kind;
use servable_model::inference::{Classification, Inference, Regression};
use servable_model::tensor::{Elements, Tensor};

use crate::support::tensor;

/// The parsed examples, one text for each: `x=[1.5] y=int[1] z=`.
fn decoded(body: &[u8]) -> Result<Vec<String>, String> {
    let input = decode_examples(body, DEFAULT_MAX_NESTING).map_err(|error| error.text().into_owned())?;
    let tensor = input.examples.into_tensor().map_err(|error| error.text().into_owned())?;
    let Elements::Strings(strings) = tensor.elements() else { panic!("examples are strings") };
    Ok(strings.iter().map(describe).collect())
}

fn describe(example: &[u8]) -> String {
    let features = Example::decode(example).expect("an example").features.unwrap_or_default().feature;
    let values = |kind: Option<Kind>| match kind {
        None => String::new(),
        Some(Kind::FloatList(list)) => format!("{:?}", list.value),
        Some(Kind::Int64List(list)) => format!("int{:?}", list.value),
        Some(Kind::BytesList(list)) => {
            let strings = list.value.iter().map(|string| string.escape_ascii().to_string());
            format!("'{}'", strings.collect::<Vec<_>>().join("' '"))
        }
    };
    let features = features.into_iter().map(|(name, feature)| format!("{name}={}", values(feature.kind)));
    features.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_first_element_decides_the_kind_of_a_feature() {
    for (example, expected) in [
        ("{}", ""),
        (r#"{"x":1.5}"#, "x=[1.5]"),
        (r#"{"x":[1.0,2e0,-0.0]}"#, "x=[1.0, 2.0, -0.0]"),
        (r#"{"x":[1e300,-Infinity,NaN]}"#, "x=[inf, -inf, NaN]"),
        (r#"{"x":[1,-2,9223372036854775807]}"#, "x=int[1, -2, 9223372036854775807]"),
        (r#"{"x":[true,2,false]}"#, "x=int[1, 2, 0]"),
        (r#"{"x":18446744073709551616}"#, "x=[1.8446744e19]"),
        (r#"{"x":["a",{"b64":"/w=="},"\u00e9"]}"#, r"x='a' '\xff' '\xc3\xa9'"),
        (r#"{"x":[]}"#, "x="),
        (r#"{"b64":"aGk="}"#, "b64='aGk='"),
        (r#"{"y":1,"x":2,"y":"last"}"#, "x=int[2] y='last'"),
        (r#"{"a\u0000b":1,"a\u0000":2}"#, "a=int[2]"),
    ] {
        let body = format!(r#"{{"signature_name":"s","examples":[{example},{{}}]}}"#);
        assert_eq!(decoded(body.as_bytes()), Ok(vec![expected.to_owned(), String::new()]), "{example}");
        assert_eq!(decode_examples(body.as_bytes(), DEFAULT_MAX_NESTING).expect("examples").signature_name, b"s");
    }
}

#[test]
fn a_context_is_merged_with_each_example() {
    let body = br#"{"examples":[{"x":1},{"y":2}],"context":{"x":3,"z":"c"}}"#;
    assert_eq!(decoded(body), Ok(vec!["x=int[1] z='c'".to_owned(), "x=int[3] y=int[2] z='c'".to_owned()]));
    assert_eq!(decoded(br#"{"examples":[{"x":1}],"context":{}}"#), Ok(vec!["x=int[1]".to_owned()]));
}

#[test]
fn invalid_examples_are_reported() {
    for (body, expected) in [
        ("", "JSON Parse error: The document is empty"),
        (r#"{"examples":"#, "JSON Parse error: Invalid value. at offset: 12"),
        ("[]", "JSON Value: [] Is not object"),
        ("{}", "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
        (r#"{"examples":{}}"#, "JSON Value: {\n    \"examples\": {}\n} Expecting 'examples' value to be an list/array"),
        (r#"{"examples":[]}"#, "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
        (
            r#"{"signature_name":1,"examples":[]}"#,
            "JSON Value: {\n    \"signature_name\": 1,\n    \"examples\": []\n} not formatted correctly. \
             'signature_name' key must be a string value.",
        ),
        (r#"{"context":null}"#, "Example must be JSON object but got JSON Null"),
        (r#"{"examples":[[]]}"#, "Example must be JSON object but got JSON Array"),
        (r#"{"examples":[{"x":null}]}"#, "Feature: x has element with unexpected JSON type: Null"),
        (r#"{"examples":[{"x":[[]]}]}"#, "Feature: x has element with unexpected JSON type: Array"),
        (r#"{"examples":[{"x":{}}]}"#, "Feature: x has element with unexpected JSON type: Object"),
        (r#"{"examples":[{"x":{"b64":1}}]}"#, "Feature: x has element with unexpected JSON type: Object"),
        (r#"{"examples":[{"x":{"b64":"!"}}]}"#, "Unable to base64 decode"),
        (r#"{"examples":[{"x":9223372036854775808}]}"#, "Feature: x has uint64_t element. Only int64_t is supported."),
        (
            r#"{"examples":[{"x":["a",9223372036854775808]}]}"#,
            "Unexpected element type in feature: x expecting type: bytes",
        ),
        (r#"{"examples":[{"x":[1,{"b64":"!"}]}]}"#, "Unexpected element type in feature: x expecting type: int64"),
        (r#"{"examples":[{"x":[1.5,1]}]}"#, "Unexpected element type in feature: x expecting type: float"),
        (r#"{"examples":[{"x":[1,"a"]}]}"#, "Unexpected element type in feature: x expecting type: int64"),
        (r#"{"examples":[{"x":["a",true]}]}"#, "Unexpected element type in feature: x expecting type: bytes"),
    ] {
        assert_eq!(decoded(body.as_bytes()), Err(expected.to_owned()), "{body}");
    }
}

fn classified(shape: &[i64], labels: &[&str], scores: &[&str]) -> String {
    let present = |name: &str, values: &[&str]| (!values.is_empty()).then(|| tensor(name, shape, values));
    let (labels, scores): (Option<Tensor>, Option<Tensor>) = (present("string", labels), present("float", scores));
    let classification = Classification::new(labels, scores, shape[0] as usize).expect("a row for each example");
    written(&Inference::Classification(classification))
}

fn regressed(values: &[&str]) -> String {
    let values = tensor("float", &[values.len() as i64], values);
    let rows = values.len();
    written(&Inference::Regression(Regression::new(values, rows).expect("a value for each example")))
}

fn written(inference: &Inference) -> String {
    encode_results(inference).map_or_else(|error| error.to_string(), |body| String::from_utf8(body).expect("UTF-8"))
}

#[test]
fn results_have_the_layout_of_tensorflow_serving() {
    assert_eq!(
        classified(&[2, 2], &["car", "a\"\n", "", "bike"], &["0.2", "0.7", "NaN", "1"]),
        "{\n    \"results\": [[[\"car\", 0.2], [\"a\\\"\\n\", 0.7]], [[\"\", NaN], [\"bike\", 1.0]]\n    ]\n}"
    );
    assert_eq!(classified(&[1, 1], &["a"], &[]), "{\n    \"results\": [[[\"a\", 0.0]]\n    ]\n}");
    assert_eq!(classified(&[1, 1], &[], &["5e-324"]), "{\n    \"results\": [[[\"\", 0.0]]\n    ]\n}");
    assert_eq!(regressed(&["0.2", "-0", "42"]), "{\n    \"results\": [0.2, -0.0, 42.0]\n}");
    assert_eq!(regressed(&[]), "INVALID_ARGUMENT: Cannot convert empty RegressionResults to JSON");
    let nothing = Classification::new(None, None, 0).expect("no rows");
    let empty = "INVALID_ARGUMENT: Cannot convert empty ClassificationResults to JSON";
    assert_eq!(written(&Inference::Classification(nothing)), empty);
}
