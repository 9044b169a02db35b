//! Products of vectors and rows.
#![allow(unsafe_code, reason = "the library takes pointers")]

/// The inner product of each vector with each row, vector by vector. `width` divides the sizes of both.
pub(crate) fn products(vectors: &[f32], rows: &[f32], width: usize, results: &mut [f32]) {
    let (count, height) = (vectors.len() / width, rows.len() / width);
    assert!(vectors.len() == count * width && rows.len() == height * width && results.len() == count * height);
    let (width_step, height_step) = (width.cast_signed(), height.cast_signed());
    // SAFETY: the assertion says that the three matrices have these sizes; rows are read as columns.
    unsafe {
        matrixmultiply::sgemm(
            count,
            width,
            height,
            1.0,
            vectors.as_ptr(),
            width_step,
            1,
            rows.as_ptr(),
            1,
            width_step,
            0.0,
            results.as_mut_ptr(),
            height_step,
            1,
        );
    }
}

/// The inner product of two vectors, with sums that the compiler computes in registers of the CPU.
pub(crate) fn dot(one: &[f32], other: &[f32]) -> f32 {
    let ((ones, one_rest), (others, other_rest)) = (one.as_chunks::<16>(), other.as_chunks::<16>());
    let mut sums = [0.0_f32; 16];
    for (one, other) in ones.iter().zip(others) {
        for lane in 0..16 {
            sums[lane] += one[lane] * other[lane];
        }
    }
    let rest: f32 = one_rest.iter().zip(other_rest).map(|(one, other)| one * other).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_one_and_of_many_vectors_agree_with_the_definition() {
        for (count, height, width) in [(1, 5, 3), (1, 2, 40), (3, 7, 19), (9, 33, 64)] {
            let numbers =
                |len: usize, step: usize| -> Vec<f32> { (0..len).map(|i| ((i * step) % 11) as f32 - 5.0).collect() };
            let (vectors, rows) = (numbers(count * width, 3), numbers(height * width, 7));
            let mut found = vec![f32::NAN; count * height];
            products(&vectors, &rows, width, &mut found);
            for (at, found) in found.iter().enumerate() {
                let (vector, row) = (&vectors[at / height * width..], &rows[at % height * width..]);
                let wanted: f32 = vector.iter().zip(row).take(width).map(|(one, other)| one * other).sum();
                assert!((found - wanted).abs() < 1e-3, "{found} {wanted}");
                assert!((dot(&vector[..width], &row[..width]) - wanted).abs() < 1e-3);
            }
        }
    }
}
