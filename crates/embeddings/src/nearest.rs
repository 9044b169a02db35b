//! Exact search: the products of vectors with all rows, and the best of them.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::OnceLock;
use std::time::Instant;

use servable_model::call::Call;
use servable_model::error::Result;

use crate::options::Metric;
use crate::product::{dot, products};
use crate::table::Table;

/// The number of elements of rows that are read and multiplied at once: about the size of a cache.
const BLOCK: usize = 16 << 10;
/// The number of vectors that are multiplied at once.
const VECTORS: usize = 256;
/// The number of blocks between checks of the deadline.
const BLOCKS_PER_CHECK: usize = 8;

/// Searches a table. The squared norms of rows are computed when they are first needed.
pub(crate) struct Search {
    metric: Metric,
    block_rows: usize,
    squares: Vec<OnceLock<Box<[f32]>>>,
}

/// A row with its score; larger is nearer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) score: f32,
    pub(crate) row: usize,
}

impl Eq for Candidate {}

/// The worst is the greatest, so that a heap yields it. Of equal scores the later row is worse.
impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Search {
    pub(crate) fn new(table: &Table, metric: Metric) -> Self {
        let block_rows = (BLOCK / table.width()).max(1);
        let blocks = if metric == Metric::Dot { 0 } else { table.known().div_ceil(block_rows) };
        Self { metric, block_rows, squares: (0..blocks).map(|_| OnceLock::new()).collect() }
    }

    /// The `k` nearest rows of each vector, nearest first. `k` is at most the number of known rows.
    ///
    /// # Errors
    ///
    /// `DEADLINE_EXCEEDED` if the deadline passes.
    pub(crate) fn nearest(
        &self,
        table: &Table,
        vectors: &[f32],
        k: usize,
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<Candidate>>> {
        let mut found = Vec::new();
        for vectors in vectors.chunks(VECTORS * table.width()) {
            self.nearest_of_some(table, vectors, k, deadline, &mut found)?;
        }
        Ok(found)
    }

    fn nearest_of_some(
        &self,
        table: &Table,
        vectors: &[f32],
        k: usize,
        deadline: Option<Instant>,
        found: &mut Vec<Vec<Candidate>>,
    ) -> Result<()> {
        let width = table.width();
        let mut best: Vec<BinaryHeap<Candidate>> = vectors.chunks(width).map(|_| BinaryHeap::new()).collect();
        let mut rows = vec![0.0; self.block_rows * width];
        let mut scores = vec![0.0; best.len() * self.block_rows];
        for (block, start) in (0..table.known()).step_by(self.block_rows).enumerate() {
            if block % BLOCKS_PER_CHECK == 0 {
                Call::until(deadline).check()?;
            }
            let count = self.block_rows.min(table.known() - start);
            let scores = &mut scores[..best.len() * count];
            if best.len() == 1 {
                // The product with one vector is bound by memory: each row is used while it is in the first cache.
                let row = &mut rows[..width];
                for (offset, score) in scores.iter_mut().enumerate() {
                    table.read_row(start + offset, row);
                    *score = dot(vectors, row);
                }
            } else {
                let rows = &mut rows[..count * width];
                for (offset, row) in rows.chunks_exact_mut(width).enumerate() {
                    table.read_row(start + offset, row);
                }
                products(vectors, rows, width, scores);
            }
            let squares = self.squares.get(block).map(|squares| {
                squares.get_or_init(|| {
                    let row = &mut rows[..width];
                    let mut square = |offset| {
                        table.read_row(start + offset, row);
                        dot(row, row)
                    };
                    (0..count).map(&mut square).collect()
                })
            });
            for (scores, best) in scores.chunks_exact_mut(count).zip(&mut best) {
                self.adjust(scores, squares.map_or(&[], |squares| squares));
                keep_best(scores, start, k, best);
            }
        }
        for (best, vector) in best.into_iter().zip(vectors.chunks(width)) {
            found.push(self.finished(table, best.into_sorted_vec(), vector));
        }
        Ok(())
    }

    /// Turns products into scores with the same order as the metric.
    fn adjust(&self, scores: &mut [f32], squares: &[f32]) {
        let pairs = scores.iter_mut().zip(squares);
        match self.metric {
            Metric::Dot => {}
            Metric::Cosine => pairs.for_each(|(score, &square)| {
                *score = if square > 0.0 { *score / square.sqrt() } else { 0.0 };
            }),
            Metric::L2 => pairs.for_each(|(score, &square)| *score = 2.0 * *score - square),
        }
    }

    /// The scores that clients see.
    fn finished(&self, table: &Table, mut best: Vec<Candidate>, vector: &[f32]) -> Vec<Candidate> {
        match self.metric {
            Metric::Dot => {}
            Metric::Cosine => {
                let norm = dot(vector, vector).sqrt();
                for each in &mut best {
                    each.score = if norm > 0.0 { each.score / norm } else { 0.0 };
                }
            }
            Metric::L2 => {
                // The difference of squares has lost digits where distances are small.
                let mut row = vec![0.0; vector.len()];
                for each in &mut best {
                    table.read_row(each.row, &mut row);
                    row.iter_mut().zip(vector).for_each(|(row, vector)| *row -= vector);
                    each.score = -dot(&row, &row).sqrt();
                }
                best.sort_unstable();
                for each in &mut best {
                    each.score = -each.score;
                }
            }
        }
        best
    }
}

fn keep_best(scores: &[f32], start: usize, k: usize, best: &mut BinaryHeap<Candidate>) {
    for (offset, &score) in scores.iter().enumerate() {
        // A score that is no number is the worst.
        let score = if score.is_nan() { f32::NEG_INFINITY } else { score };
        let is_full = best.len() == k;
        if is_full && best.peek().is_none_or(|worst| score <= worst.score) {
            continue;
        }
        best.push(Candidate { score, row: start + offset });
        if is_full {
            best.pop();
        }
    }
}
