//! Responses, byte for byte.

use servable_codec::json::{Format, encode_predict, error_body, write_f32, write_f64};
use servable_model::tensor::Tensor;

use crate::support::tensor;

fn encode(format: Format, outputs: &[(&str, Tensor)]) -> String {
    let outputs: Vec<(&str, &Tensor)> = outputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    match encode_predict(format, &outputs) {
        Ok(body) => String::from_utf8(body).unwrap(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn one_output_in_row_format() {
    let row = |name, output| encode(Format::Row, &[(name, output)]);
    let float = |shape: &[i64], values: &[&str]| row("y", tensor("float", shape, values));
    assert_eq!(float(&[3], &["2.5", "3", "4.5"]), "{\n    \"predictions\": [2.5, 3.0, 4.5\n    ]\n}");
    assert_eq!(float(&[2, 2], &["2.5", "3", "4.5", "1"]), "{\n    \"predictions\": [[2.5, 3.0], [4.5, 1.0]\n    ]\n}");
    assert_eq!(float(&[0, 2], &[]), "{\n    \"predictions\": []\n}");
    assert_eq!(float(&[2, 0], &[]), "{\n    \"predictions\": [[], []\n    ]\n}");
    assert_eq!(
        row("y_bytes", tensor("string", &[2, 1], &["hello", "tf"])),
        "{\n    \"predictions\": [[{\n                \"b64\": \"aGVsbG8=\"\n            }], [{\n                \"b64\": \
         \"dGY=\"\n            }]\n    ]\n}"
    );
    assert_eq!(
        row("y", tensor("string", &[3], &["/\\\"", "é", "\u{1}\u{1f}\u{7f}\u{8}\u{c}\r\t\n"])),
        "{\n    \"predictions\": [\"/\\\\\\\"\", \"é\", \"\\u0001\\u001F\u{7f}\\b\\f\\r\\t\\n\"\n    ]\n}"
    );
}

#[test]
fn one_output_in_columnar_format() {
    let column = |name, output| encode(Format::Columnar, &[(name, output)]);
    assert_eq!(column("y", tensor("float", &[], &["1"])), "{\n    \"outputs\": 1.0\n}");
    assert_eq!(column("y", tensor("float", &[0], &[])), "{\n    \"outputs\": []\n}");
    assert_eq!(
        column("y", tensor("float", &[1, 2], &["2.5", "3"])),
        "{\n    \"outputs\": [\n        [\n            2.5,\n            3.0\n        ]\n    ]\n}"
    );
    assert_eq!(
        column("y_bytes", tensor("string", &[], &["hello"])),
        "{\n    \"outputs\": {\n        \"b64\": \"aGVsbG8=\"\n    }\n}"
    );
}

#[test]
fn several_outputs_are_sorted_by_name() {
    let outputs = [("b", tensor("int32", &[2], &["1", "2"])), ("a", tensor("float", &[2, 2], &["1", "2", "3", "4"]))];
    assert_eq!(
        encode(Format::Row, &outputs),
        "{\n    \"predictions\": [\n        {\n            \"a\": [1.0, 2.0],\n            \"b\": 1\n        },\n        \
         {\n            \"a\": [3.0, 4.0],\n            \"b\": 2\n        }\n    ]\n}"
    );
    let outputs = [("b", tensor("int64", &[], &["7"])), ("a\n", tensor("float", &[1], &["1"]))];
    assert_eq!(
        encode(Format::Columnar, &outputs),
        "{\n    \"outputs\": {\n        \"a\\n\": [\n            1.0\n        ],\n        \"b\": 7\n    }\n}"
    );
    let empty = [("b", tensor("int32", &[0], &[])), ("a", tensor("half", &[0, 3], &[]))];
    assert_eq!(encode(Format::Row, &empty), "{\n    \"predictions\": []\n}");
}

#[test]
fn every_integer_and_bool_is_written_in_full() {
    for (dtype, values) in [
        ("int8", ["-128", "127"]),
        ("int16", ["-32768", "32767"]),
        ("int32", ["-2147483648", "2147483647"]),
        ("int64", ["-9223372036854775808", "9223372036854775807"]),
        ("uint8", ["0", "255"]),
        ("uint32", ["0", "4294967295"]),
        ("uint64", ["0", "18446744073709551615"]),
        ("bool", ["false", "true"]),
    ] {
        let body = encode(Format::Row, &[("count_bytes", tensor(dtype, &[2], &values))]);
        assert_eq!(body, format!("{{\n    \"predictions\": [{}, {}\n    ]\n}}", values[0], values[1]), "{dtype}");
    }
}

#[test]
fn deep_tensors_are_indented_by_their_depth() {
    let body = encode(Format::Columnar, &[("y", tensor("uint8", &[1; 9], &["5"]))]);
    assert!(body.contains(&format!("\n{}5\n", " ".repeat(40))), "{body}");
    let body = encode(Format::Columnar, &[("y", tensor("uint8", &[1, 1, 1, 1, 1, 1, 1, 1, 2], &["5", "6"]))]);
    assert!(body.contains(&format!("\n{0}5,\n{0}6\n", " ".repeat(40))), "{body}");
}

#[test]
fn outputs_that_json_cannot_show_are_errors() {
    let message = |format, outputs: &[(&str, Tensor)]| encode(format, outputs);
    assert_eq!(message(Format::Row, &[]), "INVALID_ARGUMENT: Cannot convert empty tensor map to JSON");
    for dtype in ["half", "bfloat16", "uint16", "complex64"] {
        let expected = format!("INVALID_ARGUMENT: Failed to write JSON value for tensor type: {dtype}");
        assert_eq!(message(Format::Row, &[("y", tensor(dtype, &[1], &["1"]))]), expected);
        assert_eq!(message(Format::Columnar, &[("y", tensor(dtype, &[], &["1"]))]), expected);
    }
    assert_eq!(
        message(Format::Row, &[("y", tensor("float", &[], &["1"]))]),
        "INVALID_ARGUMENT: Tensor name: y has no shape information "
    );
    assert_eq!(
        message(Format::Row, &[("a", tensor("float", &[0], &[])), ("b", tensor("float", &[1], &["1"]))]),
        "INVALID_ARGUMENT: Tensor name: b has inconsistent batch size: 1 expecting: 0"
    );
}

#[test]
fn errors_have_a_json_body() {
    assert_eq!(error_body(b"Bad key: \"key\""), b"{\n    \"error\": \"Bad key: \\\"key\\\"\"\n}");
    assert_eq!(error_body(b"\xff\n"), b"{\n    \"error\": \"\xff\\n\"\n}");
}

#[test]
fn singles_are_printed_in_six_or_nine_digits() {
    for (value, expected) in [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1e-40, "0.0"),
        (-1e-40, "-0.0"),
        (1.0, "1.0"),
        (-0.2, "-0.2"),
        (1.0 / 3.0, "0.333333343"),
        (100_000.0, "100000.0"),
        (999_999.0, "999999.0"),
        (1_000_000.0, "1e+06"),
        (9_999_999.0, "9999999.0"),
        (16_777_216.0, "16777216.0"),
        (123_456.5, "123456.5"),
        (4_294_967_296.0, "4.2949673e+09"),
        (1_234_567_890.0, "1.23456794e+09"),
        (0.0001, "0.0001"),
        (0.00003, "3e-05"),
        (f32::MAX, "3.40282347e+38"),
        (f32::MIN_POSITIVE, "1.17549435e-38"),
        (f32::NAN, "NaN"),
        (f32::INFINITY, "Infinity"),
        (f32::NEG_INFINITY, "-Infinity"),
    ] {
        let mut out = Vec::new();
        write_f32(&mut out, value);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn doubles_are_printed_in_six_or_seventeen_digits() {
    for (value, expected) in [
        (0.1, "0.1"),
        (std::f64::consts::PI, "3.1415926535897931"),
        (1e15, "1e+15"),
        (1e100, "1e+100"),
        (-1e-100, "-1e-100"),
        (1.0 / 3.0, "0.33333333333333331"),
        (123_456_789.0, "123456789.0"),
        (1e17 + 16.0, "1.0000000000000002e+17"),
        (f64::MAX, "1.7976931348623157e+308"),
        (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
        (5e-324, "0.0"),
        (-f64::NAN, "NaN"),
    ] {
        let mut out = Vec::new();
        write_f64(&mut out, value);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
