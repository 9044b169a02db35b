//! Type specs of values that consist of several tensors, such as ragged ones, in protobuf's JSON.
//!
//! Type specs are trees, whose depth was bounded by the decoder.

use super::fields::{dtype, enumeration, optional_shape, tensor};
use super::printer::{Members, Printer};
use crate::proto::tensorflow::structured_value::Kind;
use crate::proto::tensorflow::type_spec_proto::TypeSpecClass;
use crate::proto::tensorflow::{NamedTupleValue, PairValue, StructuredValue, TensorShapeProto, TypeSpecProto};

pub(super) fn type_spec(printer: &mut Printer, spec: &TypeSpecProto) {
    printer.object(|members| {
        let class = TypeSpecClass::try_from(spec.type_spec_class).ok().map(|class| class.as_str_name());
        members.field("type_spec_class", |printer| enumeration(printer, class, spec.type_spec_class));
        if let Some(state) = &spec.type_state {
            members.field("type_state", |printer| structured(printer, state));
        }
        members.field("type_spec_class_name", |printer| printer.text(&spec.type_spec_class_name));
        members.field("num_flat_components", |printer| printer.plain(spec.num_flat_components));
    });
}

fn structured(printer: &mut Printer, value: &StructuredValue) {
    printer.object(|members| {
        let Some(kind) = &value.kind else { return };
        match kind {
            Kind::NoneValue(_) => members.field("none_value", |printer| printer.object(|_| {})),
            Kind::Float64Value(number) => members.field("float64_value", |printer| printer.double(*number)),
            Kind::Int64Value(number) => members.field("int64_value", |printer| printer.quoted(number)),
            Kind::StringValue(text) => members.field("string_value", |printer| printer.text(text)),
            Kind::BoolValue(truth) => members.field("bool_value", |printer| printer.plain(truth)),
            Kind::TensorShapeValue(shape) => optional_shape(members, "tensor_shape_value", Some(shape)),
            Kind::TensorDtypeValue(number) => {
                members.field("tensor_dtype_value", |printer| dtype(printer, *number));
            }
            Kind::TensorSpecValue(spec) => members.field("tensor_spec_value", |printer| {
                printer.object(|members| tensor_spec(members, &spec.name, spec.shape.as_ref(), spec.dtype));
            }),
            Kind::TypeSpecValue(spec) => members.field("type_spec_value", |printer| type_spec(printer, spec)),
            Kind::BoundedTensorSpecValue(spec) => members.field("bounded_tensor_spec_value", |printer| {
                printer.object(|members| {
                    tensor_spec(members, &spec.name, spec.shape.as_ref(), spec.dtype);
                    for (name, bound) in [("minimum", &spec.minimum), ("maximum", &spec.maximum)] {
                        if let Some(bound) = bound {
                            members.field(name, |printer| tensor(printer, bound));
                        }
                    }
                });
            }),
            Kind::ListValue(list) => members.field("list_value", |printer| values(printer, &list.values)),
            Kind::TupleValue(tuple) => members.field("tuple_value", |printer| values(printer, &tuple.values)),
            Kind::DictValue(dict) => members.field("dict_value", |printer| {
                printer.object(|members| members.map("fields", &dict.fields, structured));
            }),
            Kind::NamedTupleValue(tuple) => members.field("named_tuple_value", |printer| named_tuple(printer, tuple)),
            Kind::TensorValue(value) => members.field("tensor_value", |printer| tensor(printer, value)),
            Kind::NumpyValue(value) => members.field("numpy_value", |printer| tensor(printer, value)),
        }
    });
}

fn tensor_spec(members: &mut Members<'_>, name: &str, shape: Option<&TensorShapeProto>, number: i32) {
    members.field("name", |printer| printer.text(name));
    optional_shape(members, "shape", shape);
    members.field("dtype", |printer| dtype(printer, number));
}

fn values(printer: &mut Printer, values: &[StructuredValue]) {
    printer.object(|members| members.field("values", |printer| printer.list(values, structured)));
}

fn named_tuple(printer: &mut Printer, tuple: &NamedTupleValue) {
    printer.object(|members| {
        members.field("name", |printer| printer.text(&tuple.name));
        members.field("values", |printer| printer.list(&tuple.values, pair));
    });
}

fn pair(printer: &mut Printer, pair: &PairValue) {
    printer.object(|members| {
        members.field("key", |printer| printer.text(&pair.key));
        if let Some(value) = &pair.value {
            members.field("value", |printer| structured(printer, value));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tensorflow::tensor_shape_proto::Dim;
    use crate::proto::tensorflow::{
        BoundedTensorSpecProto, DataType, DictValue, ListValue, NoneValue, TensorProto, TensorSpecProto, TupleValue,
    };

    fn printed(spec: &TypeSpecProto) -> String {
        let mut printer = Printer::default();
        type_spec(&mut printer, spec);
        printer.finish()
    }

    fn value(kind: Kind) -> StructuredValue {
        StructuredValue { kind: Some(kind) }
    }

    fn with_state(state: StructuredValue) -> TypeSpecProto {
        TypeSpecProto { type_state: Some(Box::new(state)), ..TypeSpecProto::default() }
    }

    #[test]
    fn the_type_of_a_ragged_tensor_is_printed_as_protobuf_prints_it() {
        let sizes = [-1, 3].map(|size| Dim { size, name: String::new() });
        let shape = TensorShapeProto { dim: sizes.into(), unknown_rank: false };
        let spec = TypeSpecProto {
            type_spec_class: TypeSpecClass::RaggedTensorSpec.into(),
            type_state: Some(Box::new(value(Kind::TupleValue(TupleValue {
                values: vec![
                    value(Kind::TensorShapeValue(shape)),
                    value(Kind::TensorDtypeValue(DataType::DtFloat.into())),
                    value(Kind::Int64Value(1)),
                ],
            })))),
            type_spec_class_name: "RaggedTensorSpec".into(),
            num_flat_components: 2,
        };
        let expected = r#"{
 "type_spec_class": "RAGGED_TENSOR_SPEC",
 "type_state": {
  "tuple_value": {
   "values": [
    {
     "tensor_shape_value": {
      "dim": [
       {
        "size": "-1",
        "name": ""
       },
       {
        "size": "3",
        "name": ""
       }
      ],
      "unknown_rank": false
     }
    },
    {
     "tensor_dtype_value": "DT_FLOAT"
    },
    {
     "int64_value": "1"
    }
   ]
  }
 },
 "type_spec_class_name": "RaggedTensorSpec",
 "num_flat_components": 2
}"#;
        assert_eq!(printed(&spec), expected);
    }

    #[test]
    fn every_kind_of_value_is_json() {
        let bounded =
            BoundedTensorSpecProto { minimum: Some(TensorProto::default()), ..BoundedTensorSpecProto::default() };
        let pair = PairValue { key: "key".into(), value: Some(value(Kind::NoneValue(NoneValue {}))) };
        let kinds = vec![
            Kind::NoneValue(NoneValue {}),
            Kind::Float64Value(0.5),
            Kind::StringValue("\"".into()),
            Kind::BoolValue(true),
            Kind::TensorSpecValue(TensorSpecProto::default()),
            Kind::TypeSpecValue(Box::default()),
            Kind::BoundedTensorSpecValue(bounded),
            Kind::DictValue(DictValue { fields: [("a".into(), value(Kind::BoolValue(false)))].into() }),
            Kind::NamedTupleValue(NamedTupleValue { name: "n".into(), values: vec![pair] }),
            Kind::TensorValue(TensorProto::default()),
            Kind::NumpyValue(TensorProto::default()),
        ];
        let list = ListValue { values: kinds.into_iter().map(value).chain([StructuredValue::default()]).collect() };
        let json: serde_json::Value =
            serde_json::from_str(&printed(&with_state(value(Kind::ListValue(list))))).expect("JSON");
        let names: Vec<_> = json["type_state"]["list_value"]["values"]
            .as_array()
            .unwrap()
            .iter()
            .map(|value| value.as_object().unwrap().keys().next().map_or("", String::as_str))
            .collect();
        assert_eq!(
            names.join(" "),
            "none_value float64_value string_value bool_value tensor_spec_value type_spec_value \
             bounded_tensor_spec_value dict_value named_tuple_value tensor_value numpy_value "
        );
        let values = &json["type_state"]["list_value"]["values"];
        assert_eq!(values[8]["named_tuple_value"]["values"][0]["value"]["none_value"], serde_json::json!({}));
        assert_eq!(values[7]["dict_value"]["fields"]["a"]["bool_value"], false);
    }
}
