//! Splits a large batch into several runs, and joins their outputs.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use servable_model::error::{Result, ServingError, expect_memory};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, Elements, Tensor, shape_text};

/// The number of rows of a batch; `None` if inputs have different numbers.
pub(crate) fn rows(inputs: &[Tensor]) -> Option<usize> {
    let rows = *inputs.first()?.shape().first()?;
    inputs.iter().all(|input| input.shape().first() == Some(&rows)).then_some(rows as usize)
}

/// Runs parts of a batch on up to `threads` threads, and joins their outputs.
///
/// # Errors
///
/// The first error of a part. `INTERNAL` if outputs do not have the rows of the inputs.
pub(crate) fn run_parts(
    inputs: Vec<Tensor>,
    rows: usize,
    rows_per_run: usize,
    threads: usize,
    run: impl Fn(Vec<Tensor>) -> Result<Vec<Tensor>> + Sync,
) -> Result<Vec<Tensor>> {
    let ranges: Vec<Range<usize>> =
        (0..rows).step_by(rows_per_run).map(|start| start..rows.min(start + rows_per_run)).collect();
    let inputs = Mutex::new(inputs);
    let part = |range: &Range<usize>| -> Vec<Tensor> {
        let mut inputs = inputs.lock().unwrap_or_else(PoisonError::into_inner);
        inputs.iter_mut().map(|input| input.rows(range.clone())).collect()
    };
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<Vec<Tensor>>>>> = Mutex::new(ranges.iter().map(|_| None).collect());
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(range) = ranges.get(index) else { return };
            let result = run(part(range));
            if result.is_err() {
                // The others are not needed.
                next.store(ranges.len(), Ordering::Relaxed);
            }
            results.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(ranges.len()) {
            // Where the system gives no thread, this one does the work.
            let _ = std::thread::Builder::new().name("servable-part".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let parts = results.into_iter().flatten().collect::<Result<Vec<_>>>()?;
    let outputs = parts.first().map_or(0, Vec::len);
    (0..outputs).map(|output| join(parts.iter().map(|part| &part[output]).zip(&ranges), rows)).collect()
}

/// Joins the parts of an output along dimension 0.
fn join<'a>(parts: impl Iterator<Item = (&'a Tensor, &'a Range<usize>)>, rows: usize) -> Result<Tensor> {
    let parts: Vec<_> = parts.collect();
    let (first, _) = parts[0];
    for (part, range) in &parts {
        if part.shape().first() != Some(&(range.len() as i64)) || part.shape()[1..] != first.shape()[1..] {
            let (got, wanted) = (shape_text(part.shape()), range.len());
            let text = format!("an output has shape {got} for {wanted} rows, so large batches cannot be split");
            return Err(ServingError::internal(text));
        }
    }
    let shape = [&[rows as i64], &first.shape()[1..]].concat();
    if matches!(first.elements(), Elements::Strings(_)) {
        let strings = parts.iter().flat_map(|(part, _)| match part.elements() {
            Elements::Strings(strings) => strings.iter().collect::<Vec<_>>(),
            Elements::Numbers(_) => Vec::new(),
        });
        return Ok(Tensor::from_strings(shape, strings.collect()));
    }
    let size = parts.iter().map(|(part, _)| part.size_in_bytes()).sum();
    expect_memory(size)?;
    let mut bytes = AlignedBytes::with_capacity(ALIGNMENT, size);
    for (part, _) in &parts {
        if let Elements::Numbers(buffer) = part.elements() {
            bytes.extend_from_slice(buffer.as_ref());
        }
    }
    Ok(Tensor::from_numbers(first.dtype(), shape, Buffer::Owned(bytes)))
}

#[cfg(test)]
mod tests {
    use servable_model::tensor::DType;

    use super::*;

    fn numbers(values: &[u8]) -> Tensor {
        let bytes = AlignedBytes::from_iter(ALIGNMENT, values.iter().copied());
        Tensor::from_numbers(DType::UINT8, vec![values.len() as i64], Buffer::Owned(bytes))
    }

    fn bytes(tensor: &Tensor) -> &[u8] {
        let Elements::Numbers(buffer) = tensor.elements() else { panic!("numbers were put in") };
        buffer.as_ref()
    }

    #[test]
    fn parts_are_joined_in_order() {
        let strings = Tensor::from_strings(vec![5], ["a", "b", "c", "d", "e"].into_iter().collect());
        for threads in [1, 2, 8] {
            let largest = AtomicUsize::new(0);
            let outputs = run_parts(vec![numbers(&[1, 2, 3, 4, 5]), strings.clone()], 5, 2, threads, |part| {
                largest.fetch_max(part[0].len(), Ordering::Relaxed);
                Ok(part)
            });
            let outputs = outputs.unwrap();
            assert_eq!((outputs[0].shape(), bytes(&outputs[0])), (&[5][..], &[1, 2, 3, 4, 5][..]));
            let Elements::Strings(joined) = outputs[1].elements() else { panic!("strings were put in") };
            assert_eq!(joined.iter().collect::<Vec<_>>(), [b"a", b"b", b"c", b"d", b"e"]);
            assert_eq!(largest.into_inner(), 2);
        }
    }

    #[test]
    fn the_error_of_a_part_is_that_of_the_batch() {
        let result = run_parts(vec![numbers(&[1, 2, 3])], 3, 1, 2, |part| {
            if bytes(&part[0]) == [2] { Err(ServingError::internal("two")) } else { Ok(part) }
        });
        assert_eq!(result.unwrap_err().to_string(), "INTERNAL: two");
        let result = run_parts(vec![numbers(&[1, 2, 3])], 3, 2, 1, |_| Ok(vec![numbers(&[0])]));
        assert!(result.unwrap_err().to_string().contains("shape [1] for 2 rows"));
    }

    #[test]
    fn inputs_of_different_lengths_have_no_rows() {
        assert_eq!(rows(&[numbers(&[1, 2]), numbers(&[3, 4])]), Some(2));
        assert_eq!(rows(&[numbers(&[1, 2]), numbers(&[3])]), None);
        assert_eq!(rows(&[]), None);
    }
}
