//! The options of queues and thread pools, with the names, units and defaults of
//! `tensorflow.serving.BatchingParameters`.

use std::time::Duration;

use servable_model::error::{Result, ServingError};

/// The options of the thread pool, which all queues of a scheduler share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// The maximum number of batches that run concurrently.
    pub num_batch_threads: usize,
    /// The prefix of thread names. A number follows it.
    pub thread_pool_name: String,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            num_batch_threads: std::thread::available_parallelism().map_or(1, usize::from),
            thread_pool_name: "batch_threads".to_owned(),
        }
    }
}

/// The options of one queue. Sizes are numbers of rows, that is sizes of dimension 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchingOptions {
    /// The largest request that is accepted and, unless requests are split, the largest batch.
    pub max_batch_size: usize,
    /// How long a batch that is not full waits, from its first request. 0 is greedy: an idle thread takes a batch at
    /// once, so that batches form only while all threads are busy.
    pub batch_timeout_micros: u64,
    /// The maximum number of waiting batches, the open one included. Batches that a thread has taken do not count.
    pub max_enqueued_batches: usize,
    /// The sizes that batches are padded up to, ascending. Empty for any size.
    pub allowed_batch_sizes: Vec<usize>,
    /// Whether requests whose shapes differ beyond dimension 0 may share a batch, padded to a common shape.
    pub pad_variable_length_inputs: bool,
    /// Whether a request may be spread over several batches.
    pub enable_large_batch_splitting: bool,
    /// The largest batch where requests are split; `None` for `max_batch_size`.
    pub max_execution_batch_size: Option<usize>,
    /// The time within which nearly all requests should be answered. It decides the timeout and the size of batches,
    /// within the other limits. `batch_timeout_micros` must be 0 then.
    pub latency_objective: Option<Duration>,
    /// Whether the requests of a failed batch are run again in smaller batches, so that only those that cause the error
    /// get it. Applies only to batch functions that may be repeated.
    pub rerun_failed_batches: bool,
    /// How requests of low priority share batches with others.
    pub mixed_priority_batching_policy: MixedPriorityPolicy,
    /// The limits for requests of low priority.
    pub low_priority: LowPriorityOptions,
}

/// How requests of low priority share batches with others, with the names of TensorFlow's batch functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MixedPriorityPolicy {
    /// They fill up other batches to the maximum size.
    #[default]
    PadToMaxBatchSize,
    /// They replace rows of padding only.
    PadToNextAllowedSize,
    /// They are never in a batch with others.
    Isolation,
    /// They join another batch when that is taken, and count towards its size before that.
    Merge,
}

impl MixedPriorityPolicy {
    const NAMES: [(&'static str, Self); 4] = [
        ("low_priority_padding_with_max_batch_size", Self::PadToMaxBatchSize),
        ("low_priority_padding_with_next_allowed_batch_size", Self::PadToNextAllowedSize),
        ("priority_isolation", Self::Isolation),
        ("priority_merge", Self::Merge),
    ];

    /// The name of the policy.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, policy)| *policy == self).map_or("", |&(name, _)| name)
    }

    /// The policy of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(own, _)| *own == name).map(|&(_, policy)| policy)
    }
}

/// The limits for requests of low priority. `None` stands for the limit of the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LowPriorityOptions {
    /// The largest batch of low priority; at most that of the queue.
    pub max_batch_size: Option<usize>,
    /// How long a batch of low priority that is not full waits.
    pub batch_timeout_micros: Option<u64>,
    /// The maximum number of waiting batches of low priority.
    pub max_enqueued_batches: Option<usize>,
}

impl Default for BatchingOptions {
    fn default() -> Self {
        Self {
            max_batch_size: 1000,
            batch_timeout_micros: 0,
            max_enqueued_batches: 10,
            allowed_batch_sizes: Vec::new(),
            pad_variable_length_inputs: false,
            enable_large_batch_splitting: false,
            max_execution_batch_size: None,
            latency_objective: None,
            rerun_failed_batches: true,
            mixed_priority_batching_policy: MixedPriorityPolicy::default(),
            low_priority: LowPriorityOptions::default(),
        }
    }
}

impl BatchingOptions {
    /// Checks that the options are consistent (`docs/spec/batching.md` §3).
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if they are not, with the text of TensorFlow Serving.
    pub fn check(&self) -> Result<()> {
        if let Some(&last) = self.allowed_batch_sizes.last()
            && last != self.max_batch_size
        {
            return Err(ServingError::invalid_argument(format!(
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was {last}; expected {}",
                self.max_batch_size
            )));
        }
        if !self.allowed_batch_sizes.is_sorted() || self.allowed_batch_sizes.first() == Some(&0) {
            return Err(ServingError::invalid_argument(format!(
                "allowed_batch_sizes must be positive and ascending; was {:?}",
                self.allowed_batch_sizes
            )));
        }
        let positive = [
            ("input_batch_size_limit", self.max_batch_size),
            ("max_enqueued_batches", self.max_enqueued_batches),
            ("max_execution_batch_size", self.max_execution_batch_size.unwrap_or(1)),
            ("low_priority_max_batch_size", self.low_priority.max_batch_size.unwrap_or(1)),
            ("low_priority_max_enqueued_batches", self.low_priority.max_enqueued_batches.unwrap_or(1)),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, size)| *size == 0) {
            return Err(ServingError::invalid_argument(format!("{name} must be positive; was 0")));
        }
        if self.latency_objective.is_some() && self.batch_timeout_micros > 0 {
            return Err(ServingError::invalid_argument(format!(
                "latency_objective_millis decides how long batches wait, and batch_timeout_micros is {}: only one of them \
                 can",
                self.batch_timeout_micros
            )));
        }
        if self.latency_objective.is_some_and(|objective| objective.is_zero()) {
            return Err(ServingError::invalid_argument("latency_objective_millis must be positive; was 0"));
        }
        if self.enable_large_batch_splitting && self.max_batch_size < self.execution_size() {
            return Err(ServingError::invalid_argument(format!(
                "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to \
                 max_execution_batch_size; were {} and {}",
                self.max_batch_size,
                self.execution_size()
            )));
        }
        Ok(())
    }

    /// The rows of a full batch.
    pub fn execution_size(&self) -> usize {
        match self.max_execution_batch_size {
            Some(size) if self.enable_large_batch_splitting => size,
            _ => self.max_batch_size,
        }
    }

    /// How long a batch that is not full waits.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_micros(self.batch_timeout_micros)
    }

    /// The number of rows that a batch of `rows` rows is padded to.
    pub(super) fn padded_size(&self, rows: usize) -> usize {
        self.allowed_batch_sizes.iter().copied().find(|&size| size >= rows).unwrap_or(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(change: impl FnOnce(&mut BatchingOptions)) -> Option<String> {
        let mut options = BatchingOptions::default();
        change(&mut options);
        options.check().err().map(|error| error.to_string())
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        assert_eq!(complaint(|_| ()), None);
        assert_eq!(complaint(|o| o.allowed_batch_sizes = vec![8, 1000]), None);
        assert_eq!(
            complaint(|o| o.allowed_batch_sizes = vec![8, 16]).as_deref(),
            Some(
                "INVALID_ARGUMENT: Last entry in allowed_batch_sizes must match max_batch_size; last entry was 16; \
                 expected 1000"
            )
        );
        assert_eq!(
            complaint(|o| o.allowed_batch_sizes = vec![16, 8, 1000]).as_deref(),
            Some("INVALID_ARGUMENT: allowed_batch_sizes must be positive and ascending; was [16, 8, 1000]")
        );
        assert_eq!(
            complaint(|o| o.max_batch_size = 0).as_deref(),
            Some("INVALID_ARGUMENT: input_batch_size_limit must be positive; was 0")
        );
        assert_eq!(
            complaint(|o| o.max_enqueued_batches = 0).as_deref(),
            Some("INVALID_ARGUMENT: max_enqueued_batches must be positive; was 0")
        );
        assert_eq!(complaint(|o| o.max_execution_batch_size = Some(2000)), None, "it is ignored without splitting");
        assert_eq!(
            complaint(|o| {
                o.latency_objective = Some(Duration::from_millis(20));
                o.batch_timeout_micros = 5000;
            })
            .as_deref(),
            Some(
                "INVALID_ARGUMENT: latency_objective_millis decides how long batches wait, and batch_timeout_micros is \
                 5000: only one of them can"
            )
        );
        let too_large = complaint(|o| {
            o.enable_large_batch_splitting = true;
            o.max_execution_batch_size = Some(2000);
        });
        assert!(too_large.is_some_and(|text| text.ends_with("max_execution_batch_size; were 1000 and 2000")));
    }

    #[test]
    fn batches_are_padded_to_the_next_allowed_size() {
        let options = BatchingOptions { allowed_batch_sizes: vec![2, 4, 1000], ..BatchingOptions::default() };
        let padded: Vec<usize> = [1, 2, 3, 5, 1001].map(|rows| options.padded_size(rows)).to_vec();
        assert_eq!(padded, [2, 2, 4, 1000, 1001]);
        assert_eq!(BatchingOptions::default().padded_size(3), 3);
    }
}
