//! Property tests: the two decoders of requests agree, and printed numbers read back.

use proptest::collection::vec;
use proptest::prelude::*;

use super::number::{Number, scan, to_f32};
use super::plain_number::{scan_f32_correctly, scan_f64, scan_f64_correctly, scan_i64};
use super::{Format, PredictInput, decode_exactly, fast, float, grisu};
use servable_model::error::ServingError;
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{DType, Elements, Tensor};

const DTYPES: [DType; 12] = [
    DType::FLOAT,
    DType::DOUBLE,
    DType::INT8,
    DType::INT16,
    DType::INT32,
    DType::INT64,
    DType::UINT8,
    DType::UINT32,
    DType::UINT64,
    DType::BOOL,
    DType::STRING,
    DType::HALF,
];

fn signature(inputs: &[(&str, DType)]) -> Signature {
    let spec = |&(alias, dtype): &(&str, DType)| TensorSpec {
        alias: alias.to_owned(),
        tensor_name: String::new(),
        dtype,
        shape: None,
    };
    Signature { inputs: inputs.iter().map(spec).collect(), ..Signature::default() }
}

fn same(a: &Tensor, b: &Tensor) -> bool {
    let elements = match (a.elements(), b.elements()) {
        (Elements::Numbers(a), Elements::Numbers(b)) => a.as_ref() == b.as_ref(),
        (Elements::Strings(a), Elements::Strings(b)) => a.iter().eq(b.iter()),
        _ => false,
    };
    a.dtype() == b.dtype() && a.shape() == b.shape() && elements
}

/// Decodes with both decoders, and compares the results if the fast one has one. Returns whether it has.
fn agree(signature: &Signature, body: &[u8]) -> Result<bool, TestCaseError> {
    let resolve = |name: Option<&[u8]>| match name {
        Some(b"wrong") => Err(ServingError::not_found("wrong")),
        _ => Ok(signature),
    };
    let fast: Option<PredictInput<&Signature>> = fast::decode(body, &resolve);
    let exact = decode_exactly(body, super::DEFAULT_MAX_NESTING, &resolve);
    let Some(fast) = fast else { return Ok(false) };
    let exact = exact.map_err(|error| TestCaseError::fail(format!("accepted, but {error}")))?;
    prop_assert_eq!(fast.format, exact.format);
    prop_assert_eq!(fast.signature_name, exact.signature_name);
    prop_assert_eq!(fast.inputs.len(), exact.inputs.len());
    for (fast, exact) in fast.inputs.iter().zip(&exact.inputs) {
        prop_assert!(same(fast, exact), "{fast:?} is not {exact:?}");
    }
    Ok(true)
}

fn number_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?(0|[1-9][0-9]{0,2})",
        "-?(0|[1-9][0-9]{0,20})",
        "-?(0|[1-9][0-9]{0,9})\\.[0-9]{1,20}",
        "-?(0|[1-9][0-9]{0,19})(\\.[0-9]{1,8})?[eE][-+]?[0-9]{1,3}",
        "-?(NaN|Inf|Infinity|NInf)(\\.5|e1)?",
        any::<f64>().prop_map(|value| format!("{value:?}")),
        any::<f32>().prop_map(|value| format!("{value:?}")),
    ]
}

fn leaf() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => number_text(),
        1 => Just("true".to_owned()),
        1 => Just("null".to_owned()),
        2 => "\"[a-z\\\\u00 é]{0,6}\"",
        1 => Just("{\"b64\": \"aGk=\"}".to_owned()),
    ]
}

/// Lists of one kind of leaf, mostly regular.
fn value() -> impl Strategy<Value = String> {
    let list = |inner: BoxedStrategy<String>| {
        prop_oneof![
            4 => (inner.clone(), 0..4_usize).prop_map(|(item, count)| format!("[{}]", vec![item; count].join(", "))),
            1 => vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
        ]
        .boxed()
    };
    let flat = prop_oneof![
        leaf(),
        list(leaf().boxed()),
        vec(number_text(), 1..100).prop_map(|n| format!("[{}]", n.join(",")))
    ]
    .boxed();
    let nested = list(flat.clone());
    let deeper = list(nested.clone());
    prop_oneof![flat, nested, deeper]
}

fn member() -> impl Strategy<Value = String> {
    let name = prop_oneof![4 => Just("a"), 4 => Just("b"), 1 => Just("b64"), 1 => Just("\\u0061")];
    (name, value()).prop_map(|(name, value)| format!("\"{name}\":{value}"))
}

fn body() -> impl Strategy<Value = String> {
    let row = (value(), value()).prop_map(|(a, b)| format!("{{\"a\":{a}, \"b\":{b}}}")).boxed();
    let rows = prop_oneof![
        value(),
        value().prop_map(|value| format!("[{value}]")),
        (row.clone(), 1..4_usize).prop_map(|(row, count)| format!("[{}]", vec![row; count].join(","))),
        vec(row.clone(), 1..3).prop_map(|rows| format!("[{}]", rows.join(" ,"))),
        vec(member(), 1..3).prop_map(|members| format!("[{{{}}}]", members.join(","))),
    ];
    let columns =
        prop_oneof![value(), row, vec(member(), 1..3).prop_map(|members| format!("{{{}}}", members.join(",")))];
    let data = prop_oneof![
        rows.prop_map(|rows| format!("\"instances\": {rows}")),
        columns.prop_map(|columns| format!("\"inputs\" :{columns}"))
    ];
    let name = prop_oneof![Just("\"signature_name\":\"s\""), Just("\"signature_name\":\"wrong\""), Just("\"x\":1")];
    (data, proptest::option::of((name, any::<bool>()))).prop_map(|(data, name)| match name {
        None => format!("{{{data}}}"),
        Some((name, true)) => format!("{{{name},{data}}}"),
        Some((name, false)) => format!("{{{data},\n{name}}}"),
    })
}

fn inputs() -> impl Strategy<Value = Signature> {
    let dtype = || prop::sample::select(&DTYPES[..]);
    prop_oneof![
        dtype().prop_map(|a| signature(&[("a", a)])),
        (dtype(), dtype()).prop_map(|(a, b)| signature(&[("a", a), ("b", b)])),
        dtype().prop_map(|b64| signature(&[("b64", b64)])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn both_ways_agree_on_requests(signature in inputs(), body in body()) {
        agree(&signature, body.as_bytes())?;
    }

    #[test]
    fn both_ways_agree_on_damaged_requests(
        signature in inputs(),
        body in body(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..4),
    ) {
        let mut body = body.into_bytes();
        for (place, byte, kind) in damage {
            let byte = if byte < 0x80 { b" []{},:\"\\0159.-eEtN\0"[usize::from(byte) % 20] } else { byte };
            let place = place.index(body.len());
            match kind {
                0 => body[place] = byte,
                1 => body.insert(place, byte),
                _ if body.len() > 1 => { body.remove(place); }
                _ => {}
            }
        }
        agree(&signature, &body)?;
    }

    #[test]
    fn quick_numbers_are_the_exact_ones(text in number_text(), behind in "[,\\] ]{0,12}") {
        let body = format!("{text}{behind}");
        let (number, next) = scan(body.as_bytes(), 0).ok().unzip();
        let quick = scan_f64(body.as_bytes(), 0);
        prop_assert_eq!(quick.map(|(value, next)| (value.to_bits(), next)),
            number.map(|number: Number| number.as_f64().to_bits()).zip(next));
        if let Some((value, quick_next)) = scan_i64(body.as_bytes(), 0) {
            let expected = u64::try_from(value).map_or(Number::Negative(value), Number::Unsigned);
            prop_assert_eq!((number, next), (Some(expected), Some(quick_next)));
        }
    }

    #[test]
    fn numbers_are_close_to_the_nearest_double(text in "-?[1-9][0-9]{0,20}(\\.[0-9]{1,20})?([eE][-+]?[0-9]{1,2})?") {
        let (number, next) = scan(text.as_bytes(), 0).unwrap();
        let nearest: f64 = text.parse().unwrap();
        prop_assert_eq!(next, text.len());
        prop_assert!((number.as_f64() - nearest).abs() <= nearest.abs() * 1e-15, "{number:?} is not {nearest}");
    }

    #[test]
    fn printed_singles_read_back(bits in any::<u32>()) {
        let value = f32::from_bits(bits);
        let mut out = Vec::new();
        float::write_f32(&mut out, value);
        let text = String::from_utf8(out).unwrap().replace("Infinity", "inf");
        let read: f32 = text.parse().unwrap();
        let expected = if value.is_subnormal() { 0.0_f32.copysign(value) } else { value };
        prop_assert!(read.to_bits() == expected.to_bits() || read.is_nan() && value.is_nan(), "{value:?}: {text}");
    }

    #[test]
    fn printed_doubles_read_back(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        let mut out = Vec::new();
        float::write_f64(&mut out, value);
        let text = String::from_utf8(out).unwrap().replace("Infinity", "inf");
        let read: f64 = text.parse().unwrap();
        let expected = if value.is_subnormal() { 0.0_f64.copysign(value) } else { value };
        prop_assert!(read.to_bits() == expected.to_bits() || read.is_nan() && value.is_nan(), "{value:?}: {text}");
    }

    #[test]
    fn singles_of_the_open_inference_protocol_are_the_nearest_and_read_back(bits in any::<u32>()) {
        let value = f32::from_bits(bits);
        // Every second number is subnormal.
        let value = if bits % 2 == 0 { value } else { f32::from_bits(bits & 0x807f_ffff) };
        prop_assume!(value.is_finite());
        let mut text = [0; _];
        let length = float::single_text_kept(&mut text, value);
        let (read, next) = scan_f32_correctly(&text[..length], 0).unwrap();
        prop_assert_eq!((read.to_bits(), next), (value.to_bits(), length));
    }

    #[test]
    fn doubles_of_the_open_inference_protocol_are_the_nearest_and_read_back(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        let value = if bits % 2 == 0 { value } else { f64::from_bits(bits & 0x800f_ffff_ffff_ffff) };
        prop_assume!(value.is_finite());
        let mut text = [0; _];
        let length = float::double_text_kept(&mut text, value);
        let (read, next) = scan_f64_correctly(&text[..length], 0).unwrap();
        prop_assert_eq!((read.to_bits(), next), (value.to_bits(), length));
    }

    #[test]
    fn singles_are_read_as_the_nearest(text in "-?[0-9]\\.[0-9]{1,20}([eE][-+]?[0-4]?[0-9])?") {
        let (read, next) = scan_f32_correctly(text.as_bytes(), 0).unwrap();
        prop_assert_eq!((read.to_bits(), next), (text.parse::<f32>().unwrap().to_bits(), text.len()));
    }

    #[test]
    fn short_singles_are_printed_short(digits in 1..1_000_000_u32, exponent in -30..30_i32) {
        let value: f32 = format!("{digits}e{exponent}").parse().unwrap();
        let mut out = Vec::new();
        float::write_f32(&mut out, value);
        let significant = out.iter().take_while(|&&byte| byte != b'e').filter(|byte| byte.is_ascii_digit());
        let significant: String = significant.map(|&digit| char::from(digit)).collect();
        let expected = digits.to_string();
        prop_assert_eq!(significant.trim_matches('0'), expected.trim_matches('0'));
    }

    #[test]
    fn quoted_doubles_read_back(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        prop_assume!(value.is_finite());
        let mut out = Vec::new();
        grisu::write_f64(&mut out, value);
        let read: f64 = String::from_utf8(out).unwrap().parse().unwrap();
        prop_assert_eq!(read.to_bits(), value.to_bits());
    }
}

#[test]
fn ordinary_requests_are_decoded_by_the_fast_decoder() {
    let one = |dtype| signature(&[("a", dtype)]);
    let two = signature(&[("a", DType::FLOAT), ("b", DType::STRING)]);
    let cases = [
        (one(DType::FLOAT), r#"{"instances": [1.0, 2, -3.5e-2]}"#),
        (one(DType::FLOAT), r#"{"instances": [[1.0, 2], [3.5, 1]], "signature_name": "s"}"#),
        (one(DType::INT64), r#" { "signature_name" : "s" , "inputs" : [ 1 , -9223372036854775808 ] } "#),
        (one(DType::UINT64), r#"{"inputs": 18446744073709551615}"#),
        (one(DType::BOOL), r#"{"inputs": {"a": [[true], [false]]}}"#),
        (one(DType::STRING), r#"{"instances": [{"b64": "aGk="}, "h\u00e9"]}"#),
        (two.clone(), r#"{"instances": [{"a": [1], "b": "x"}, {"b": "y", "a": [2]}]}"#),
        (two, r#"{"inputs": {"b": ["x"], "a": [[]]}}"#),
    ];
    for (signature, body) in cases {
        assert!(agree(&signature, body.as_bytes()).unwrap(), "{body}");
    }
}

#[test]
fn singles_below_the_normal_range_become_zero() {
    let least = f64::from(f32::MIN_POSITIVE);
    let step = f64::from(f32::from_bits(1));
    assert_eq!(to_f32(least).to_bits(), f32::MIN_POSITIVE.to_bits());
    // A value that rounds to the least normal number is that number; one that only the coarser steps of the subnormal
    // range would take there is not.
    assert_eq!(to_f32(least - step / 4.0).to_bits(), f32::MIN_POSITIVE.to_bits());
    assert_eq!(to_f32(least - step * 0.375).to_bits(), 0);
    assert_eq!(to_f32(-least / 2.0).to_bits(), (-0.0_f32).to_bits());
}

#[test]
fn formats_are_distinguished() {
    let signature = signature(&[("a", DType::FLOAT)]);
    let format =
        |body: &str| decode_exactly(body.as_bytes(), super::DEFAULT_MAX_NESTING, |_| Ok(&signature)).unwrap().format;
    assert_eq!(format(r#"{"instances":[1]}"#), Format::Row);
    assert_eq!(format(r#"{"inputs":[1]}"#), Format::Columnar);
}
