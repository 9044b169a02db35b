//! Concatenation of tensors along dimension 0.

use std::borrow::Cow;

use servable_model::error::{Result, ServingError};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, Elements, Strings, Tensor};

/// Concatenates parts that differ only in their number of rows. Pads them to `padded` rows with copies of the first row
/// of the last part that is not empty.
pub(super) fn concatenated(parts: &[Cow<'_, Tensor>], padded: usize) -> Tensor {
    let rows: usize = parts.iter().map(|part| part.shape()[0] as usize).sum();
    let copies = padded.saturating_sub(rows);
    let last = parts.iter().rev().find(|part| part.shape()[0] > 0).or(parts.last()).expect("a batch has a task");
    let mut shape = last.shape().to_vec();
    shape[0] = (rows + copies) as i64;
    let row: usize = shape[1..].iter().map(|&size| size as usize).product();
    if let Elements::Strings(source) = last.elements() {
        let strings = parts.iter().filter_map(|part| match part.elements() {
            Elements::Strings(strings) => Some(strings.iter()),
            Elements::Numbers(_) => None,
        });
        let padding = (0..copies).flat_map(|_| source.iter().take(row));
        return Tensor::from_strings(shape, strings.flatten().chain(padding).collect::<Strings>());
    }
    let bytes_of = |tensor: &Tensor, append: &mut dyn FnMut(&[u8])| {
        if let Elements::Numbers(buffer) = tensor.elements() {
            append(buffer.as_ref());
        }
    };
    let row_bytes = row * last.dtype().size().expect("a dtype of numbers");
    let mut joined = AlignedBytes::with_capacity(ALIGNMENT, (rows + copies) * row_bytes);
    for part in parts {
        bytes_of(part, &mut |bytes| joined.extend_from_slice(bytes));
    }
    bytes_of(last, &mut |bytes| (0..copies).for_each(|_| joined.extend_from_slice(&bytes[..row_bytes])));
    Tensor::from_numbers(last.dtype(), shape, Buffer::Owned(joined))
}

/// Joins the answers of the pieces of a split request.
pub(super) fn join_answers(answers: &[Vec<Tensor>]) -> Result<Vec<Tensor>> {
    let outputs = answers.first().map_or(0, Vec::len);
    if answers.iter().any(|answer| answer.len() != outputs) {
        return Err(ServingError::internal("Wrong number of batched output tensors"));
    }
    (0..outputs)
        .map(|output| {
            let parts: Vec<Cow<'_, Tensor>> = answers.iter().map(|answer| Cow::Borrowed(&answer[output])).collect();
            let kind = |tensor: &Tensor| (tensor.dtype(), tensor.shape()[1..].to_vec());
            if parts.iter().any(|part| kind(part) != kind(&parts[0])) {
                let text = "Tensor concat operation failed: the pieces of a request have outputs of different shapes";
                return Err(ServingError::internal(text));
            }
            Ok(concatenated(&parts, 0))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{numbers, text};
    use servable_model::error::Code;

    #[test]
    fn pieces_of_an_answer_are_joined_in_order() {
        let joined = join_answers(&[vec![numbers(&[2], &[1, 2])], vec![numbers(&[1], &[3])]]);
        assert_eq!(text(&joined.expect("they fit")[0]), "[3] 1 2 3");
        let uneven = join_answers(&[vec![numbers(&[1, 2], &[1, 2])], vec![numbers(&[1, 1], &[3])]]);
        assert_eq!(uneven.expect_err("they do not fit").code, Code::Internal);
        let fewer = join_answers(&[vec![numbers(&[1], &[1])], Vec::new()]).expect_err("an output is missing");
        assert_eq!(fewer.to_string(), "INTERNAL: Wrong number of batched output tensors");
    }
}
