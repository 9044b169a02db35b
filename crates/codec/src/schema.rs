//! Schemas of messages, to check a message without decoding it, and to make it acceptable to prost.
//!
//! A schema is a table from field number to [`Kind`]. Fields that are not in the table are unknown, and are allowed
//! anywhere.

use bytes::{BufMut, Bytes};

use super::wire::{self, Malformed, Reader, Value};

/// The fields of a message.
pub type Schema = [(u32, Kind)];

/// The type of the content of a field.
#[derive(Clone, Copy)]
pub enum Kind {
    /// An integer, a boolean or an enumeration.
    Varint,
    /// A `float`.
    Fixed32,
    /// A `double`.
    Fixed64,
    /// Any bytes.
    Bytes,
    /// UTF-8.
    Text,
    /// A message.
    Message(&'static Schema),
    /// A message that is checked like others, but passed on unchanged.
    Kept(&'static Schema),
    /// An entry of a map: key 1, value 2.
    Entry(&'static Schema),
    /// A repeated [`Kind::Varint`]; packed, or one by one.
    Varints,
    /// A repeated [`Kind::Fixed32`]; packed, or one by one.
    Fixed32s,
    /// A repeated [`Kind::Fixed64`]; packed, or one by one.
    Fixed64s,
}

use Kind::{Entry, Fixed32s, Fixed64s, Kept, Message, Text, Varint, Varints};

const SHAPE: &Schema = &[(2, Message(&[(1, Varint), (2, Text)])), (3, Varint)];

/// `tensorflow.ResourceHandleProto`.
pub const RESOURCE_HANDLE: &Schema =
    &[(1, Text), (2, Text), (3, Text), (4, Varint), (5, Text), (6, Message(&[(1, Varint), (2, Message(SHAPE))]))];

/// `tensorflow.VariantTensorDataProto`. It is a static, because it refers to itself through [`TENSOR`].
pub static VARIANT: [(u32, Kind); 3] = [(1, Text), (2, Kind::Bytes), (3, Message(&TENSOR))];

/// `tensorflow.TensorProto`.
pub static TENSOR: [(u32, Kind); 18] = [
    (1, Varint),
    (2, Message(SHAPE)),
    (3, Varint),
    (4, Kind::Bytes),
    (5, Fixed32s),
    (6, Fixed64s),
    (7, Varints),
    (8, Kind::Bytes),
    (9, Fixed32s),
    (10, Varints),
    (11, Varints),
    (12, Fixed64s),
    (13, Varints),
    (14, Message(RESOURCE_HANDLE)),
    (15, Message(&VARIANT)),
    (16, Varints),
    (17, Varints),
    (18, Kind::Bytes),
];

/// `tensorflow.serving.PredictStreamedOptions`.
pub const STREAMED_OPTIONS: &Schema = &[(1, Varint), (2, Entry(&[(1, Text), (2, Varint)])), (3, Varint)];

/// `tensorflow.serving.PredictRequest.RequestOptions`.
pub const REQUEST_OPTIONS: &Schema =
    &[(1, Kind::Bytes), (2, Varint), (3, Varint), (4, Varints), (6, Varint), (9, Varint)];

const MODEL_SPEC: &Schema = &[(1, Text), (2, Message(&[(1, Varint)])), (3, Text), (4, Text)];

const FEATURE: &Schema =
    &[(1, Message(&[(1, Kind::Bytes)])), (2, Message(&[(1, Fixed32s)])), (3, Message(&[(1, Varints)]))];

/// `tensorflow.Example`.
pub const EXAMPLE: &Schema = &[(1, Message(&[(1, Entry(&[(1, Text), (2, Message(FEATURE))]))]))];
const EXAMPLES: &Schema = &[(1, Kept(EXAMPLE)), (2, Kept(EXAMPLE))];
const INPUT: &Schema = &[(1, Message(EXAMPLES)), (2, Message(EXAMPLES))];

/// `tensorflow.serving.GetModelStatusRequest`.
pub const GET_MODEL_STATUS: &Schema = &[(1, Message(MODEL_SPEC))];

/// `tensorflow.serving.GetModelMetadataRequest`.
pub const GET_MODEL_METADATA: &Schema = &[(1, Message(MODEL_SPEC)), (2, Text)];

/// `tensorflow.serving.ClassificationRequest` and `RegressionRequest`.
pub const EXAMPLES_REQUEST: &Schema = &[(1, Message(MODEL_SPEC)), (2, Message(INPUT))];

/// `tensorflow.serving.MultiInferenceRequest`.
pub const MULTI_INFERENCE: &Schema = &[(1, Message(&[(1, Message(MODEL_SPEC)), (2, Text)])), (2, Message(INPUT))];

const ANY: &Schema = &[(1, Text), (2, Kind::Bytes)];
const VERSION_POLICY: &Schema = &[(100, Message(&[(1, Varint)])), (101, Message(&[])), (102, Message(&[(1, Varints)]))];
const TASK_SAMPLING: &Schema = &[(1, Text), (2, Varint), (3, Kind::Fixed64)];
const LOGGING: &Schema = &[
    (1, Message(&[(1, Text), (2, Text)])),
    (2, Message(&[(1, Kind::Fixed64), (2, Varint), (3, Message(TASK_SAMPLING))])),
    (3, Message(ANY)),
];
/// `google.protobuf.Int64Value`, and of the other wrappers those of numbers.
const WRAPPED: Kind = Message(&[(1, Varint)]);
const BATCHING: &Schema = &[
    (1, WRAPPED),
    (2, WRAPPED),
    (3, WRAPPED),
    (4, WRAPPED),
    (5, Message(&[(1, Text)])),
    (6, Varints),
    (7, Varint),
    (8, WRAPPED),
    (9, WRAPPED),
];
/// `servable.ModelOptions`. Fields that are not in the table do not reach the control plane.
const MODEL_OPTIONS: &Schema = &[
    (1, Varint),
    (2, Varint),
    (3, Message(&[(1, Text), (2, Message(&[(1, Varint), (2, Varint)])), (3, Text)])),
    (4, Message(&[(1, Varint), (2, Kind::Fixed64)])),
    (5, Message(&[(1, Varint)])),
    (6, Message(&[(1, Varint)])),
    (7, Kind::Fixed64),
    (8, Message(BATCHING)),
    (9, Varint),
    (10, Message(&[(1, Kind::Fixed64), (2, Text), (3, Varint), (4, Varint), (5, Varint), (6, Varint)])),
    (11, Entry(&[(1, Text), (2, Text)])),
    (12, Varint),
    (13, Varint),
    (14, Varint),
];
const MODEL_CONFIG: &Schema = &[
    (1, Text),
    (2, Text),
    (3, Varint),
    (4, Text),
    (6, Message(LOGGING)),
    (7, Message(VERSION_POLICY)),
    (8, Entry(&[(1, Text), (2, Varint)])),
    (1000, Message(MODEL_OPTIONS)),
];

/// `tensorflow.serving.ReloadConfigRequest`.
pub const RELOAD_CONFIG: &Schema =
    &[(1, Message(&[(1, Message(&[(1, Message(MODEL_CONFIG))])), (2, Message(ANY))])), (2, Text)];

/// Checks that all fields of a schema are well-formed.
///
/// # Errors
///
/// If the protobuf parser of TensorFlow Serving would refuse the message.
pub fn check(mut message: Reader<'_>, schema: &Schema) -> Result<(), Malformed> {
    visit(&mut message, schema, &mut |_, _, _| Ok(()))
}

/// Normalizes a message: prost refuses some encodings that the parser of TensorFlow Serving accepts.
///
/// Nearly every message is returned unchanged. In others, numbers are encoded again, and unknown fields are removed. A
/// field with an unexpected wire type is unknown.
///
/// # Errors
///
/// If the parser of TensorFlow Serving would refuse the message.
pub fn conform(message: Bytes, schema: &Schema) -> Result<Bytes, Malformed> {
    let mut canonical = Vec::new();
    rewrite(Reader::new(&message), schema, &mut canonical)?;
    // A message with the shortest encoding and known fields only is unchanged.
    Ok(if canonical == message { message } else { canonical.into() })
}

fn rewrite(mut message: Reader<'_>, schema: &Schema, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let copy = message;
    visit(&mut message, schema, &mut |number, kind, value| {
        match value {
            Value::Varint(value) => {
                wire::put_varint(out, u64::from(number) << 3);
                wire::put_varint(out, value);
            }
            Value::Fixed64(value) => {
                wire::put_varint(out, u64::from(number) << 3 | 1);
                out.put_slice(&value);
            }
            Value::Fixed32(value) => {
                wire::put_varint(out, u64::from(number) << 3 | 5);
                out.put_slice(&value);
            }
            Value::Length(content) => {
                let mut inner = Vec::new();
                match kind {
                    Message(schema) => rewrite(copy.nested(content)?, schema, &mut inner)?,
                    Entry(schema) => rewrite(copy.entry(content), schema, &mut inner)?,
                    Varints => wire::packed_varints(content).for_each(|value| wire::put_varint(&mut inner, value)),
                    _ => inner.extend_from_slice(content),
                }
                wire::put_length_field(out, number, &inner);
            }
            Value::Group => {}
        }
        Ok(())
    })
}

/// Calls back for each checked field that is in the schema and has the expected wire type.
fn visit<'a>(
    message: &mut Reader<'a>,
    schema: &Schema,
    found: &mut impl FnMut(u32, Kind, Value<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while let Some(field) = message.next_field()? {
        let Some(&(_, kind)) = schema.iter().find(|(number, _)| *number == field.number) else { continue };
        match (kind, field.value) {
            (Varint | Varints, Value::Varint(_))
            | (Kind::Fixed32 | Fixed32s, Value::Fixed32(_))
            | (Kind::Fixed64 | Fixed64s, Value::Fixed64(_))
            | (Kind::Bytes, Value::Length(_)) => {}
            (Text, Value::Length(content)) => drop(wire::text(content)?),
            (Message(inner) | Kept(inner), Value::Length(content)) => check(message.nested(content)?, inner)?,
            (Entry(inner), Value::Length(content)) => check(message.entry(content), inner)?,
            (Varints, Value::Length(content)) => wire::check_packed_varints(content)?,
            (Fixed32s, Value::Length(content)) => check_packed_fixed(content, 4)?,
            (Fixed64s, Value::Length(content)) => check_packed_fixed(content, 8)?,
            _ => continue,
        }
        found(field.number, kind, field.value)?;
    }
    Ok(())
}

/// Checks that a packed field is a whole number of elements of this size.
///
/// # Errors
///
/// If it is not.
pub fn check_packed_fixed(packed: &[u8], size: usize) -> Result<(), Malformed> {
    if packed.len().is_multiple_of(size) { Ok(()) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::servable::model_options::BatchingChoice;
    use crate::proto::servable::{
        BatchingPolicy, ModelOptions, PythonOptions, Shadow, TrafficSplit, WarmupOptions, WeightedVersion,
    };
    use crate::proto::tensorflow::serving::model_spec::VersionChoice;
    use crate::proto::tensorflow::serving::{
        BatchingParameters, GetModelMetadataRequest, ModelConfig, ModelConfigList, ModelServerConfig, ModelSpec,
        ReloadConfigRequest, model_server_config,
    };
    use crate::proto::tensorflow::{TensorProto, VariantTensorDataProto};

    fn conformed(message: &'static [u8], schema: &Schema) -> Result<Bytes, Malformed> {
        conform(Bytes::from_static(message), schema)
    }

    #[test]
    fn ordinary_messages_pass_as_they_are() {
        let spec =
            ModelSpec { name: "m".into(), version_choice: Some(VersionChoice::Version(7)), signature_name: "s".into() };
        let request = GetModelMetadataRequest { model_spec: Some(spec), metadata_field: vec!["signature_def".into()] };
        let message = Bytes::from(request.encode_to_vec());
        let passed = conform(message.clone(), GET_MODEL_METADATA).expect("a message");
        assert_eq!(passed.as_ptr(), message.as_ptr(), "it was copied");
    }

    #[test]
    fn fields_of_a_wrong_wire_type_are_unknown() {
        assert_eq!(conformed(b"\x08\x01", GET_MODEL_STATUS), Ok(Bytes::new()));
        assert_eq!(conformed(b"\x0b\x0c\x0a\x02\x08\x01", GET_MODEL_STATUS), Ok(Bytes::from_static(b"\x0a\x00")));
        assert_eq!(conformed(b"\xf8\xff\xff\xff\x0f\x01", GET_MODEL_STATUS), Ok(Bytes::new()));
    }

    #[test]
    fn overlong_numbers_are_written_afresh() {
        let long = b"\x0a\x0e\x12\x0c\x88\x00\x81\x80\x80\x80\x80\x80\x80\x80\x80\x02";
        assert_eq!(conformed(long, GET_MODEL_STATUS), Ok(Bytes::from_static(b"\x0a\x04\x12\x02\x08\x01")));
    }

    #[test]
    fn malformed_parts_are_found_at_any_depth() {
        let cases: [(&'static [u8], &Schema); 5] = [
            (b"\x0a\x03\x0a\x01\xff", GET_MODEL_STATUS),
            (b"\x12\x01\xff", GET_MODEL_METADATA),
            (b"\x12\x05\x0a\x03\x0a\x01\xff", EXAMPLES_REQUEST),
            (b"\x0a\x04\x0a\x02\x12\x01", MULTI_INFERENCE),
            (b"\x0a\x07\x0a\x05\x0a\x03\x0a\x01\xff", RELOAD_CONFIG),
        ];
        for (message, schema) in cases {
            assert_eq!(conformed(message, schema), Err(Malformed), "{message:x?}");
        }
    }

    #[test]
    fn every_option_of_a_model_is_handed_on() {
        let batching = BatchingParameters {
            max_batch_size: Some(8),
            batch_timeout_micros: Some(500),
            max_enqueued_batches: Some(10),
            num_batch_threads: Some(2),
            thread_pool_name: Some("pool".into()),
            allowed_batch_sizes: vec![4, 8],
            pad_variable_length_inputs: true,
            enable_large_batch_splitting: Some(true),
            max_execution_batch_size: Some(4),
        };
        for choice in [BatchingChoice::Batching(batching), BatchingChoice::NoBatching(true)] {
            let options = ModelOptions {
                keep_last_version: true,
                labels_when_available: true,
                traffic_splits: vec![TrafficSplit {
                    label: "live".into(),
                    versions: vec![WeightedVersion { version: 3, weight: 90 }],
                    sticky_header: "user".into(),
                }],
                shadow: Some(Shadow { version: 4, fraction: 0.5 }),
                python: Some(PythonOptions { workers: 2 }),
                warmup: Some(WarmupOptions { automatic: true }),
                remote_poll_wait_seconds: 2.5,
                batching_choice: Some(choice),
                batching_policy: Some(BatchingPolicy {
                    latency_objective_millis: Some(2.5),
                    mixed_priority_batching_policy: Some("priority_merge".into()),
                    low_priority_max_batch_size: Some(4),
                    low_priority_batch_timeout_micros: Some(900),
                    low_priority_max_enqueued_batches: Some(3),
                    rerun_failed_batches: Some(false),
                }),
                options: [("threads".to_owned(), "2".to_owned())].into(),
                process: true,
                trial_load: true,
                trusted: true,
            };
            let model = ModelConfig { name: "m".into(), servable_options: Some(options), ..Default::default() };
            let list = ModelConfigList { config: vec![model] };
            let config = ModelServerConfig { config: Some(model_server_config::Config::ModelConfigList(list)) };
            let request = ReloadConfigRequest { config: Some(config), ..Default::default() }.encode_to_vec();
            // An unknown field requires a copy, in which options could be lost.
            let with_unknown: Bytes = [b"\xf8\xff\xff\xff\x0f\x01", &request[..]].concat().into();
            assert_eq!(conform(with_unknown, RELOAD_CONFIG), Ok(request.into()));
        }
    }

    #[test]
    fn examples_are_checked_and_left_alone() {
        let message: &[u8] = b"\x12\x06\x0a\x04\x0a\x02\x08\x01";
        assert_eq!(conformed(message, EXAMPLES_REQUEST), Ok(Bytes::from_static(message)));
    }

    #[test]
    fn variants_nest_to_a_limit() {
        let nested = |depth| {
            (0..depth).fold(TensorProto::default(), |inner, _| TensorProto {
                variant_val: vec![VariantTensorDataProto { tensors: vec![inner], ..Default::default() }],
                ..Default::default()
            })
        };
        assert_eq!(check(Reader::new(&nested(50).encode_to_vec()), &TENSOR), Ok(()));
        assert_eq!(check(Reader::new(&nested(51).encode_to_vec()), &TENSOR), Err(Malformed));
    }

    proptest::proptest! {
        #[test]
        fn what_conforms_is_read_by_prost(message: Vec<u8>) {
            let message = Bytes::from(message);
            if let Ok(conforming) = conform(message.clone(), GET_MODEL_METADATA) {
                GetModelMetadataRequest::decode(conforming).expect("readable");
            }
            if let Ok(conforming) = conform(message.clone(), RELOAD_CONFIG) {
                ReloadConfigRequest::decode(conforming).expect("readable");
            }
            // TensorFlow Serving reads everything that prost reads.
            if GetModelMetadataRequest::decode(message.clone()).is_ok() {
                conform(message, GET_MODEL_METADATA).expect("readable");
            }
        }

        #[test]
        fn any_bytes_are_checked_without_harm(message: Vec<u8>) {
            let _ = check(Reader::new(&message), &TENSOR);
        }
    }
}
