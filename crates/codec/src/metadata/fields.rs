//! Printing of fields that signatures and type specs share: dtypes, shapes, tensors.

use super::printer::{Members, Printer};
use crate::proto::tensorflow::{DataType, ResourceHandleProto, TensorProto, TensorShapeProto, VariantTensorDataProto};

pub(super) fn optional_shape(members: &mut Members<'_>, name: &str, shape: Option<&TensorShapeProto>) {
    let Some(shape) = shape else { return };
    members.field(name, |printer| {
        printer.object(|members| {
            members.field("dim", |printer| {
                printer.list(&shape.dim, |printer, dimension| {
                    printer.object(|members| {
                        members.field("size", |printer| printer.quoted(dimension.size));
                        members.field("name", |printer| printer.text(&dimension.name));
                    });
                });
            });
            members.field("unknown_rank", |printer| printer.plain(shape.unknown_rank));
        });
    });
}

pub(super) fn dtype(printer: &mut Printer, number: i32) {
    enumeration(printer, DataType::try_from(number).ok().map(|dtype| dtype.as_str_name()), number);
}

/// The name of an enumerated value, or the number if it has none.
pub(super) fn enumeration(printer: &mut Printer, name: Option<&str>, number: i32) {
    match name {
        Some(name) => printer.text(name),
        None => printer.plain(number),
    }
}

/// The default value of an input.
pub(super) fn tensor(printer: &mut Printer, tensor: &TensorProto) {
    printer.object(|members| {
        members.field("dtype", |printer| dtype(printer, tensor.dtype));
        optional_shape(members, "tensor_shape", tensor.tensor_shape.as_ref());
        members.field("version_number", |printer| printer.plain(tensor.version_number));
        members.field("tensor_content", |printer| printer.base64(&tensor.tensor_content));
        members.field("float_val", |printer| printer.list(&tensor.float_val, |printer, v| printer.float(*v)));
        members.field("double_val", |printer| printer.list(&tensor.double_val, |printer, v| printer.double(*v)));
        members.field("int_val", |printer| printer.list(&tensor.int_val, Printer::plain));
        members.field("string_val", |printer| printer.list(&tensor.string_val, |printer, v| printer.base64(v)));
        members.field("scomplex_val", |printer| printer.list(&tensor.scomplex_val, |printer, v| printer.float(*v)));
        members.field("int64_val", |printer| printer.list(&tensor.int64_val, Printer::quoted));
        members.field("bool_val", |printer| printer.list(&tensor.bool_val, Printer::plain));
        members.field("dcomplex_val", |printer| printer.list(&tensor.dcomplex_val, |printer, v| printer.double(*v)));
        members.field("half_val", |printer| printer.list(&tensor.half_val, Printer::plain));
        members.field("resource_handle_val", |printer| printer.list(&tensor.resource_handle_val, resource_handle));
        members.field("variant_val", |printer| printer.list(&tensor.variant_val, variant));
        members.field("uint32_val", |printer| printer.list(&tensor.uint32_val, Printer::plain));
        members.field("uint64_val", |printer| printer.list(&tensor.uint64_val, Printer::quoted));
        members.field("float8_val", |printer| printer.base64(&tensor.float8_val));
    });
}

fn resource_handle(printer: &mut Printer, handle: &ResourceHandleProto) {
    printer.object(|members| {
        members.field("device", |printer| printer.text(&handle.device));
        members.field("container", |printer| printer.text(&handle.container));
        members.field("name", |printer| printer.text(&handle.name));
        members.field("hash_code", |printer| printer.quoted(handle.hash_code));
        members.field("maybe_type_name", |printer| printer.text(&handle.maybe_type_name));
        members.field("dtypes_and_shapes", |printer| {
            printer.list(&handle.dtypes_and_shapes, |printer, element| {
                printer.object(|members| {
                    members.field("dtype", |printer| dtype(printer, element.dtype));
                    optional_shape(members, "shape", element.shape.as_ref());
                });
            });
        });
    });
}

fn variant(printer: &mut Printer, variant: &VariantTensorDataProto) {
    printer.object(|members| {
        members.field("type_name", |printer| printer.text(&variant.type_name));
        members.field("metadata", |printer| printer.base64(&variant.metadata));
        members.field("tensors", |printer| printer.list(&variant.tensors, tensor));
    });
}
