//! Joins the inputs of requests into one batch, and splits its outputs (`docs/spec/batching.md` §9 to §11).

use std::borrow::Cow;
use std::ops::Range;

use servable_model::error::{Code, Result, ServingError};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, Elements, Tensor};

use super::concatenate::concatenated;
use super::task::Task;

/// Joins the inputs of all tasks, in their order, into one tensor for each input, padded with copies of a row to
/// `padded` rows.
///
/// The inputs of a single task without padding are moved; all others are copied. Dtypes and ranks must agree. Where
/// dimensions beyond the first differ, shorter tensors are extended at the end with copies of their first element.
pub(super) fn join_inputs(tasks: &mut [Task], padded: usize) -> Vec<Tensor> {
    let rows: usize = tasks.iter().map(|task| task.rows).sum();
    // An empty batch has no row to copy, and stays empty.
    let padded = if rows == 0 { 0 } else { padded };
    if let [task] = tasks
        && padded == rows
    {
        return std::mem::take(&mut task.inputs);
    }
    let inputs = tasks.first().map_or(0, |task| task.inputs.len());
    (0..inputs)
        .map(|input| {
            let parts: Vec<&Tensor> = tasks.iter().map(|task| &task.inputs[input]).collect();
            let inner = widest(parts.iter().map(|part| &part.shape()[1..]));
            let parts: Vec<Cow<'_, Tensor>> = parts.into_iter().map(|part| widened(part, &inner)).collect();
            concatenated(&parts, padded)
        })
        .collect()
}

/// The approximate size of the joined inputs in bytes; 0 where nothing is copied.
pub(super) fn joined_bytes(tasks: &[Task], padded: usize) -> usize {
    let rows: usize = tasks.iter().map(|task| task.rows).sum();
    if tasks.len() == 1 && padded == rows {
        return 0;
    }
    let bytes: usize = tasks.iter().flat_map(|task| &task.inputs).map(Tensor::size_in_bytes).sum();
    bytes.saturating_mul(padded.max(rows)) / rows.max(1)
}

/// The smallest shape that contains all of these. They have the same rank.
fn widest<'a>(mut shapes: impl Iterator<Item = &'a [i64]>) -> Vec<i64> {
    let mut widest = shapes.next().unwrap_or_default().to_vec();
    for shape in shapes {
        for (wide, &size) in widest.iter_mut().zip(shape) {
            *wide = size.max(*wide);
        }
    }
    widest
}

/// The tensor with its dimensions beyond the first extended to `inner`.
fn widened<'a>(tensor: &'a Tensor, inner: &[i64]) -> Cow<'a, Tensor> {
    if tensor.shape()[1..] == *inner {
        return Cow::Borrowed(tensor);
    }
    let mut shape = tensor.shape().to_vec();
    shape[1..].copy_from_slice(inner);
    let count: usize = shape.iter().map(|&size| size as usize).product();
    Cow::Owned(match tensor.elements() {
        Elements::Strings(strings) => {
            let mut sources = Vec::with_capacity(count);
            each_run(tensor.shape(), &shape, 0, &mut |own, fill| {
                sources.extend(own);
                sources.extend(std::iter::repeat_n(0, fill));
            });
            Tensor::from_strings(shape, sources.into_iter().map(|source| strings.get(source)).collect())
        }
        Elements::Numbers(buffer) => {
            let size = tensor.dtype().size().expect("a dtype of numbers");
            let from = buffer.as_ref();
            let mut bytes = AlignedBytes::with_capacity(ALIGNMENT, count * size);
            each_run(tensor.shape(), &shape, 0, &mut |own, fill| {
                bytes.extend_from_slice(&from[own.start * size..own.end * size]);
                (0..fill).for_each(|_| bytes.extend_from_slice(&from[..size]));
            });
            Tensor::from_numbers(tensor.dtype(), shape, Buffer::Owned(bytes))
        }
    })
}

/// Walks through a tensor that is extended from shape `narrow` to `wide`. Calls `tell` with each range of elements to
/// copy, and the number of elements to fill in after it. `index` is the position of the current part among those of its
/// size.
fn each_run(narrow: &[i64], wide: &[i64], index: usize, tell: &mut impl FnMut(Range<usize>, usize)) {
    let (size, rest) = (narrow[0] as usize, &narrow[1..]);
    let missing = (wide[0] - narrow[0]) as usize;
    if rest.is_empty() {
        return tell(index * size..(index + 1) * size, missing);
    }
    for part in 0..size {
        each_run(rest, &wide[1..], index * size + part, tell);
    }
    let part: usize = wide[1..].iter().map(|&size| size as usize).product();
    tell(0..0, missing * part);
}

/// Splits the outputs of a batch of `padded` rows into the rows of each task.
///
/// # Errors
///
/// `FAILED_PRECONDITION` if an output has a different number of rows than the batch: its rows then belong to no task.
pub(super) fn split_outputs(mut outputs: Vec<Tensor>, rows: &[usize], padded: usize) -> Result<Vec<Vec<Tensor>>> {
    let padded = if rows.iter().all(|&rows| rows == 0) { 0 } else { padded };
    for output in &outputs {
        let text = match output.shape().first() {
            None => "Batched output tensor has 0 dimensions",
            Some(&size) if size != padded as i64 => {
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input \
                 tensors"
            }
            Some(_) => continue,
        };
        return Err(ServingError::new(Code::FailedPrecondition, text));
    }
    if *rows == [padded] {
        return Ok(vec![outputs]);
    }
    let mut start = 0;
    Ok(rows
        .iter()
        .map(|rows| {
            let range = start..start + rows;
            start = range.end;
            outputs.iter_mut().map(|output| output.rows(range.clone())).collect()
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::testing::{numbers, strings, text};
    use servable_model::call::Call;

    fn joined(inputs: Vec<Vec<Tensor>>, padded: usize) -> Vec<String> {
        let task = |inputs| Task::new(inputs, Call::default(), Instant::now()).expect("tensors with rows").0;
        let mut tasks: Vec<Task> = inputs.into_iter().map(task).collect();
        join_inputs(&mut tasks, padded).iter().map(text).collect()
    }

    #[test]
    fn rows_are_joined_in_order_and_padded_with_the_first_row_of_the_last_request() {
        let of = |rows: &[i64]| vec![numbers(&[rows.len() as i64], rows)];
        assert_eq!(joined(vec![of(&[1]), of(&[2, 3])], 4), ["[4] 1 2 3 2"]);
        assert_eq!(joined(vec![of(&[1, 2])], 4), ["[4] 1 2 1 1"]);
        assert_eq!(joined(vec![of(&[1, 2])], 2), ["[2] 1 2"]);
        let two = vec![numbers(&[1, 2], &[1, 2]), strings(&[1, 1], &["a"])];
        let more = vec![numbers(&[2, 2], &[3, 4, 5, 6]), strings(&[2, 1], &["b", "c"])];
        assert_eq!(joined(vec![two, more], 4), ["[4, 2] 1 2 3 4 5 6 3 4", "[4, 1] a b c b"]);
    }

    #[test]
    fn requests_without_rows_add_nothing_and_lend_no_row_for_padding() {
        let of = |rows: &[i64]| vec![numbers(&[rows.len() as i64], rows)];
        assert_eq!(joined(vec![of(&[5]), of(&[])], 2), ["[2] 5 5"]);
        assert_eq!(joined(vec![of(&[]), of(&[])], 2), ["[0] "]);
        assert_eq!(joined(vec![vec![numbers(&[2, 0], &[])], vec![numbers(&[1, 0], &[])]], 4), ["[4, 0] "]);
    }

    #[test]
    fn inner_dimensions_are_padded_with_the_first_element_of_each_request() {
        let short = vec![numbers(&[1, 3], &[1, 2, 3])];
        let tall = vec![numbers(&[2, 2], &[7, 8, 9, 1])];
        assert_eq!(joined(vec![short, tall], 3), ["[3, 3] 1 2 3 7 8 7 9 1 7"]);
        let flat = vec![strings(&[1, 1, 2], &["a", "b"])];
        let deep = vec![strings(&[1, 2, 1], &["c", "d"])];
        assert_eq!(joined(vec![flat, deep], 3), ["[3, 2, 2] a b a a c c d c c c d c"]);
    }

    #[test]
    fn outputs_go_back_without_the_padding() {
        let outputs = vec![numbers(&[4], &[1, 2, 3, 9]), strings(&[4, 1], &["a", "b", "c", "z"])];
        let answers = split_outputs(outputs, &[1, 0, 2], 4).expect("they have the rows of the batch");
        let answers: Vec<Vec<String>> = answers.iter().map(|answer| answer.iter().map(text).collect()).collect();
        assert_eq!(answers, [["[1] 1", "[1, 1] a"], ["[0] ", "[0, 1] "], ["[2] 2 3", "[2, 1] b c"]]);
    }

    #[test]
    fn outputs_with_another_number_of_rows_than_the_batch_are_refused() {
        let refused = |output| split_outputs(vec![output], &[1, 1], 2).expect_err("it cannot be split").to_string();
        assert_eq!(refused(numbers(&[], &[1])), "FAILED_PRECONDITION: Batched output tensor has 0 dimensions");
        for output in [numbers(&[1], &[1]), numbers(&[3], &[1, 2, 3]), numbers(&[0], &[])] {
            assert_eq!(
                refused(output),
                "FAILED_PRECONDITION: Batched output tensor's 0th dimension does not equal the sum of the 0th \
                 dimension sizes of the input tensors"
            );
        }
        let one = split_outputs(vec![numbers(&[], &[1])], &[1], 1).expect_err("one request alone is not better off");
        assert_eq!(one.code, Code::FailedPrecondition);
    }
}
