use super::*;
use crate::proto::tensorflow::serving::model_version_status::State;
use crate::proto::tensorflow::serving::{GetModelStatusResponse, ModelVersionStatus, StatusProto};
use crate::proto::tensorflow::tensor_info::CooSparse;
use crate::proto::tensorflow::{DataType, MetaGraphDef, TensorProto};

fn info(encoding: Option<Encoding>, dtype: DataType, sizes: Option<&[i64]>) -> TensorInfo {
    let tensor_shape = sizes.map(|sizes| TensorShapeProto {
        dim: sizes.iter().map(|&size| Dim { size, ..Dim::default() }).collect(),
        unknown_rank: false,
    });
    TensorInfo { encoding, dtype: dtype.into(), tensor_shape }
}

fn named(name: &str) -> Encoding {
    Encoding::Name(name.into())
}

fn half_plus_two() -> SignatureDef {
    let default = TensorProto { float_val: vec![0.1], ..TensorProto::default() };
    SignatureDef {
        inputs: [("x".into(), info(Some(named("x:0")), DataType::DtFloat, Some(&[-1, 3])))].into(),
        outputs: [("y".into(), info(Some(named("y:0")), DataType::DtFloat, Some(&[])))].into(),
        method_name: "tensorflow/serving/predict".into(),
        defaults: [("x".into(), TensorProto { dtype: DataType::DtFloat.into(), ..default })].into(),
    }
}

#[test]
fn generated_signatures_are_encoded_like_stored_ones() {
    let spec = |alias: &str, shape| TensorSpec {
        alias: alias.into(),
        tensor_name: format!("serving_default/{alias}"),
        dtype: DType::STRING,
        shape,
    };
    let signature = Signature {
        inputs: vec![spec("a", Some(vec![-1, 3])), spec("b", Some(vec![])), spec("c", None)],
        outputs: vec![spec("y", Some(vec![-1]))],
        method_name: "tensorflow/serving/predict".into(),
        ..Signature::default()
    };
    let written = signature_defs(&[("serving_default".to_owned(), signature.clone())].into());
    let stored = SignatureDefMap::decode(written.clone()).unwrap().signature_def;
    let read = signatures_from_meta_graph(&MetaGraphDef { signature_def: stored }.encode_to_vec()).unwrap();
    assert_eq!(read.signature_defs, written);
    let read = &read.by_name["serving_default"];
    assert_eq!((&read.inputs, &read.outputs), (&signature.inputs, &signature.outputs));
    assert_eq!(read.method_name, signature.method_name);
}

#[test]
fn signatures_are_read_from_a_meta_graph() {
    let meta_graph = MetaGraphDef { signature_def: [("serving_default".into(), half_plus_two())].into() };
    let signatures = signatures_from_meta_graph(&meta_graph.encode_to_vec()).unwrap();
    let signature = &signatures.by_name["serving_default"];
    assert_eq!(
        signature.inputs,
        [TensorSpec { alias: "x".into(), tensor_name: "x:0".into(), dtype: DType::FLOAT, shape: Some(vec![-1, 3]) }]
    );
    assert_eq!(signature.outputs[0].shape, Some(vec![]));
    assert_eq!(signature.method_name, "tensorflow/serving/predict");
    assert_eq!(signature.defaults["x"].shape(), [] as [i64; 0]);
    let map = SignatureDefMap::decode(signatures.signature_defs).unwrap();
    assert_eq!(map.signature_def, meta_graph.signature_def);
}

#[test]
fn stored_signatures_are_passed_on_unchanged_and_sorted() {
    // The entries b and a, each with an unknown field, between a graph and a saver.
    let meta_graph = b"\x12\x01\xff\x2a\x07\x0a\x01b\xa2\x06\x01!\x1a\x02hi\x2a\x07\x0a\x01a\xa2\x06\x01?";
    let signatures = signatures_from_meta_graph(meta_graph).unwrap();
    assert_eq!(signatures.signature_defs, b"\x0a\x07\x0a\x01a\xa2\x06\x01?\x0a\x07\x0a\x01b\xa2\x06\x01!".as_slice());
    assert_eq!(signatures.by_name.keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn values_of_several_tensors_have_no_tensor_name() {
    let sparse = info(Some(Encoding::CooSparse(CooSparse::default())), DataType::DtInt64, None);
    let spec = spec("s".into(), sparse);
    assert_eq!(spec, TensorSpec { alias: "s".into(), tensor_name: String::new(), dtype: DType::INT64, shape: None });
}

#[test]
fn a_shape_of_unknown_rank_is_none() {
    let shape = TensorShapeProto { unknown_rank: true, dim: vec![] };
    let unknown = TensorInfo { tensor_shape: Some(shape), ..info(Some(named("x:0")), DataType::DtString, None) };
    assert_eq!(spec("x".into(), unknown).shape, None);
}

#[test]
fn an_invalid_default_is_ignored() {
    let mut definition = half_plus_two();
    definition.defaults.insert("x".into(), TensorProto::default());
    assert!(signature(definition).defaults.is_empty());
}

#[test]
fn bytes_that_are_no_meta_graph_are_an_error() {
    for bytes in [b"\xff".as_slice(), b"\x2a\x01\x80", b"\x2a\x05\x0a\x01a\x12\x01", b"\x2a\x03\x0a\x01\xff"] {
        assert!(signatures_from_meta_graph(bytes).is_err(), "{bytes:x?}");
    }
    assert!(signatures_from_meta_graph(b"").unwrap().by_name.is_empty());
}

#[test]
fn status_is_printed_as_protobuf_prints_it() {
    let version = |version, state: State, status| ModelVersionStatus { version, state: state.into(), status };
    let failed = StatusProto { error_code: 3, error_message: "a \"<b>\"\n".into() };
    let response = GetModelStatusResponse {
        model_version_status: vec![
            version(123, State::Available, Some(StatusProto::default())),
            version(-1, State::End, Some(failed)),
        ],
    };
    let expected = r#"{
 "model_version_status": [
  {
   "version": "123",
   "state": "AVAILABLE",
   "status": {
    "error_code": "OK",
    "error_message": ""
   }
  },
  {
   "version": "-1",
   "state": "END",
   "status": {
    "error_code": "INVALID_ARGUMENT",
    "error_message": "a \"\u003cb\u003e\"\n"
   }
  }
 ]
}
"#;
    assert_eq!(String::from_utf8(status_json(&response)).unwrap(), expected);
}

#[test]
fn metadata_is_two_documents_in_a_third() {
    let map = SignatureDefMap { signature_def: [("serving_default".into(), half_plus_two())].into() };
    let body = metadata_json("half_plus_two", 123, &map.encode_to_vec()).unwrap();
    let body = String::from_utf8(body).unwrap();
    let head = r#"{
"model_spec":{
 "name": "half_plus_two",
 "version": "123",
 "signature_name": ""
}
,
"metadata": {"signature_def": {
 "signature_def": {
  "serving_default": {
   "inputs": {
    "x": {
     "name": "x:0",
     "dtype": "DT_FLOAT",
     "tensor_shape": {
      "dim": [
       {
        "size": "-1",
        "name": ""
       },
"#;
    assert!(body.starts_with(head), "{body}");
    let tail = r#"
   "method_name": "tensorflow/serving/predict",
   "defaults": {
    "x": {
     "dtype": "DT_FLOAT",
     "version_number": 0,
     "tensor_content": "",
     "float_val": [
      0.1
     ],
     "double_val": [],
"#;
    assert!(body.contains(tail), "{body}");
    assert!(body.ends_with("\n  }\n }\n}\n}\n}\n"), "{body}");
    serde_json::from_str::<serde_json::Value>(&body).expect("JSON");
}

#[test]
fn signatures_that_cannot_be_read_are_an_error() {
    assert!(metadata_json("m", 1, b"\xff").is_err());
}
