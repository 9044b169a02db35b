//! The parser of examples against TensorFlow's, on the cases that `tests/testdata/parse_examples.py` wrote.

use serde_json::Value;

use servable_codec::example::features::{Feature, FeatureParser, FeatureTensor, Missing};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Strings, Tensor};

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn bytes(value: &Value) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("hexadecimal") as u8;
    text(value).as_bytes().as_chunks().0.iter().map(|&[high, low]| digit(high) << 4 | digit(low)).collect()
}

fn dtype(name: &str) -> DType {
    [DType::STRING, DType::FLOAT, DType::INT64].into_iter().find(|dtype| dtype.name() == name).expect("a dtype")
}

fn feature(described: &Value) -> FeatureTensor {
    let dtype = dtype(text(&described["dtype"]));
    let shape: Vec<i64> = list(&described["shape"]).iter().map(|size| size.as_i64().expect("a size")).collect();
    let missing = match &described["default"] {
        Value::Null => Missing::Refused,
        Value::Array(strings) => {
            let strings = strings.iter().map(bytes).collect::<Strings>();
            Missing::Values(Tensor::from_strings(shape.clone(), strings))
        }
        numbers => {
            let buffer = Buffer::Owned(AlignedBytes::from_slice(ALIGNMENT, &bytes(numbers)));
            Missing::Values(Tensor::from_numbers(dtype, shape.clone(), buffer))
        }
    };
    FeatureTensor::of(dtype, Feature { name: text(&described["name"]).to_owned(), shape, missing })
}

/// Whether a tensor has these values.
fn is(tensor: &Tensor, values: &Value) -> bool {
    match tensor.elements() {
        Elements::Numbers(buffer) => buffer.as_ref() == bytes(values),
        Elements::Strings(strings) => strings.iter().eq(list(values).iter().map(bytes)),
    }
}

/// The error that is expected here for one of TensorFlow.
///
/// If a list has too many strings, TensorFlow says that it cannot be parsed.
fn is_expected(found: &str, text: &str) -> bool {
    let too_many = text.strip_suffix("  Can't parse serialized Example.");
    found.starts_with(text) || too_many.is_some_and(|place| found.starts_with(&format!("{place}  Number of bytes")))
}

#[test]
fn examples_are_parsed_as_tensorflow_parses_them() {
    let Some(path) = std::env::var_os("SERVABLE_PARSED_EXAMPLES") else {
        println!("skipped: SERVABLE_PARSED_EXAMPLES is not set");
        return;
    };
    let (mut parsed, mut refused, mut damaged) = (0, 0, 0);
    for line in std::fs::read_to_string(path).expect("a readable file").lines() {
        let case: Value = serde_json::from_str(line).expect("JSON");
        let parser = FeatureParser::new(list(&case["features"]).iter().map(feature).collect()).expect("features");
        let examples: Strings = list(&case["examples"]).iter().map(bytes).collect();
        match (parser.parse(&examples), &case["tensors"], &case["error"]) {
            (Ok(tensors), Value::Array(values), _) => {
                assert!(tensors.iter().all(|tensor| tensor.shape()[0] == examples.len() as i64), "{line}");
                assert!(
                    tensors.len() == values.len() && tensors.iter().zip(values).all(|pair| is(pair.0, pair.1)),
                    "{line}"
                );
                parsed += 1;
            }
            (Err(error), _, Value::String(text)) => {
                let found = error.to_string();
                let found = found.strip_prefix("INVALID_ARGUMENT: ").unwrap_or(&found);
                assert!(case["is_damaged"] == true || is_expected(found, text), "found {found}, want {text}: {line}");
                refused += 1;
            }
            // A damaged message may be well-formed, in an encoding of which the parsers read different parts.
            (found, ..) => {
                assert!(case["is_damaged"] == true, "{found:?}: {line}");
                damaged += 1;
            }
        }
    }
    assert!(parsed > 500 && refused > 300, "too few cases: {parsed} parsed, {refused} refused");
    assert!(damaged * 10 < refused, "too many differences: {damaged}");
}
