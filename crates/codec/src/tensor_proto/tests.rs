use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::proto::tensorflow::tensor_shape_proto::Dim;
use crate::proto::tensorflow::{
    DataType, ResourceHandleProto, TensorProto, TensorShapeProto, VariantTensorDataProto, serving,
};
use crate::wire::{put_length_field, put_varint};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Strings, Tensor};

fn proto(dtype: DType, shape: &[i64]) -> TensorProto {
    let dim = shape.iter().map(|&size| Dim { size, ..Dim::default() }).collect();
    let tensor_shape = Some(TensorShapeProto { dim, ..TensorShapeProto::default() });
    TensorProto { dtype: dtype.0, tensor_shape, ..TensorProto::default() }
}

fn numbers(tensor: &Tensor) -> &[u8] {
    match tensor.elements() {
        Elements::Numbers(buffer) => buffer.as_ref(),
        Elements::Strings(_) => panic!("strings"),
    }
}

fn strings(tensor: &Tensor) -> Vec<&[u8]> {
    match tensor.elements() {
        Elements::Strings(strings) => strings.iter().collect(),
        Elements::Numbers(_) => panic!("numbers"),
    }
}

/// The bytes of a valid tensor.
fn decoded(proto: &TensorProto) -> Vec<u8> {
    numbers(&tensor_from_proto(proto).expect("a tensor")).to_vec()
}

fn request(inputs: &[(&str, &[u8])]) -> Bytes {
    let mut body = Vec::new();
    for (alias, tensor) in inputs {
        let mut entry = Vec::new();
        put_length_field(&mut entry, 1, alias.as_bytes());
        put_length_field(&mut entry, 2, tensor);
        put_length_field(&mut body, 2, &entry);
    }
    body.into()
}

/// A request whose one input is this tensor, decoded.
fn decode_one(tensor: &[u8]) -> Result<Tensor, TensorError> {
    let body = request(&[("x", tensor)]);
    let request = decode_predict_request(&body).expect("well-formed");
    request.inputs[0].1.decode(&mut MemoryBudget::for_message(body.len()))
}

#[test]
fn values_come_from_the_field_of_the_dtype() {
    let cases: Vec<(TensorProto, Vec<u8>)> = vec![
        (
            TensorProto { float_val: vec![1.5, -2.0], ..proto(DType::FLOAT, &[2]) },
            [1.5_f32, -2.0].map(f32::to_le_bytes).concat(),
        ),
        (TensorProto { double_val: vec![1.5], ..proto(DType::DOUBLE, &[]) }, 1.5_f64.to_le_bytes().to_vec()),
        (TensorProto { int_val: vec![-1, 7], ..proto(DType::INT32, &[2]) }, [-1_i32, 7].map(i32::to_le_bytes).concat()),
        (TensorProto { int_val: vec![300, -129], ..proto(DType::INT8, &[2]) }, vec![44, 127]),
        (TensorProto { int_val: vec![-1, 256], ..proto(DType::UINT8, &[2]) }, vec![255, 0]),
        (TensorProto { int_val: vec![70_000], ..proto(DType::INT16, &[1]) }, 4464_i16.to_le_bytes().to_vec()),
        (TensorProto { int_val: vec![65_535], ..proto(DType::UINT16, &[1]) }, vec![255, 255]),
        (TensorProto { int_val: vec![5, 300], ..proto(DType(29), &[2]) }, vec![5, 44]), // int4, a byte each
        (TensorProto { float8_val: Bytes::from_static(&[1, 2]), ..proto(DType(24), &[2]) }, vec![1, 2]),
        (TensorProto { half_val: vec![15_360, -1], ..proto(DType::HALF, &[2]) }, vec![0, 0x3c, 255, 255]),
        (TensorProto { half_val: vec![16_256], ..proto(DType::BFLOAT16, &[]) }, vec![0x80, 0x3f]),
        (TensorProto { int64_val: vec![i64::MIN], ..proto(DType::INT64, &[1]) }, i64::MIN.to_le_bytes().to_vec()),
        (TensorProto { uint32_val: vec![u32::MAX], ..proto(DType::UINT32, &[1]) }, vec![255; 4]),
        (TensorProto { uint64_val: vec![u64::MAX], ..proto(DType::UINT64, &[1]) }, vec![255; 8]),
        (TensorProto { bool_val: vec![true, false], ..proto(DType::BOOL, &[2]) }, vec![1, 0]),
        // A dangling half of a complex number is dropped, and the last whole one repeated.
        (
            TensorProto { scomplex_val: vec![1.0, 2.0, 3.0], ..proto(DType::COMPLEX64, &[2]) },
            [1.0_f32, 2.0, 1.0, 2.0].map(f32::to_le_bytes).concat(),
        ),
        (TensorProto { dcomplex_val: vec![1.0], ..proto(DType::COMPLEX128, &[1]) }, vec![0; 16]),
        // Values in the field of another dtype are not seen.
        (TensorProto { int_val: vec![1, 2], ..proto(DType::FLOAT, &[2]) }, vec![0; 8]),
    ];
    for (proto, expected) in cases {
        assert_eq!(decoded(&proto), expected, "{proto:?}");
    }
}

#[test]
fn the_last_value_is_repeated_for_missing_ones() {
    let shortened = TensorProto { int_val: vec![1, 2], ..proto(DType::UINT8, &[5]) };
    assert_eq!(decoded(&shortened), [1, 2, 2, 2, 2]);
    let surplus = TensorProto { int_val: vec![1, 2, 3], ..proto(DType::UINT8, &[2]) };
    assert_eq!(decoded(&surplus), [1, 2]);
    let many = TensorProto { int64_val: vec![0x0102_0304], ..proto(DType::INT64, &[100_003]) };
    assert!(decoded(&many).chunks(8).all(|element| element == [4, 3, 2, 1, 0, 0, 0, 0]));
    let words = TensorProto { string_val: vec!["a".into()], ..proto(DType::STRING, &[3]) };
    assert_eq!(strings(&tensor_from_proto(&words).unwrap()), [b"a"; 3]);
    assert_eq!(strings(&tensor_from_proto(&proto(DType::STRING, &[2])).unwrap()), [b""; 2]);
}

#[test]
fn raw_content_wins_and_has_to_fit() {
    let content = |content: &'static [u8]| TensorProto {
        tensor_content: Bytes::from_static(content),
        float_val: vec![9.0],
        ..proto(DType::FLOAT, &[1])
    };
    assert_eq!(decoded(&content(&[0, 0, 128, 63])), [0, 0, 128, 63]);
    assert_eq!(decoded(&content(&[])), 9.0_f32.to_le_bytes());
    assert_eq!(tensor_from_proto(&content(&[0, 0, 128])).unwrap_err(), TensorError::Invalid);
    assert_eq!(tensor_from_proto(&content(&[0; 8])).unwrap_err(), TensorError::Invalid);
}

#[test]
fn raw_booleans_are_zero_or_one() {
    let content = |byte| TensorProto { tensor_content: vec![1, byte].into(), ..proto(DType::BOOL, &[2]) };
    assert_eq!(decoded(&content(1)), [1, 1]);
    assert_eq!(tensor_from_proto(&content(2)).unwrap_err(), TensorError::Invalid);
}

#[test]
fn strings_in_raw_content_are_lengths_and_then_bytes() {
    let content = |content: &'static [u8], shape: &[i64]| {
        let proto = TensorProto { tensor_content: Bytes::from_static(content), ..proto(DType::STRING, shape) };
        tensor_from_proto(&proto).map(|tensor| strings(&tensor).concat())
    };
    assert_eq!(content(b"\x02\x03abcde", &[2]), Ok(b"abcde".to_vec()));
    assert_eq!(content(b"\x02\x03abcde", &[0]), Ok(vec![]));
    for broken in
        [b"\x02\x03abcd".as_slice(), b"\x02\x03abcdef", b"\x80\x80\x80\x80\x80\x00", b"\xff\xff\xff\xff\x0f\x01"]
    {
        let broken: &'static [u8] = broken;
        assert_eq!(content(broken, &[2]), Err(TensorError::Invalid), "{broken:x?}");
    }
}

#[test]
fn inconsistent_dtypes_and_shapes_are_invalid() {
    for dtype in [0, 34, 77, 101, 107, 120, 200, -1, i32::MAX, i32::MIN] {
        assert_eq!(tensor_from_proto(&proto(DType(dtype), &[])).unwrap_err(), TensorError::Invalid, "{dtype}");
    }
    let shapes: [&[i64]; 6] = [&[-1], &[0, -1], &[i64::MIN], &[1 << 31, 1 << 31, 4], &[i64::MAX], &[1; 255]];
    for shape in shapes {
        assert_eq!(tensor_from_proto(&proto(DType::UINT8, shape)).unwrap_err(), TensorError::Invalid, "{shape:?}");
    }
    for shape in [&[0, i64::MAX, i64::MAX] as &[i64], &[1; 254], &[1 << 62, 0]] {
        assert_eq!(tensor_from_proto(&proto(DType::UINT8, shape)).unwrap().shape(), shape);
    }
}

#[test]
fn resources_and_variants_are_well_formed_but_refused() {
    for dtype in [DType::RESOURCE, DType::VARIANT] {
        let error = tensor_from_proto(&proto(dtype, &[2])).unwrap_err();
        assert_eq!(error, TensorError::Opaque(dtype));
        let content = TensorProto { tensor_content: Bytes::from_static(b"x"), ..proto(dtype, &[]) };
        assert_eq!(tensor_from_proto(&content).unwrap_err(), TensorError::Invalid);
    }
    let value = VariantTensorDataProto { type_name: "int".into(), ..VariantTensorDataProto::default() };
    let variant = TensorProto { variant_val: vec![value], ..proto(DType::VARIANT, &[]) };
    assert_eq!(tensor_from_proto(&variant).unwrap_err(), TensorError::Invalid);
    let report = TensorError::Opaque(DType::VARIANT).report("x", 1, DType::FLOAT);
    assert_eq!(report, ServingError::invalid_argument("Expects arg[1] to be float but variant is provided"));
}

#[test]
fn a_resource_is_answered_as_by_the_runtime() {
    let report = |tensor: &TensorProto| {
        let error = tensor_from_proto(tensor).unwrap_err().report("x", 0, DType::FLOAT);
        error.text().into_owned()
    };
    let advice = "Perhaps a resource tensor was being provided as a feed? That is not currently allowed. Please file an \
                  issue at https://github.com/tensorflow/tensorflow/issues/new, ideally with a short code snippet that \
                  leads to this error message.";
    let handle = ResourceHandleProto {
        name: "n".into(),
        hash_code: u64::MAX,
        maybe_type_name: "T".into(),
        ..ResourceHandleProto::default()
    };
    let empty = proto(DType::RESOURCE, &[]);
    assert_eq!(report(&empty), format!("Invalid resource type hash code: 0(name:  type: ). {advice}"));
    let one =
        TensorProto { resource_handle_val: vec![handle.clone(), handle.clone()], ..proto(DType::RESOURCE, &[1, 1]) };
    let expected = format!("Invalid resource type hash code: {}(name: n type: T). {advice}", u64::MAX);
    assert_eq!(report(&one), expected);
    let encoded = handle.encode_to_vec();
    let content = |length: u8| Bytes::from([&[length], encoded.as_slice()].concat());
    let packed = TensorProto { tensor_content: content(encoded.len() as u8), ..empty.clone() };
    assert_eq!(report(&packed), expected);
    let damaged = TensorProto { tensor_content: content(1), ..empty.clone() };
    assert_eq!(report(&damaged), "tensor parsing error: x");
    let stored = ResourceHandleProto { container: "TensorHandle".into(), ..handle };
    let stored = TensorProto { resource_handle_val: vec![stored], ..empty };
    assert_eq!(report(&stored), "The tensor with handle 'n' is not in the session store.");
}

#[test]
fn a_small_message_gets_no_huge_tensor() {
    let filled = |count| TensorProto { int_val: vec![1], ..proto(DType::UINT8, &[count]) };
    let floor = MemoryBudget::FLOOR as i64;
    assert_eq!(decoded(&filled(floor)).len(), MemoryBudget::FLOOR);
    let refused = tensor_from_proto(&filled(floor + 1)).unwrap_err();
    assert_eq!(refused, TensorError::TooLarge { wanted: MemoryBudget::FLOOR + 1, left: MemoryBudget::FLOOR });
    let text = refused.report("x", 0, DType::UINT8);
    assert!(text.text().starts_with("tensor parsing error: x: "), "{text}");
    // No machine has that much memory. TensorFlow Serving gives the same text.
    let refused = tensor_from_proto(&filled(1 << 40)).unwrap_err();
    assert_eq!(refused.report("x", 0, DType::UINT8), ServingError::invalid_argument("tensor parsing error: x"));
}

#[test]
fn the_inputs_of_a_request_share_one_budget() {
    let half =
        TensorProto { int_val: vec![1], ..proto(DType::UINT8, &[MemoryBudget::FLOOR as i64 / 2 + 1]) }.encode_to_vec();
    let body = request(&[("a", &half), ("b", &half)]);
    let request = decode_predict_request(&body).unwrap();
    let mut budget = MemoryBudget::for_message(body.len());
    assert!(request.inputs[0].1.decode(&mut budget).is_ok());
    assert!(matches!(request.inputs[1].1.decode(&mut budget), Err(TensorError::TooLarge { .. })));
}

#[test]
fn large_content_is_found_in_the_beginning_of_a_message() {
    let content = vec![7; 1 << 20];
    let small = proto(DType::UINT8, &[]).encode_to_vec();
    let large = TensorProto { tensor_content: content.into(), ..proto(DType::UINT8, &[1 << 20]) }.encode_to_vec();
    let spec = serving::PredictRequest {
        model_spec: Some(serving::ModelSpec { name: "model".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let message = [spec.encode_to_vec(), request(&[("x", &large)]).to_vec()].concat();
    let start = message.len() - (1 << 20);
    assert_eq!(find_content(&message[..start + 1000]), Some(start));
    assert_eq!(find_content(&message), Some(start));
    assert_eq!(find_content(&message[..start - 1]), None);
    assert_eq!(find_content(&request(&[("x", &small)])), None);
    assert_eq!(find_content(&[0xff; 40]), None);
}

#[test]
fn aligned_content_and_strings_stay_in_the_body() {
    let content = vec![7; 4 * ALIGNMENT];
    let tensor = TensorProto { tensor_content: content.into(), ..proto(DType::UINT8, &[4 * ALIGNMENT as i64]) };
    let message = request(&[("x", &tensor.encode_to_vec())]);
    // The same message at each offset from an aligned address: at exactly one of them its content is aligned.
    let shared = (0..ALIGNMENT).filter(|&offset| {
        let mut storage = AlignedBytes::with_capacity(ALIGNMENT, 0);
        storage.resize(offset, 0);
        storage.extend_from_slice(&message);
        let body = Bytes::from_owner(storage).slice(offset..);
        let tensor =
            decode_predict_request(&body).unwrap().inputs[0].1.decode(&mut MemoryBudget::for_message(0)).unwrap();
        assert_eq!(numbers(&tensor), vec![7; 4 * ALIGNMENT]);
        assert!(numbers(&tensor).as_ptr().addr().is_multiple_of(ALIGNMENT));
        matches!(tensor.elements(), Elements::Numbers(Buffer::Shared(_)))
    });
    assert_eq!(shared.count(), 1);

    let words = TensorProto { string_val: vec!["in place".into()], ..proto(DType::STRING, &[1]) };
    let body = request(&[("x", &words.encode_to_vec())]);
    let tensor = decode_predict_request(&body).unwrap().inputs[0].1.decode(&mut MemoryBudget::for_message(0)).unwrap();
    assert!(body.as_ptr_range().contains(&strings(&tensor)[0].as_ptr()));
}

#[test]
fn repeated_parts_of_a_message_are_merged() {
    // dtype twice, a shape in two parts, packed and single values mixed.
    let message = b"\x08\x02\x08\x01\x12\x04\x12\x02\x08\x01\x12\x04\x12\x02\x08\x02\x2a\x04\0\0\x80\x3f\x2d\0\0\0\x40";
    let tensor = decode_one(message).unwrap();
    assert_eq!((tensor.dtype(), tensor.shape()), (DType::FLOAT, [1, 2].as_slice()));
    assert_eq!(numbers(&tensor), [1.0_f32, 2.0].map(f32::to_le_bytes).concat());
    // The same in two values of one map entry.
    let mut entry = b"\x0a\x01x".to_vec();
    put_length_field(&mut entry, 2, &message[..10]);
    put_length_field(&mut entry, 2, &message[10..]);
    let mut body = Vec::new();
    put_length_field(&mut body, 2, &entry);
    let body = Bytes::from(body);
    let merged = decode_predict_request(&body).unwrap().inputs[0].1.decode(&mut MemoryBudget::for_message(0)).unwrap();
    assert_eq!((merged.shape(), numbers(&merged)), (tensor.shape(), numbers(&tensor)));
}

#[test]
fn values_of_another_wire_type_are_ignored() {
    let cases: [(&[u8], usize); 4] = [
        (b"\x08\x01\x29\x01\x02\x03\x04\x05\x06\x07\x08", 4), // a float of 64 bits
        (b"\x08\x02\x35\x01\x02\x03\x04", 8),                 // a double of 32 bits
        (b"\x08\x01\x28\x01", 4),                             // a float in a varint
        (b"\x08\x03\x3d\x01\x02\x03\x04", 4),                 // an integer of fixed size
    ];
    for (message, size) in cases {
        assert_eq!(numbers(&decode_one(message).unwrap()), vec![0; size], "{message:x?}");
    }
    let words = decode_one(b"\x08\x07\x40\x01").unwrap();
    assert_eq!(strings(&words), [b""]);
}

#[test]
fn the_last_entry_of_an_alias_counts() {
    let (one, two) = (proto(DType::UINT8, &[1]).encode_to_vec(), proto(DType::UINT8, &[2]).encode_to_vec());
    let mut entries: Vec<(&str, &[u8])> = vec![("x", &one); 1000];
    entries.extend([("y", one.as_slice()), ("x", &two)]);
    let body = request(&entries);
    let request = decode_predict_request(&body).unwrap();
    let shapes: Vec<_> = request
        .inputs
        .iter()
        .map(|(alias, tensor)| (*alias, tensor.decode(&mut MemoryBudget::for_message(0)).unwrap().shape().to_vec()))
        .collect();
    assert_eq!(shapes, [("x", vec![2]), ("y", vec![1])]);
}

#[test]
fn a_model_spec_is_merged_field_by_field() {
    let spec = |message: &'static [u8]| {
        let body = Bytes::from_static(message);
        let found =
            decode_predict_request(&body).unwrap().model_spec.map(|spec| format!("{} {:?}", spec.name, spec.version));
        found.unwrap_or_default()
    };
    assert_eq!(spec(b""), "");
    assert_eq!(spec(b"\x0a\x00"), " Unspecified");
    assert_eq!(spec(b"\x0a\x03\x0a\x01a\x0a\x02\x12\x00"), "a Number(0)");
    assert_eq!(spec(b"\x0a\x06\x12\x02\x08\x05\x12\x00"), " Number(5)");
    assert_eq!(spec(b"\x0a\x05\x12\x00\x22\x01s"), " Label(\"s\")");
    assert_eq!(spec(b"\x0a\x09\x12\x02\x08\x05\x22\x01s\x12\x00"), " Number(0)");
}

#[test]
fn malformed_requests_are_found_before_anything_is_decoded() {
    let cases: [&[u8]; 12] = [
        b"\x0a\x03\x0a\x01\xff",                         // a name that is not UTF-8
        b"\x0a\x03\x22\x01\xff",                         // a label
        b"\x12\x03\x0a\x01\xff",                         // an alias
        b"\x1a\x01\xff",                                 // an output
        b"\x12\x05\x12\x03\x2a\x01\0",                   // a quarter of a float
        b"\x12\x05\x12\x03\x32\x01\0",                   // an eighth of a double
        b"\x12\x05\x12\x03\x3a\x01\x80",                 // a varint without an end
        b"\x12\x09\x12\x07\x12\x05\x12\x03\x12\x01\xff", // the name of a dimension
        b"\x12\x07\x12\x05\x72\x03\x0a\x01\xff",         // the device of a resource
        b"\x12\x07\x12\x05\x7a\x03\x0a\x01\xff",         // the type of a variant
        b"\x2a\x05\x12\x03\x0a\x01\xff",                 // a dimension to split
        b"\x3a\x03\x22\x01\x80",                         // a stop token
    ];
    for message in cases {
        assert_eq!(decode_predict_request(&Bytes::from_static(message)).unwrap_err(), Malformed, "{message:x?}");
    }
}

fn encoded(outputs: &[(&str, &Tensor)], as_tensor_content: bool) -> BytesMut {
    encoded_as(&PredictResponse::new(outputs.iter().copied(), "model", 3, "serving_default", as_tensor_content))
}

fn encoded_as(response: &PredictResponse<'_>) -> BytesMut {
    let mut out = BytesMut::with_capacity(response.encoded_len());
    response.encode(&mut out);
    assert_eq!(out.len(), response.encoded_len());
    out
}

#[test]
fn large_elements_are_lent_and_the_message_is_the_same() {
    let shared = |length: usize| {
        let buffer = Buffer::Shared(Bytes::from((0..length).map(|index| index as u8).collect::<Vec<_>>()));
        Tensor::from_numbers(DType::FLOAT, vec![length as i64 / 4], buffer)
    };
    let (large, small) = (shared(1 << 20), shared(8));
    for outputs in
        [&[("a", &large)][..], &[("a", &small), ("b", &large), ("c", &small), ("d", &large)], &[("a", &small)]]
    {
        for as_tensor_content in [false, true] {
            let response = PredictResponse::new(outputs.iter().copied(), "m", 1, "s", as_tensor_content);
            let (first, others) = response.encode_lending(BytesMut::new());
            let lent = outputs.iter().filter(|(_, tensor)| tensor.len() > 2).count();
            assert_eq!(others.len(), 2 * lent);
            assert_eq!(response.lent_len(), lent << 20);
            assert!(others.iter().step_by(2).all(|piece| piece.as_ptr() == numbers(&large).as_ptr()));
            assert_eq!([&first[..], &others.concat()].concat(), encoded_as(&response));
        }
    }
}

#[test]
fn responses_are_encoded_as_by_tensorflow_serving() {
    let tensor = decode_one(b"\x08\x03\x12\x08\x12\x02\x08\x02\x12\x02\x08\x01\x3a\x02\x01\x02").unwrap();
    let response = PredictResponse::new([("y", &tensor)], "types", 1, "int32", false);
    let mut out = Vec::new();
    response.encode(&mut out);
    let expected =
        b"\n\x15\n\x01y\x12\x10\x08\x03\x12\x08\x12\x02\x08\x02\x12\x02\x08\x01:\x02\x01\x02\x12\x12\n\x05types\x12\x02\x08\x01\x1a\x05int32";
    assert_eq!(out, expected);
}

#[test]
fn only_the_bits_of_narrow_integers_are_written() {
    for (dtype, expected) in [(29, [-3, 7]), (30, [13, 7]), (31, [1, -1]), (32, [1, 3])] {
        let buffer = Buffer::Owned(AlignedBytes::from_slice(ALIGNMENT, &[0xfd, 0x07]));
        let tensor = Tensor::from_numbers(DType(dtype), vec![2], buffer);
        assert_eq!(tensor_to_proto(&tensor).int_val, expected, "{dtype}");
    }
}

#[test]
fn empty_tensors_have_no_values_in_either_form() {
    let empty = tensor_from_proto(&proto(DType::FLOAT, &[0, 2])).unwrap();
    let words = Tensor::from_strings(vec![0], Strings::default());
    for as_tensor_content in [false, true] {
        let message = encoded(&[("e", &empty), ("w", &words)], as_tensor_content);
        let response = serving::PredictResponse::decode(message).unwrap();
        assert_eq!(response.outputs["e"], proto(DType::FLOAT, &[0, 2]));
        assert_eq!(response.outputs["w"], proto(DType::STRING, &[0]));
    }
}

/// Every dtype of numbers.
fn dtypes() -> impl Strategy<Value = DType> {
    (1..=33_i32).prop_map(DType).prop_filter("numbers", |dtype| dtype.size().is_some())
}

fn tensors() -> impl Strategy<Value = Tensor> {
    let shapes = prop::collection::vec(0..4_i64, 0..4);
    let of_numbers = (dtypes(), shapes.clone()).prop_flat_map(|(dtype, shape)| {
        let bytes = shape.iter().product::<i64>() as usize * dtype.size().unwrap();
        let narrow = (29..=32).contains(&dtype.0); // not every byte is one of theirs
        let element = if dtype == DType::BOOL || narrow { (0..2_u8).boxed() } else { any::<u8>().boxed() };
        prop::collection::vec(element, bytes).prop_map(move |bytes| {
            let buffer = Buffer::Owned(AlignedBytes::from_slice(ALIGNMENT, &bytes));
            Tensor::from_numbers(dtype, shape.clone(), buffer)
        })
    });
    let of_strings = shapes.prop_flat_map(|shape| {
        let count = shape.iter().product::<i64>() as usize;
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), count)
            .prop_map(move |strings| Tensor::from_strings(shape.clone(), strings.into_iter().collect()))
    });
    prop_oneof![3 => of_numbers, 1 => of_strings]
}

fn assert_same(left: &Tensor, right: &Tensor) {
    assert_eq!((left.dtype(), left.shape()), (right.dtype(), right.shape()));
    match left.elements() {
        Elements::Numbers(_) => assert_eq!(numbers(left), numbers(right)),
        Elements::Strings(_) => assert_eq!(strings(left), strings(right)),
    }
}

proptest! {
    #[test]
    fn tensors_survive_a_round_trip(tensor in tensors(), as_tensor_content: bool) {
        let response = encoded(&[("y", &tensor)], as_tensor_content);
        // A response's outputs and a request's inputs have the same form, under different numbers.
        let message = serving::PredictResponse::decode(response).unwrap();
        prop_assert_eq!(message.model_spec.unwrap().name, "model");
        let proto = &message.outputs["y"];
        assert_same(&tensor_from_proto(proto).unwrap(), &tensor);
        assert_same(&decode_one(&proto.encode_to_vec()).unwrap(), &tensor);
        if as_tensor_content {
            prop_assert_eq!(proto.float_val.len() + proto.int_val.len() + proto.string_val.len(), 0);
        } else {
            // As bytes, in which NaN equals itself.
            prop_assert_eq!(tensor_to_proto(&tensor).encode_to_vec(), proto.encode_to_vec());
            prop_assert!(proto.tensor_content.is_empty());
        }
        prop_assert_eq!(DataType::try_from(proto.dtype).unwrap() as i32, tensor.dtype().0);
    }

    #[test]
    fn damaged_requests_are_read_or_refused(
        tensor in tensors(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut body = request(&[("x", &tensor_to_proto(&tensor).encode_to_vec())]).to_vec();
        for (index, byte) in damage {
            let index = index.index(body.len());
            body[index] = byte;
        }
        body.truncate(cut.index(body.len()) + 1);
        read_everything(&body.into());
    }

    #[test]
    fn any_fields_are_read_or_refused(
        dtype in 0..40_u8,
        fields in prop::collection::vec((1..20_u32, 0..6_u32, prop::collection::vec(any::<u8>(), 8)), 0..6),
    ) {
        let mut tensor = vec![0x08, dtype];
        for (number, wire_type, content) in fields {
            put_varint(&mut tensor, u64::from(number << 3 | wire_type));
            match wire_type {
                0 => put_varint(&mut tensor, u64::from(content[0])),
                1 => tensor.extend_from_slice(&content),
                2 => tensor.extend([vec![8], content].concat()),
                3 => put_varint(&mut tensor, u64::from(number << 3 | 4)),
                _ => tensor.extend_from_slice(&content[..4]),
            }
        }
        read_everything(&request(&[("x", &tensor)]));
    }

    #[test]
    fn random_bytes_are_read_or_refused(body: Vec<u8>) {
        read_everything(&body.into());
    }

    #[test]
    fn what_prost_reads_is_read_alike(body in prop::collection::vec(prop_oneof![Just(0x12), 0..16_u8, any::<u8>()], 0..64)) {
        let body = Bytes::from(body);
        if let Ok(expected) = serving::PredictRequest::decode(body.clone()) {
            let request = decode_predict_request(&body).expect("well-formed");
            prop_assert_eq!(request.output_filter, expected.output_filter);
            prop_assert_eq!(request.model_spec.map(|spec| spec.name), expected.model_spec.as_ref().map(|spec| spec.name.as_str()));
            let aliases: Vec<_> = request.inputs.iter().map(|(alias, _)| *alias).collect();
            prop_assert_eq!(aliases, expected.inputs.keys().collect::<Vec<_>>());
        }
    }
}

/// Decodes everything, and checks that the memory is in proportion to the body.
fn read_everything(body: &Bytes) {
    let Ok(request) = decode_predict_request(body) else { return };
    let mut budget = MemoryBudget::for_message(body.len());
    let total: usize = request
        .inputs
        .iter()
        .filter_map(|(_, tensor)| tensor.decode(&mut budget).ok())
        .map(|tensor| match tensor.elements() {
            Elements::Numbers(buffer) => buffer.as_ref().len(),
            Elements::Strings(strings) => strings.len() * size_of::<(usize, usize)>(),
        })
        .sum();
    assert!(total <= MemoryBudget::FLOOR + body.len());
}
