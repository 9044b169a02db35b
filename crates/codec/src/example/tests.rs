use bytes::{Bytes, BytesMut};
use prost::Message;

use super::canonical::{is_canonical, put_canonical};
use super::*;
use crate::proto::tensorflow::feature::Kind;
use crate::proto::tensorflow::serving::input::Kind as InputKind;
use crate::proto::tensorflow::serving::model_spec::VersionChoice;
use crate::proto::tensorflow::serving::{
    Class, ClassificationRequest, ClassificationResponse, ExampleList, ExampleListWithContext, Input, ModelSpec,
    MultiInferenceRequest as MultiInferenceMessage, MultiInferenceResponse, RegressionResponse,
};
use crate::proto::tensorflow::serving::{InferenceTask as TaskMessage, inference_result};
use crate::proto::tensorflow::{BytesList, Example, Feature, Features, FloatList, Int64List};
use crate::tensor_proto::RequestedVersion;
use servable_model::error::Result;
use servable_model::inference::{Classification, Inference, Regression};
use servable_model::tensor::{Buffer, DType, Elements};

fn example(features: &[(&str, Kind)]) -> Example {
    let features = features.iter().map(|(name, kind)| ((*name).to_owned(), Feature { kind: Some(kind.clone()) }));
    Example { features: Some(Features { feature: features.collect() }) }
}

fn floats(value: &[f32]) -> Kind {
    Kind::FloatList(FloatList { value: value.to_vec() })
}

fn request(kinds: impl IntoIterator<Item = InputKind>) -> Bytes {
    let model_spec = ModelSpec {
        name: "m".to_owned(),
        version_choice: Some(VersionChoice::Version(3)),
        signature_name: "s".to_owned(),
    };
    let request = ClassificationRequest { model_spec: Some(model_spec), input: None };
    let mut message = request.encode_to_vec();
    for kind in kinds {
        ClassificationRequest { model_spec: None, input: Some(Input { kind: Some(kind) }) }
            .encode(&mut message)
            .expect("memory takes it");
    }
    message.into()
}

fn list<const N: usize>(examples: [&Example; N]) -> InputKind {
    InputKind::ExampleList(ExampleList { examples: examples.map(Clone::clone).to_vec() })
}

fn list_with_context<const N: usize>(examples: [&Example; N], context: Option<&Example>) -> InputKind {
    let examples = examples.map(Clone::clone).to_vec();
    InputKind::ExampleListWithContext(ExampleListWithContext { examples, context: context.cloned() })
}

/// The strings of the input tensor.
fn fed(body: &Bytes) -> Result<Vec<Vec<u8>>, String> {
    let request = decode_examples_request(body).expect("a message");
    let tensor = request.examples.into_tensor().map_err(|error| error.to_string())?;
    assert_eq!(tensor.shape(), [tensor.len() as i64]);
    let Elements::Strings(strings) = tensor.elements() else { panic!("examples are strings") };
    Ok(strings.iter().map(<[u8]>::to_vec).collect())
}

#[test]
fn examples_are_passed_on_unchanged() {
    let [first, second] = [example(&[("x", floats(&[1.5]))]), example(&[("y", floats(&[])), ("z", floats(&[2.5]))])];
    let body = request([list([&first, &second])]);
    let decoded = decode_examples_request(&body).expect("a message");
    let spec = decoded.model_spec.expect("it was sent");
    assert_eq!((spec.name, spec.version, spec.signature_name), ("m", RequestedVersion::Number(3), "s"));
    let tensor = decoded.examples.into_tensor().expect("examples");
    let Elements::Strings(strings) = tensor.elements() else { panic!("examples are strings") };
    assert_eq!(strings.iter().collect::<Vec<_>>(), [first.encode_to_vec(), second.encode_to_vec()]);
    assert!(body.as_ptr_range().contains(&strings.get(0).as_ptr()), "they were copied");
}

#[test]
fn each_example_is_prefixed_with_the_context() {
    let [context, first, second] = [1.0, 2.0, 3.0].map(|value| example(&[("x", floats(&[value]))]));
    let encoded = |parts: &[&Example]| parts.iter().flat_map(|part| part.encode_to_vec()).collect::<Vec<_>>();
    let body = request([list_with_context([&first, &second], Some(&context))]);
    assert_eq!(fed(&body), Ok(vec![encoded(&[&context, &first]), encoded(&[&context, &second])]));
}

#[test]
fn inputs_of_one_kind_add_up_and_the_other_kind_replaces_them() {
    let [a, b, c] = [1.0, 2.0, 3.0].map(|value| example(&[("x", floats(&[value]))]));
    let encoded = |part: &Example| part.encode_to_vec();
    let cases = [
        (vec![list([&a]), list([&b])], vec![encoded(&a), encoded(&b)]),
        (vec![list([&a]), list_with_context([&b], None)], vec![encoded(&b)]),
        (vec![list_with_context([&a], Some(&b)), list([&c])], vec![encoded(&c)]),
        (
            vec![list_with_context([&a], Some(&b)), list_with_context([], Some(&c))],
            vec![[encoded(&b), encoded(&c), encoded(&a)].concat()],
        ),
    ];
    for (kinds, expected) in cases {
        assert_eq!(fed(&request(kinds)), Ok(expected));
    }
    let empty =
        [vec![], vec![list([])], vec![list_with_context([], Some(&a))], vec![list([&a]), list_with_context([], None)]];
    for kinds in empty {
        assert_eq!(fed(&request(kinds)), Err("INVALID_ARGUMENT: Input is empty.".to_owned()));
    }
}

#[test]
fn copies_of_a_context_are_limited() {
    let context = Bytes::from(vec![b'x'; 1 << 20]);
    let examples = |count| Examples::new(Bytes::new(), vec![(0, 0); count], context.to_vec()).into_tensor();
    assert_eq!(examples(64).expect("64 MiB may be had").size_in_bytes(), 64 << 20);
    let error = examples(65).expect_err("a limit").to_string();
    assert_eq!(error, "INVALID_ARGUMENT: Input is too large: 65 examples with a context of 1048576 bytes");
}

#[test]
fn examples_in_other_encodings_are_encoded_again() {
    let mut ordinary = example(&[
        ("b", Kind::BytesList(BytesList { value: vec![Bytes::from_static(b"x"), Bytes::new()] })),
        ("f", floats(&[1.5, 2.5])),
        ("i", Kind::Int64List(Int64List { value: vec![-1, 1] })),
        ("n", floats(&[])),
    ]);
    ordinary.features.get_or_insert_default().feature.insert(String::new(), Feature::default());
    let mut written = Vec::new();
    put_canonical(&mut written, &ordinary.encode_to_vec()).expect("an example");
    assert!(is_canonical(&written));
    assert_eq!(Example::decode(&written[..]).as_ref(), Ok(&ordinary));
    assert!(is_canonical(b"") && is_canonical(&written.repeat(2)));

    let cases: [(&str, &[u8], &[u8]); 8] = [
        ("an unknown field", b"\x08\x01", b""),
        ("a tag of two bytes", b"\x8a\x00\x00", b""),
        ("an unknown field in features", b"\x0a\x02\x08\x01", b""),
        ("neither name nor feature", b"\x0a\x02\x0a\x00", b"\x0a\x06\x0a\x04\x0a\x00\x12\x00"),
        ("the name last", b"\x0a\x07\x0a\x05\x12\x00\x0a\x01x", b"\x0a\x07\x0a\x05\x0a\x01x\x12\x00"),
        (
            "two lists",
            b"\x0a\x0b\x0a\x09\x0a\x01x\x12\x04\x12\x00\x1a\x00",
            b"\x0a\x09\x0a\x07\x0a\x01x\x12\x02\x1a\x00",
        ),
        (
            "numbers one by one",
            b"\x0a\x0e\x0a\x0c\x0a\x01x\x12\x07\x12\x05\x0d\x00\x00\xc0\x3f",
            b"\x0a\x0f\x0a\x0d\x0a\x01x\x12\x08\x12\x06\x0a\x04\x00\x00\xc0\x3f",
        ),
        (
            "numbers in two parts",
            b"\x0a\x0f\x0a\x0d\x0a\x01x\x12\x08\x1a\x06\x0a\x01\x01\x0a\x01\x02",
            b"\x0a\x0d\x0a\x0b\x0a\x01x\x12\x06\x1a\x04\x0a\x02\x01\x02",
        ),
    ];
    for (what, bytes, expected) in cases {
        assert!(!is_canonical(bytes), "{what}");
        let mut written = Vec::new();
        put_canonical(&mut written, bytes).expect("an example");
        assert_eq!(written, expected, "{what}");
        assert!(is_canonical(expected), "{what}");
        // One such example is enough for all to be copied, with the context.
        let list = [&[0x0a, bytes.len() as u8], bytes, b"\x0a\x00\x12", &[bytes.len() as u8], bytes].concat();
        let input = [&[0x12, list.len() as u8], &list[..]].concat();
        let body = Bytes::from([&[0x12, input.len() as u8], &input[..]].concat());
        assert_eq!(fed(&body), Ok(vec![expected.repeat(2), expected.to_vec()]), "{what}");
    }
}

#[test]
fn malformed_examples_make_malformed_messages() {
    let broken: [&[u8]; 4] = [b"\xff", b"\x0a\x01", b"\x0a\x05\x0a\x03\x0a\x01\xff", b"\x0c"];
    for example in broken {
        let list = [&[0x0a, example.len() as u8], example].concat();
        let input = [&[0x0a, list.len() as u8], &list[..]].concat();
        let body = Bytes::from([&[0x12, input.len() as u8], &input[..]].concat());
        assert!(decode_examples_request(&body).is_err(), "{example:x?}");
        assert!(decode_multi_inference_request(&body).is_err(), "{example:x?}");
    }
}

#[test]
fn tasks_are_read_in_their_order() {
    let task = |name: &str, method: &str| TaskMessage {
        model_spec: Some(ModelSpec { name: name.to_owned(), ..ModelSpec::default() }),
        method_name: method.to_owned(),
    };
    let tasks = vec![task("a", "b"), TaskMessage::default(), task("c", "")];
    let input = Some(Input { kind: Some(list([&Example::default()])) });
    let body = Bytes::from(MultiInferenceMessage { tasks, input }.encode_to_vec());
    let request = decode_multi_inference_request(&body).expect("a message");
    let read: Vec<_> = request.tasks().map(|task| (task.model_spec.name, task.method_name)).collect();
    assert_eq!(read, [("a", "b"), ("", ""), ("c", "")]);
    assert_eq!(request.examples.len(), 1);
}

fn column(values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::from_numbers(DType::FLOAT, vec![values.len() as i64, 1], Buffer::Shared(bytes.into()))
}

#[test]
fn replies_are_read_by_prost() {
    let labels = Tensor::from_strings(vec![2, 1], ["label", ""].into_iter().collect());
    let classification = Classification::new(Some(labels), Some(column(&[0.5, 0.0])), 2).expect("two rows");
    let classification = Inference::Classification(classification);
    let regression = Inference::Regression(Regression::new(column(&[1.5, 0.0, -0.0]), 3).expect("three rows"));
    let spec = ModelSpec { name: "m".to_owned(), ..ModelSpec::default() };

    let mut out = BytesMut::new();
    encode_inference(&classification, &spec, &mut out);
    let reply = ClassificationResponse::decode(out.freeze()).expect("a message");
    assert_eq!(reply.model_spec.as_ref(), Some(&spec));
    let result = reply.result.expect("a result");
    let classes: Vec<_> = result.classifications.iter().map(|classes| classes.classes.clone()).collect();
    assert_eq!(classes, [vec![Class { label: "label".to_owned(), score: 0.5 }], vec![Class::default()]]);

    let mut out = BytesMut::new();
    encode_inference(&regression, &spec, &mut out);
    let reply = RegressionResponse::decode(out.freeze()).expect("a message");
    let values: Vec<u32> = reply.result.expect("a result").regressions.iter().map(|one| one.value.to_bits()).collect();
    assert_eq!(values, [1.5_f32.to_bits(), 0, 1 << 31]);

    let mut out = BytesMut::new();
    encode_multi_inference([(&spec, &classification), (&spec, &regression)], &mut out);
    let reply = MultiInferenceResponse::decode(out.freeze()).expect("a message");
    let [first, second] = &reply.results[..] else { panic!("two results") };
    assert_eq!((first.model_spec.as_ref(), second.model_spec.as_ref()), (Some(&spec), Some(&spec)));
    assert_eq!(first.result, Some(inference_result::Result::ClassificationResult(result)));
    assert!(matches!(&second.result, Some(inference_result::Result::RegressionResult(r)) if r.regressions.len() == 3));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body: Vec<u8>) {
        let body = Bytes::from(body);
        if let Ok(request) = decode_examples_request(&body) {
            drop(request.examples.into_tensor());
        }
        if let Ok(request) = decode_multi_inference_request(&body) {
            assert!(request.tasks().count() <= body.len());
        }
    }

    #[test]
    fn what_prost_writes_is_canonical(names: Vec<String>, values: Vec<f32>) {
        let features: Vec<_> = names.iter().filter(|name| !name.is_empty()).map(|name| (&name[..], floats(&values))).collect();
        proptest::prop_assert!(is_canonical(&example(&features).encode_to_vec()));
    }
}
