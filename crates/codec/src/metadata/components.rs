//! The names of the components of values that consist of several tensors.

use super::spec;
use crate::proto::tensorflow::tensor_info::{CompositeTensor, CooSparse, Encoding};
use crate::proto::tensorflow::type_spec_proto::TypeSpecClass;
use crate::proto::tensorflow::{DataType, TensorInfo};
use servable_model::signature::TensorSpec;
use servable_model::tensor::DType;

/// The tensors of an input or output: one, unless it is a sparse or composite value.
pub(super) fn split(alias: String, info: TensorInfo) -> Vec<TensorSpec> {
    match info.encoding {
        Some(Encoding::CooSparse(ref sparse)) => of_sparse(&alias, sparse, DType(info.dtype), &info),
        Some(Encoding::CompositeTensor(composite)) => of_composite(&alias, composite),
        Some(Encoding::Name(_)) | None => vec![spec(alias, info)],
    }
}

fn of_sparse(alias: &str, sparse: &CooSparse, dtype: DType, info: &TensorInfo) -> Vec<TensorSpec> {
    let known_rank = info.tensor_shape.as_ref().filter(|shape| !shape.unknown_rank);
    let rank = known_rank.map_or(-1, |shape| shape.dim.len() as i64);
    let index = DType(DataType::DtInt64 as i32);
    let part = |name: &str, tensor_name: &str, dtype, shape: Vec<i64>| TensorSpec {
        alias: format!("{alias}.{name}"),
        tensor_name: tensor_name.to_owned(),
        dtype,
        shape: Some(shape),
    };
    vec![
        part("values", &sparse.values_tensor_name, dtype, vec![-1]),
        part("indices", &sparse.indices_tensor_name, index, vec![-1, rank]),
        part("dense_shape", &sparse.dense_shape_tensor_name, index, vec![rank]),
    ]
}

fn of_composite(alias: &str, composite: CompositeTensor) -> Vec<TensorSpec> {
    let class = composite.type_spec.map_or(TypeSpecClass::Unknown, |type_spec| type_spec.type_spec_class());
    let count = composite.components.len();
    let of_component = |(index, info)| split(format!("{alias}.{}", name(class, index, count)), info);
    composite.components.into_iter().enumerate().flat_map(of_component).collect()
}

/// The name of a component: the attribute of TensorFlow's class, or the position if the class is unknown.
fn name(class: TypeSpecClass, index: usize, count: usize) -> String {
    match (class, index) {
        (TypeSpecClass::RaggedTensorSpec, 0) => "flat_values".to_owned(),
        (TypeSpecClass::RaggedTensorSpec, 1) if count == 2 => "row_splits".to_owned(),
        (TypeSpecClass::RaggedTensorSpec, _) => format!("row_splits_{}", index - 1),
        (TypeSpecClass::SparseTensorSpec, 0) => "indices".to_owned(),
        (TypeSpecClass::SparseTensorSpec, 1) => "values".to_owned(),
        (TypeSpecClass::SparseTensorSpec, 2) => "dense_shape".to_owned(),
        _ => index.to_string(),
    }
}
