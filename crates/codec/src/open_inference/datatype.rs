//! The datatypes of the Open Inference Protocol.

use servable_model::tensor::DType;

/// The datatypes of the protocol, with their dtypes.
const DATATYPES: [(&str, DType); 14] = [
    ("BOOL", DType::BOOL),
    ("UINT8", DType::UINT8),
    ("UINT16", DType::UINT16),
    ("UINT32", DType::UINT32),
    ("UINT64", DType::UINT64),
    ("INT8", DType::INT8),
    ("INT16", DType::INT16),
    ("INT32", DType::INT32),
    ("INT64", DType::INT64),
    ("FP16", DType::HALF),
    ("FP32", DType::FLOAT),
    ("FP64", DType::DOUBLE),
    ("BF16", DType::BFLOAT16),
    ("BYTES", DType::STRING),
];

/// The dtype for a datatype of the protocol.
pub fn dtype(datatype: &str) -> Option<DType> {
    DATATYPES.iter().find_map(|&(name, dtype)| (name == datatype).then_some(dtype))
}

/// The datatype for a dtype; `None` for dtypes that the protocol lacks.
pub fn datatype(dtype: DType) -> Option<&'static str> {
    DATATYPES.iter().find_map(|&(name, known)| (known == dtype).then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_dtypes_lead_to_each_other() {
        for (name, known) in DATATYPES {
            assert_eq!((dtype(name), datatype(known)), (Some(known), Some(name)));
        }
        assert_eq!((dtype("fp32"), dtype("INVALID"), datatype(DType::COMPLEX64)), (None, None, None));
    }
}
