//! The options of a table.

use std::time::Duration;

/// How a table is opened and served.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What an id or key that is not in the table gets.
    pub unknown: Unknown,
    /// How the rows of a bag are combined.
    pub combiner: Combiner,
    /// What `nearest` compares.
    pub metric: Metric,
    /// The number of results of `nearest` for each vector.
    pub neighbours: usize,
    /// The name of the tensor in a safetensors file; empty for the only matrix.
    pub tensor: String,
    /// The name of the tensor with the scales of int8 rows.
    pub scales: String,
    /// Whether numbers are read at load and refused if they are not finite.
    pub check_finite: CheckFinite,
    /// What is done with a mapped file before it is served.
    pub preload: Preload,
    /// The longest run.
    pub longest_run: Option<Duration>,
}

/// What an unknown id or key gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// An error of the request.
    Error,
    /// Zeros; no part of a bag.
    Zeros,
    /// This row.
    Row(usize),
    /// One of the last rows of the table, which are this many buckets.
    Hash(usize),
}

/// How rows are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combiner {
    /// The weighted sum.
    Sum,
    /// The sum, divided by the sum of the weights.
    Mean,
    /// The sum, divided by the root of the sum of the squared weights.
    SqrtN,
}

/// What `nearest` compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// The cosine of the angle; larger is nearer.
    Cosine,
    /// The inner product; larger is nearer.
    Dot,
    /// The Euclidean distance; smaller is nearer.
    L2,
}

/// Which tables are checked for NaN and infinite numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckFinite {
    /// Those that a load reads anyway.
    WhenRead,
    /// All; a mapped file is read once.
    Always,
    /// None.
    Never,
}

/// What is done with a mapped file before it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preload {
    /// Nothing: pages are read when they are touched.
    None,
    /// The system is asked to read the file.
    ReadAhead,
    /// The file is read, and its pages stay in memory.
    Lock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            unknown: Unknown::Error,
            combiner: Combiner::Mean,
            metric: Metric::Cosine,
            neighbours: 10,
            tensor: String::new(),
            scales: "scales".to_owned(),
            check_finite: CheckFinite::WhenRead,
            preload: Preload::None,
            longest_run: None,
        }
    }
}
