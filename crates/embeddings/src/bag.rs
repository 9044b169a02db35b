//! Sums of rows: what embedding layers of several values compute.

use crate::options::Combiner;
use crate::table::Table;

/// The rows of a bag, each with a weight. Rows of `None` are left out.
pub(crate) trait Members: Iterator<Item = (Option<usize>, f32)> {}
impl<I: Iterator<Item = (Option<usize>, f32)>> Members for I {}

/// Combines rows into `sum`, which holds zeros. A bag without weight stays zero.
pub(crate) fn combine(table: &Table, members: impl Members, combiner: Combiner, sum: &mut [f32]) {
    let (mut weights, mut squares) = (0.0_f32, 0.0_f32);
    for (row, weight) in members {
        let Some(row) = row else { continue };
        weights += weight;
        squares += weight * weight;
        #[allow(clippy::float_cmp, reason = "a multiplication that is saved where it has no effect")]
        if weight == 1.0 {
            table.fold_row(row, sum, |sum, number| *sum += number);
        } else {
            table.fold_row(row, sum, |sum, number| *sum += weight * number);
        }
    }
    let divisor = match combiner {
        Combiner::Sum => return,
        Combiner::Mean => weights,
        Combiner::SqrtN => squares.sqrt(),
    };
    let factor = if divisor == 0.0 { 0.0 } else { 1.0 / divisor };
    for sum in sum {
        *sum *= factor;
    }
}
