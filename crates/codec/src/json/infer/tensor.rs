//! The elements of an input, by its datatype and shape.

use super::walk::{Walk, wrong};
use crate::json::column::{Column, StringColumn};
use crate::json::exact;
use crate::json::lists::{Dimensions, read_value};
use crate::open_inference::datatype;
use half::f16;
use servable_model::error::{Result, ServingError};
use servable_model::tensor::{
    ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Strings, Tensor, element_count, shape_text,
};

impl Walk<'_> {
    /// Reads the elements of a tensor, in lists nested by its shape or in one flat list.
    pub(super) fn tensor(&mut self, name: &str, dtype: DType, shape: &[i64]) -> Result<Tensor> {
        let fault = |text: String| wrong(format!("input {name:?}: {text}"));
        let count =
            element_count(shape).ok_or_else(|| fault(format!("{} is not the shape of a tensor", shape_text(shape))))?;
        let carrier = match dtype {
            DType::BFLOAT16 => return Err(fault("BF16 can only be sent as binary data".to_owned())),
            DType::UINT16 => DType::UINT32,
            DType::HALF => DType::DOUBLE,
            dtype => dtype,
        };
        let start = self.reader.at;
        let mut dimensions = Dimensions::default();
        let mut column = self.column(carrier, count);
        let sizes = if read_value(&mut self.reader, &mut dimensions, &mut column).is_some() {
            dimensions.sizes
        } else {
            // Irregular, of another type, or only unusual. The exact decoder tells which.
            self.reader.at = start;
            let document = self.value()?;
            column = Column::correctly_rounded(carrier);
            let sizes = exact::shape_of(document.root());
            exact::fill(&mut column, document.root(), &sizes).map_err(|error| {
                let prefix = format!("input {name:?}: ");
                ServingError { message: [prefix.as_bytes(), &error.message].concat(), ..error }
            })?;
            sizes
        };
        let is_flat = matches!(sizes[..], [size] if size as usize == count);
        if sizes != shape && !is_flat {
            let (got, want) = (shape_text(&sizes), shape_text(shape));
            return Err(fault(format!("got data of shape {got}, want {want} or a list of {count} elements")));
        }
        let tensor = column.finish(name, shape.to_vec())?;
        narrowed(tensor, dtype).ok_or_else(|| fault(format!("a number is out of the range of {}", name_of(dtype))))
    }

    /// An empty column. The reserved memory is bounded by the rest of the body.
    fn column(&self, dtype: DType, count: usize) -> Column {
        let mut column = Column::correctly_rounded(dtype);
        let most = (self.reader.body.len() - self.reader.at) / 2 + 1;
        let bytes = count.min(most) * dtype.size().unwrap_or(0);
        column.numbers = AlignedBytes::with_capacity(ALIGNMENT, bytes);
        column
    }
}

/// Decodes the strings of a tensor from base64.
pub(super) fn from_base64(name: &str, tensor: &Tensor) -> Result<Tensor> {
    let Elements::Strings(encoded) = tensor.elements() else { return Ok(tensor.clone()) };
    let mut decoded = StringColumn::default();
    for (index, string) in encoded.iter().enumerate() {
        decoded.push_base64(string).ok_or_else(|| {
            wrong(format!("input {name:?}: element {index} is not base64, which its content_type says"))
        })?;
    }
    Ok(Tensor::from_strings(tensor.shape().to_vec(), Strings::new(decoded.bytes.into(), decoded.ranges)))
}

/// Converts a tensor from a wider dtype to the requested one; `None` if a number does not fit.
fn narrowed(tensor: Tensor, dtype: DType) -> Option<Tensor> {
    if tensor.dtype() == dtype {
        return Some(tensor);
    }
    let (_, shape, elements) = tensor.into_parts();
    let Elements::Numbers(wide) = elements else { return None };
    let mut narrow = AlignedBytes::with_capacity(ALIGNMENT, wide.as_ref().len() / 2);
    if dtype == DType::UINT16 {
        for &number in wide.as_ref().as_chunks().0 {
            let number = u16::try_from(u32::from_le_bytes(number)).ok()?;
            narrow.extend_from_slice(&number.to_le_bytes());
        }
    } else {
        for &number in wide.as_ref().as_chunks().0 {
            narrow.extend_from_slice(&f16::from_f64(f64::from_le_bytes(number)).to_le_bytes());
        }
    }
    Some(Tensor::from_numbers(dtype, shape, Buffer::Owned(narrow)))
}

fn name_of(dtype: DType) -> &'static str {
    datatype(dtype).unwrap_or("its datatype")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{input, tensor};
    use super::*;

    fn numbers(tensor: &Tensor) -> &[u8] {
        match tensor.elements() {
            Elements::Numbers(buffer) => buffer.as_ref(),
            Elements::Strings(_) => panic!("numbers were sent"),
        }
    }

    #[test]
    fn data_may_be_flat_or_nested_and_stand_before_what_it_is() {
        let expected = [1.0_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat();
        for text in [
            input("FP32", "[2, 2]", "[1, 2, 3, 4]"),
            input("FP32", "[2,2]", "[ [1.0,2e0] , [3,4] ]"),
            r#"{"data": [[1, 2], [3, 4]], "datatype": "FP32", "name": "\u0078", "shape": [2, 2]}"#.to_owned(),
            r#"{"x": {"y": [{}]}, "parameters": {"p": 1}, "shape": [2,2], "datatype": "FP32", "name": "x",
                "data": [1, 2, 3, 4]}"#
                .to_owned(),
        ] {
            let tensor = tensor(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((tensor.shape(), numbers(&tensor)), (&[2, 2][..], &expected[..]), "{text}");
        }
        assert_eq!(numbers(&tensor(&input("FP64", "[]", "1.5")).expect("a scalar")), 1.5_f64.to_le_bytes());
        assert!(tensor(&input("INT64", "[2, 0]", "[[], []]")).expect("no elements").is_empty());
    }

    #[test]
    fn numbers_of_every_size_are_exact_or_refused() {
        let half = tensor(&input("FP16", "[2]", "[0.1, -1e9]")).expect("numbers");
        assert_eq!(numbers(&half), [0x2e66_u16, 0xfc00].map(u16::to_le_bytes).as_flattened());
        let short = tensor(&input("UINT16", "[2]", "[0, 65535]")).expect("numbers");
        assert_eq!(numbers(&short), [0, 0, 0xff, 0xff]);
        // The nearest singles: subnormal ones, what rounds to the least normal one, and one whose double lies halfway.
        let texts = [
            "1e-40",
            "-1.401298464324817e-45",
            "7.1e-46",
            "6e-46",
            "1.17549435e-38",
            "1.1754943e-38",
            "0.1",
            "16777217.0",
            "16777217.000000001",
            "3.4028235e38",
            "-0.0",
            "0.10000000149011612",
        ];
        for text in texts {
            let single = tensor(&input("FP32", "[1]", &format!("[{text}]"))).expect("a number");
            let nearest: f32 = text.parse().expect("a number");
            assert_eq!(numbers(&single), nearest.to_le_bytes(), "{text}");
        }
        // The nearest doubles, where the conversion of TensorFlow Serving is off by one in the last place.
        let texts = ["0.30000000000000004", "1.7976931348623157e308", "123456789012345.678", "5e-324", "8.41e21"];
        for text in texts {
            let double = tensor(&input("FP64", "[1]", &format!("[{text}]"))).expect("a number");
            let nearest: f64 = text.parse().expect("a number");
            assert_eq!(numbers(&double), nearest.to_le_bytes(), "{text}");
        }
    }
}
