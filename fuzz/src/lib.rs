//! The bodies of the fuzz targets: each parses an input, and checks invariants.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message;
use servable_codec::example::features::{Feature, FeatureParser, FeatureTensor, Missing};
use servable_codec::example::{self, Examples};
use servable_codec::json::{self, Form, InferReply, ReplyTensor};
use servable_codec::metadata::{metadata_json, signatures_from_meta_graph};
use servable_codec::open_inference::{raw_bytes, raw_len, raw_tensor};
use servable_codec::proto::tensorflow::Example;
use servable_codec::proto::tensorflow::feature::Kind;
use servable_codec::proto::tensorflow::serving::ModelSpec;
use servable_codec::tensor_proto::{MemoryBudget, PredictResponse, decode_predict_request};
use servable_codec::wire::{Field, Reader};
use servable_model::inference::{Classification, Inference};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{DType, Elements, Tensor};
use servable_server::protocol::oip;
use servable_server::router::{self, open_inference, tensorflow_serving};

/// The signature with this name. `two` has two inputs; otherwise the first byte selects the dtype, also one without JSON.
fn signature(name: Option<&[u8]>) -> Arc<Signature> {
    let spec = |alias: &str, dtype| TensorSpec {
        alias: alias.to_owned(),
        tensor_name: format!("{alias}:0"),
        dtype,
        shape: None,
    };
    let inputs = match name {
        Some(b"two") => vec![spec("a", DType::INT64), spec("b", DType::STRING)],
        Some([dtype, ..]) => vec![spec("x", DType(i32::from(dtype - b'a')))],
        Some([]) | None => vec![spec("x", DType::FLOAT)],
    };
    let outputs = inputs.clone();
    Arc::new(Signature { inputs, outputs, ..Signature::default() })
}

/// The body of a REST predict: an accepted request can be answered.
pub fn json_predict(data: &[u8]) {
    let resolve = |name: Option<&[u8]>| Ok(signature(name.filter(|name| name.first() >= Some(&b'a'))));
    match json::decode_predict(data, json::DEFAULT_MAX_NESTING, resolve) {
        Err(error) => drop(json::error_body(&error.message)),
        Ok(request) => {
            let outputs: Vec<(&str, &Tensor)> =
                request.signature.inputs.iter().map(|spec| spec.alias.as_str()).zip(&request.inputs).collect();
            assert_eq!(outputs.len(), request.signature.inputs.len(), "one tensor for each input");
            for (spec, tensor) in request.signature.inputs.iter().zip(&request.inputs) {
                assert_eq!(spec.dtype, tensor.dtype(), "tensors have the dtype that was asked for");
            }
            drop(json::encode_predict(request.format, &outputs));
        }
    }
}

/// A gRPC Predict message: accepted tensors are encoded in the announced length.
pub fn grpc_predict(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let Ok(request) = decode_predict_request(&body) else { return };
    let mut budget = MemoryBudget::for_message(body.len());
    let tensors: Vec<(&str, Tensor)> =
        request.inputs.iter().filter_map(|(alias, tensor)| Some((*alias, tensor.decode(&mut budget).ok()?))).collect();
    for as_tensor_content in [false, true] {
        let outputs = tensors.iter().map(|(alias, tensor)| (*alias, tensor));
        let response = PredictResponse::new(outputs, "model", 1, "serving_default", as_tensor_content);
        let mut message = Vec::with_capacity(response.encoded_len());
        response.encode(&mut message);
        assert_eq!(message.len(), response.encoded_len(), "the announced length is the real one");
    }
}

/// The body of a REST classify or regress: an accepted request becomes valid examples.
pub fn json_examples(data: &[u8]) {
    match json::decode_examples(data, json::DEFAULT_MAX_NESTING) {
        Err(error) => drop(json::error_body(&error.message)),
        Ok(request) => {
            assert!(!request.examples.is_empty(), "a request has an example");
            // Names of features are copied from the request. If they are not UTF-8, or have half of a surrogate pair,
            // not every reader accepts them.
            let is_text = std::str::from_utf8(data).is_ok_and(|text| !text.contains("\\u"));
            check_examples(request.examples, is_text);
        }
    }
}

/// A gRPC Classify, Regress or `MultiInference` message: accepted examples are valid for every reader.
pub fn grpc_examples(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    if let Ok(request) = example::decode_examples_request(&body) {
        check_examples(request.examples, true);
    }
    if let Ok(request) = example::decode_multi_inference_request(&body) {
        assert!(request.tasks().count() <= data.len(), "a task takes a byte");
        check_examples(request.examples, true);
    }
}

/// A serialized example: what is parsed from it are the values that protobuf reads, where it is written as protobuf does.
pub fn example_features(data: &[u8]) {
    let feature =
        |name: &str, shape: &[i64], missing| Feature { name: name.to_owned(), shape: shape.to_vec(), missing };
    let tensors = vec![
        FeatureTensor::matrix(DType::FLOAT, ["a", "b"].map(|name| feature(name, &[2], Missing::NotANumber)).to_vec()),
        FeatureTensor::of(DType::INT64, feature("i", &[], Missing::Refused)),
        FeatureTensor::of(DType::STRING, feature("s", &[1], Missing::Refused)),
    ];
    let parser = FeatureParser::new(tensors).expect("features that can be");
    let Ok(tensors) = parser.parse(&std::iter::once(data).collect()) else { return };
    let shapes = tensors.iter().map(Tensor::shape);
    assert!(shapes.eq([&[1, 4][..], &[1], &[1, 1]]), "tensors have the shapes that were asked for");
    let Ok(example) = Example::decode(data) else { return };
    if example.encode_to_vec() == data {
        let features = example.features.unwrap_or_default().feature;
        let kind = |name: &str| features.get(name).and_then(|feature| feature.kind.as_ref());
        let (Some(Kind::Int64List(integers)), Some(Kind::BytesList(strings))) = (kind("i"), kind("s")) else {
            panic!("what is required is there");
        };
        let floats = ["a", "b"].map(|name| match kind(name) {
            Some(Kind::FloatList(list)) => list.value.clone(),
            _ => vec![f32::NAN; 2],
        });
        let bits = floats.concat().into_iter().flat_map(f32::to_le_bytes);
        assert!(raw_bytes(&tensors[0]).expect("a few bytes").into_iter().eq(bits), "floats are those of protobuf");
        let integer = integers.value[0].to_le_bytes();
        assert_eq!(raw_bytes(&tensors[1]).expect("a few bytes"), &integer[..], "and so are integers");
        let Elements::Strings(found) = tensors[2].elements() else { panic!("a tensor of strings") };
        assert_eq!(found.get(0), &strings.value[0][..], "and strings");
    }
}

/// Examples become a tensor, and labels with the same bytes can be encoded.
fn check_examples(examples: Examples, is_text: bool) {
    let count = examples.len();
    let Ok(tensor) = examples.into_tensor() else { return };
    assert_eq!(tensor.len(), count, "one string for each example");
    let (_, _, Elements::Strings(strings)) = tensor.into_parts() else { panic!("examples are strings") };
    if is_text {
        assert!(strings.iter().all(|example| Example::decode(example).is_ok()), "an example is a message");
    }
    let labels = Tensor::from_strings(vec![count as i64, 1], strings);
    let classification = Classification::new(Some(labels), None, count).expect("a row for each example");
    let inference = Inference::Classification(classification);
    assert!(json::encode_results(&inference).is_ok(), "there are results");
    let mut message = BytesMut::new();
    example::encode_inference(&inference, &ModelSpec::default(), &mut message);
    let result = Reader::new(&message).next_field();
    assert!(matches!(result, Ok(Some(Field { number: 1, .. }))), "a reply is a message");
}

/// A `MetaGraphDef`: signatures that were read can be printed.
pub fn meta_graph(data: &[u8]) {
    if let Ok(signatures) = signatures_from_meta_graph(data) {
        let body = metadata_json("model", 1, &signatures.signature_defs);
        assert!(body.is_ok(), "signatures that were read can be printed");
    }
}

/// The path of a REST request.
pub fn rest_path(data: &[u8]) {
    if let Ok(path) = std::str::from_utf8(data) {
        let _ = router::is_well_formed(path);
        let _ = tensorflow_serving::parse_get(path);
        let _ = tensorflow_serving::parse_post(path);
        let _ = open_inference::parse(path);
    }
}

/// A REST infer request of the Open Inference Protocol: two bytes for the length of its JSON, then the body. An
/// accepted request can be answered, in JSON where that can represent it, and as binary data that decodes to the same
/// tensor.
pub fn oip_rest(data: &[u8]) {
    let Some((length, body)) = data.split_first_chunk::<2>() else { return };
    let body = Bytes::copy_from_slice(body);
    let json_length = usize::from(u16::from_le_bytes(*length)).min(body.len());
    match oip::decode_body(&body, json_length, json::DEFAULT_MAX_NESTING) {
        Err(error) => drop(json::error_body(&error.message)),
        Ok((request, inputs)) => {
            check_raw(&inputs);
            for form in [Form::Json, Form::Base64, Form::Binary] {
                let outputs = inputs.iter().map(|(name, tensor)| ReplyTensor { name, tensor, form }).collect();
                let reply = InferReply { model_name: b"m", model_version: 1, id: request.id.as_deref(), outputs };
                match reply.encode() {
                    Ok((body, json)) => assert!(json.unwrap_or(body.len()) <= body.len(), "JSON comes first"),
                    Err(_) => assert!(form != Form::Binary, "binary data carries everything"),
                }
            }
        }
    }
    let _ = json::decode_repository_request(&body, json::DEFAULT_MAX_NESTING);
}

/// A `ModelInferRequest`: accepted inputs are valid tensors.
pub fn oip_grpc(data: &[u8]) {
    if let Ok(call) = oip::decode_call(&Bytes::copy_from_slice(data)) {
        check_raw(&call.inputs);
    }
}

/// Raw bytes of tensors decode to the same tensors.
fn check_raw(tensors: &[(String, Tensor)]) {
    for (name, tensor) in tensors {
        let bytes = raw_bytes(tensor).expect("what was sent is short enough");
        assert_eq!(bytes.len(), raw_len(tensor), "the announced length is the real one");
        let again =
            raw_tensor(name, tensor.dtype(), tensor.shape().to_vec(), bytes.clone()).expect("what was written is read");
        assert_eq!(raw_bytes(&again).expect("as before"), bytes, "as the same elements");
    }
}
