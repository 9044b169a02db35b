//! Round trips through the runtime: every dtype, alignment and length of string, without copies.

mod support;

use servable_model::error::Code;
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::Signature;
use servable_model::tensor::{DType, Tensor, element_count};
use support::{
    bytes_of, floats, floats_of, installation, ints, ints_of, misaligned, numbers, run, signature, texts, texts_of,
};

/// The numeric dtypes with the names of their signatures in the model `dtypes`.
const NUMBERS: [(&str, DType); 20] = [
    ("float32", DType::FLOAT),
    ("float64", DType::DOUBLE),
    ("float16", DType::HALF),
    ("bfloat16", DType::BFLOAT16),
    ("int8", DType::INT8),
    ("int16", DType::INT16),
    ("int32", DType::INT32),
    ("int64", DType::INT64),
    ("uint8", DType::UINT8),
    ("uint16", DType::UINT16),
    ("uint32", DType::UINT32),
    ("uint64", DType::UINT64),
    ("bool", DType::BOOL),
    ("complex64", DType::COMPLEX64),
    ("complex128", DType::COMPLEX128),
    ("qint8", DType::QINT8),
    ("quint8", DType::QUINT8),
    ("qint16", DType::QINT16),
    ("quint16", DType::QUINT16),
    ("qint32", DType::QINT32),
];

fn identity(name: &str, dtype: DType) -> Signature {
    signature(&[("x", &format!("{name}_x:0"), dtype)], &[("y", &format!("{name}_y:0"), dtype)])
}

/// Bytes with varying values, which are 0 or 1 for booleans.
fn pattern(dtype: DType, length: usize) -> Vec<u8> {
    let modulus = if dtype == DType::BOOL { 2 } else { 251 };
    (0..length).map(|index| (index * 7 % modulus) as u8).collect()
}

#[test]
fn every_dtype_of_numbers_comes_back_bit_by_bit() {
    let Some(installed) = installation() else { return };
    let session = installed.session("dtypes");
    for (name, dtype) in NUMBERS {
        for shape in [&[][..], &[1], &[3], &[2, 3, 4], &[0], &[2, 0, 3], &[1; 8]] {
            let bytes = pattern(dtype, element_count(shape).unwrap() * dtype.size().unwrap());
            let answer = run(&session, &identity(name, dtype), vec![numbers(dtype, shape, &bytes)]).unwrap();
            assert_eq!((answer[0].dtype(), answer[0].shape()), (dtype, shape), "{name}");
            assert_eq!(bytes_of(&answer[0]), bytes, "{name} {shape:?}");
        }
    }
}

#[test]
fn buffers_of_any_alignment_are_taken() {
    let Some(installed) = installation() else { return };
    let session = installed.session("product");
    let signature = signature(&[("x", "x:0", DType::FLOAT), ("y", "y:0", DType::FLOAT)], &[("z", "z:0", DType::FLOAT)]);
    let values: Vec<f32> = (0..100).map(|value| value as f32).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    for misalignment in [0, 1, 2, 3, 4, 8, 16, 32, 48, 63] {
        let inputs = vec![misaligned(DType::FLOAT, &[100], &bytes, misalignment), floats(&[], &[2.0])];
        let doubled = run(&session, &signature, inputs).unwrap();
        let expected: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
        assert_eq!(floats_of(&doubled[0]), expected);
    }
}

#[test]
fn aligned_numbers_are_not_copied_on_the_way_in_or_out() {
    let Some(installed) = installation() else { return };
    let session = installed.session("dtypes");
    let signature = identity("float32", DType::FLOAT);
    let bytes = pattern(DType::FLOAT, 4 << 20);
    for (input, copied) in [
        (numbers(DType::FLOAT, &[1 << 20], &bytes), false),
        (misaligned(DType::FLOAT, &[1 << 20], &bytes, 64), false),
        (misaligned(DType::FLOAT, &[1 << 20], &bytes, 4), true),
    ] {
        let before = bytes_of(&input).as_ptr();
        let answer = run(&session, &signature, vec![input]).unwrap();
        assert_eq!(bytes_of(&answer[0]).as_ptr() != before, copied);
        assert_eq!(bytes_of(&answer[0]), bytes);
    }
}

#[test]
fn an_output_outlives_its_session() {
    let Some(installed) = installation() else { return };
    let session = installed.session("product");
    let signature = signature(&[("x", "x:0", DType::FLOAT), ("y", "y:0", DType::FLOAT)], &[("z", "z:0", DType::FLOAT)]);
    let answer = run(&session, &signature, vec![floats(&[2], &[3.0, 4.0]), floats(&[2], &[5.0, 6.0])]).unwrap();
    drop(session);
    let read = std::thread::spawn(move || floats_of(&answer[0]));
    assert_eq!(read.join().unwrap(), [15.0, 24.0]);
}

#[test]
fn strings_of_every_length_and_content_come_back() {
    let Some(installed) = installation() else { return };
    let session = installed.session("dtypes");
    let signature = identity("string", DType::STRING);
    let mut strings: Vec<Vec<u8>> = (0..64).map(|length| pattern(DType::STRING, length)).collect();
    strings.extend([vec![], b"\0".to_vec(), b"a\0b\0\0".to_vec(), vec![0; 23], vec![0xff; 22], vec![0xff; 23]]);
    strings.push(pattern(DType::STRING, 1 << 20));
    let answer = run(&session, &signature, vec![texts(&[strings.len() as i64], &strings)]).unwrap();
    assert_eq!(texts_of(&answer[0]), strings);
    for shape in [&[][..], &[1, 1], &[0], &[3, 0]] {
        let one = vec!["only"; element_count(shape).unwrap()];
        let answer = run(&session, &signature, vec![texts(shape, &one)]).unwrap();
        assert_eq!((answer[0].dtype(), answer[0].shape()), (DType::STRING, shape));
        assert_eq!(texts_of(&answer[0]).len(), one.len());
    }
}

/// The model with three inputs of three dtypes.
fn multiple() -> Signature {
    signature(
        &[
            ("counts", "counts:0", DType::INT32),
            ("numbers", "numbers:0", DType::FLOAT),
            ("words", "words:0", DType::STRING),
        ],
        &[
            ("joined", "ReduceJoin/joined:0", DType::STRING),
            ("sum", "sum:0", DType::FLOAT),
            ("twice", "twice:0", DType::INT32),
        ],
    )
}

fn multiple_inputs() -> Vec<Tensor> {
    let words = ["a string that is long", "", "and another which is longer", "!"];
    vec![ints(&[2], &[1, 2]), floats(&[2], &[0.5, 0.25]), texts(&[2, 2], &words)]
}

#[test]
fn outputs_are_in_the_requested_order() {
    let Some(installed) = installation() else { return };
    let session = installed.session("multiple");
    for outputs in [&[0, 1, 2][..], &[2, 1, 0], &[1, 2, 0], &[2], &[1, 0]] {
        let answer = session.run(&multiple(), multiple_inputs(), outputs, &RunOptions::default()).unwrap();
        assert_eq!(answer.len(), outputs.len());
        for (tensor, output) in answer.iter().zip(outputs) {
            match output {
                0 => assert_eq!(texts_of(tensor), [&b"a string that is long"[..], b"and another which is longer!"]),
                1 => assert_eq!(floats_of(tensor), [1.5, 2.25]),
                _ => assert_eq!(ints_of(tensor), [2, 4]),
            }
        }
    }
}

#[test]
fn a_wrong_dtype_is_reported_as_the_runtime_does() {
    let Some(installed) = installation() else { return };
    let session = installed.session("multiple");
    for (index, wrong, text) in [
        (0, floats(&[1], &[1.0]), "Expects arg[0] to be int32 but float is provided"),
        (1, texts(&[1], &["x"]), "Expects arg[1] to be float but string is provided"),
        (1, numbers(DType::BOOL, &[1], &[1]), "Expects arg[1] to be float but bool is provided"),
        (2, numbers(DType::HALF, &[1], &[0, 0]), "Expects arg[2] to be string but half is provided"),
    ] {
        let mut inputs = multiple_inputs();
        inputs[index] = wrong;
        let error = run(&session, &multiple(), inputs).unwrap_err();
        assert_eq!((error.code, &*error.text()), (Code::InvalidArgument, text));
    }
}

#[test]
fn any_rank_goes_where_the_model_takes_any() {
    let Some(installed) = installation() else { return };
    let session = installed.session("unknown_rank");
    let signature = signature(
        &[("x", "x:0", DType::FLOAT)],
        &[("rank", "rank:0", DType::INT32), ("shape", "shape:0", DType::INT32)],
    );
    for shape in [&[][..], &[5], &[1, 2, 3], &[0, 4]] {
        let values = vec![0.0; element_count(shape).unwrap()];
        let answer = run(&session, &signature, vec![floats(shape, &values)]).unwrap();
        assert_eq!(ints_of(&answer[0]), [shape.len() as i32]);
        assert_eq!(ints_of(&answer[1]).into_iter().map(i64::from).collect::<Vec<_>>(), shape);
    }
}

#[test]
fn outputs_that_no_client_can_receive_are_errors() {
    let Some(installed) = installation() else { return };
    let session = installed.session("handles");
    for (output, name) in [("table:0", "resource"), ("tensors:0", "variant")] {
        let signature = signature(&[], &[("handle", output, DType::RESOURCE)]);
        let error = run(&session, &signature, vec![]).unwrap_err();
        assert_eq!(error.code, Code::Unimplemented);
        assert_eq!(error.text(), format!("A {name} tensor cannot be returned to a client"));
    }
}
