//! Responses to requests with examples.
//!
//! They are encoded by hand instead of by prost, because labels need not be UTF-8.

use bytes::{BufMut, BytesMut};
use prost::Message;

use crate::proto::tensorflow::serving::ModelSpec;
use crate::wire::{length_field_len, put_length_field, put_length_tag, put_varint};
use servable_model::inference::{Classification, Inference};

/// Appends a `ClassificationResponse` or a `RegressionResponse`, by the kind of inference.
pub fn encode_inference(inference: &Inference, model_spec: &ModelSpec, out: &mut BytesMut) {
    let result_len = result_len(inference);
    let model_spec = model_spec.encode_to_vec();
    out.reserve(length_field_len(1, result_len) + length_field_len(2, model_spec.len()));
    put_length_tag(out, 1, result_len);
    put_result(inference, out);
    put_length_field(out, 2, &model_spec);
}

/// Appends a `MultiInferenceResponse`: the inferences in the order of their tasks, each with its model spec.
pub fn encode_multi_inference<'a>(
    inferences: impl IntoIterator<Item = (&'a ModelSpec, &'a Inference)>,
    out: &mut BytesMut,
) {
    for (model_spec, inference) in inferences {
        let model_spec = model_spec.encode_to_vec();
        let result = match inference {
            Inference::Classification(_) => 2,
            Inference::Regression(_) => 3,
        };
        let result_len = result_len(inference);
        let len = length_field_len(1, model_spec.len()) + length_field_len(result, result_len);
        out.reserve(length_field_len(1, len));
        put_length_tag(out, 1, len);
        put_length_field(out, 1, &model_spec);
        put_length_tag(out, result, result_len);
        put_result(inference, out);
    }
}

/// The length of a `ClassificationResult` or a `RegressionResult`.
fn result_len(inference: &Inference) -> usize {
    match inference {
        Inference::Classification(classification) => {
            classification_lens(classification).map(|len| length_field_len(1, len)).sum()
        }
        Inference::Regression(regression) => regression.iter().map(|value| length_field_len(1, float_len(value))).sum(),
    }
}

fn put_result(inference: &Inference, out: &mut impl BufMut) {
    match inference {
        Inference::Classification(classification) => {
            for (classes, len) in classification.iter().zip(classification_lens(classification)) {
                put_length_tag(out, 1, len);
                for (label, score) in classes {
                    put_length_tag(out, 1, class_len(label, score));
                    if !label.is_empty() {
                        put_length_field(out, 1, label);
                    }
                    put_float(out, 2, score);
                }
            }
        }
        Inference::Regression(regression) => {
            for value in regression.iter() {
                put_length_tag(out, 1, float_len(value));
                put_float(out, 1, value);
            }
        }
    }
}

/// The lengths of the `Classifications` messages.
fn classification_lens(classification: &Classification) -> impl Iterator<Item = usize> {
    let class = |(label, score): (&[u8], f32)| length_field_len(1, class_len(label, score));
    classification.iter().map(move |classes| classes.map(class).sum())
}

/// The length of a `Class`. Empty fields are omitted, as in proto3.
fn class_len(label: &[u8], score: f32) -> usize {
    let label_len = if label.is_empty() { 0 } else { length_field_len(1, label.len()) };
    label_len + float_len(score)
}

/// The length of a `float` field. Zero is omitted, but minus zero is not.
fn float_len(value: f32) -> usize {
    if value.to_bits() == 0 { 0 } else { 5 }
}

fn put_float(out: &mut impl BufMut, number: u32, value: f32) {
    if value.to_bits() != 0 {
        put_varint(out, u64::from(number) << 3 | 5);
        out.put_f32_le(value);
    }
}
