use prost::Message;

use super::*;
use crate::proto::tensorflow::feature::Kind;
use crate::proto::tensorflow::{self as proto, BytesList, Example, Features, FloatList, Int64List};

fn floats(values: &[f32]) -> Kind {
    Kind::FloatList(FloatList { value: values.to_vec() })
}

fn integers(values: &[i64]) -> Kind {
    Kind::Int64List(Int64List { value: values.to_vec() })
}

fn strings(values: &[&str]) -> Kind {
    Kind::BytesList(BytesList {
        value: values.iter().map(|value| bytes::Bytes::copy_from_slice(value.as_bytes())).collect(),
    })
}

fn examples<const N: usize>(examples: [&[(&str, Kind)]; N]) -> Strings {
    let example = |features: &[(&str, Kind)]| {
        let entry = |(name, kind): &(&str, Kind)| ((*name).to_owned(), proto::Feature { kind: Some(kind.clone()) });
        let feature = features.iter().map(entry).collect();
        Example { features: Some(Features { feature }) }.encode_to_vec()
    };
    examples.iter().map(|features| example(features)).collect()
}

fn required(name: &str, shape: &[i64]) -> Feature {
    Feature { name: name.to_owned(), shape: shape.to_vec(), missing: Missing::Refused }
}

fn or_nan(name: &str) -> Feature {
    Feature { name: name.to_owned(), shape: Vec::new(), missing: Missing::NotANumber }
}

fn numbers(tensor: &Tensor) -> &[u8] {
    let Elements::Numbers(buffer) = tensor.elements() else { panic!("a tensor of numbers") };
    buffer.as_ref()
}

fn fault(parser: Result<FeatureParser>, examples: &Strings) -> String {
    match parser.and_then(|parser| parser.parse(examples)) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn features_become_numbers_of_every_dtype() {
    let values =
        examples([&[("f", floats(&[0.5])), ("i", integers(&[1]))], &[("i", integers(&[0])), ("f", floats(&[-2.0]))]]);
    for (dtype, name, expected) in [
        (DType::FLOAT, "f", [0.5_f32, -2.0].map(f32::to_le_bytes).concat()),
        (DType::DOUBLE, "f", [0.5_f64, -2.0].map(f64::to_le_bytes).concat()),
        (DType::HALF, "f", [0.5, -2.0].map(|value| f16::from_f32(value).to_le_bytes()).concat()),
        (DType::BFLOAT16, "f", [0.5, -2.0].map(|value| bf16::from_f32(value).to_le_bytes()).concat()),
        (DType::INT8, "i", vec![1, 0]),
        (DType::UINT8, "i", vec![1, 0]),
        (DType::BOOL, "i", vec![1, 0]),
        (DType::INT16, "i", [1_i16, 0].map(i16::to_le_bytes).concat()),
        (DType::UINT16, "i", [1_u16, 0].map(u16::to_le_bytes).concat()),
        (DType::INT32, "i", [1_i32, 0].map(i32::to_le_bytes).concat()),
        (DType::UINT32, "i", [1_u32, 0].map(u32::to_le_bytes).concat()),
        (DType::INT64, "i", [1_i64, 0].map(i64::to_le_bytes).concat()),
        (DType::UINT64, "i", [1_u64, 0].map(u64::to_le_bytes).concat()),
    ] {
        let parser = FeatureParser::new(vec![FeatureTensor::of(dtype, required(name, &[1]))]).expect("a feature");
        let tensors = parser.parse(&values).expect("both examples have it");
        assert_eq!((tensors[0].dtype(), tensors[0].shape()), (dtype, &[2, 1][..]));
        assert_eq!(numbers(&tensors[0]), expected, "{dtype}");
    }
}

#[test]
fn features_are_the_columns_of_a_matrix_with_nan_for_those_that_are_missing() {
    let columns = vec![or_nan("b"), required("pair", &[2]), or_nan("a")];
    let labels = FeatureTensor::matrix(DType::STRING, vec![required("s", &[]), required("t", &[])]);
    let tensors = vec![FeatureTensor::matrix(DType::FLOAT, columns), labels];
    let parser = FeatureParser::new(tensors).expect("two tensors").taking_integers();
    let (pair, words) = (("pair", floats(&[1.0, 2.0])), ("t", strings(&["two"])));
    let values = examples([
        &[("a", integers(&[7])), pair.clone(), ("s", strings(&["one"])), words.clone(), ("other", integers(&[3]))],
        &[("b", floats(&[8.0])), pair, ("s", strings(&[""])), words],
    ]);
    let parsed = parser.parse(&values).expect("nothing that is required is missing");
    let found: Vec<f32> = numbers(&parsed[0]).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    assert_eq!(parsed[0].shape(), [2, 4]);
    assert!(found[0].is_nan() && found[7].is_nan(), "{found:?}");
    assert_eq!(found[1..7], [1.0, 2.0, 7.0, 8.0, 1.0, 2.0]);
    let Elements::Strings(strings) = parsed[1].elements() else { panic!("a tensor of strings") };
    assert_eq!(parsed[1].shape(), [2, 2]);
    assert_eq!(strings.iter().collect::<Vec<_>>(), [&b"one"[..], b"two", b"", b"two"]);
}

#[test]
fn integers_that_do_not_fit_and_integers_for_floats_are_refused() {
    let parser = |dtype| FeatureParser::new(vec![FeatureTensor::of(dtype, required("x", &[]))]);
    for (dtype, value, expected) in [
        (DType::INT8, integers(&[128]), "Value 128 does not fit data type: int8"),
        (DType::UINT64, integers(&[-1]), "Value -1 does not fit data type: uint64"),
        (DType::BOOL, integers(&[2]), "Value 2 does not fit data type: bool"),
        (DType::DOUBLE, integers(&[1]), "Data types don't match. Data type: int64 but expected type: float"),
        (DType::INT8, floats(&[1.0]), "Data types don't match. Data type: float but expected type: int64"),
        (
            DType::STRING,
            strings(&["a", "b"]),
            "Number of bytes values != expected.  Values size: 2 but output shape: []",
        ),
    ] {
        let expected = format!("INVALID_ARGUMENT: Name: <unknown>, Key: x, Index: 0.  {expected}");
        assert_eq!(fault(parser(dtype), &examples([&[("x", value)]])), expected);
    }
}

#[test]
fn features_that_make_no_tensors_are_refused() {
    let nothing = Strings::default();
    let one = |dtype, feature| FeatureParser::new(vec![FeatureTensor::of(dtype, feature)]);
    let with_default = |values| Feature { missing: Missing::Values(values), ..required("x", &[3]) };
    let pair = Tensor::from_strings(vec![2], ["a", "b"].into_iter().collect());
    for (parser, expected) in [
        (one(DType::COMPLEX64, required("x", &[])), "examples have no features of complex64"),
        (one(DType::FLOAT, required("x", &[-1])), "the feature x cannot have the shape [-1]"),
        (one(DType::FLOAT, required("x", &[1 << 40])), "the feature x cannot have the shape [1099511627776]"),
        (one(DType::INT32, or_nan("x")), "int32 has no NaN"),
        (one(DType::STRING, with_default(pair)), "the feature x of string[3] has a default of string[2]"),
        (
            FeatureParser::new(vec![FeatureTensor::matrix(DType::FLOAT, vec![or_nan("x"), or_nan("x")])]),
            "the feature x is declared twice",
        ),
        (
            FeatureParser::new(vec![FeatureTensor { shape: vec![2], ..FeatureTensor::of(DType::FLOAT, or_nan("x")) }]),
            "features with 1 values make no tensor of shape [2]",
        ),
    ] {
        assert_eq!(fault(parser, &nothing), format!("INVALID_ARGUMENT: {expected}"));
    }
}

#[test]
fn one_value_may_be_the_default_of_all() {
    let value = Tensor::from_strings(Vec::new(), ["?"].into_iter().collect());
    let feature = Feature { missing: Missing::Values(value), ..required("x", &[2, 1]) };
    let parser = FeatureParser::new(vec![FeatureTensor::of(DType::STRING, feature)]).expect("a feature");
    let parsed = parser.parse(&[b"", b""].into_iter().collect()).expect("a default");
    let Elements::Strings(strings) = parsed[0].elements() else { panic!("a tensor of strings") };
    assert_eq!((parsed[0].shape(), strings.iter().collect::<Vec<_>>()), (&[2, 2, 1][..], vec![&b"?"[..]; 4]));
}

#[test]
fn tensors_take_memory_in_proportion_to_the_examples() {
    let wide = Feature { missing: Missing::NotANumber, ..required("x", &[1 << 20]) };
    let parser = || FeatureParser::new(vec![FeatureTensor::of(DType::FLOAT, wide.clone())]);
    let empty = |count: usize| std::iter::repeat_n(b"", count).collect::<Strings>();
    assert_eq!(fault(parser(), &empty(16)), "");
    let expected = "INVALID_ARGUMENT: Input is too large: 17 examples make tensors of 4194304 bytes for each of them";
    assert_eq!(fault(parser(), &empty(17)), expected);
}

#[test]
fn an_example_that_cannot_be_read_is_quoted_in_part() {
    let parser = || FeatureParser::new(vec![FeatureTensor::of(DType::FLOAT, required("x", &[]))]);
    let quoted = |example: &[u8]| fault(parser(), &std::iter::once(example).collect());
    assert_eq!(quoted(b"www"), "INVALID_ARGUMENT: Could not parse example input, value: 'www'");
    let long = quoted(&[b'w'; 1000]);
    assert_eq!(long, format!("INVALID_ARGUMENT: Could not parse example input, value: '{}...'", "w".repeat(256)));
    assert_eq!(quoted(b"\x0a\x08\x0a\x06\x0a\x01x\x12\x01\xff"), "INVALID_ARGUMENT: Unsupported datatype.");
}
